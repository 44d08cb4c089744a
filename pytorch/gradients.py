"""Which functions compute the gradients of a convolution.

PyTorch's own do so far; `register_gradients` is where gradient kernels come in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from nkiconv.pytorch._options import Options, is_even, padded, unpadded
from nkiconv.simulate import ConstraintError


class Gradient(Protocol):
    """A gradient of ``y = conv2d(x, weight)``, in the dtype and shape of what it belongs to."""

    def __call__(
        self,
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor,
        *,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        """Return the gradient; `padding` is (top, bottom, left, right)."""


@dataclass(frozen=True)
class Gradients:
    """The two functions: the gradient of x, and that of the weight."""

    input: Gradient
    weight: Gradient


def _torch_gradient(
    of: int,
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """aten::convolution_backward, of x (0) or the weight (1).

    It pads alike on both sides only; where that is not enough, x is padded before.
    """
    options = Options(stride, padding, dilation, groups, "zeros", None, 0.0)
    even = is_even(options)
    gradients = torch.ops.aten.convolution_backward(
        grad_y,
        x if even else padded(x, options),
        weight,
        None,
        stride,
        [padding[0], padding[2]] if even else [0, 0],
        dilation,
        False,
        [0, 0],
        groups,
        [of == 0, of == 1, False],
    )
    gradient: Tensor = gradients[of]
    return gradient if even or of == 1 else unpadded(gradient, x, options)


_registry: dict[str, Gradients] = {
    "torch": Gradients(partial(_torch_gradient, 0), partial(_torch_gradient, 1))
}
_chosen: ContextVar[str] = ContextVar("nkiconv_gradients", default="torch")


def register_gradients(name: str, gradients: Gradients) -> None:
    """Offer gradient functions under a name, for `use_gradients`."""
    _registry[name] = gradients


@contextmanager
def use_gradients(name: str) -> Iterator[None]:
    """Let convolutions whose forward pass runs meanwhile use these in their backward pass.

    Raises
    ------
    ConstraintError
        Nothing is registered under that name.
    """
    if name not in _registry:
        raise ConstraintError(
            f"use_gradients: {name!r} is not registered; there are: {', '.join(_registry)} "
            "(nkiconv.pytorch.register_gradients)"
        )
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_gradients() -> Gradients:
    """Return the gradient functions in force."""
    return _registry[_chosen.get()]
