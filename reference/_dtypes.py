"""The three element types of the kernels, and rounding to them."""

from __future__ import annotations

from typing import TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.generic]
Float64: TypeAlias = npt.NDArray[np.float64]

DTYPES: dict[str, np.dtype[np.generic]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def round_once(values: npt.ArrayLike, dtype: np.dtype[np.generic]) -> Array:
    """Round float64 to `dtype`: to nearest, ties to even, too large to Inf.

    ml_dtypes goes from float64 to bfloat16 by way of float32 and so rounds twice (measured with
    0.6.0: 1 + 2^-8 + 2^-40 becomes 1).  With the first step to odd (truncate, then set the last
    bit if anything was lost) the second step cannot mistake a value for a tie.
    """
    exact = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype != DTYPES["bfloat16"]:
            return exact.astype(dtype)
        single = exact.astype(np.float32)
        truncated = np.where(
            np.abs(single) > np.abs(exact), np.nextafter(single, np.float32(0)), single
        )
        odd = truncated.view(np.uint32) | (truncated != exact)
        rounded: Array = odd.view(np.float32).astype(dtype)
    return rounded
