"""max8, nc_find_index8 and nc_match_replace8 against plain searches, duplicates included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

NONE = 2**32 - 1


def search(row: Any, vals: Any, order: Any) -> list[int]:
    """Pair each value with the first equal element that is still free; NONE if there is none."""
    free, places = list(row), [NONE] * 8
    for i in order:
        if vals[i] in free:
            places[i] = free.index(vals[i])
            free[places[i]] = None
    return places


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
@pytest.mark.parametrize("shape", [(4, 8), (4, 100), (32, 5, 7), (4, 16384)])
def test_max8(chip: Any, rng: Any, shape: tuple[int, ...], dtype: str) -> None:
    x = rng.integers(-99, 99, shape)
    dst = chip.new((shape[0], 8), "float16", nl.psum)
    nisa.max8(dst=dst, src=chip.put(x, dtype))
    expected = [sorted(row.flat, reverse=True)[:8] for row in x]
    np.testing.assert_array_equal(dst._array.astype(np.float64), expected)


def find(chip: Any, x: Any, vals: Any, dtype: str = "uint32") -> Any:
    dst = chip.new((len(x), 8), dtype)
    nisa.nc_find_index8(dst=dst, data=chip.put(x), vals=chip.put(vals))
    return dst._array


@pytest.mark.parametrize("spread", [3, 1000])
def test_find(chip: Any, rng: Any, spread: int) -> None:
    """Small spreads give many duplicates, large ones values that are not there."""
    x, vals = rng.integers(0, spread, (16, 5, 8)), rng.integers(0, spread, (16, 2, 4))
    flat, wanted = x.reshape(16, 40), vals.reshape(16, 8)
    expected = [search(a.tolist(), b.tolist(), range(8)) for a, b in zip(flat, wanted, strict=True)]
    np.testing.assert_array_equal(find(chip, x, vals), expected)


def test_find_advances_through_duplicates_and_marks_what_is_missing(chip: Any) -> None:
    x, vals = [[5.0, 1, 5, 1, 2, 9, 9, 9]], [[5, 1, 5, 5, 2, 7, 1, -np.inf]]
    np.testing.assert_array_equal(find(chip, x, vals), [[0, 1, 2, NONE, 4, NONE, 3, NONE]])
    short = find(chip, x, vals, "uint16")
    np.testing.assert_array_equal(short, [[0, 1, 2, 65535, 4, 65535, 3, 65535]])


@pytest.mark.parametrize("spread", [3, 1000])
def test_match_and_replace(start: Any, rng: Any, spread: int) -> None:
    x, vals = rng.integers(0, spread, (16, 40)), rng.integers(0, spread, (16, 8))
    with start("trn2") as chip:
        data, dst = chip.put(x.reshape(16, 5, 8)), chip.new((16, 40))
        places = chip.new((16, 8), "uint32")
        nisa.nc_match_replace8(dst, data, chip.put(vals), -1.5, dst_idx=places)
        expected, replaced = [], x.astype(np.float64)
        for p in range(16):
            found = search(x[p].tolist(), vals[p].tolist(), range(7, -1, -1))
            expected.append(found)
            replaced[p, [i for i in found if i != NONE]] = -1.5
        np.testing.assert_array_equal(places._array, expected)
        np.testing.assert_array_equal(dst._array, replaced)
        np.testing.assert_array_equal(data._array.reshape(16, 40), x)


def test_match_takes_duplicates_from_the_last_slot(start: Any) -> None:
    """Seven equal values: the smallest place goes to the highest slot, unlike nc_find_index8."""
    with start("trn3") as chip:
        data, places = chip.put([[1.0, 2, 3, 4] + [8] * 7]), chip.new((1, 8), "uint16")
        nisa.nc_match_replace8(data, data, chip.put([[3.0] + [8] * 7]), float("-inf"), places)
        np.testing.assert_array_equal(places._array, [[2, 10, 9, 8, 7, 6, 5, 4]])
        np.testing.assert_array_equal(data._array, [[1, 2, -np.inf, 4] + [-np.inf] * 7])


def test_a_replaced_element_is_not_found_again(chip: Any) -> None:
    data, dst = chip.put([[4.0] * 2 + [0] * 6]), chip.new((1, 8))
    nisa.nc_match_replace8(dst, data, chip.put([[4.0] * 3 + [9] * 5]), 4.0)
    np.testing.assert_array_equal(dst._array, data._array)
    nisa.nc_match_replace8(dst, data, chip.put([[4.0] + [9] * 7]), 0.5)
    np.testing.assert_array_equal(dst._array, [[0.5, 4] + [0] * 6])


def test_the_sixteen_largest_in_order(chip: Any, rng: Any) -> None:
    """The vendor's pattern for the top k: take eight, put them out of the way, take eight."""
    x = rng.permutation(64).reshape(1, 64)
    data, top = chip.put(x), chip.new((1, 16))
    for at in (0, 8):
        nisa.max8(dst=top[:, at : at + 8], src=data)
        nisa.nc_match_replace8(data, data, top[:, at : at + 8], float("-inf"))
    np.testing.assert_array_equal(top._array, [np.arange(63, 47, -1)])
