"""sequence_bounds and nonzero_with_count against plain loops over their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, UninitializedReadError
from nkiconv.simulate.nki import isa as nisa

SEQUENCES = {
    "of the vendor": [0, 1, 1, 2, 2, 2, 0, 3, 3],
    "one": [5],
    "padding alone": [0, 0, 0],
    "no padding": [7, 7, 7, 7],
    "an ID that comes again": [1, 1, 2, 1, 1, 0, 1],
    "singles": [1, 2, 3, 4],
}


def bounds_by_loops(ids: list[int]) -> list[list[int]]:
    n = len(ids)
    starts, ends = [], []
    for i, number in enumerate(ids):
        first = last = i
        while first > 0 and ids[first - 1] == number:
            first -= 1
        while last + 1 < n and ids[last + 1] == number:
            last += 1
        starts.append(first if number else n)
        ends.append(last + 1 if number else -1)
    return [starts, ends]


@pytest.mark.parametrize("dtypes", ["float32 float32", "int32 int32", "int32 float32"])
@pytest.mark.parametrize("case", SEQUENCES)
def test_sequence_bounds(chip: Any, case: str, dtypes: str) -> None:
    source, target = dtypes.split()
    ids = SEQUENCES[case]
    dst = chip.new((1, 2, len(ids)), target)
    nisa.sequence_bounds(dst, chip.put([ids], source))
    assert dst._array[0].tolist() == bounds_by_loops(ids)


def test_the_vendors_example_in_numbers(chip: Any) -> None:
    dst = chip.new((1, 2, 9), "int32")
    nisa.sequence_bounds(dst, chip.put([SEQUENCES["of the vendor"]], "int32"))
    assert dst._array[0].tolist() == [[9, 1, 1, 3, 3, 3, 9, 7, 7], [-1, 3, 3, 6, 6, 6, -1, 9, 9]]


@pytest.mark.parametrize("number", [-1, 0.5, np.nan])
def test_what_is_no_segment_id(chip: Any, number: float) -> None:
    with pytest.raises(ConstraintError, match="segment IDs must be whole numbers"):
        nisa.sequence_bounds(chip.new((1, 2, 3)), chip.put([[1, number, 2]]))
    with pytest.raises(UninitializedReadError, match="segment_ids reads 3 of 3"):
        nisa.sequence_bounds(chip.new((1, 2, 3)), chip.new((1, 3)))


def nonzero_by_loops(row: Any, offset: int, padding: int) -> list[int]:
    found = [i + offset for i, value in enumerate(row) if value != 0]
    return found + [padding] * (len(row) - len(found)) + [len(found)]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("partitions", [1, 16, 17, 100, 128])
@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_nonzero(start: Any, rng: Any, partitions: int, dtype: str, target: str) -> None:
    data = rng.integers(-1, 2, (partitions, 20))
    with start(target) as chip:
        dst = chip.new((partitions, 21), "int32")
        nisa.nonzero_with_count(dst, chip.put(data, dtype), index_offset=16, padding_val=-7)
        for p in range(0, partitions, 16):
            assert dst._array[p].tolist() == nonzero_by_loops(data[p], 16, -7)


def test_the_example_on_the_page(start: Any) -> None:
    with start("trn2") as chip:
        dst = chip.new((1, 9), "int32")
        nisa.nonzero_with_count(dst, chip.put([[0, 1, 1, 0, 0, 1, 0, 0]]), index_offset=16)
        assert dst._array.tolist() == [[17, 18, 21, -1, -1, -1, -1, -1, 3]]


def test_other_partitions_are_left_alone(start: Any) -> None:
    """They keep what they hold, and count as unwritten where nothing had written to them."""
    with start("trn2") as chip:
        src, held = chip.put(np.ones((32, 4))), chip.put(np.full((32, 5), 77), "int32")
        nisa.nonzero_with_count(held, src)
        assert held._array[0].tolist() == held._array[16].tolist() == [0, 1, 2, 3, 4]
        assert np.all(np.delete(held._array, [0, 16], axis=0) == 77)
        fresh = chip.new((32, 5), "int32")
        nisa.nonzero_with_count(fresh, src)
        nisa.tensor_copy(chip.new((1, 5), "int32"), fresh[0:1])
        with pytest.raises(UninitializedReadError, match="reads 150 of 160 elements"):
            nisa.tensor_copy(chip.new((32, 5), "int32"), fresh)


def test_only_the_first_partition_of_each_core_is_read(start: Any) -> None:
    with start("trn2") as chip:
        src = chip.new((128, 4))
        for first in (0, 32):
            nisa.memset(src[first : first + 1], 1.0)
        nisa.nonzero_with_count(chip.new((16, 5), "int32"), src[0:16])
        nisa.nonzero_with_count(chip.new((128, 5), "int32")[32:48], src[32:48])
        with pytest.raises(UninitializedReadError, match="src reads 4 of 8 elements"):
            nisa.nonzero_with_count(chip.new((32, 5), "int32"), src[0:32])


def test_the_whole_operands_count_for_the_order_of_instructions(start: Any) -> None:
    with start("trn2") as chip:
        nisa.nonzero_with_count(chip.new((128, 5), "int32"), chip.put(np.ones((128, 4))))
        reach = [(access.first_partition, access.end_partition) for access in chip.last.accesses]
        assert reach == [(0, 128), (0, 128)]
