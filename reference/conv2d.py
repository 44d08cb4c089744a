"""conv2d in float64 NumPy: the meaning that the kernels are compared with.

y[n, o, oh, ow] = pool(act(bias[o] + residual[n, o, oh, ow]
    + scale[o] * sum over (c, kh, kw) of w[o, c, kh, kw] * x[n, g*C + c, oh*s + kh*d, ow*s + kw*d]))

with x padded, g = o // (C_out/groups) the group of the output channel, C = C_in/groups.

Longer than the guide value of a reference: half of it is the docstrings of three functions that
take the same arguments.
"""

from __future__ import annotations

import numpy as np

from nkiconv.reference import _arguments
from nkiconv.reference._activations import ACTIVATIONS, activate
from nkiconv.reference._arguments import Activation, IntOrPair, Padding, Pool
from nkiconv.reference._dtypes import DTYPES, Array, Float64, round_once

ALGORITHMS = (
    "auto", "direct", "im2col", "patches", "pointwise", "depthwise", "grouped", "naive",
)  # fmt: skip
LAYOUTS = ("NCHW", "NHWC")
PRECISIONS = ("exact", "fast")
TARGETS = (None, "trn1", "inf2", "trn2", "trn3")


def conv2d(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    activation: Activation = None,
    residual: Array | None = None,
    pool: Pool = None,
    scale: Array | None = None,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    precision: str = "exact",
    algorithm: str = "auto",
    target: str | None = None,
) -> Array:
    """`conv2d_float64`, rounded once to x's dtype.

    Shapes
    ------
    x         (N, C_in, H, W)                 float32 float16 bfloat16
    w         (C_out, C_in/groups, KH, KW)    the same dtypes, not packed
    bias      (C_out,)                        the same dtypes
    residual  the convolution's result        the same dtypes
    scale     (C_out,)                        the same dtypes

    Parameters
    ----------
    stride, dilation
        At least 1; an int or (vertical, horizontal).
    padding
        At least 0: an int, (vertical, horizontal), ((top, bottom), (left, right)), "valid" (none)
        or "same" (the image's size; stride 1 only; an odd extra pixel at the bottom or right).
    activation
        None, "relu", "relu6", "leaky_relu" (slope 0.01), ("leaky_relu", slope), "gelu" (exact),
        "gelu_tanh", "silu", "hardswish", "sigmoid" or "tanh".
    residual
        Added before the activation.
    pool
        None or ("max" or "avg", size[, stride]), after the activation; without padding.
    scale
        Multiplies the convolution of an output channel, before bias and residual are added.
    padding_mode
        "zeros", "reflect", "replicate" or "circular", as in `torch.nn.Conv2d`.
    layout
        "NCHW", or "NHWC": x, residual and y are (N, H, W, C); w stays as it is.
    precision, algorithm, target
        Without meaning here; there so that the kernels' function can be called in the same way.
        Only the names are checked.

    Returns
    -------
    y : (N, C_out, OH, OW), x's dtype

    Raises
    ------
    ValueError
        Arguments that do not fit together, a result without elements, other dtypes or names.
    """
    _arguments.choice("algorithm", algorithm, ALGORITHMS)
    _arguments.choice("target", target, TARGETS)
    _arguments.choice("precision", precision, PRECISIONS)
    arrays = (("x", x), ("w", w), ("bias", bias), ("residual", residual), ("scale", scale))
    for name, array in arrays:
        if array is not None and np.asarray(array).dtype not in DTYPES.values():
            raise ValueError(
                f"{name} has dtype {np.asarray(array).dtype}; conv2d takes {', '.join(DTYPES)}"
            )
    y = conv2d_float64(
        x,
        w,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        activation=activation,
        residual=residual,
        pool=pool,
        scale=scale,
        padding_mode=padding_mode,
        layout=layout,
    )
    return round_once(y, np.asarray(x).dtype)


def conv2d_float64(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    activation: Activation = None,
    residual: Array | None = None,
    pool: Pool = None,
    scale: Array | None = None,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
) -> Float64:
    """Return `conv2d` before its rounding; any real dtype goes in.

    Notes
    -----
    One matrix product over the channels per tap and group, on BLAS.  Padding is a zero like any
    other: NaN or Inf in a weight makes NaN of it.
    """
    x, w = np.asarray(x), np.asarray(w)
    _arguments.choice("layout", layout, LAYOUTS)
    if layout == "NHWC" and x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
        residual = _channels_first("residual", residual)
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(
            f"x has shape {x.shape} and w has shape {w.shape}; they must be (N, C_in, H, W) and "
            "(C_out, C_in/groups, KH, KW)"
        )
    N, C_in, H, W = x.shape
    C_out, C_in_group, KH, KW = w.shape
    if 0 in x.shape or 0 in w.shape:
        raise ValueError(f"x {x.shape} or w {w.shape} has no elements")
    groups = _arguments.integer("groups", groups, 1)
    if C_in % groups or C_out % groups or C_in_group * groups != C_in:
        raise ValueError(
            f"x has {C_in} channels, w has shape {w.shape} and groups is {groups}; groups must "
            "divide C_in and C_out, and w must be (C_out, C_in/groups, KH, KW)"
        )
    for name, vector in (("bias", bias), ("scale", scale)):
        if vector is not None and np.shape(vector) != (C_out,):
            raise ValueError(f"{name} has shape {np.shape(vector)}; w asks for ({C_out},)")
    activation = _arguments.activation(activation, tuple(ACTIVATIONS))
    s_h, s_w = _arguments.pair("stride", stride)
    d_h, d_w = _arguments.pair("dilation", dilation)
    p_h, p_w = _arguments.padding(padding, (KH, KW), (s_h, s_w), (d_h, d_w))
    pad_mode = _arguments.padding_mode(padding_mode, (p_h, p_w), (H, W))
    OH = _arguments.output_size("H", H + sum(p_h), KH, s_h, d_h)
    OW = _arguments.output_size("W", W + sum(p_w), KW, s_w, d_w)
    if residual is not None and np.shape(residual) != (N, C_out, OH, OW):
        raise ValueError(
            f"residual has shape {np.shape(residual)}; the convolution's result has "
            f"{(N, C_out, OH, OW)}"
        )
    window = _arguments.pool(pool)
    if window is not None:  # refuse a pool that does not fit before the work is done
        _arguments.output_size("the pool's H", OH, window[1][0], window[2][0])
        _arguments.output_size("the pool's W", OW, window[1][1], window[2][1])

    padding_of_all = ((0, 0), (0, 0), p_h, p_w)
    padded = np.pad(x.astype(np.float64), padding_of_all, mode=pad_mode)  # type: ignore[call-overload]  # a plain str
    # one contiguous matrix per tap: NumPy hands no others to BLAS
    taps = np.ascontiguousarray(w.astype(np.float64).transpose(2, 3, 0, 1))
    y = np.zeros((N, C_out, OH, OW))
    # NaN and Inf are data here, and results outside a function's range are right as they come out
    with np.errstate(all="ignore"):
        for g in range(groups):
            c_in = slice(g * C_in // groups, (g + 1) * C_in // groups)
            c_out = slice(g * C_out // groups, (g + 1) * C_out // groups)
            for kh in range(KH):
                for kw in range(KW):
                    rows = slice(kh * d_h, kh * d_h + (OH - 1) * s_h + 1, s_h)
                    columns = slice(kw * d_w, kw * d_w + (OW - 1) * s_w + 1, s_w)
                    pixels = padded[:, c_in, rows, columns].reshape(N, C_in_group, OH * OW)
                    y[:, c_out] += (taps[kh, kw, c_out] @ pixels).reshape(N, -1, OH, OW)
        if scale is not None:
            y *= np.asarray(scale).astype(np.float64)[:, None, None]
        if bias is not None:
            y += np.asarray(bias).astype(np.float64)[:, None, None]
        if residual is not None:
            y += np.asarray(residual).astype(np.float64)
        y = _pool(activate(activation, y), window)
    return y if layout == "NCHW" else y.transpose(0, 2, 3, 1)


def magnitude(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    activation: Activation = None,
    residual: Array | None = None,
    pool: Pool = None,
    scale: Array | None = None,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
) -> Float64:
    """|scale| conv(|x|, |w|) + |bias| + |residual|, pooled: the scale of the error bound.

    Takes the arguments of `conv2d_float64`, so that one dict serves both; `activation` has no
    influence here (`bounds.allowance` has its own argument for it).
    """
    _arguments.activation(activation, tuple(ACTIVATIONS))
    return conv2d_float64(
        _absolute(x),
        _absolute(w),
        None if bias is None else _absolute(bias),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        residual=None if residual is None else _absolute(residual),
        pool=pool,
        scale=None if scale is None else _absolute(scale),
        padding_mode=padding_mode,
        layout=layout,
    )


def _channels_first(name: str, values: Array | None) -> Array | None:
    """Return (N, C, H, W) of (N, H, W, C)."""
    if values is None:
        return None
    if np.ndim(values) != 4:
        raise ValueError(f"{name} has shape {np.shape(values)}; it must be (N, OH, OW, C_out)")
    return np.asarray(values).transpose(0, 3, 1, 2)


def _absolute(values: Array) -> Float64:
    return np.abs(np.asarray(values).astype(np.float64))


def _pool(y: Float64, window: tuple[str, tuple[int, int], tuple[int, int]] | None) -> Float64:
    """Maximum or mean over the last two axes of every window that fits entirely."""
    if window is None:
        return y
    kind, size, (s_h, s_w) = window
    views = np.lib.stride_tricks.sliding_window_view(y, size, axis=(2, 3))[:, :, ::s_h, ::s_w]
    pooled: Float64 = views.max(axis=(4, 5)) if kind == "max" else views.mean(axis=(4, 5))
    return pooled
