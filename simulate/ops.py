"""The operators that instructions take as ``op``: ``nl.add``, ``nl.relu`` and others.

Each is one object with its float32 arithmetic.  Which instruction takes which operator follows the
vendor's tables *Supported Math Operators* and *Supported Activation Functions* (NKI 0.6.0).
Most are functions on tiles as well, ``nl.add(x, y)``: these are in `nkiconv.simulate.functions`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nkiconv.simulate.activations import ACTIVATIONS, Activation, reciprocal, relu, rsqrt, single
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.errors import ConstraintError

Binary = Callable[[Any, Any], Array]
Unary = Callable[[Array], Array]

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""What ``nl.name(...)`` does on tiles; `nkiconv.simulate.functions` fills it."""


class _VendorSignature:
    """Gives `inspect.signature` the function on tiles of an operator; the class keeps its own."""

    def __get__(self, op: Op | None, owner: type) -> inspect.Signature:
        if op is None:
            raise AttributeError("__signature__")
        return inspect.signature(op._function())


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operator.

    Attributes
    ----------
    binary
        Arithmetic with two operands, None where the operator has one.
    unary
        Arithmetic with one operand, as a tensor-scalar operator.
    bitvec
        Works on bit patterns of integers.
    reduces
        May be the operator of a reduction.
    least_generation
        First NeuronCore version that has it on VectorE.
    scalar
        The function on ScalarE, None where ScalarE does not have it.
    """

    name: str
    binary: Binary | None = None
    unary: Unary | None = None
    bitvec: bool = False
    reduces: bool = False
    least_generation: int = 2
    scalar: Activation | None = None

    def __repr__(self) -> str:
        return f"nl.{self.name}"

    @property
    def activation(self) -> Callable[..., Array] | None:
        """The arithmetic of ScalarE's function, None where there is none."""
        return None if self.scalar is None else self.scalar.function

    @property
    def table(self) -> int:
        """The activation table that ScalarE needs, as `Activation.table`."""
        return 0 if self.scalar is None else self.scalar.table

    __signature__ = _VendorSignature()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the operator to tiles, as ``nl.add(x, y)``."""
        return self._function()(*args, **kwargs)

    def _function(self) -> Callable[..., Any]:
        found = FUNCTIONS.get(self.name)
        if found is None:
            raise ConstraintError(
                f"nl.{self.name} is not a function on tiles in NKI 0.6.0 but an operator alone; "
                f"use an instruction with op=nl.{self.name}",
                code="language.operator_only",
            )
        return found


def _truth(ufunc: Any) -> Binary:
    return lambda x, y: single(ufunc(x, y))


def _by_magnitude(compare: Any) -> Binary:
    """Return the operand whose magnitude wins, with its sign; the second where they are equal.

    Which one wins a tie is in the vendor's pages of nl.abs_max and nl.abs_min.
    """

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
        Op("abs_max", binary=_by_magnitude(np.greater), least_generation=4),
        Op("abs_min", binary=_by_magnitude(np.less), least_generation=4),
        Op("bitwise_and", binary=np.bitwise_and, reduces=True, bitvec=True),
        Op("bitwise_or", binary=np.bitwise_or, reduces=True, bitvec=True),
        Op("bitwise_xor", binary=np.bitwise_xor, reduces=True, bitvec=True),
        Op("left_shift", binary=np.left_shift, bitvec=True),
        Op("right_shift", binary=_shift_right, bitvec=True),
        Op("invert", unary=np.invert, bitvec=True),
        Op("abs", unary=np.abs),
        Op("square", unary=np.square, least_generation=4),
        Op("relu", unary=relu, least_generation=4),
        Op("rsqrt", unary=rsqrt),
        Op("reciprocal", unary=reciprocal),
        Op("average"),  # of tensor_partition_reduce alone
        Op("bypass"),  # of activate2 alone: no operation
    )  # fmt: skip


def _with_activations(ops: tuple[Op, ...]) -> dict[str, Op]:
    """Give the operators ScalarE's functions, and add those that ScalarE alone has."""
    made = {op.name: replace(op, scalar=ACTIVATIONS.get(op.name)) for op in ops}
    for name, scalar in ACTIVATIONS.items():
        made.setdefault(name, Op(name, scalar=scalar))
    return made


OPS = _with_activations(_ops())


def reduction(op: Op, values: Array, axes: tuple[int, ...]) -> Array:
    """Reduce `values` over `axes`; every reduction operator of the table is a NumPy ufunc."""
    ufunc = getattr(np, op.name)
    result = ufunc.reduce(values, axis=axes) if len(axes) == 1 else values
    if len(axes) > 1:
        flat = values.reshape(*values.shape[: axes[0]], -1)
        result = ufunc.reduce(flat, axis=-1)
    return single(result) if result.dtype == np.bool_ else np.asarray(result)
