"""iota, affine_select and tensor_partition_reduce against plain loops over their definition."""

from __future__ import annotations

import operator
from itertools import product
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, DtypeError, ShapeError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.ops import OPS

PATTERNS = {  # [[step, num], ...], offset, channel_multiplier
    "a row": ([[1, 24]], 0, 0),
    "down": ([[-1, 24]], 7, 3),
    "stride 0": ([[0, 24]], -5, 1),
    "two": ([[100, 4], [1, 6]], 1, -2),
    "four": ([[1, 2], [-9, 3], [5, 2], [1000, 2]], 3, 17),
}


def by_loops(pattern: Any, offset: int, channel_multiplier: int, count: int) -> Any:
    """Write the pattern as the vendor's pseudo code does, one value after another."""
    rows = []
    for channel in range(count):
        row = []
        for at in product(*[range(num) for _, num in pattern]):
            steps = sum(i * step for i, (step, _) in zip(at, pattern, strict=True))
            row.append(offset + channel * channel_multiplier + steps)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("dtype", ["int32", "int16", "float32"])
@pytest.mark.parametrize("case", PATTERNS)
def test_iota(chip: Any, case: str, dtype: str) -> None:
    pattern, offset, multiplier = PATTERNS[case]
    dst = chip.new((32, 4, 6), dtype)
    nisa.iota(dst, pattern, offset=offset, channel_multiplier=multiplier)
    expected = by_loops(pattern, offset, multiplier, 32).reshape(32, 4, 6)
    np.testing.assert_array_equal(dst._array, expected)
    assert chip.last.lane.label == "GpSimdE"


def test_iota_counts_partitions_from_the_destinations_first(chip: Any) -> None:
    dst = chip.new((128, 3), "int32")
    nisa.iota(dst[32:64], [[1, 3]], channel_multiplier=10)
    np.testing.assert_array_equal(dst._array[32:64], by_loops([[1, 3]], 0, 10, 32))
    np.testing.assert_array_equal(dst._array[:32], -1)  # untouched: still poison


@pytest.mark.parametrize(("offset", "dtype"), [(2**31 - 4, "int32"), (252, "uint8"), (0, "uint32")])
def test_iota_up_to_the_limit(chip: Any, offset: int, dtype: str) -> None:
    dst = chip.new((1, 4), dtype)
    nisa.iota(dst, ((1, 4),), offset)
    assert dst._array.tolist() == [[offset, offset + 1, offset + 2, offset + 3]]
    with pytest.raises((ConstraintError, DtypeError)):
        nisa.iota(dst, ((-1 if offset == 0 else 1, 4),), offset + (offset > 0))


@pytest.mark.parametrize("pattern", [[], [1, 8], [[1]], [[1, 8, 1]], [[1.0, 8]], [[1, True]], "18"])
def test_what_is_no_pattern(chip: Any, pattern: Any) -> None:
    with pytest.raises(ShapeError, match="pattern must be one to four pairs"):
        nisa.iota(chip.new((4, 8)), pattern)


COMPARE = {
    "equal": operator.eq, "not_equal": operator.ne, "greater": operator.gt,
    "greater_equal": operator.ge, "less": operator.lt, "less_equal": operator.le,
}  # fmt: skip


@pytest.mark.parametrize("cmp_op", COMPARE)
@pytest.mark.parametrize("dtypes", ["float32 float32", "bfloat16 float32", "float32 int8"])
def test_affine_select(chip: Any, rng: Any, cmp_op: str, dtypes: str) -> None:
    source, target = dtypes.split()
    tile = rng.integers(-50, 50, (16, 24))
    dst = chip.new((16, 2, 12), target)
    nisa.affine_select(
        dst, [[3, 4], [-1, 6]], -1, chip.put(tile, source), -7.0, cmp_op=OPS[cmp_op], offset=2
    )
    holds = COMPARE[cmp_op](by_loops([[3, 4], [-1, 6]], 2, -1, 16), 0)
    assert holds.any()
    assert not holds.all()
    expected = np.where(holds, tile, -7).reshape(16, 2, 12)
    np.testing.assert_array_equal(dst._array.astype(np.float64), expected)


def test_a_causal_mask_in_place(chip: Any) -> None:
    """Key positions after the query's are masked, as attention kernels do it."""
    scores = chip.put(np.ones((4, 4)))
    lowest = float(np.finfo(np.float32).min)
    nisa.affine_select(scores, [[-1, 4]], 1, scores, lowest, cmp_op=nl.greater_equal)
    np.testing.assert_array_equal(scores._array, np.where(np.tri(4) == 1, 1.0, np.float32(lowest)))


def test_selected_elements_keep_their_bits_between_equal_types(chip: Any) -> None:
    tile = chip.put(np.full((2, 4), 2**24 + 1), "int32")  # float32 would round it
    dst = chip.new((2, 4), "int32")
    nisa.affine_select(dst, [[1, 4]], 0, tile, -1.0, cmp_op=nl.greater)
    assert dst._array.tolist() == [[-1, 2**24 + 1, 2**24 + 1, 2**24 + 1]] * 2


def test_cmp_op_is_equal_by_default(chip: Any) -> None:
    dst = chip.new((4, 4))
    nisa.affine_select(dst, [[-1, 4]], 1, chip.put(np.ones((4, 4))), 0.0)
    np.testing.assert_array_equal(dst._array, np.eye(4))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
@pytest.mark.parametrize("op", ["add", "average", "maximum"])
def test_partition_reduce(chip: Any, rng: Any, op: str, dtype: str) -> None:
    data = rng.integers(-4, 5, (128, 6, 4))
    if op == "average":
        data = 32 * (data[:1] + np.arange(128).reshape(128, 1, 1) % 2)  # averages 16 above data
    dst = chip.new((1, 6, 4), dtype)
    nisa.tensor_partition_reduce(dst, OPS[op], chip.put(data, dtype))
    wide = data.astype(np.float64)
    expected = {"add": wide.sum, "average": wide.mean, "maximum": wide.max}[op](0)
    np.testing.assert_array_equal(dst._array[0].astype(np.float64), expected)


@pytest.mark.parametrize("op", ["bitwise_or", "bitwise_and"])
def test_partition_reduce_of_bits(chip: Any, rng: Any, op: str) -> None:
    data = rng.integers(0, 2**31, (5, 9))
    dst = chip.new((1, 9), "int32")
    nisa.tensor_partition_reduce(dst, OPS[op], chip.put(data, "int32"))
    expected = [int(x) for x in data[0]]
    for row in data[1:]:
        expected = [x | int(y) if op == "bitwise_or" else x & int(y)
                    for x, y in zip(expected, row, strict=True)]  # fmt: skip
    assert dst._array[0].tolist() == expected
