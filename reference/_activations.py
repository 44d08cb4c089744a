"""The activations that can follow a convolution, in float64.

Only operations that NumPy would use too, so that NaN and Inf propagate as they do there: gelu and
silu of -Inf are NaN (-Inf times 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from nkiconv.reference._dtypes import Float64

_erfc = np.frompyfunc(math.erfc, 1, 1)  # NumPy has no error function


def _sigmoid(z: Float64) -> Float64:
    """Return 1 / (1 + exp(-z))."""
    return 1 / (1 + np.exp(-z))


def _gelu(z: Float64) -> Float64:
    """Return z Phi(z), Phi the normal distribution: PyTorch's default, not the tanh approximation.

    Phi(z) = erfc(-z / sqrt(2)) / 2; the more usual 1 + erf cancels where z is very negative.
    """
    phi: Float64 = np.asarray(_erfc(-z / math.sqrt(2)), dtype=np.float64) / 2
    return z * phi


ACTIVATIONS: Mapping[str | None, Callable[[Float64], Float64]] = {
    None: lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "gelu": _gelu,
    "silu": lambda z: z * _sigmoid(z),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}
