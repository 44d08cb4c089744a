"""ScalarE's functions: their arithmetic, their documented input ranges, and what lies outside.

The table is the vendor's *Supported Activation Functions* (NKI 0.6.0).  ScalarE approximates them
piece by piece with polynomials; here they are the mathematical functions, rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array, Float32Array

PI = float(np.float32(np.pi))
"""The float32 next to pi, up to which the range of the sine reaches."""

_UNKNOWN = "ScalarE gives invalid results there, the simulator the mathematical ones"
_CUBIC = "ScalarE extrapolates a cubic there, and so does the simulator"

_SQRT_2, _SQRT_PI, _SQRT_2_PI = np.sqrt(2.0), np.sqrt(np.pi), np.sqrt(2.0 * np.pi)
_SIGMOID_SCALE = 1.702
"""The factor that makes ``x * sigmoid(1.702 x)`` resemble GELU (Hendrycks and Gimpel, 2016)."""


@dataclass(frozen=True, slots=True)
class Activation:
    """One function of ScalarE.

    Attributes
    ----------
    function
        Takes float32 values and returns them; with `parametric`, the slope as well.
    valid
        Documented range of the input, None where it is unlimited.
    of_magnitude
        The range is that of ``|input|``.
    outside
        What happens outside the range, for the warning.
    table
        Which activation table ScalarE needs; sets as published profiles show them, and one of its
        own for each function that they do not show.  -1 is none: copies run between exponentials
        without a load.
    parametric
        Takes the ``relu_param`` of activate2.
    """

    function: Callable[..., Array]
    valid: tuple[float, float] | None = None
    of_magnitude: bool = False
    outside: str = _UNKNOWN
    table: int = 0
    parametric: bool = False

    def covers(self, values: Array) -> bool:
        """Whether all values lie in the documented range; NaN does not."""
        if self.valid is None:
            return True
        low, high = self.valid
        compared = np.abs(values) if self.of_magnitude else values
        return bool(np.all((compared >= low) & (compared <= high)))


def single(result: Any) -> Float32Array:
    """Return a result as float32."""
    return np.asarray(result, dtype=np.float32)


def _wide(x: Array) -> Array:
    return np.asarray(x, dtype=np.float64)


def erfc(x: Array) -> Array:
    """Return the complementary error function, within 1.2e-7 of its value.

    Notes
    -----
    A Chebyshev fit in ``t = 1/(1 + |x|/2)`` (Press et al., Numerical Recipes, erfc), in float64.
    """
    wide = _wide(x)
    magnitude = np.abs(wide)
    t = 1.0 / (1.0 + 0.5 * magnitude)
    series = np.full_like(t, 0.17087277)
    for coefficient in (
        -0.82215223,
        1.48851587,
        -1.13520398,
        0.27886807,
        -0.18628806,
        0.09678418,
        0.37409196,
        1.00002368,
        -1.26551223,
    ):
        series = series * t + coefficient
    tail = t * np.exp(-magnitude * magnitude + series)
    return np.where(wide >= 0, tail, 2.0 - tail)


def _logistic(wide: Array) -> Array:
    result: Array = 0.5 * (1.0 + np.tanh(0.5 * wide))
    return result


def _sigmoid(x: Array) -> Array:
    return single(_logistic(_wide(x)))


def _silu(x: Array) -> Array:
    wide = _wide(x)
    with np.errstate(over="ignore"):
        return single(wide / (1.0 + np.exp(-wide)))


def _silu_dx(x: Array) -> Array:
    wide = _wide(x)
    share = _logistic(wide)
    return single(share * (1.0 + wide * _logistic(-wide)))


def _gelu(x: Array) -> Array:
    wide = _wide(x)
    return single(0.5 * wide * erfc(-wide / _SQRT_2))


def _gelu_dx(x: Array) -> Array:
    wide = _wide(x)
    return single(0.5 * erfc(-wide / _SQRT_2) + wide * np.exp(-0.5 * wide * wide) / _SQRT_2_PI)


def _gelu_tanh(x: Array) -> Array:
    wide = _wide(x)
    inner = np.sqrt(2.0 / np.pi) * (wide + 0.044715 * wide**3)
    return single(0.5 * wide * (1.0 + np.tanh(inner)))


def _gelu_sigmoid(x: Array) -> Array:
    wide = _wide(x)
    with np.errstate(over="ignore"):
        return single(wide / (1.0 + np.exp(-_SIGMOID_SCALE * wide)))


def _gelu_sigmoid_dx(x: Array) -> Array:
    scaled = _SIGMOID_SCALE * _wide(x)
    return single(_logistic(scaled) * (1.0 + scaled * _logistic(-scaled)))


def _softplus(x: Array) -> Array:
    return single(np.logaddexp(0.0, _wide(x)))


def _mish(x: Array) -> Array:
    wide = _wide(x)
    return single(wide * np.tanh(np.logaddexp(0.0, wide)))


def _erf(x: Array) -> Array:
    return single(1.0 - erfc(x))


def _erf_dx(x: Array) -> Array:
    wide = _wide(x)
    return single(2.0 / _SQRT_PI * np.exp(-wide * wide))


def _sin(x: Array) -> Array:
    """Return the sine, and beyond the range the cubic ``d^3/6 - d`` in the distance d from pi.

    The vendor's table gives one value of the cubic, 27.65 for 9.0; this is the sine's own, in pi.
    """
    wide = _wide(x)
    beyond = np.sign(wide) * (np.abs(wide) - np.pi)
    return single(np.where(np.abs(wide) <= PI, np.sin(wide), beyond**3 / 6.0 - beyond))


def relu(x: Array) -> Array:
    """Return ``max(x, 0)``."""
    return np.asarray(np.maximum(x, np.float32(0)))


def _prelu(x: Array, slope: Any) -> Array:
    return np.asarray(np.where(x >= 0, x, x * slope))


def rsqrt(x: Array) -> Array:
    """Return ``1/sqrt(x)``."""
    return np.asarray(np.float32(1) / np.sqrt(x))


def reciprocal(x: Array) -> Array:
    """Return ``1/x``."""
    return np.asarray(np.float32(1) / x)


ACTIVATIONS: dict[str, Activation] = {
    "copy": Activation(lambda x: x, table=-1),
    "square": Activation(np.square),
    "sigmoid": Activation(_sigmoid, table=2),
    "relu": Activation(relu),
    "prelu": Activation(_prelu, parametric=True),
    "gelu": Activation(_gelu, table=7),
    "gelu_dx": Activation(_gelu_dx, table=13),
    "gelu_apprx_tanh": Activation(_gelu_tanh, table=8),
    "gelu_apprx_sigmoid": Activation(_gelu_sigmoid, table=9),
    "gelu_apprx_sigmoid_dx": Activation(_gelu_sigmoid_dx, table=14),
    "silu": Activation(_silu, table=3),
    "silu_dx": Activation(_silu_dx, table=15),
    "tanh": Activation(np.tanh, table=6),
    "softplus": Activation(_softplus, table=5),
    "mish": Activation(_mish, table=16),
    "erf": Activation(_erf, table=10),
    "erf_dx": Activation(_erf_dx, table=17),
    "exp": Activation(np.exp, table=4),
    "log": Activation(np.log, (2.0**-64, 2.0**64), table=11),
    "sin": Activation(_sin, (-PI, PI), outside=_CUBIC, table=18),
    "arctan": Activation(np.arctan, (-PI / 2, PI / 2), table=19),
    "sqrt": Activation(np.sqrt, (2.0**-116, 2.0**118), table=12),
    "rsqrt": Activation(rsqrt, (2.0**-87, 2.0**97)),
    "reciprocal": Activation(reciprocal, (2.0**-42, 2.0**42), of_magnitude=True, table=1),
    "sign": Activation(np.sign),
    "abs": Activation(np.abs),
}
"""Every function of the vendor's table, by the name of its operator."""
