"""Host arrays at the border: NumPy arrays, and CPU torch tensors without importing torch."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.errors import ConstraintError, DtypeError

# torch has these, but no way of its own to and from NumPy: their bits pass as integers.
_BY_BITS = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
}


def is_torch(value: object) -> bool:
    """Whether `value` is a torch tensor."""
    module = sys.modules.get("torch")
    return module is not None and isinstance(value, module.Tensor)


def is_array(value: object) -> bool:
    """Whether `value` is a host array that a kernel can take."""
    return isinstance(value, np.ndarray) or is_torch(value)


def is_channels_last(value: Any) -> bool:
    """Whether a torch tensor lies in memory as (N, H, W, C), and not as (N, C, H, W) as well."""
    if not is_torch(value) or value.dim() != 4:
        return False
    import torch

    last: bool = value.is_contiguous(memory_format=torch.channels_last)
    return last and not value.is_contiguous()


def as_numpy(value: Any, *, op: str = "simulate_kernel") -> Array:
    """Return a NumPy view of a host array.

    Parameters
    ----------
    value
        NumPy array or CPU torch tensor (bfloat16 becomes ``ml_dtypes.bfloat16``, and so on).
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
        raise ConstraintError(
            f"{op}: expected a NumPy array or CPU torch tensor, got {value!r}", code="argument.kind"
        )
    if value.device.type != "cpu":
        raise ConstraintError(
            f"{op}: the tensor is on {value.device}; the simulator takes CPU tensors (x.cpu())",
            code="argument.device",
        )
    if value.requires_grad:
        raise ConstraintError(
            f"{op}: the tensor requires gradients, which the kernels do not compute yet; pass "
            "x.detach()",
            code="argument.gradients",
        )
    import torch

    kind = _BY_BITS.get(str(value.dtype).removeprefix("torch."))
    if kind is not None:
        bits: Array = value.view(torch.int16 if kind.itemsize == 2 else torch.int8).numpy()
        return bits.view(kind)
    try:
        result: Array = value.numpy()
    except TypeError as error:
        raise DtypeError(
            f"{op}: NumPy cannot hold this tensor: {error}", code="argument.dtype_torch"
        ) from None
    return result


def like(result: Array, original: object) -> Any:
    """Return `result` as the kind of array that `original` is.

    Raises
    ------
    DtypeError
        torch has no such element type.
    """
    if not is_torch(original):
        return result
    import torch

    if result.dtype in _BY_BITS.values():
        bits = result.view(np.int16 if result.itemsize == 2 else np.int8)
        return torch.from_numpy(bits).view(getattr(torch, result.dtype.name))
    try:
        return torch.from_numpy(result)
    except TypeError:
        raise DtypeError(
            f"torch has no {result.dtype} elements; call the kernel with NumPy arrays",
            code="result.dtype_torch",
        ) from None
