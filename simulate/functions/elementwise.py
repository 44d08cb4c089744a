"""Functions of two tiles, or of a tile and a number: ``nl.add`` and its like.

Two tiles go through nisa.tensor_tensor, a tile and a number through nisa.tensor_scalar.
"""

from __future__ import annotations

from typing import Any, NoReturn

from nkiconv.simulate.engines.vector import tensor_copy, tensor_scalar, tensor_tensor
from nkiconv.simulate.engines.vector_select import tensor_copy_predicated
from nkiconv.simulate.errors import ConstraintError, DtypeError
from nkiconv.simulate.functions._common import (
    KNOWN_ISSUES,
    function,
    is_number,
    mark_answer,
    new,
    page,
    require_truth_values,
    result_dtype,
    same_shape,
    tile,
)
from nkiconv.simulate.ops import OPS, Op
from nkiconv.simulate.tensor import NkiTensor

_ARITHMETIC = ("add", "subtract", "multiply", "maximum", "minimum")
_COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
_LOGICAL = ("logical_and", "logical_or", "logical_xor")
_BY_MAGNITUDE = ("abs_max", "abs_min")
_BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift")


def combine(op: Op, x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    """Return a new tile of ``x <op> y``; at least one of them is a tile."""
    name = op.name
    if isinstance(x, NkiTensor) and isinstance(y, NkiTensor):
        column = name in _BY_MAGNITUDE and y.shape == (x.shape[0], 1)
        if not column:
            same_shape(name, x, y)
        result = new(name, x.shape, result_dtype(name, dtype, x, y))
        if column:
            tensor_scalar(result, x, op, y)
        else:
            tensor_tensor(result, x, y, op)
        return result
    for given, other in ((x, y), (y, x)):
        if isinstance(given, NkiTensor) and is_number(other):
            result = new(name, given.shape, result_dtype(name, dtype, given))
            tensor_scalar(result, given, op, other, reverse0=given is y)
            return result
    raise ConstraintError(
        f"nl.{name}: x and y must be tiles or numbers, and at least one a tile; got {x!r} and "
        f"{y!r} ({page(name)})",
        code="language.tile",
    )


def _register_binary(name: str, says: str) -> None:
    op = OPS[name]

    def apply(x: Any, y: Any, dtype: Any = None) -> NkiTensor:
        if name in _COMPARISONS and dtype is None:
            # "Defaults to the input tile dtype": 0 and 1 are exact in all of them.
            dtype = next((t.dtype for t in (x, y) if isinstance(t, NkiTensor)), None)
        if name in _LOGICAL:
            tiles = {n: t for n, t in (("x", x), ("y", y)) if isinstance(t, NkiTensor)}
            require_truth_values(name, **tiles)
        if op.bitvec:
            _refuse_cast_of_bits(name, dtype, x, y)
        result = combine(op, x, y, dtype)
        return mark_answer(result) if name in (*_COMPARISONS, *_LOGICAL) else result

    apply.__name__ = apply.__qualname__ = name
    apply.__doc__ = says
    function(apply)


def _refuse_cast_of_bits(name: str, dtype: object, *operands: object) -> None:
    tiles = [t.dtype for t in operands if isinstance(t, NkiTensor)]
    if dtype is not None and any(dtype != t for t in tiles):
        raise DtypeError(
            f"nl.{name}: dtype={dtype!r} of {' and '.join(tiles)} tiles; bit patterns are not "
            "cast, so the result has the dtype of the tiles (NKI 0.6.0, Supported Math Operators)",
            code="language.bits_dtype",
        )


_SYMBOLS = {
    "add": "x + y", "subtract": "x - y", "multiply": "x * y", "maximum": "max(x, y)",
    "minimum": "min(x, y)", "equal": "x == y", "not_equal": "x != y", "less": "x < y",
    "less_equal": "x <= y", "greater": "x > y", "greater_equal": "x >= y",
    "logical_and": "x and y", "logical_or": "x or y", "logical_xor": "x != y",
    "abs_max": "x if |x| > |y| else y", "abs_min": "x if |x| < |y| else y",
    "bitwise_and": "x & y", "bitwise_or": "x | y", "bitwise_xor": "x ^ y",
    "left_shift": "x << y", "right_shift": "x >> y",
}  # fmt: skip

for _name in (*_ARITHMETIC, *_COMPARISONS, *_LOGICAL, *_BY_MAGNITUDE, *_BITWISE):
    _register_binary(_name, f"``{_SYMBOLS[_name]}``, element by element, in a new tile in SBUF.")


@function
def power(x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    """``x ** y`` of two tiles, element by element, on GpSimdE."""
    if not (isinstance(x, NkiTensor) and isinstance(y, NkiTensor)):
        raise ConstraintError(
            f"nl.power: x and y must both be tiles on the device, got {x!r} and {y!r}; make a "
            f"tile of the number with nl.full ({KNOWN_ISSUES})",
            code="language.power",
        )
    return combine(OPS["power"], x, y, dtype)


def _refuse(name: str, why: str) -> NoReturn:
    raise ConstraintError(f"nl.{name}: {why} ({KNOWN_ISSUES})", code="language.on_device")


@function
def divide(x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    """Refuse: NeuronCores do not divide."""
    _refuse(
        "divide",
        "there is no division on the device; multiply by the reciprocal, "
        "nl.multiply(x, nl.reciprocal(y))",
    )


@function
def fmod(x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    """Refuse: the vendor's simulator has it, the device has not."""
    _refuse(
        "fmod",
        "there is no remainder on the device, though the vendor's simulator has one; use "
        "x - y * nl.trunc(x * nl.reciprocal(y)), by nl functions, and mind its rounding",
    )


@function
def mod(x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    """Refuse: the vendor's simulator has it, the device has not."""
    _refuse(
        "mod",
        "there is no remainder on the device, though the vendor's simulator has one; use "
        "x - y * nl.floor(x * nl.reciprocal(y)), by nl functions, and mind its rounding",
    )


@function
def logical_not(x: Any, dtype: Any = None) -> NkiTensor:
    """``not x`` of a tile of 0 and 1, element by element, by exclusive or with 1."""
    x = tile(x, "logical_not", "x")
    require_truth_values("logical_not", x=x)
    result = new("logical_not", x.shape, result_dtype("logical_not", dtype, x))
    tensor_scalar(result, x, OPS["logical_xor"], 1.0)
    return mark_answer(result)


@function
def where(condition: Any, x: Any, y: Any, dtype: Any = None) -> NkiTensor:
    """``x`` where `condition` is 1, ``y`` where it is 0, bit-accurate for equal dtypes.

    By two copies and a predicated one, as the vendor's page names no instruction.
    """
    condition = tile(condition, "where", "condition")
    x, y = tile(x, "where", "x"), tile(y, "where", "y")
    same_shape("where", condition, x, y)
    require_truth_values("where", condition=condition)
    kind = result_dtype("where", dtype, x, y)
    predicate = new("where", x.shape, "uint8")
    tensor_copy(predicate, condition)
    chosen = x
    if x.dtype != kind:
        chosen = new("where", x.shape, kind)
        tensor_copy(chosen, x)
    result = new("where", x.shape, kind)
    tensor_copy(result, y)
    tensor_copy_predicated(result, chosen, predicate)
    return result
