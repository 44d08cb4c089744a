"""Values made from weights, kept as long as the weights stay as they are.

On the host a weight is compared with a copy of it: that is a fraction of what a convolution costs
in the simulator, and sees changes that go round PyTorch's version counter (``weight.data.mul_(2)``,
a NumPy view).  On a device identity and version counter have to do.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from nkiconv.kernels import PackedWeights, pack_weights

T = TypeVar("T")


class Snapshot:
    """What tensors were at one point of time."""

    def __init__(self, tensors: tuple[Tensor | None, ...]) -> None:
        self._states = [_state(tensor) for tensor in tensors]

    def holds(self, tensors: tuple[Tensor | None, ...]) -> bool:
        """Whether these tensors are still what they were; False in doubt, and for NaN."""
        return len(tensors) == len(self._states) and all(
            _same(state, tensor) for state, tensor in zip(self._states, tensors, strict=True)
        )


def _state(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    if tensor.device.type == "cpu":
        return tensor.detach().clone()
    return _device_state(tensor)


def _device_state(tensor: Tensor) -> object:
    if tensor.is_inference():  # has no version counter: like nothing, not even itself
        return object()
    return (id(tensor), tensor.dtype, tensor.device, tensor._version)


def _same(state: Any, tensor: Tensor | None) -> bool:
    if tensor is None or state is None:
        return tensor is None and state is None
    if tensor.device.type == "cpu":
        return (
            isinstance(state, Tensor)
            and state.dtype == tensor.dtype
            and torch.equal(state, tensor.detach())
        )
    return bool(state == _device_state(tensor))


class PerTensor:
    """Values by tensor and a key of the caller's; gone with the tensor."""

    def __init__(self) -> None:
        self._kept: MutableMapping[Tensor, Any] = WeakTensorKeyDictionary()

    def get(self, tensor: Tensor, key: object, make: Callable[[], T]) -> T:
        """Return the value of this tensor and key; made anew where the tensor has changed."""
        kept = self._kept.get(tensor)
        if kept is None or not kept[0].holds((tensor,)):
            kept = (Snapshot((tensor,)), {})
            self._kept[tensor] = kept
        values: dict[object, T] = kept[1]
        if key not in values:
            values[key] = make()
        return values[key]


_weights = PerTensor()


def packed_weights(weight: Tensor, groups: int) -> PackedWeights:
    """Return `pack_weights` of a CPU tensor, packed again only when it has changed."""
    return _weights.get(weight, groups, lambda: pack_weights(weight.detach(), groups))
