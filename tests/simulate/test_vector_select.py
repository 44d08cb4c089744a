"""Selection by predicate, by place and from other partitions, against float64 NumPy."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

R = nisa.reduce_cmd
LEAST = float(np.finfo(np.float32).min)


# tensor_copy_predicated.


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_copy_predicated(chip: Any, rng: Any, dtype: str, kind: str, turned: bool) -> None:
    x, y = rng.integers(-9, 9, (4, 6)), rng.integers(-9, 9, (4, 6))
    chosen = rng.choice([0, 1, 2, 255], (4, 2, 3))  # every value but 0 is true
    dst = chip.put(y.reshape(4, 3, 2), dtype)
    source = chip.put(x, dtype, nl.psum)
    nisa.tensor_copy_predicated(dst, source, chip.put(chosen, kind), turned)
    expected = np.where((chosen.reshape(4, 6) != 0) != turned, x, y)
    np.testing.assert_array_equal(dst._array.astype(np.int64).reshape(4, 6), expected)


def test_copy_predicated_is_bit_accurate(chip: Any) -> None:
    """Integers that float32 does not hold pass, on both sides, and beside a number."""
    big = 2**31 - 1
    dst, chosen = chip.put([[big, big - 1]], "int32"), chip.put([[1, 0]], "uint8")
    nisa.tensor_copy_predicated(dst, chip.put([[big - 2, 0]], "int32"), chosen)
    np.testing.assert_array_equal(dst._array, [[big - 2, big - 1]])
    nisa.tensor_copy_predicated(dst, -7, chosen)
    np.testing.assert_array_equal(dst._array, [[-7, big - 1]])


def test_copy_predicated_rounds_a_number_to_dst(chip: Any) -> None:
    dst, chosen = chip.put([[3.0, 3]], "bfloat16"), chip.put([[1, 0]], "uint8")
    nisa.tensor_copy_predicated(dst, 1 + 3 * 2.0**-8, chosen)
    np.testing.assert_array_equal(dst._array.astype(np.float64), [[1 + 2.0**-6, 3]])


def test_copy_predicated_does_not_keep_what_nothing_has_written(chip: Any) -> None:
    dst, x = chip.new((1, 3)), chip.put([[1.0, 2, 3]])
    some, none = chip.put([[1, 0, 1]], "uint8"), chip.put([[0, 0, 0]], "uint8")
    for predicate, turned in ((some, False), (some, True), (none, False)):
        with pytest.raises(UninitializedReadError, match="others keep what is there"):
            nisa.tensor_copy_predicated(dst, x, predicate, turned)
    with pytest.raises(UninitializedReadError, match="predicate reads 3 of 3"):
        nisa.tensor_copy_predicated(dst, x, chip.new((1, 3), "uint8"))
    nisa.tensor_copy_predicated(dst, x, none, True)
    nisa.tensor_copy_predicated(dst, 0.0, some)
    np.testing.assert_array_equal(dst._array, [[0, 2, 0]])


# select_reduce.


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16"])
def test_select(chip: Any, rng: Any, kind: str, turned: bool) -> None:
    x, other = rng.integers(-9, 9, (4, 6)) / 2, rng.integers(-9, 9, (4, 1)) / 2
    chosen = rng.choice([0, 1, 2, -1 if kind[0] == "i" else 3], (4, 6))
    dst, most = chip.new((4, 2, 3), "float16"), chip.new((4, 1), "bfloat16")
    given = chip.put(chosen, kind, nl.psum), chip.put(x.reshape(4, 3, 2), "bfloat16")
    for number in (False, True):
        other = np.full((4, 1), 2.5) if number else other
        on_false = 2.5 if number else chip.put(other)
        nisa.select_reduce(dst, *given, on_false, most, R.reset_reduce, reverse_pred=turned)
        expected = np.where((chosen != 0) != turned, x, other)
        np.testing.assert_array_equal(dst._array.reshape(4, 6), expected)
        np.testing.assert_array_equal(most._array.astype(np.float64)[:, 0], expected.max(1))


def test_select_goes_on_from_its_registers(chip: Any) -> None:
    dst, most, yes = chip.new((2, 3)), chip.new((2, 1)), chip.put(np.ones((2, 3)), "uint8")
    for x, command, after in (
        (5, R.reset_reduce, 5), (3, R.reduce, 5), (7, R.reduce, 7), (4, R.reset_reduce, 4),
    ):  # fmt: skip
        nisa.select_reduce(dst, yes, chip.put(np.full((2, 3), x)), 0.0, most, command)
        np.testing.assert_array_equal(most._array, [[after]] * 2)
    nisa.select_reduce(dst, yes, chip.put(np.full((2, 3), 9)), 0.0, None, R.reduce)
    nisa.select_reduce(dst, yes, chip.put(np.full((2, 3), 1)), 0.0, most, R.reduce)
    np.testing.assert_array_equal(most._array, [[9]] * 2)


# range_select.

COMPARE = {
    "equal": operator.eq,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}


@pytest.mark.parametrize("second", COMPARE)
@pytest.mark.parametrize("first", COMPARE)
def test_range(start: Any, rng: Any, first: str, second: str) -> None:
    x, low, high = rng.integers(-9, 9, (4, 12)), rng.integers(98, 104, (4, 1)), [[105]] * 4
    with start("trn2") as chip:
        dst, most = chip.new((4, 12)), chip.new((4, 1))
        nisa.range_select(
            dst, chip.put(x.reshape(4, 3, 4), "bfloat16"), getattr(nl, first), getattr(nl, second),
            chip.put(low), chip.put(high), reduce_res=most, range_start=98, on_false_value=LEAST,
        )  # fmt: skip
        index = 98 + np.arange(12)
        chosen = COMPARE[first](index, low) & COMPARE[second](index, high)
        expected = np.where(chosen, x, LEAST)
        np.testing.assert_array_equal(dst._array, expected)
        np.testing.assert_array_equal(most._array[:, 0], expected.max(1))


def test_range_of_which_nothing_is_selected(start: Any) -> None:
    """A narrow dst holds -inf, the maximum in float32 stays finite, as the page describes."""
    with start("trn3") as chip:
        bound, x = chip.put([[0.0]]), chip.put([[1.0, 2, 3]])
        dst, most = chip.new((1, 3), "bfloat16"), chip.new((1, 1))
        never = {"comp_op0": nl.less, "comp_op1": nl.less, "bound0": bound, "bound1": bound}
        nisa.range_select(dst, x, **never, reduce_res=most)
        np.testing.assert_array_equal(dst._array.astype(np.float64), [[-np.inf] * 3])
        np.testing.assert_array_equal(most._array, [[LEAST]])
        always = never | {"comp_op0": nl.equal, "comp_op1": nl.equal}
        nisa.range_select(dst, x, **always, reduce_cmd=R.reduce)
        nisa.range_select(dst, x, **never, reduce_cmd=R.reduce, reduce_res=most)
        np.testing.assert_array_equal(most._array, [[1]])


# nc_stream_shuffle.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
@pytest.mark.parametrize("rows", [32, 64, 128])
def test_shuffle(chip: Any, rng: Any, rows: int, dtype: str) -> None:
    """Each quadrant by itself, with the same mask; in place, too."""
    x, mask = rng.integers(-9, 9, (rows, 6)), rng.permutation(32).tolist()
    src, dst = chip.put(x, dtype, nl.psum), chip.new((rows, 2, 3), dtype)
    nisa.nc_stream_shuffle(dst=dst, src=src, shuffle_mask=mask)
    expected = np.concatenate([x[q : q + 32][mask] for q in range(0, rows, 32)])
    np.testing.assert_array_equal(dst._array.astype(np.int64).reshape(rows, 6), expected)
    nisa.nc_stream_shuffle(dst=src, src=src, shuffle_mask=mask)
    np.testing.assert_array_equal(src._array.astype(np.int64), expected)


def test_shuffle_leaves_partitions_alone(chip: Any) -> None:
    x, y = np.arange(64.0).reshape(64, 1), -np.arange(64.0).reshape(64, 1)
    dst = chip.put(y)
    nisa.nc_stream_shuffle(dst, chip.put(x), [255, 0] * 16)
    expected = np.where(np.arange(64) % 2 == 0, y[:, 0], np.arange(64) // 32 * 32)
    np.testing.assert_array_equal(dst._array[:, 0], expected)
    fresh = chip.new((32, 1))
    nisa.memset(fresh[0:1], 5)
    nisa.nc_stream_shuffle(fresh, chip.put(x[:32]), [255] + [1] * 31)
    np.testing.assert_array_equal(fresh._array[:2, 0], [5, 1])


def test_shuffle_spreads_one_partition(chip: Any) -> None:
    """The vendor's pattern for a bias: one row to every quadrant of a tensor, itself included."""
    held = chip.new((128, 4))
    nisa.memset(held[0:1], 7)
    for quadrant in range(4):
        at = slice(32 * quadrant, 32 * quadrant + 32)
        nisa.nc_stream_shuffle(dst=held[at], src=held[0:1], shuffle_mask=[0] * 32)
    assert np.all(held._array == 7)
    few = chip.new((5, 4))
    nisa.nc_stream_shuffle(few, held[0:1], (0,) * 32)
    assert np.all(few._array == 7)


@pytest.mark.parametrize(
    "mask", [None, 0, [0] * 33, [0] * 31 + [-1], [0] * 31 + [0.0], [True] * 32, [256] * 32]
)
def test_shuffle_masks_that_are_none(chip: Any, mask: Any) -> None:
    x = chip.put(np.ones((32, 1)))
    with pytest.raises(ValueError, match="shuffle_mask must be a list of 32 integers"):
        nisa.nc_stream_shuffle(chip.new((32, 1)), x, mask)


def test_shuffle_starts(chip: Any) -> None:
    """The larger operand decides: 33 partitions count as 64."""
    src = chip.put(np.ones((128, 1)))
    nisa.nc_stream_shuffle(chip.new((33, 1)), src[64:97], [0] * 32)
    nisa.nc_stream_shuffle(chip.new((32, 1)), src[96:128], [0] * 32)
    with pytest.raises(ValueError, match="src of 1 partitions from 32, dst of 33 from 0"):
        nisa.nc_stream_shuffle(chip.new((33, 1)), src[32:33], [0] * 32)
