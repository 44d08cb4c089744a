"""conv2d for host arrays: checks the arguments, chooses the kernel, runs it.

y[n, o, oh, ow] = pool(act(scale[o] * conv[n, o, oh, ow] + bias[o] + residual[n, o, oh, ow]))
conv[n, o, oh, ow] =
    sum over (c, kh, kw) of w[o, c, kh, kw] * x[n, g*C + c, oh*s + kh*d - pad, ow*s + kw*d - pad]

with zeros (or what padding_mode says) outside x, g = o // (C_out/groups) the group of the output
channel and C = C_in/groups.  The kernels are in conv2d_<algorithm>.py; _choice.py has the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nkiconv.kernels import _arguments, conv2d_naive
from nkiconv.kernels._activations import IN_ONE_STEP
from nkiconv.kernels._algorithm import Candidate, Operands, Problem
from nkiconv.kernels._arguments import (
    TORCH,
    Activation,
    Array,
    ArrayLike,
    IntOrPair,
    Padding,
    PoolArgument,
)
from nkiconv.kernels._choice import ALGORITHMS as _CHOICES
from nkiconv.kernels._choice import choose, run
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Geometry, make_axis
from nkiconv.kernels._weights import PackedWeights, pack_weights
from nkiconv.simulate import (
    ConstraintError,
    DtypeError,
    ShapeError,
    resolve_target,
    simulate_kernel,
    use_target,
)
from nkiconv.simulate.arrays import is_channels_last, like
from nkiconv.simulate.hardware import hardware

ALGORITHMS = ("auto", *_CHOICES, "naive")
LAYOUTS = ("NCHW", "NHWC")
PRECISIONS = ("exact", "fast")
_NHWC, _NCHW = (0, 2, 3, 1), (0, 3, 1, 2)  # from the one to the other

_OP = "conv2d"


@dataclass(frozen=True)
class _Arrays:
    """Checked operands: x, w and residual of one dtype; scale, bias (C_out, 1) in float32.

    x and the residual have their channels first; as views, whatever the layout.
    """

    x: Array
    w: Array | PackedWeights
    scale: Array | None
    bias: Array | None
    residual: Array | None


def conv2d(
    x: ArrayLike,
    w: ArrayLike | PackedWeights,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    activation: Activation = None,
    residual: ArrayLike | None = None,
    pool: PoolArgument = None,
    scale: ArrayLike | None = None,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    precision: str = "exact",
    algorithm: str = "auto",
    target: str | None = None,
) -> ArrayLike:
    """y = pool(act(scale*conv(x, w) + bias + residual)), `torch.nn.functional.conv2d` and more.

    Shapes
    ------
    x         (N, C_in, H, W)                 float32 float16 bfloat16
    w         (C_out, C_in/groups, KH, KW)    x's dtype; or what `pack_weights` returned
    bias      (C_out,)                        float32 float16 bfloat16
    residual  (N, C_out, OH, OW)              x's dtype; added before the activation
    scale     (C_out,)                        float32 float16 bfloat16; as of a folded batch-norm

    Parameters
    ----------
    stride, dilation
        At least 1; an int or (vertical, horizontal).
    padding
        Around x: an int, (vertical, horizontal), ((top, bottom), (left, right)), "valid" (none) or
        "same" (the image's size; stride 1 only; an odd pixel at the bottom or right).
    activation
        None, "relu", "relu6", "leaky_relu" (slope 0.01), ("leaky_relu", slope), "gelu" (exact),
        "gelu_tanh", "silu", "hardswish", "sigmoid" or "tanh".
    pool
        None, ("max" or "avg", size) or (kind, size, stride), each an int or (vertical, horizontal),
        over the activation's results; no padding.  A mean is rounded once, at the end.
    padding_mode
        "zeros", "reflect", "replicate" or "circular", as in `torch.nn.Conv2d`.
    layout
        "NCHW", or "NHWC": x, residual and y are (N, H, W, C); w stays as it is.  A torch tensor in
        memory format channels_last is taken as it lies, and so is y then.
    precision
        Of float32: "exact", or "fast": x and w are rounded to bfloat16, for a quarter of TensorE's
        time; off by at most 2^-7 (1 + 2^-9) abs(scale) conv(abs(x), abs(w)) more than "exact" is.
    algorithm
        "auto": the one whose estimated time is the shortest.  "naive": the baseline; much slower.
    target
        "trn1" (also inf2), "trn2" or "trn3"; None takes NEURON_PLATFORM_TARGET_OVERRIDE, else trn1.

    Returns
    -------
    y : (N, C_out, OH, OW), pooled where asked, x's dtype; a torch tensor if x is one

    Raises
    ------
    ShapeError
        Sizes that do not fit together, or a result without elements.
    DtypeError
        Something else than an array, or an element type that the kernels do not take.
    ConstraintError
        An argument outside its range, a feature that no algorithm has, a tensor that requires a
        gradient or is not on the CPU.
    CapacityError
        "naive" alone: an image plane larger than SBUF.

    Notes
    -----
    A NaN or infinite pixel makes NaN of each result whose taps reach it, but for infinite sums.
    "direct" leaves the others alone. The other algorithms also multiply pixels by zeros, which are
    other results' share of an operand, and NaN times zero is NaN: it reaches other rows and columns
    by "im2col" and "pointwise", images too by "im2col" where small ones of a batch lie abreast,
    channels and images by "depthwise" and "grouped", and by "patches" on trn1, where TensorE
    transposes by multiplying, other patches of other images.
    """
    _check_names(layout, precision, algorithm, target)
    activation_name, slope = _arguments.activation(_OP, activation)
    arrays = _check_arrays(x, w, bias, residual, scale, groups, layout)
    geometry, mode = _check_geometry(arrays, stride, padding, dilation, int(groups), padding_mode)
    windows = _arguments.pool(_OP, pool, (geometry.rows.outputs, geometry.cols.outputs))
    _check_residual(arrays, geometry, layout)
    as_it_lies = layout == "NCHW" and algorithm != "naive" and is_channels_last(x)
    problem = Problem(
        geometry,
        Epilogue(
            activation=activation_name,
            has_scale=arrays.scale is not None,
            has_bias=arrays.bias is not None,
            has_residual=arrays.residual is not None,
            slope=slope,
            pool=windows,
        ),
        str(arrays.x.dtype),
        padding_mode=mode,
        precision=precision,
        layout="NHWC" if as_it_lies else layout,
    )
    _check_precision(problem)

    with use_target(target):
        if algorithm == "naive":
            _check_naive(problem)
            taps = arrays.w.unpack() if isinstance(arrays.w, PackedWeights) else arrays.w
            y = conv2d_naive.run(arrays.x, taps, arrays.bias, geometry, activation_name)
        else:
            y = _run(problem, algorithm, arrays)
    if as_it_lies:
        return like(y, x).permute(0, 3, 1, 2)
    return like(y, x)


def _run(problem: Problem, algorithm: str, arrays: _Arrays) -> Array:
    """Plan, pack the weights, launch."""
    best = _best(problem, algorithm, hardware().target)
    module = _CHOICES[best.algorithm]
    packed = (
        arrays.w
        if isinstance(arrays.w, PackedWeights)
        else pack_weights(arrays.w, problem.geometry.G)
    )
    x, residual = arrays.x, arrays.residual
    if problem.layout == "NHWC":
        x = x.transpose(_NHWC)
        residual = None if residual is None else residual.transpose(_NHWC)
    operands = Operands(
        x=np.ascontiguousarray(x),
        w=packed.arranged(best.plan, lambda: module.pack(packed, best.plan)),
        scale=arrays.scale,
        bias=arrays.bias,
        residual=None if residual is None else np.ascontiguousarray(residual),
    )
    y: Array = run(simulate_kernel, best, operands)
    return y


@lru_cache(maxsize=256)
def _best(problem: Problem, algorithm: str, target: str) -> Candidate:
    """Return the choice for the target in force, whose name is part of the cache's key."""
    return choose(problem, algorithm).candidates[0]


def _check_names(layout: object, precision: object, algorithm: object, target: object) -> None:
    """Refuse unknown names, and algorithms that this version does not have."""
    _arguments.choice(_OP, "layout", layout, LAYOUTS, "this package's arguments")
    _arguments.choice(_OP, "precision", precision, PRECISIONS, "this package's arguments")
    _arguments.choice(_OP, "algorithm", algorithm, ALGORITHMS, "kernels of this package")
    if target is not None:
        resolve_target(target, op=_OP)


def _check_precision(problem: Problem) -> None:
    """Refuse what there is no other precision of."""
    if problem.precision == "fast" and problem.dtype != "float32":
        raise ConstraintError(
            f'{_OP}: precision is "fast" and x has dtype {problem.dtype}; it is a choice for '
            "float32 alone, others take one pass of the tensor engine anyway (kernels of this "
            "package)"
        )


def _check_naive(problem: Problem) -> None:
    """Refuse what the baseline does not have."""
    epilogue = problem.epilogue
    lacks = {
        "residual": epilogue.has_residual,
        "scale": epilogue.has_scale,
        "pool": epilogue.pool is not None,
        'layout "NHWC"': problem.layout != "NCHW",
        'precision "fast"': problem.precision != "exact",
        f'padding_mode "{problem.padding_mode}"': problem.padding_mode != "zeros",
        f'activation "{epilogue.activation}"': epilogue.activation not in IN_ONE_STEP,
    }
    for what, asked in lacks.items():
        if asked:
            raise ConstraintError(
                f'{_OP}: {what} is given, but algorithm "naive" takes none; use "auto" (kernels of '
                "this package)"
            )


def _check_arrays(
    x: object,
    w: object,
    bias: object,
    residual: object,
    scale: object,
    groups: object,
    layout: str,
) -> _Arrays:
    """Return the operands as NumPy arrays whose shapes and dtypes fit together, channels first."""
    x_values = _arguments.array(_OP, "x", x)
    last = layout == "NHWC"
    _arguments.check_shape(_OP, "x", x_values, "(N, H, W, C_in)" if last else "(N, C_in, H, W)")
    if last:
        x_values = x_values.transpose(_NCHW)
    w_values: Array | PackedWeights
    if isinstance(w, PackedWeights):
        w_values, dtype = w, w.array.dtype
    else:
        w_values = _arguments.array(_OP, "w", w)
        _arguments.check_shape(_OP, "w", w_values, "(C_out, C_in/groups, KH, KW)")
        dtype = w_values.dtype
    if dtype != x_values.dtype:
        raise DtypeError(
            f"{_OP}: w has dtype {dtype}, x has {x_values.dtype}; they must be the same ({TORCH})"
        )
    C_in, C_out = x_values.shape[1], w_values.shape[0]
    _check_channels(C_in, w_values, _arguments.integer(_OP, "groups", groups, least=1))
    residual_values = None if residual is None else _arguments.array(_OP, "residual", residual)
    if last and residual_values is not None and residual_values.ndim == 4:
        residual_values = residual_values.transpose(_NCHW)
    return _Arrays(
        x_values,
        w_values,
        _check_vector("scale", scale, C_out),
        _check_vector("bias", bias, C_out),
        residual_values,
    )


def _check_vector(name: str, value: object, C_out: int) -> Array | None:
    """Return (C_out, 1) float32 of a number for each output channel."""
    if value is None:
        return None
    values = _arguments.array(_OP, name, value)
    if values.shape != (C_out,):
        raise ShapeError(
            f"{_OP}: {name} has shape {values.shape}; w has {C_out} output channels, so it must be "
            f"({C_out},) ({TORCH if name == 'bias' else 'one for each output channel'})"
        )
    return values.astype(np.float32).reshape(C_out, 1)


def _check_channels(C_in: int, w: Array | PackedWeights, groups: int) -> None:
    """Refuse groups and channel numbers that do not fit together."""
    if isinstance(w, PackedWeights) and w.groups != groups:
        raise ShapeError(
            f"{_OP}: groups is {groups}, but w was packed for {w.groups} groups (pack_weights, "
            "groups)"
        )
    for name, channels in (("x", C_in), ("w", w.shape[0])):
        if channels % groups:
            raise ShapeError(
                f"{_OP}: {name} has {channels} {'input' if name == 'x' else 'output'} channels, "
                f"which groups={groups} does not divide ({TORCH})"
            )
    if w.shape[1] * groups != C_in:
        raise ShapeError(
            f"{_OP}: x has {C_in} channels, but w of shape {w.shape} with groups={groups} takes "
            f"{w.shape[1] * groups}: w must be (C_out, C_in/groups, KH, KW) ({TORCH})"
        )


def _check_geometry(
    arrays: _Arrays,
    stride: object,
    padding: object,
    dilation: object,
    groups: int,
    padding_mode: object,
) -> tuple[Geometry, str]:
    """Return the sizes of a convolution with at least one result, and what lies around x."""
    N, C_in, H, W = arrays.x.shape
    C_out, _, KH, KW = arrays.w.shape
    s_h, s_w = _arguments.pair(_OP, "stride", stride, least=1)
    d_h, d_w = _arguments.pair(_OP, "dilation", dilation, least=1)
    pads_h, pads_w = _arguments.padding(_OP, padding, (KH, KW), (s_h, s_w), (d_h, d_w))
    mode = _arguments.padding_mode(_OP, padding_mode, (pads_h, pads_w), (H, W))
    if not any((*pads_h, *pads_w)):
        mode = "zeros"  # all are the same, and no algorithm need have others
    OH = _arguments.output_size(_OP, "H", H, pads_h, KH, s_h, d_h)
    OW = _arguments.output_size(_OP, "W", W, pads_w, KW, s_w, d_w)
    geometry = Geometry(
        N=N,
        G=groups,
        C_in=C_in // groups,
        C_out=C_out // groups,
        rows=make_axis(H, KH, OH, s_h, d_h, pads_h),
        cols=make_axis(W, KW, OW, s_w, d_w, pads_w),
        itemsize=arrays.x.dtype.itemsize,
    )
    return geometry, mode


def _check_residual(arrays: _Arrays, geometry: Geometry, layout: str) -> None:
    """Refuse a residual, if there is one, that cannot be added to the result."""
    residual = arrays.residual
    if residual is None:
        return
    g = geometry
    shape: tuple[int, ...] = (g.N, g.G * g.C_out, g.rows.outputs, g.cols.outputs)
    if residual.shape != shape:
        given = residual.shape
        if layout == "NHWC":
            shape = tuple(shape[i] for i in _NHWC)
            given = tuple(given[i] for i in _NHWC) if residual.ndim == 4 else given
        raise ShapeError(
            f"{_OP}: residual has shape {given}; the convolution's result has {shape} (an element "
            "is added to each)"
        )
    if residual.dtype != arrays.x.dtype:
        raise DtypeError(
            f"{_OP}: residual has dtype {residual.dtype}, x has {arrays.x.dtype}; they must be the "
            "same (kernels of this package)"
        )
