"""conv2d as a PyTorch operator, ``nkiconv::conv2d``: meaning, gradient, autocast, fake tensors.

`conv2d` brings its arguments to plain lists and calls the operator, so that ``torch.compile`` and
``torch.export`` see one node.  What the node runs on is decided when it runs (`backend_for`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from nkiconv import kernels
from nkiconv.kernels import _arguments
from nkiconv.kernels._arguments import Activation
from nkiconv.pytorch import _activations, neuron
from nkiconv.pytorch._options import Options, convolved, padded, preactivation, unpadded
from nkiconv.pytorch._packed import packed_weights
from nkiconv.pytorch.backends import backend_for, check_backend
from nkiconv.pytorch.gradients import chosen_gradients
from nkiconv.simulate import ConstraintError, DtypeError, ShapeError

IntOrPair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = IntOrPair | Sequence[Sequence[int]] | str

_OP = "conv2d"


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    activation: Activation = None,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    padding_mode: str = "zeros",
    backend: str | None = None,
) -> Tensor:
    """y = act(scale*conv(x, weight) + bias + residual), differentiable.

    Shapes
    ------
    x            (N, C_in, H, W) or (C_in, H, W)  float32 float16 bfloat16
    weight       (C_out, C_in/groups, KH, KW)     x's dtype
    bias, scale  (C_out,)                         float32 float16 bfloat16
    residual     (N, C_out, OH, OW)               x's dtype; added before the activation

    Parameters
    ----------
    stride, dilation, padding, groups, activation, padding_mode
        As in `nkiconv.kernels.conv2d`.
    backend
        One of `BACKENDS`; None asks `use_backend`, then the device (`backend_for`).  "torch" takes
        float64 too.

    Returns
    -------
    y : (N, C_out, OH, OW), x's dtype; channels_last where `torch.nn.functional.conv2d` gives that

    Raises
    ------
    ShapeError
        Sizes that do not fit together, or a batch or a result without elements.
    DtypeError
        Element types that the kernels do not take, or that differ.
    ConstraintError
        An argument outside its range, tensors on several devices, or on one that the backend does
        not take.

    Notes
    -----
    The gradients come from `use_gradients`.  That of an activation is PyTorch's; where it needs the
    values before the activation, PyTorch's convolution computes them again.  Under autocast the
    operands are cast as those of PyTorch's convolution are; the scale stays as it is.
    """
    check_backend(backend)
    if x.dim() == 3:
        return conv2d(
            x[None],
            weight,
            bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            activation=activation,
            residual=None if residual is None else residual[None],
            scale=scale,
            padding_mode=padding_mode,
            backend=backend,
        )[0]
    _check_dimensions(x, weight)
    s_h, s_w = _arguments.pair(_OP, "stride", stride, least=1)
    d_h, d_w = _arguments.pair(_OP, "dilation", dilation, least=1)
    KH, KW = weight.shape[2:]
    pads = _arguments.padding(_OP, padding, (KH, KW), (s_h, s_w), (d_h, d_w))
    name, slope = _arguments.activation(_OP, activation)
    y: Tensor = torch.ops.nkiconv.conv2d(
        x,
        weight,
        bias,
        scale,
        residual,
        [s_h, s_w],
        [*pads[0], *pads[1]],
        [d_h, d_w],
        groups,
        padding_mode,
        name,
        slope,
        backend,
    )
    return y


# --- The operator ---------------------------------------------------------------------------------

SCHEMA = (
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? residual, SymInt[] stride,"
    " SymInt[] padding, SymInt[] dilation, SymInt groups, str padding_mode, str? activation,"
    " float slope, str? backend) -> Tensor"
)
_TENSORS = 5  # of the arguments; a backend is the last, `Options` what lies between


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    *rest: Any,
) -> Tensor:
    """Run on what `backend_for` says."""
    options, name = Options(*rest[:-1]), backend_for(x, rest[-1])
    sizes = _result_shape(x, weight, bias, scale, residual, options, name)
    x = x.detach()
    bias, scale, residual = (
        None if tensor is None else tensor.detach() for tensor in (bias, scale, residual)
    )
    if name == "torch":
        y = preactivation(x, weight, bias, scale, residual, options)
        y = _activations.activate(options.activation, options.slope, y)
    elif name == "neuron":
        y = neuron.conv2d(x, weight, bias, scale, residual, options, sizes)
    else:
        y = _simulated(x, weight, bias, scale, residual, options)
    return y.contiguous(memory_format=_memory_format(x, weight))


def _simulated(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    options: Options,
) -> Tensor:
    top, bottom, left, right = options.padding
    name = options.activation
    y: Tensor = kernels.conv2d(
        x,
        packed_weights(weight, options.groups),
        bias,
        stride=(options.stride[0], options.stride[1]),
        padding=((top, bottom), (left, right)),
        dilation=(options.dilation[0], options.dilation[1]),
        groups=options.groups,
        activation=("leaky_relu", options.slope) if name == "leaky_relu" else name,
        residual=residual,
        scale=scale,
        padding_mode=options.padding_mode,
    )
    return y


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    *rest: Any,
) -> Tensor:
    """Return a result without values."""
    sizes = _result_shape(x, weight, bias, scale, residual, Options(*rest[:-1]), rest[-1])
    return torch.empty(
        sizes, dtype=x.dtype, device=x.device, memory_format=_memory_format(x, weight)
    )


def _memory_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """channels_last if the strides of x or the weight suggest it, as in PyTorch's convolution."""
    suggested = (suggest_memory_format(x), suggest_memory_format(weight))
    return torch.channels_last if torch.channels_last in suggested else torch.contiguous_format


def _check_dimensions(x: Tensor, weight: Tensor) -> None:
    for name, tensor, form in (
        ("x", x, "(N, C_in, H, W) or (C_in, H, W)"),
        ("weight", weight, "(C_out, C_in/groups, KH, KW)"),
    ):
        if tensor.dim() != 4:
            raise ShapeError(
                f"{_OP}: {name} has shape {tuple(tensor.shape)}, {tensor.dim()} dimensions; it "
                f"must be {form} (torch.nn.functional.conv2d)"
            )


def _result_shape(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    options: Options,
    backend: str | None,
) -> list[int]:
    """Check everything that can be known without values; return the sizes of the result."""
    _check_dimensions(x, weight)
    groups = _arguments.integer(_OP, "groups", options.groups, least=1)
    N, C_in, H, W = x.shape
    C_out, C_in_group, KH, KW = weight.shape
    for name, tensor in (("x", x), ("weight", weight)):
        if any(isinstance(size, int) and size == 0 for size in tensor.shape):
            raise ShapeError(
                f"{_OP}: {name} has shape {tuple(tensor.shape)}, so no elements; every size must "
                "be at least 1 (nl.ndarray has no empty tensors)"
            )
    if C_in != C_in_group * groups or C_out % groups:
        raise ShapeError(
            f"{_OP}: x has {C_in} channels, but weight of shape {tuple(weight.shape)} with "
            f"groups={groups} takes {C_in_group * groups}, and groups must divide its "
            f"{C_out} output channels (torch.nn.functional.conv2d)"
        )
    for name, vector in (("bias", bias), ("scale", scale)):
        if vector is not None and (vector.dim() != 1 or vector.shape[0] != C_out):
            raise ShapeError(
                f"{_OP}: {name} has shape {tuple(vector.shape)}; weight has {C_out} output "
                f"channels, so it must be ({C_out},) (torch.nn.functional.conv2d)"
            )
    _check_dtypes(x, weight, bias, scale, residual, backend)
    top, bottom, left, right = options.padding
    if isinstance(H, int) and isinstance(W, int):
        pads = ((top, bottom), (left, right))
        _arguments.padding_mode(_OP, options.padding_mode, pads, (H, W))
    OH = _output_size("H", H, (top, bottom), KH, options.stride[0], options.dilation[0])
    OW = _output_size("W", W, (left, right), KW, options.stride[1], options.dilation[1])
    sizes = [N, C_out, OH, OW]
    if residual is not None and list(residual.shape) != sizes:
        raise ShapeError(
            f"{_OP}: residual has shape {tuple(residual.shape)}; the convolution's result has "
            f"{tuple(sizes)} (an element is added to each)"
        )
    return sizes


def _output_size(
    axis: str, size: int, pads: tuple[int, int], taps: int, stride: int, dilation: int
) -> int:
    if isinstance(size, int):
        return _arguments.output_size(_OP, axis, size, pads, taps, stride, dilation)
    # a size that torch.compile or torch.export leaves open: what has to hold becomes a guard
    reach, padded = dilation * (taps - 1) + 1, size + sum(pads)
    torch._check(padded >= reach)
    return (padded - reach) // stride + 1


def _check_dtypes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    backend: str | None,
) -> None:
    # without a backend this is a fake tensor's: use_backend("torch") may come when it runs
    wide = ["float64"] if backend in (None, "torch") else []
    operands = {"x": x, "weight": weight, "residual": residual, "bias": bias, "scale": scale}
    for name, tensor in operands.items():
        if tensor is None:
            continue
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in (*_arguments.DTYPES, *wide):
            raise DtypeError(
                f"{_OP}: {name} has dtype {kind}; the kernels take {', '.join(_arguments.DTYPES)} "
                "(element types that both the tensor engine and PyTorch's convolutions have)"
            )
        if name not in ("bias", "scale") and tensor.dtype != x.dtype:
            raise DtypeError(
                f"{_OP}: {name} has dtype {tensor.dtype}, x has {x.dtype}; they must be the same "
                "(torch.nn.functional.conv2d)"
            )
        if tensor.device != x.device:
            raise ConstraintError(
                f"{_OP}: {name} is on {tensor.device}, x is on {x.device}; they must be on the same"
                " device (torch.nn.functional.conv2d)"
            )


# --- Gradient -------------------------------------------------------------------------------------


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, scale, residual = inputs[:_TENSORS]
    options = Options(*inputs[_TENSORS:-1])
    again = _activations.needs_argument(options.activation)
    ctx.save_for_backward(
        x,
        weight,
        bias if again else None,
        scale,
        residual if again else None,
        output if _activations.needs_result(options.activation) else None,
    )
    ctx.options = options
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.gradients = chosen_gradients()


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, scale, residual, values = ctx.saved_tensors
    options, needs = ctx.options, ctx.needs_input_grad
    if _activations.needs_argument(options.activation):
        values = preactivation(x, weight, bias, scale, residual, options)
    grad = _activations.gradient(options.activation, options.slope, grad, values)
    grad_bias = grad.sum((0, 2, 3), dtype=ctx.bias_dtype) if needs[2] else None
    grad_scale = None
    if needs[3]:
        grad_scale = (grad * convolved(x, weight, options)).sum((0, 2, 3), dtype=scale.dtype)
    grad_residual = grad if needs[4] else None
    if scale is not None:
        grad = grad * scale.to(grad.dtype)[:, None, None]
    # the gradient functions know zeros alone; any other border becomes part of the image
    bordered = x if options.padding_mode == "zeros" else padded(x, options)
    geometry = {
        "stride": options.stride,
        "padding": options.padding if options.padding_mode == "zeros" else [0, 0, 0, 0],
        "dilation": options.dilation,
        "groups": options.groups,
    }
    grad_x, grad_weight = None, None
    if needs[0]:
        grad_x = ctx.gradients.input(grad, bordered, weight, **geometry)
        if options.padding_mode != "zeros":
            grad_x = unpadded(grad_x, x, options)
    if needs[1]:
        grad_weight = ctx.gradients.weight(grad, bordered, weight, **geometry)
    none = (None,) * (len(Options._fields) + 1)
    return grad_x, grad_weight, grad_bias, grad_scale, grad_residual, *none


# --- Autocast -------------------------------------------------------------------------------------


def _autocast(device_type: Callable[[], str]) -> Any:
    """Return what autocast runs in place of the operator: the same on operands cast down.

    `torch.library.register_autocast` would fix one dtype; CPU autocast has two.
    """

    def run(x: Any, weight: Any, bias: Any, scale: Any, residual: Any, *rest: Any) -> Any:
        kind = device_type()
        dtype = torch.get_autocast_dtype(kind)
        cast = [_cast(tensor, dtype) for tensor in (x, weight, bias)]
        with torch.autocast(kind, enabled=False):
            return torch.ops.nkiconv.conv2d(*cast, scale, _cast(residual, dtype), *rest)

    return run


def _cast(tensor: Any, dtype: torch.dtype) -> Any:
    """Cast floating tensors other than float64, as PyTorch's autocast does."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(dtype)


operator = torch.library.custom_op("nkiconv::conv2d", _conv2d, mutates_args=(), schema=SCHEMA)
operator.register_fake(_fake)
operator.register_autograd(_backward, setup_context=_setup_context)

_library = torch.library.Library("nkiconv", "FRAGMENT")
_library.impl("conv2d", _autocast(lambda: "cpu"), "AutocastCPU")
_library.impl("conv2d", _autocast(lambda: "xla"), "AutocastXLA")
# the native back end's device: renamed to "neuron" when torch_neuronx is imported
_library.impl("conv2d", _autocast(torch._C._get_privateuse1_backend_name), "AutocastPrivateUse1")
