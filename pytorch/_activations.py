"""The kernels' activations in PyTorch: functions, gradients, and modules that compute them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nkiconv.kernels._activations import ACTIVATIONS

aten = torch.ops.aten

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def _silu_gradient(grad: Tensor, z: Tensor) -> Tensor:
    """grad * f'(z), in steps that have derivatives: aten::silu_backward has none."""
    s = torch.sigmoid(z)
    return grad * (s * (1 + z * (1 - s)))


GRADIENTS_FROM_RESULT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda grad, y: aten.threshold_backward(grad, y, 0),
    "sigmoid": lambda grad, y: aten.sigmoid_backward(grad, y),
    "tanh": lambda grad, y: aten.tanh_backward(grad, y),
}
"""Where f'(z) follows from y = f(z)."""

GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": lambda grad, z: aten.gelu_backward(grad, z, approximate="none"),
    "silu": _silu_gradient,
}
"""Where f'(z) needs z itself."""


def activate(name: str | None, z: Tensor) -> Tensor:
    """Return f(z), or z without an activation."""
    return z if name is None else FUNCTIONS[name](z)


def name_of(module: nn.Module) -> str | None:
    """Return the name of the kernels' activation that a module computes, or None.

    Subclasses may compute something else, so the type has to be exact.
    """
    kind, name = type(module), None
    if kind is nn.ReLU:
        name = "relu"
    elif kind is nn.GELU and module.approximate == "none":
        name = "gelu"
    elif kind is nn.SiLU:
        name = "silu"
    elif kind is nn.Sigmoid:
        name = "sigmoid"
    elif kind is nn.Tanh:
        name = "tanh"
    return name if name in ACTIVATIONS else None
