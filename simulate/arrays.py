"""Host arrays at the border: NumPy arrays, and CPU torch tensors without importing torch."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.errors import ConstraintError


def is_torch(value: object) -> bool:
    """Whether `value` is a torch tensor."""
    module = sys.modules.get("torch")
    return module is not None and isinstance(value, module.Tensor)


def is_array(value: object) -> bool:
    """Whether `value` is a host array that a kernel can take."""
    return isinstance(value, np.ndarray) or is_torch(value)


def as_numpy(value: Any, *, op: str = "simulate_kernel") -> Array:
    """Return a NumPy view of a host array.

    Parameters
    ----------
    value
        NumPy array or CPU torch tensor (bfloat16 becomes ``ml_dtypes.bfloat16``).
    op
        Named in messages.

    Raises
    ------
    ConstraintError
        Not an array; a tensor on another device; a tensor that requires gradients.
    """
    if isinstance(value, np.ndarray):
        return value
    if not is_torch(value):
        raise ConstraintError(f"{op}: expected a NumPy array or CPU torch tensor, got {value!r}")
    if value.device.type != "cpu":
        raise ConstraintError(
            f"{op}: the tensor is on {value.device}; the simulator takes CPU tensors (x.cpu())"
        )
    if value.requires_grad:
        raise ConstraintError(
            f"{op}: the tensor requires gradients, which the kernels do not compute yet; pass "
            "x.detach()"
        )
    import torch

    if value.dtype is torch.bfloat16:
        bits: Array = value.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    result: Array = value.numpy()
    return result


def like(result: Array, original: object) -> Any:
    """Return `result` as the kind of array that `original` is."""
    if not is_torch(original):
        return result
    import torch

    if result.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(result)
