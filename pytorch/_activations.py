"""The kernels' activations in PyTorch: functions, gradients, and modules that compute them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten


def _silu_gradient(grad: Tensor, z: Tensor) -> Tensor:
    """grad * f'(z), in steps that have derivatives: aten::silu_backward has none."""
    s = torch.sigmoid(z)
    return grad * (s * (1 + z * (1 - s)))


def _hardswish_gradient(grad: Tensor, z: Tensor) -> Tensor:
    """grad * f'(z), which is 0, z/3 + 1/2 or 1."""
    slope = torch.where(z >= 3, 1.0, z / 3 + 0.5)
    return grad * torch.where(z <= -3, 0.0, slope)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
"""All but leaky_relu, which has a slope."""

_FROM_RESULT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda grad, y: aten.threshold_backward(grad, y, 0),
    "relu6": lambda grad, y: aten.hardtanh_backward(grad, y, 0, 6),
    "sigmoid": lambda grad, y: aten.sigmoid_backward(grad, y),
    "tanh": lambda grad, y: aten.tanh_backward(grad, y),
}
"""Where f'(z) follows from y = f(z)."""

_FROM_ARGUMENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": lambda grad, z: aten.gelu_backward(grad, z, approximate="none"),
    "gelu_tanh": lambda grad, z: aten.gelu_backward(grad, z, approximate="tanh"),
    "silu": _silu_gradient,
    "hardswish": _hardswish_gradient,
}


def activate(name: str | None, slope: float, z: Tensor) -> Tensor:
    """Return f(z), or z without an activation."""
    if name is None:
        return z
    return F.leaky_relu(z, slope) if name == "leaky_relu" else FUNCTIONS[name](z)


def needs_result(name: str | None) -> bool:
    """Whether `gradient` takes f(z)."""
    return name in _FROM_RESULT


def needs_argument(name: str | None) -> bool:
    """Whether `gradient` takes z."""
    return name is not None and not needs_result(name)


def gradient(name: str | None, slope: float, grad: Tensor, values: Tensor | None) -> Tensor:
    """Return grad * f'(z); `values` is f(z) or z, whichever it takes."""
    if name is None or values is None:
        return grad
    if name == "leaky_relu":
        leaky: Tensor = aten.leaky_relu_backward(grad, values, slope, False)
        return leaky
    return (_FROM_RESULT | _FROM_ARGUMENT)[name](grad, values)


def activation_of(module: nn.Module) -> str | tuple[str, float] | None:
    """Return the kernels' activation that a module computes, as conv2d's argument, or None.

    Subclasses may compute something else, so the type has to be exact.
    """
    kind = type(module)
    if isinstance(module, nn.GELU):
        names = {"none": "gelu", "tanh": "gelu_tanh"}
        return names.get(module.approximate) if kind is nn.GELU else None
    if isinstance(module, nn.LeakyReLU):
        return ("leaky_relu", module.negative_slope) if kind is nn.LeakyReLU else None
    return _MODULES.get(kind)


_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
