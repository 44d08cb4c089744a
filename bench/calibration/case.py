"""What a rebuilt kernel is run with, and what it should compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from nkiconv.simulate import Profile

__all__ = ["DTYPES", "Array", "Case", "Make"]

Array = npt.NDArray[Any]  # NumPy cannot say "one of three floats"
Make = Callable[[np.random.Generator, tuple[int, ...], type], tuple[Array, ...]]

DTYPES: dict[str, type] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
}


def _passes(seen: Profile, dtype: str) -> int:
    """Passes of TensorE: two for a float32 matmul, one for anything else."""
    matmuls = seen.instructions.get("nc_matmul", 0)
    return seen.instructions.get("nc_transpose", 0) + matmuls * (2 if dtype == "fp32" else 1)


@dataclass(frozen=True)
class Case:
    """One rebuilt kernel at one published shape.

    Attributes
    ----------
    id, family
        Name, and the group of kernels for which an error is given.
    target, dtype
        Generation, and the element type of the inputs.
    kernel, options
        The jitted function, and its arguments after the arrays.
    make
        Returns the arrays from a generator, the sizes and the element type.
    sizes, small
        As published, and small enough to be compared with NumPy in a test.
    reference
        The result in float64, from the arrays.
    quick
        Whether the case belongs to the quick ones, a few seconds together.
    float32_products
        Matmuls whose operands are float32 although the inputs are not.
    """

    id: str
    family: str
    target: str
    dtype: str
    kernel: Callable[..., Any]
    make: Make
    sizes: tuple[int, ...]
    small: tuple[int, ...]
    reference: Callable[..., Array]
    options: tuple[object, ...] = ()
    quick: bool = False
    float32_products: bool = False

    def inputs(self, sizes: tuple[int, ...]) -> tuple[Array, ...]:
        """Return arrays of these sizes, the same in every run."""
        return self.make(np.random.default_rng(0), sizes, DTYPES[self.dtype])

    def counted(self, seen: Profile) -> dict[str, int]:
        """Return our counts under the names of published counters."""
        opcodes = seen.instructions
        passes = _passes(seen, self.dtype)
        if self.float32_products:
            # q.T @ k is one pass for each 512 columns; p @ v.T has float32 operands.
            passes += opcodes.get("nc_matmul", 0) - self._low_precision_matmuls()
        return {
            "hbm_read_bytes": seen.hbm_read_bytes,
            "hbm_write_bytes": seen.hbm_write_bytes,
            "matmul_passes": passes,
            "dma_transfers": seen.dma_transfers,
            "dma_triggers": seen.dma_transfers,
            "copies": opcodes.get("tensor_copy", 0),
            "tensor_tensor": opcodes.get("tensor_tensor", 0),
            "tensor_reduce": opcodes.get("tensor_reduce", 0),
            "activations": opcodes.get("activation", 0),
        }

    def _low_precision_matmuls(self) -> int:
        size = self.sizes[0]
        return size // 128 * (size // 512)
