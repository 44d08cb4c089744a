"""Functions of two tiles, or a tile and a number, against NumPy: values, dtypes, refusals."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.nki import language as nl

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}
LOGICAL = {"logical_and": operator.and_, "logical_or": operator.or_, "logical_xor": operator.xor}
BITWISE: dict[str, Callable[[Any, Any], Any]] = {
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "left_shift": operator.lshift,
    "right_shift": operator.rshift,
}


def values_of(tensor: Any) -> Any:
    return np.array(tensor._array, dtype=np.float64)


def opcodes(chip: Any) -> list[str]:
    return [step.opcode for step in chip.program.trace.steps()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("name", ARITHMETIC | COMPARISONS)
def test_two_tiles(chip: Any, rng: Any, name: str, dtype: str) -> None:
    x, y = rng.integers(4, 9, (2, 16, 3, 5))
    y = np.minimum(x, y) if name == "subtract" else y  # no negative uint8
    result = getattr(nl, name)(chip.put(x, dtype), chip.put(y, dtype, nl.psum))
    assert (result.dtype, result.buffer, result.shape) == (dtype, nl.sbuf, (16, 3, 5))
    np.testing.assert_array_equal(values_of(result), (ARITHMETIC | COMPARISONS)[name](x, y))
    assert opcodes(chip) == ["tensor_tensor"]


@pytest.mark.parametrize("name", ARITHMETIC | COMPARISONS)
def test_a_tile_and_a_number_on_either_side(chip: Any, rng: Any, name: str) -> None:
    x = rng.integers(-4, 5, (16, 7)) / 2
    function, expected = getattr(nl, name), (ARITHMETIC | COMPARISONS)[name]
    np.testing.assert_array_equal(values_of(function(chip.put(x), 1.5)), expected(x, 1.5))
    np.testing.assert_array_equal(values_of(function(-2, chip.put(x))), expected(-2, x))
    assert opcodes(chip) == ["tensor_scalar"] * 2


@pytest.mark.parametrize("name", LOGICAL)
def test_truth_values(chip: Any, rng: Any, name: str) -> None:
    x, y = rng.integers(0, 2, (2, 8, 9))
    function, expected = getattr(nl, name), LOGICAL[name]
    np.testing.assert_array_equal(values_of(function(chip.put(x), chip.put(y))), expected(x, y))
    np.testing.assert_array_equal(values_of(function(chip.put(x, "uint8"), 1)), expected(x, 1))
    np.testing.assert_array_equal(values_of(nl.logical_not(chip.put(x, "int8"))), 1 - x)
    for function in (getattr(nl, name), lambda x, y: nl.logical_not(y)):
        with pytest.raises(ConstraintError, match=r"must hold 0 and 1 only, found 2 .* nl\.equal"):
            function(chip.put(x), chip.put(x + 1))


@pytest.mark.parametrize("dtype", ["int32", "uint16", "int8"])
@pytest.mark.parametrize("name", BITWISE)
def test_bit_patterns(chip: Any, rng: Any, name: str, dtype: str) -> None:
    x, y = rng.integers(0, 64, (8, 9)), rng.integers(0, 8, (8, 9))
    function, expected = getattr(nl, name), BITWISE[name]
    for other, given in ((y, chip.put(y, dtype)), (1, 1)):
        result = function(chip.put(x, dtype), given, dtype=dtype)
        assert result.dtype == function(chip.put(x, dtype), given).dtype == dtype
        wanted = np.asarray(expected(x, other)).astype(dtype)
        np.testing.assert_array_equal(result._array, wanted)
    with pytest.raises(DtypeError, match=rf"nl\.{name}: dtype='float32' of {dtype}"):
        function(chip.put(x, dtype), 1, dtype=nl.float32)
    with pytest.raises(DtypeError, match=rf"nl\.{name}, by nisa\.tensor_tensor: bitvec operators"):
        function(chip.put(x), chip.put(y))


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int16", "uint8"])
def test_invert(chip: Any, dtype: str) -> None:
    x = np.array([[0, 1, 5, 127]])
    np.testing.assert_array_equal(nl.invert(chip.put(x, dtype))._array, np.invert(x.astype(dtype)))
    with pytest.raises(DtypeError, match="bit patterns are not cast"):
        nl.invert(chip.put(x, dtype), dtype="float32")
    with pytest.raises(DtypeError, match="bitvec operators take integer tensors"):
        nl.invert(chip.put(x))


@pytest.mark.parametrize("name", ["abs_max", "abs_min"])
def test_by_magnitude(start: Any, name: str) -> None:
    """The value keeps its sign, y wins a tie, and y may have one element for each partition."""
    x, y = np.array([[-5.0, 1, 2], [4, -3, 3]]), np.array([[3.0], [-3]])
    wins = np.abs(x) > np.abs(y) if name == "abs_max" else np.abs(x) < np.abs(y)
    with start("trn3") as chip:
        function = getattr(nl, name)
        for given in (y, np.broadcast_to(y, x.shape)):
            result = function(chip.put(x), chip.put(given))
            np.testing.assert_array_equal(result._array, np.where(wins, x, y))
        np.testing.assert_array_equal(
            function(chip.put([[1.0, -9.0]]), -1.0)._array, [[-1, -9 if name == "abs_max" else -1]]
        )
        with pytest.raises(ShapeError, match="do not broadcast"):
            function(chip.put(y), chip.put(x))
    with start("trn2") as chip, pytest.raises(ConstraintError, match="does not exist on this gen"):
        getattr(nl, name)(chip.put(x), chip.put(x))


def test_power_of_two_tiles_runs_on_gpsimd(chip: Any) -> None:
    x, y = chip.put([[2.0, 3.0, 4.0]]), chip.put([[3.0, 2.0, 0.5]])
    np.testing.assert_allclose(nl.power(x, y)._array, [[8, 9, 2]], rtol=1e-6)
    assert chip.last.lane.label == "GpSimdE"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_where(chip: Any, rng: Any, dtype: str) -> None:
    x, y, c = rng.integers(-9, 9, (8, 3, 5)), rng.integers(-9, 9, (8, 3, 5)), np.arange(120) % 2
    c = c.reshape(8, 3, 5)
    result = nl.where(chip.put(c, "float32"), chip.put(x, dtype), chip.put(y, dtype))
    assert result.dtype == dtype
    np.testing.assert_array_equal(values_of(result), np.where(c, x, y))
    mixed = nl.where(chip.put(c, "uint8"), chip.put(x, dtype), chip.put(y), dtype="float16")
    assert mixed.dtype == "float16"
    np.testing.assert_array_equal(values_of(mixed), np.where(c, x, y))


def test_where_keeps_bits_and_does_not_mix(chip: Any) -> None:
    """Not by arithmetic: infinity and NaN on the side that is not chosen leave no trace."""
    c, x = chip.put([[1.0, 0.0]]), chip.put([[1.0, np.inf]])
    np.testing.assert_array_equal(nl.where(c, x, chip.put([[np.nan, 2.0]]))._array, [[1, 2]])
    big = chip.put([[2**31 - 1, -(2**31) + 1]], "int32")
    np.testing.assert_array_equal(nl.where(c, big, big)._array, big._array)
    with pytest.raises(ConstraintError, match=r"nl\.where: condition must hold 0 and 1 only"):
        nl.where(chip.put([[0.5, 1]]), x, x)
    with pytest.raises(ConstraintError, match=r"nl\.where: y must be a tile, got 0\.0"):
        nl.where(c, x, 0.0)
    with pytest.raises(ShapeError, match=r"nl\.where: the tiles have the shapes"):
        nl.where(c, x, chip.put([[1.0]]))
    with pytest.raises(UninitializedReadError):
        nl.where(chip.new((1, 2)), x, x)


# dtypes.


def test_dtype_of_the_result(chip: Any) -> None:
    x, y = chip.put([[1.0, 2.5]], "bfloat16"), chip.put([[1.0, 2.5]])
    for function in (nl.add, nl.maximum):
        assert function(x, x).dtype == "bfloat16"
        assert function(x, y, dtype=nl.int8).dtype == "int8"
        assert function(y, 1).dtype == "float32"
        with pytest.raises(DtypeError, match=r"tiles are bfloat16 and float32; .* dtype="):
            function(x, y)
    np.testing.assert_array_equal(nl.add(x, y, dtype="int8")._array, [[2, 5]])
    np.testing.assert_array_equal(nl.multiply(y, 1, "int32")._array, [[1, 2]])  # 2.5 to even
    assert nl.equal(x, y).dtype == "bfloat16"
    assert nl.equal(0, y, dtype=nl.uint8).dtype == "uint8"
    with pytest.raises(DtypeError, match=r"nl\.add: 'float64' is not an NKI dtype"):
        nl.add(x, x, dtype="float64")


# Refusals.


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: nl.divide(x, x), r"nl\.divide: .* nl\.multiply\(x, nl\.reciprocal\(y\)\)"),
        (lambda x: nl.fmod(x, 2.0), r"nl\.fmod: there is no remainder .* nl\.trunc"),
        (lambda x: nl.mod(x, 2.0), r"nl\.mod: there is no remainder .* nl\.floor"),
        (lambda x: nl.power(x, 2.0), r"nl\.power: x and y must both be tiles .* nl\.full"),
        (lambda x: nl.power(2.0, x), r"nl\.power: x and y must both be tiles .* nl\.full"),
        (lambda x: nl.add(x, x[:, :1]), r"shapes \(4, 8\) and \(4, 1\); .* nisa\.tensor_scalar"),
        (lambda x: nl.less(x[:1], x), r"shapes \(1, 8\) and \(4, 8\); .* nl\.broadcast_to"),
    ],
)
def test_what_the_device_does_not_do(chip: Any, function: Any, words: str) -> None:
    """Refused with the workaround; the vendor's simulator lets most of these pass."""
    with pytest.raises((ConstraintError, ShapeError), match=words) as refused:
        function(chip.put(np.ones((4, 8))))
    assert "Known Issues" in str(refused.value)
    assert str(refused.value).startswith("test_language_elementwise.py:")
    assert len(chip.program.trace) == 0


@pytest.mark.parametrize("pair", [(1, 2), (None, 2), ("x", True), ([1], "x")])
def test_operands_that_are_neither_tile_nor_number(chip: Any, pair: tuple[Any, Any]) -> None:
    x, y = (chip.put([[1.0]]) if v == "x" else v for v in pair)
    with pytest.raises(ConstraintError, match=r"nl\.add: x and y must be tiles or numbers"):
        nl.add(x, y)


def test_errors_name_function_instruction_and_line(chip: Any) -> None:
    def kernel() -> None:
        nl.add(chip.new((4, 8)), 1.0)

    line = kernel.__code__.co_firstlineno + 1
    words = (
        rf"^test_language_elementwise\.py:{line}: nl\.add, by nisa\.tensor_scalar: data reads 32"
    )
    with pytest.raises(UninitializedReadError, match=words):
        kernel()
    in_hbm = chip.put([[1.0]], "float32", nl.shared_hbm)
    with pytest.raises(ConstraintError, match=r"nl\.add, by .* must be in PSUM or SBUF"):
        nl.add(in_hbm, 1.0)


def test_only_inside_a_kernel() -> None:
    with pytest.raises(ConstraintError, match=r"nl\.full|nl\.ndarray: only works inside a kernel"):
        nl.full((4, 8), 1.0, nl.float32)


# The answer of a comparison as a condition.


def test_a_comparison_may_be_asserted(chip: Any) -> None:
    """A tile is true on the device whatever it holds; here an answer must hold to count so."""
    x = chip.put([[1.0, 2.0, 3.0]])
    assert nl.equal(x, x)
    assert nl.logical_and(nl.less(x, 4), nl.greater(x, 0))
    assert nl.all(nl.less(x, 4), axis=1)
    for answer in (nl.equal(x, 2.0), nl.logical_not(nl.less(x, 2.5))):
        with pytest.raises(ConstraintError, match=r"does not hold for 2 of 3 elements; on the dev"):
            bool(answer)
    with pytest.raises(ConstraintError, match="does not hold for 1 of 1 elements"):
        bool(nl.all(nl.less(x, 3), axis=1))


def test_other_tiles_are_true_whatever_they_hold(chip: Any) -> None:
    assert chip.put([[0.0]])
    assert chip.new((4, 4))
    answer = nl.equal(chip.put([[0.0]]), 1.0)
    from nkiconv.simulate.nki import isa as nisa

    nisa.memset(answer, 0)  # it is no longer an answer
    assert answer
