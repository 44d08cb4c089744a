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
from torch.nn import functional as F

from nkiconv import kernels
from nkiconv.kernels import _arguments
from nkiconv.pytorch import neuron
from nkiconv.pytorch._activations import (
    FUNCTIONS,
    GRADIENTS,
    GRADIENTS_FROM_RESULT,
    activate,
)
from nkiconv.pytorch._packed import packed_weights
from nkiconv.pytorch.backends import backend_for, check_backend
from nkiconv.pytorch.gradients import chosen_gradients
from nkiconv.simulate import DtypeError, ShapeError

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
    activation: str | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """y = act(conv(x, weight) + bias + residual), differentiable.

    Shapes
    ------
    x         (N, C_in, H, W) or (C_in, H, W)  float32 float16 bfloat16
    weight    (C_out, C_in/groups, KH, KW)     x's dtype
    bias      (C_out,)                         float32 float16 bfloat16
    residual  (N, C_out, OH, OW)               x's dtype; added before the activation

    Parameters
    ----------
    stride, dilation, padding, groups, activation
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
        An argument outside its range, or a device that the backend does not take.

    Notes
    -----
    The gradients come from `use_gradients`.  That of an activation is PyTorch's; where it needs the
    values before the activation, PyTorch's convolution computes them again.  Under autocast the
    operands are cast as those of PyTorch's convolution are.
    """
    check_backend(backend)
    if x.dim() == 3:
        batched = None if residual is None else residual[None]
        return conv2d(
            x[None],
            weight,
            bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            activation=activation,
            residual=batched,
            backend=backend,
        )[0]
    _check_dimensions(x, weight)
    s_h, s_w = _arguments.pair(_OP, "stride", stride, least=1)
    d_h, d_w = _arguments.pair(_OP, "dilation", dilation, least=1)
    KH, KW = weight.shape[2:]
    pads = _arguments.padding(_OP, padding, (KH, KW), (s_h, s_w), (d_h, d_w))
    y: Tensor = torch.ops.nkiconv.conv2d(
        x,
        weight,
        bias,
        [s_h, s_w],
        [*pads[0], *pads[1]],
        [d_h, d_w],
        groups,
        activation,
        residual,
        backend,
    )
    return y


# --- The operator ---------------------------------------------------------------------------------


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str | None,
    residual: Tensor | None,
    backend: str | None,
) -> Tensor:
    """Run on what `backend_for` says."""
    name = backend_for(x, backend)
    sizes = _result_shape(
        x, weight, bias, stride, padding, dilation, groups, activation, residual, name
    )
    top, bottom, left, right = padding
    if name == "torch":
        y = _preactivation(x, weight, bias, stride, padding, dilation, groups, residual)
        y = activate(activation, y)
    elif name == "neuron":
        y = neuron.conv2d(
            x, weight, bias, stride, padding, dilation, groups, activation, residual, sizes
        )
    else:
        y = kernels.conv2d(
            x.detach(),
            packed_weights(weight, groups),
            None if bias is None else bias.detach(),
            stride=(stride[0], stride[1]),
            padding=((top, bottom), (left, right)),
            dilation=(dilation[0], dilation[1]),
            groups=groups,
            activation=activation,
            residual=None if residual is None else residual.detach(),
        )
    if tuple(y.shape) != tuple(sizes):
        raise ShapeError(f"{_OP}: backend {name} made {tuple(y.shape)} instead of {tuple(sizes)}")
    return y.contiguous(memory_format=_memory_format(x, weight))


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str | None,
    residual: Tensor | None,
    backend: str | None,
) -> Tensor:
    """Return a result without values."""
    sizes = _result_shape(
        x, weight, bias, stride, padding, dilation, groups, activation, residual, backend
    )
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
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str | None,
    residual: Tensor | None,
    backend: str | None,
) -> list[int]:
    """Check everything that can be known without values; return the sizes of the result."""
    _check_dimensions(x, weight)
    _arguments.choice(
        _OP, "activation", activation, (None, *FUNCTIONS), "the activations of the kernels"
    )
    _arguments.integer(_OP, "groups", groups, least=1)
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
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != C_out):
        raise ShapeError(
            f"{_OP}: bias has shape {tuple(bias.shape)}; weight has {C_out} output channels, so it "
            f"must be ({C_out},) (torch.nn.functional.conv2d)"
        )
    _check_dtypes(x, weight, bias, residual, backend)
    top, bottom, left, right = padding
    OH = _output_size("H", H, (top, bottom), KH, stride[0], dilation[0])
    OW = _output_size("W", W, (left, right), KW, stride[1], dilation[1])
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
    residual: Tensor | None,
    backend: str | None,
) -> None:
    allowed = [*_arguments.DTYPES, *(["float64"] if backend == "torch" else [])]
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias), ("residual", residual)):
        if tensor is None:
            continue
        kind = str(tensor.dtype).removeprefix("torch.")
        # without a backend this is a fake tensor's: use_backend("torch") may come when it runs
        if kind not in allowed and not (backend is None and kind == "float64"):
            raise DtypeError(
                f"{_OP}: {name} has dtype {kind}; the kernels take {', '.join(_arguments.DTYPES)} "
                "(element types that both the tensor engine and PyTorch's convolutions have)"
            )
        if name != "bias" and tensor.dtype != x.dtype:
            raise DtypeError(
                f"{_OP}: {name} has dtype {tensor.dtype}, x has {x.dtype}; they must be the same "
                "(torch.nn.functional.conv2d)"
            )
        if tensor.device != x.device:
            raise ShapeError(
                f"{_OP}: {name} is on {tensor.device}, x is on {x.device}; they must be on the same"
                " device (torch.nn.functional.conv2d)"
            )


def _preactivation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    residual: Tensor | None,
) -> Tensor:
    """conv(x, weight) + bias + residual, by PyTorch."""
    top, bottom, left, right = padding
    even = top == bottom and left == right
    z = F.conv2d(
        x if even else F.pad(x, (left, right, top, bottom)),
        weight,
        None if bias is None else bias.to(x.dtype),
        stride,
        [top, left] if even else [0, 0],
        dilation,
        groups,
    )
    return z if residual is None else z + residual


# --- Gradient -------------------------------------------------------------------------------------


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, stride, padding, dilation, groups, activation, residual, _ = inputs
    y = output if activation in GRADIENTS_FROM_RESULT else None
    z_needs = (bias, residual) if activation in GRADIENTS else (None, None)
    ctx.save_for_backward(x, weight, y, *z_needs)
    ctx.stride, ctx.padding, ctx.dilation, ctx.groups = stride, padding, dilation, groups
    ctx.activation = activation
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.gradients = chosen_gradients()


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, y, bias, residual = ctx.saved_tensors
    if ctx.activation in GRADIENTS_FROM_RESULT:
        grad = GRADIENTS_FROM_RESULT[ctx.activation](grad, y)
    elif ctx.activation is not None:
        z = _preactivation(
            x, weight, bias, ctx.stride, ctx.padding, ctx.dilation, ctx.groups, residual
        )
        grad = GRADIENTS[ctx.activation](grad, z)
    geometry = {
        "stride": ctx.stride,
        "padding": ctx.padding,
        "dilation": ctx.dilation,
        "groups": ctx.groups,
    }
    needs = ctx.needs_input_grad
    grad_x = ctx.gradients.input(grad, x, weight, **geometry) if needs[0] else None
    grad_w = ctx.gradients.weight(grad, x, weight, **geometry) if needs[1] else None
    grad_b = grad.sum((0, 2, 3), dtype=ctx.bias_dtype) if needs[2] else None
    grad_residual = grad if needs[8] else None
    return grad_x, grad_w, grad_b, None, None, None, None, None, grad_residual, None


# --- Autocast -------------------------------------------------------------------------------------


def _autocast(device_type: Callable[[], str]) -> Any:
    """Return what autocast runs in place of the operator: the same on operands cast down.

    `torch.library.register_autocast` would fix one dtype; CPU autocast has two.
    """

    def run(*args: Any) -> Any:
        kind = device_type()
        dtype = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            return torch.ops.nkiconv.conv2d(*(_cast(arg, dtype) for arg in args))

    return run


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast floating tensors other than float64, as PyTorch's autocast does."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.to(dtype)
    return value


SCHEMA = (
    "(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation,"
    " SymInt groups, str? activation, Tensor? residual, str? backend) -> Tensor"
)

operator = torch.library.custom_op("nkiconv::conv2d", _conv2d, mutates_args=(), schema=SCHEMA)
operator.register_fake(_fake)
operator.register_autograd(_backward, setup_context=_setup_context)

_library = torch.library.Library("nkiconv", "FRAGMENT")
_library.impl("conv2d", _autocast(lambda: "cpu"), "AutocastCPU")
_library.impl("conv2d", _autocast(lambda: "xla"), "AutocastXLA")
# the native back end's device: renamed to "neuron" when torch_neuronx is imported
_library.impl("conv2d", _autocast(torch._C._get_privateuse1_backend_name), "AutocastPrivateUse1")
