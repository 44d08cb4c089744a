"""Functions of one tile: activations on ScalarE, and what is made of several instructions."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.activations import ACTIVATIONS
from nkiconv.simulate.dtypes import ELEMENT_TYPES
from nkiconv.simulate.engines.scalar import activation
from nkiconv.simulate.engines.vector import (
    reciprocal as vector_reciprocal,
)
from nkiconv.simulate.engines.vector import (
    scalar_tensor_tensor,
    tensor_copy,
    tensor_scalar,
    tensor_tensor,
)
from nkiconv.simulate.engines.vector_select import tensor_copy_predicated
from nkiconv.simulate.errors import ConstraintError, DtypeError
from nkiconv.simulate.functions._common import (
    function,
    in_psum,
    new,
    result_dtype,
    tile,
)
from nkiconv.simulate.ops import OPS
from nkiconv.simulate.tensor import NkiTensor

_ELSEWHERE = frozenset({"abs", "copy", "prelu", "reciprocal", "rsqrt", "sin"})
"""Activations that are functions below, or none."""

_ALL_WHOLE = 2.0**23
"""From here on every float32 is a whole number."""

_TURN_HIGH = 6.28125
_TURN_LOW = 2.0 * np.pi - _TURN_HIGH
"""2 pi in two parts, the first of 8 bits: its product with a count of turns is exact to 2**16."""


def _like(name: str, x: object, dtype: object) -> tuple[NkiTensor, NkiTensor]:
    """Return the tile that was given, and a new one for the result."""
    x = tile(x, name, "x")
    return x, new(name, x.shape, result_dtype(name, dtype, x))


def _register_activation(name: str) -> None:
    def apply(x: Any, dtype: Any = None) -> NkiTensor:
        x, result = _like(name, x, dtype)
        activation(result, OPS[name], x)
        return result

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = f"``{name}(x)`` by ScalarE, element by element, in a new tile in SBUF."
    function(apply)


for _name in ACTIVATIONS:
    if _name not in _ELSEWHERE:
        _register_activation(_name)


@function
def abs(x: Any, dtype: Any = None) -> NkiTensor:
    """``|x|``, element by element, on VectorE."""
    x, result = _like("abs", x, dtype)
    tensor_scalar(result, x, OPS["abs"], 0.0)
    return result


@function
def negative(x: Any, dtype: Any = None) -> NkiTensor:
    """``-x``, element by element, on VectorE."""
    x, result = _like("negative", x, dtype)
    tensor_scalar(result, x, OPS["multiply"], -1.0)
    return result


@function
def reciprocal(x: Any, dtype: Any = None) -> NkiTensor:
    """``1 / x``, element by element, on VectorE, which is more precise than ScalarE."""
    x, result = _like("reciprocal", x, dtype)
    vector_reciprocal(result, x)
    return result


@function
def rsqrt(x: Any, dtype: Any = None) -> NkiTensor:
    """``1 / sqrt(x)``, element by element, on GpSimdE, which cannot read PSUM."""
    x = tile(x, "rsqrt", "x")
    if in_psum(x):
        raise ConstraintError(
            f"nl.rsqrt: {x!r} cannot be read by GpSimdE, on which this function runs since NKI "
            "0.5.0; copy it to SBUF with nl.copy, or use nisa.activation with op=nl.rsqrt on "
            "ScalarE (NKI 0.5.0 release notes, Improvements)",
            code="language.rsqrt",
        )
    x, result = _like("rsqrt", x, dtype)
    tensor_scalar(result, x, OPS["rsqrt"], 0.0)
    return result


@function
def copy(x: Any, dtype: Any = None) -> NkiTensor:
    """A copy in SBUF of a tile in SBUF or PSUM, on VectorE; bit-accurate for equal dtypes."""
    x, result = _like("copy", x, dtype)
    tensor_copy(result, x)
    return result


@function
def invert(x: Any, dtype: Any = None) -> NkiTensor:
    """``~x`` of integers, element by element, by exclusive or with all ones."""
    x = tile(x, "invert", "x")
    if dtype not in (None, x.dtype):
        raise DtypeError(
            f"nl.invert: dtype={dtype!r} of a {x.dtype} tile; bit patterns are not cast "
            "(NKI 0.6.0, Supported Math Operators)",
            code="language.bits_dtype",
        )
    x, result = _like("invert", x, dtype)
    tensor_scalar(result, x, OPS["bitwise_xor"], -1)
    return result


# Angles.


def _within_a_turn(name: str, x: NkiTensor, shift: float) -> NkiTensor:
    """Return ``x + shift`` less whole turns, in float32 between -pi and pi.

    The turns are counted by rounding to int32.  Of a large x the count is wrong by one where half
    a turn is left over, hence a second time.  Where int32 cannot count them (infinity, 1e15) the
    angle stays outside of ScalarE's range, which warns.
    """
    turns, angle = new(name, x.shape, "int32"), new(name, x.shape, "float32")
    source, per_turn = x, 0.5 / np.pi
    for offset in (shift, 0.0):
        tensor_scalar(turns, source, OPS["multiply"], per_turn, False, OPS["add"],
                      offset * per_turn)  # fmt: skip
        for part in (_TURN_HIGH, _TURN_LOW):
            scalar_tensor_tensor(angle, turns, OPS["multiply"], -part, OPS["add"], source)
            source = angle
        if offset:
            tensor_scalar(angle, angle, OPS["add"], offset)
    return angle


@function
def sin(x: Any, dtype: Any = None) -> NkiTensor:
    """``sin(x)``, element by element: ScalarE's sine after taking away whole turns."""
    x, result = _like("sin", x, dtype)
    activation(result, OPS["sin"], _within_a_turn("sin", x, 0.0))
    return result


@function
def cos(x: Any, dtype: Any = None) -> NkiTensor:
    """``cos(x) = sin(x + pi/2)``, element by element, after taking away whole turns."""
    x, result = _like("cos", x, dtype)
    activation(result, OPS["sin"], _within_a_turn("cos", x, np.pi / 2))
    return result


@function
def tan(x: Any, dtype: Any = None) -> NkiTensor:
    """``tan(x) = sin(x) / cos(x)``, element by element, by a reciprocal."""
    x, result = _like("tan", x, dtype)
    parts = []
    for shift in (0.0, np.pi / 2):
        parts.append(new("tan", x.shape, "float32"))
        activation(parts[-1], OPS["sin"], _within_a_turn("tan", x, shift))
    sine, cosine = parts
    vector_reciprocal(cosine, cosine)
    tensor_tensor(result, sine, cosine, OPS["multiply"])
    return result


# Whole numbers.


def _whole(name: str, x: NkiTensor, result: NkiTensor, correction: str | None) -> NkiTensor:
    """Round to nearest by a cast to int32, then correct by 1 where that went the wrong way.

    Numbers too large for a fraction keep their value, and so do NaN and infinity.
    """
    if ELEMENT_TYPES[x.dtype].kind != "float":
        tensor_copy(result, x)
        return result
    nearest, rounded = new(name, x.shape, "int32"), new(name, x.shape, "float32")
    if correction is None:  # towards 0: round the magnitude down, then give it its sign
        magnitude, sign = new(name, x.shape, "float32"), new(name, x.shape, "float32")
        tensor_scalar(magnitude, x, OPS["abs"], 0.0)
        activation(sign, OPS["sign"], x)
    else:
        magnitude = x
    wrong = new(name, x.shape, "float32")
    tensor_copy(nearest, magnitude)
    compare = OPS["less"] if correction == "up" else OPS["greater"]
    tensor_tensor(wrong, nearest, magnitude, compare)
    step = OPS["add"] if correction == "up" else OPS["subtract"]
    tensor_tensor(rounded, nearest, wrong, step)
    if correction is None:
        tensor_tensor(rounded, rounded, sign, OPS["multiply"])
    whole, kept = new(name, x.shape, "uint8"), new(name, x.shape, "float32")
    tensor_scalar(whole, x, OPS["abs"], 0.0, False, OPS["less"], _ALL_WHOLE)
    tensor_copy(kept, x)
    tensor_copy_predicated(rounded, kept, whole, reverse_pred=True)
    tensor_copy(result, rounded)
    return result


@function
def floor(x: Any, dtype: Any = None) -> NkiTensor:
    """The largest whole number that is not above x, element by element."""
    return _whole("floor", *_like("floor", x, dtype), "down")


@function
def ceil(x: Any, dtype: Any = None) -> NkiTensor:
    """The smallest whole number that is not below x, element by element."""
    return _whole("ceil", *_like("ceil", x, dtype), "up")


@function
def trunc(x: Any, dtype: Any = None) -> NkiTensor:
    """The whole number next to x on the side of 0, element by element."""
    return _whole("trunc", *_like("trunc", x, dtype), None)
