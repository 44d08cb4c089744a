"""The operators that instructions take as ``op``: ``nl.add``, ``nl.relu`` and others.

Each is one object with its float32 arithmetic.  Which instruction takes which operator follows the
vendor's tables *Supported Math Operators* and *Supported Activation Functions* (NKI 0.6.0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.errors import ConstraintError

Binary = Callable[[Any, Any], Array]
Unary = Callable[[Array], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operator.

    Attributes
    ----------
    binary
        Arithmetic with two operands, None where the operator has one.
    unary
        Arithmetic with one operand, as a tensor-scalar operator.
    activation
        The function on ScalarE, None where ScalarE does not have it.
    bitvec
        Works on bit patterns of integers.
    reduces
        May be the operator of a reduction.
    least_generation
        First NeuronCore version that has it on VectorE.
    valid
        Documented range of |input| on ScalarE, None where it is unlimited.
    table
        Which activation table ScalarE needs; sets as published profiles show them.
    """

    name: str
    binary: Binary | None = None
    unary: Unary | None = None
    activation: Unary | None = None
    bitvec: bool = False
    reduces: bool = False
    least_generation: int = 2
    valid: tuple[float, float] | None = None
    table: int = 0

    def __repr__(self) -> str:
        return f"nl.{self.name}"

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: as functions on tiles the operators are not embedded yet."""
        raise ConstraintError(
            f"nl.{self.name}(...) as a function on tiles is part of NKI 0.6.0 but not of the "
            f"embedded NKI yet; use an instruction with op=nl.{self.name}, such as "
            "nisa.tensor_tensor, nisa.tensor_scalar or nisa.activation",
            code="language.function",
        )


def _float(result: Any) -> Array:
    """Turn a comparison's truth values into 1.0 and 0.0."""
    return np.asarray(result, dtype=np.float32)


def _truth(ufunc: Any) -> Binary:
    return lambda x, y: _float(ufunc(x, y))


def _by_magnitude(compare: Any) -> Binary:
    """Return the operand whose magnitude wins, with its sign; the first where they are equal."""

    def chosen(x: Any, y: Any) -> Array:
        wins = np.asarray(compare(np.abs(x), np.abs(y)))
        return np.asarray(np.where(wins, x, y))

    return chosen


def _power(x: Any, y: Any) -> Array:
    if np.asarray(x).dtype.kind in "iu":  # NumPy refuses negative powers of integers
        x = np.asarray(x, dtype=np.float64)
    return np.asarray(np.power(x, y))


def _shift_right(x: Any, y: Any) -> Array:
    """Shift bit patterns; zeros move in, for the vendor's table has no arithmetic shift."""
    bits = np.asarray(x)
    unsigned = np.dtype(f"u{bits.itemsize}")
    shifted: Array = np.right_shift(bits.view(unsigned), np.asarray(y).astype(unsigned))
    return shifted.view(bits.dtype)


def erfc(x: Array) -> Array:
    """Return the complementary error function, within 1.2e-7 of its value.

    Notes
    -----
    A Chebyshev fit in ``t = 1/(1 + |x|/2)`` (Press et al., Numerical Recipes, erfc), in float64.
    """
    wide = np.asarray(x, dtype=np.float64)
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


def _sigmoid(x: Array) -> Array:
    wide = np.asarray(x, dtype=np.float64)
    return _float(0.5 * (1.0 + np.tanh(0.5 * wide)))


def _silu(x: Array) -> Array:
    wide = np.asarray(x, dtype=np.float64)
    with np.errstate(over="ignore"):
        return _float(wide / (1.0 + np.exp(-wide)))


def _gelu(x: Array) -> Array:
    wide = np.asarray(x, dtype=np.float64)
    return _float(0.5 * wide * erfc(-wide / np.sqrt(2.0)))


def _gelu_tanh(x: Array) -> Array:
    wide = np.asarray(x, dtype=np.float64)
    inner = np.sqrt(2.0 / np.pi) * (wide + 0.044715 * wide**3)
    return _float(0.5 * wide * (1.0 + np.tanh(inner)))


def _gelu_sigmoid(x: Array) -> Array:
    wide = np.asarray(x, dtype=np.float64)
    with np.errstate(over="ignore"):
        return _float(wide / (1.0 + np.exp(-1.702 * wide)))


def _softplus(x: Array) -> Array:
    return _float(np.logaddexp(0.0, np.asarray(x, dtype=np.float64)))


def _relu(x: Array) -> Array:
    return np.asarray(np.maximum(x, np.float32(0)))


def _rsqrt(x: Array) -> Array:
    return np.asarray(np.float32(1) / np.sqrt(x))


def _reciprocal(x: Array) -> Array:
    return np.asarray(np.float32(1) / x)


def _ops() -> tuple[Op, ...]:
    return (
        Op("add", binary=np.add, reduces=True),
        Op("subtract", binary=np.subtract, reduces=True),
        Op("multiply", binary=np.multiply, reduces=True),
        Op("maximum", binary=np.maximum, reduces=True),
        Op("minimum", binary=np.minimum, reduces=True),
        Op("equal", binary=_truth(np.equal)),
        Op("not_equal", binary=_truth(np.not_equal)),
        Op("greater_equal", binary=_truth(np.greater_equal)),
        Op("greater", binary=_truth(np.greater)),
        Op("less_equal", binary=_truth(np.less_equal)),
        Op("less", binary=_truth(np.less)),
        Op("logical_and", binary=_truth(np.logical_and), reduces=True),
        Op("logical_or", binary=_truth(np.logical_or), reduces=True),
        Op("logical_xor", binary=_truth(np.logical_xor), reduces=True),
        Op("power", binary=_power),
        Op("abs_max", binary=_by_magnitude(np.greater_equal), least_generation=4),
        Op("abs_min", binary=_by_magnitude(np.less_equal), least_generation=4),
        Op("bitwise_and", binary=np.bitwise_and, reduces=True, bitvec=True),
        Op("bitwise_or", binary=np.bitwise_or, reduces=True, bitvec=True),
        Op("bitwise_xor", binary=np.bitwise_xor, reduces=True, bitvec=True),
        Op("left_shift", binary=np.left_shift, bitvec=True),
        Op("right_shift", binary=_shift_right, bitvec=True),
        Op("invert", unary=np.invert, bitvec=True),
        Op("abs", unary=np.abs, activation=np.abs),
        Op("square", unary=np.square, activation=np.square, least_generation=4),
        Op("relu", unary=_relu, activation=_relu, least_generation=4),
        Op("rsqrt", unary=_rsqrt, activation=_rsqrt, valid=(2.0**-87, 2.0**97)),
        Op("reciprocal", unary=_reciprocal, activation=_reciprocal, valid=(2.0**-42, 2.0**42),
           table=1),
        Op("bypass"),  # of activate2 alone: no operation
        Op("copy", activation=lambda x: x),
        Op("sign", activation=np.sign),
        Op("sigmoid", activation=_sigmoid, table=2),
        Op("silu", activation=_silu, table=3),
        Op("exp", activation=np.exp, table=4),
        Op("softplus", activation=_softplus, table=5),
        Op("tanh", activation=np.tanh, table=6),
        Op("gelu", activation=_gelu, table=7),
        Op("gelu_apprx_tanh", activation=_gelu_tanh, table=8),
        Op("gelu_apprx_sigmoid", activation=_gelu_sigmoid, table=9),
        Op("erf", activation=lambda x: _float(1.0 - erfc(x)), table=10),
        Op("log", activation=np.log, valid=(2.0**-64, 2.0**64), table=11),
        Op("sqrt", activation=np.sqrt, valid=(2.0**-116, 2.0**118), table=12),
    )  # fmt: skip


OPS = {op.name: op for op in _ops()}


def reduction(op: Op, values: Array, axes: tuple[int, ...]) -> Array:
    """Reduce `values` over `axes`; every reduction operator of the table is a NumPy ufunc."""
    ufunc = getattr(np, op.name)
    result = ufunc.reduce(values, axis=axes) if len(axes) == 1 else values
    if len(axes) > 1:
        flat = values.reshape(*values.shape[: axes[0]], -1)
        result = ufunc.reduce(flat, axis=-1)
    return _float(result) if result.dtype == np.bool_ else np.asarray(result)
