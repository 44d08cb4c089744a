"""The activations that can follow a convolution, in float64.

Only operations that NumPy would use too, so that NaN and Inf propagate as they do there: gelu and
silu of -Inf are NaN (-Inf times 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from nkiconv.reference._arguments import Activation
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


def _gelu_tanh(z: Float64) -> Float64:
    """Return the approximation of gelu by a tanh, as PyTorch's approximate="tanh"."""
    inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    share: Float64 = (1 + np.tanh(inner)) / 2
    return z * share


def _hardswish(z: Float64) -> Float64:
    """Return z relu6(z + 3) / 6."""
    return z * np.clip(z + 3, 0, 6) / 6


ACTIVATIONS: Mapping[str | None, Callable[[Float64], Float64]] = {
    None: lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "relu6": lambda z: np.clip(z, 0, 6),
    "leaky_relu": lambda z: _leaky_relu(z, LEAKY_SLOPE),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda z: z * _sigmoid(z),
    "hardswish": _hardswish,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
}
LEAKY_SLOPE = 0.01
"""Of "leaky_relu" alone; ("leaky_relu", slope) has another."""


def _leaky_relu(z: Float64, slope: float) -> Float64:
    """Return z where it is not negative, else slope*z."""
    return np.where(z < 0, slope * z, z)


def activate(activation: Activation, z: Float64) -> Float64:
    """Return the activation of z; `activation` is one that `_arguments.activation` let pass."""
    if isinstance(activation, tuple):
        return _leaky_relu(z, activation[1])
    return ACTIVATIONS[activation](z)
