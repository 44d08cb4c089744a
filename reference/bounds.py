"""How far a result may be from the float64 reference: |y - r| <= allowance.

For the convolution z, a sum of n terms in float32 with magnitude m = conv(|x|, |w|) + |bias|:

    |z32 - z| <= e = LAMBDA sqrt(n) u32 m                       u32 = 2^-24

Rounding errors of a sum add up like a random walk, hence sqrt(n) and not n.  An activation f
multiplies e by its Lipschitz constant L and, where it is transcendental, is itself evaluated in
float32, with a relative error a = 2 ACTIVATION_ULPS u32 of its result (one ulp is at most 2 u32).
Forms that cancel, such as 1 + erf, have errors of about u32 |z| instead; these are inside L e,
since |z| <= m.  The last step rounds y32 to the result's dtype, off by at most
u_out |y32| <= u_out (|r| + |y32 - r|):

    |y - r| <= (L e + a |r|) (1 + u_out) + u_out |r|            r = f(z)

with u_out = 2^-11 for float16, 2^-8 for bfloat16 and 0 for float32, where y32 is the result.
Below the smallest normal number the last term is half the distance between subnormal numbers.
With precision "fast" both operands of float32 are rounded to bfloat16 first, and e grows by
(2u + u^2) m, u = 2^-8: what these roundings do to a sum if all go one way.
Pools keep the bound if r and m are pooled alike (`conv2d.magnitude`): a maximum is off by no more
than the worst of its window, a mean by no more than the mean; `terms` then counts its additions.

LAMBDA = 4 holds for the whole repository.  Measured (3x3, C_in 3 to 256, 20 seeds): right code uses
1 to 18 % of the allowance in float32 and 82 to 100 % in the other dtypes, where the last rounding
dominates; a dropped tap is off by more than 1000 times the allowance, partial sums that were once
rounded to bfloat16 by more than 6 times (tests/reference/test_bounds.py has the code).  To loosen
anything change this file once, with the reason; never a number in a test.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nkiconv.reference import _arguments
from nkiconv.reference._arguments import Activation, choice
from nkiconv.reference._dtypes import Array, Float64

LAMBDA = 4.0
U32 = 2.0**-24  # unit roundoff of float32: 24 significant bits


class _Format(NamedTuple):
    """What rounding a float32 to a dtype does; from the dtype's bits and exponents."""

    u_out: float  # largest relative error; 0 for float32, where there is nothing to round
    half_step: float  # largest error below the smallest normal number
    overflow: float  # smallest magnitude that rounds to Inf: half a step beyond the largest number


_FORMATS = {
    "float32": _Format(0.0, 0.0, 2.0**128 - 2.0**103),
    "float16": _Format(2.0**-11, 2.0**-25, 2.0**16 - 2.0**4),
    "bfloat16": _Format(2.0**-8, 2.0**-134, 2.0**128 - 2.0**119),
}

_U_BFLOAT16 = 2.0**-8  # unit roundoff: 8 significant bits
# x (1 + u) times w (1 + u) is off by 2u + u^2; "fast" rounds float32 operands so
_ROUNDED_OPERANDS = {"exact": 0.0, "fast": 2 * _U_BFLOAT16 + _U_BFLOAT16**2}

# assumed: error of a float32 erf, exp or tanh and the one or two operations around it, in ulps
ACTIVATION_ULPS = 4.0

_LIPSCHITZ: dict[str | None, float] = {
    None: 1.0,
    "relu": 1.0,
    "relu6": 1.0,
    "leaky_relu": 1.0,
    "gelu": 1.12891,  # slope at z = sqrt(2), 1.128904..., where z Phi(z) is steepest
    "gelu_tanh": 1.12900,  # slope at z = 1.41850, 1.128993..., found on a grid
    "silu": 1.09984,  # slope at z = 2.39936, 1.099839..., where z sigmoid(z) is steepest
    "hardswish": 1.5,  # slope (2z + 3)/6 at z = 3
    "sigmoid": 0.25,  # slope at z = 0
    "tanh": 1.0,  # slope at z = 0
}


_EXACT = (None, "relu", "relu6")  # activations that round nothing


def lipschitz(activation: Activation) -> float:
    """Return the steepest slope of an activation: what it multiplies an error by at most."""
    checked = _arguments.activation(activation, tuple(_LIPSCHITZ))
    if isinstance(checked, tuple):
        return max(1.0, abs(checked[1]))
    return _LIPSCHITZ[checked]


def allowance(
    reference: npt.ArrayLike,
    magnitude: npt.ArrayLike,
    terms: int,
    dtype: npt.DTypeLike,
    *,
    activation: Activation = None,
    precision: str = "exact",
) -> Float64:
    """Return the largest |y - reference| of right code, by the formula at the top.

    Parameters
    ----------
    reference
        `conv2d_float64`, activation and pool included.
    magnitude
        `conv2d.magnitude` of the same arguments.
    terms
        n: KH * KW * C_in / groups.
    dtype
        Of the result: float32, float16 or bfloat16.
    activation
        The one that `reference` was computed with.
    precision
        "exact", or "fast" of float32: operands were rounded to bfloat16.

    Returns
    -------
    allowance : float64, shape of `reference`
        Not finite where `reference` is not.

    Raises
    ------
    ValueError
        Another dtype or activation, fewer than one term, or shapes that differ.
    """
    r, m = np.asarray(reference, dtype=np.float64), np.asarray(magnitude, dtype=np.float64)
    u_out, half_step, _ = _format(dtype)
    if terms < 1:
        raise ValueError(f"terms is {terms}; a convolution sums at least 1")
    if r.shape != m.shape:
        raise ValueError(f"reference has shape {r.shape}, magnitude has shape {m.shape}")
    size = np.abs(r)
    # an infinite sum carries no rounding error: where f(±Inf) is finite, it has to be met
    m = np.where(np.isinf(m) & np.isfinite(r), 0.0, m)
    choice("precision", precision, tuple(_ROUNDED_OPERANDS))
    relative = LAMBDA * math.sqrt(terms) * U32 + _ROUNDED_OPERANDS[precision]
    computed = lipschitz(activation) * relative * m
    if activation not in _EXACT:
        computed = computed + 2 * ACTIVATION_ULPS * U32 * size
    # exact zeros (nothing but padding) round to themselves
    rounding = np.where((size > 0) | (m > 0), np.maximum(u_out * size, half_step), 0.0)
    allowed: Float64 = computed * (1 + u_out) + rounding
    return allowed


def max_error_ratio(
    y: Array,
    reference: npt.ArrayLike,
    magnitude: npt.ArrayLike,
    terms: int,
    dtype: npt.DTypeLike,
    *,
    activation: Activation = None,
    precision: str = "exact",
) -> float:
    """Return the maximum of |y - reference| / allowance: at most 1 for right code.

    Parameters
    ----------
    y
        The result under test, any float dtype; it is compared as it is.
    reference, magnitude, terms, dtype, activation, precision
        As in `allowance`.

    Returns
    -------
    ratio : float
        Infinite where one side is NaN or Inf and the other is not, or where y differs and nothing
        is allowed.  0/0 counts as 0.  An Inf in y where the reference is finite but too large for
        the dtype is right: it stands for any value from the overflow threshold outwards.

    Raises
    ------
    ValueError
        y has another shape than the reference, or what `allowance` raises.
    """
    r = np.asarray(reference, dtype=np.float64)
    got = np.asarray(y).astype(np.float64)
    if got.shape != r.shape:
        raise ValueError(f"y has shape {got.shape}, the reference has {r.shape}")
    allowed = allowance(r, magnitude, terms, dtype, activation=activation, precision=precision)
    overflow = _format(dtype).overflow
    # fmax: a NaN reference must not turn an Inf of y into a NaN that matches it
    got = np.where(np.isinf(got), np.copysign(np.fmax(np.abs(r), overflow), got), got)
    same = (got == r) | (np.isnan(got) & np.isnan(r))
    comparable = np.isfinite(got) & np.isfinite(r) & (allowed > 0)
    ratio = np.where(same, 0.0, np.inf)
    wrong = comparable & ~same
    ratio[wrong] = np.abs(got[wrong] - r[wrong]) / allowed[wrong]
    return float(ratio.max(initial=0.0))


def _format(dtype: npt.DTypeLike) -> _Format:
    name = np.dtype(dtype).name
    choice("dtype", name, tuple(_FORMATS))
    return _FORMATS[name]
