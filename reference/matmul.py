"""matmul in float64: the meaning that the kernel is compared with.

c[m, n] = sum over k of a[m, k] * b[k, n]
"""

from __future__ import annotations

import numpy as np

from nkiconv.reference import _arguments
from nkiconv.reference._dtypes import DTYPES, Array, Float64, round_once

TARGETS = (None, "trn1", "inf2", "gen2", "trn2", "gen3", "trn3", "gen4")


def matmul(a: Array, b: Array, *, target: str | None = None) -> Array:
    """`matmul_float64`, rounded once to b's dtype.

    Shapes
    ------
    a  (M, K)  float32 float16 bfloat16
    b  (K, N)  a's dtype

    Parameters
    ----------
    target
        Without meaning here; only its name is checked.

    Returns
    -------
    c : (M, N), b's dtype

    Raises
    ------
    ValueError
        Shapes that do not fit together, other dtypes, an unknown target.
    """
    _arguments.choice("target", target, TARGETS)
    for name, values in (("a", a), ("b", b)):
        if np.asarray(values).dtype not in DTYPES.values():
            raise ValueError(
                f"{name} has dtype {np.asarray(values).dtype}; matmul takes {', '.join(DTYPES)}"
            )
    return round_once(matmul_float64(a, b), np.asarray(b).dtype)


def matmul_float64(a: Array, b: Array) -> Float64:
    """Return `matmul` before its rounding; any real dtype goes in.

    Raises
    ------
    ValueError
        Other than two matrices that fit together.
    """
    left, right = np.asarray(a), np.asarray(b)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise ValueError(f"a has shape {left.shape}, b has {right.shape}; (M, K) and (K, N) fit")
    product: Float64 = left.astype(np.float64) @ right.astype(np.float64)
    return product


def matmul_magnitude(a: Array, b: Array) -> Float64:
    """Return |a| @ |b|, which `bounds.allowance` takes as the magnitude."""
    return matmul_float64(
        np.abs(np.asarray(a).astype(np.float64)), np.abs(np.asarray(b).astype(np.float64))
    )
