"""nc_n_gather and local_gather against plain loops over their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, OutOfBoundsError, UninitializedReadError
from nkiconv.simulate.nki import isa as nisa


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_n_gather(chip: Any, rng: Any, dtype: str) -> None:
    data = rng.integers(0, 100, (32, 6, 5))
    indices = rng.integers(0, 30, (32, 4, 9))
    dst = chip.new((32, 2, 18), dtype)
    nisa.nc_n_gather(dst, chip.put(data, dtype), chip.put(indices, "uint32"))
    expected = np.empty((32, 36))
    for p in range(32):
        flat, where = data[p].reshape(-1), indices[p].reshape(-1)
        for i in range(36):
            expected[p, i] = flat[where[i]]
    np.testing.assert_array_equal(dst._array.astype(np.float64).reshape(32, 36), expected)


def test_n_gather_keeps_bits(chip: Any) -> None:
    dst = chip.new((1, 2), "int32")
    data = chip.put([[2**24 + 1, 2**31 - 1]], "int32")
    nisa.nc_n_gather(dst, data, chip.put([[1, 0]], "uint32"))
    assert dst._array.tolist() == [[2**31 - 1, 2**24 + 1]]


def test_n_gather_takes_the_last_element_and_none_after_it(chip: Any) -> None:
    data = chip.put(np.arange(8).reshape(2, 4))
    nisa.nc_n_gather(chip.new((2, 1)), data, chip.put([[0], [3]], "uint32"))
    with pytest.raises(OutOfBoundsError, match=r"got 4 for <NkiTensor float32\[2, 4\] SBUF>"):
        nisa.nc_n_gather(chip.new((2, 1)), data, chip.put([[0], [4]], "uint32"))


def test_indices_that_nothing_has_written(chip: Any) -> None:
    data = chip.put(np.ones((16, 4)))
    with pytest.raises(UninitializedReadError, match="indices reads 16 of 16"):
        nisa.nc_n_gather(chip.new((16, 1)), data, chip.new((16, 1), "uint32"))
    with pytest.raises(UninitializedReadError, match="index reads 16 of 16"):
        nisa.local_gather(chip.new((16, 16)), data, chip.new((16, 1), "uint16"))


def locally(data: Any, index: Any, elems: int, valid: int) -> Any:
    """Gather as the vendor's page describes it, one index after another."""
    result = np.empty((len(data), valid * elems))
    for p in range(len(data)):
        core = p // 16
        flat = [
            int(index[core * 16 + lane, column])
            for column in range(index.shape[1])
            for lane in range(16)
        ]
        taken = [data[p, at + e] for at in flat[:valid] for e in range(elems)]
        result[p] = taken
    return result


@pytest.mark.parametrize(
    ("partitions", "columns", "elems", "valid"),
    [(128, 4, 1, None), (128, 4, 4, 64), (16, 3, 32, 37), (48, 1, 2, 5), (32, 5, 8, 80)],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_local_gather(
    chip: Any, rng: Any, partitions: int, columns: int, elems: int, valid: int | None, dtype: str
) -> None:
    data = rng.integers(0, 100, (partitions, 200))
    index = rng.integers(0, 200 - elems + 1, (partitions, columns))
    count = 16 * columns if valid is None else valid
    dst = chip.new((partitions, count, elems), dtype)
    nisa.local_gather(
        dst, chip.put(data, dtype), chip.put(index, "uint16"), elems, num_valid_indices=valid
    )
    expected = locally(data, index, elems, count)
    found = dst._array.astype(np.float64).reshape(partitions, -1)
    np.testing.assert_array_equal(found, expected)


def test_indices_that_are_not_valid_may_point_anywhere(chip: Any) -> None:
    data = chip.put(np.arange(16 * 4).reshape(16, 4))
    index = chip.put(np.r_[np.full(9, 3), np.full(7, 999)][:, None], "uint16")
    nisa.local_gather(chip.new((16, 9)), data, index, 1, 9)
    with pytest.raises(OutOfBoundsError, match="got 999 for"):
        nisa.local_gather(chip.new((16, 10)), data, index, 1, 10)


def test_a_run_must_end_inside(chip: Any) -> None:
    data = chip.put(np.ones((16, 6)))
    nisa.local_gather(chip.new((16, 64)), data, chip.put(np.full((16, 1), 2), "uint16"), 4)
    with pytest.raises(OutOfBoundsError, match="every index must leave"):
        nisa.local_gather(chip.new((16, 64)), data, chip.put(np.full((16, 1), 3), "uint16"), 4)


@pytest.mark.parametrize("valid", [0, -1, 17, 8.0, True])
def test_what_is_no_number_of_indices(chip: Any, valid: Any) -> None:
    index = chip.put(np.ones((16, 1)), "uint16")
    with pytest.raises(ConstraintError, match="num_valid_indices must lie between"):
        nisa.local_gather(chip.new((16, 8)), chip.put(np.ones((16, 4))), index, 1, valid)


def test_cores_with_partitions_of_their_own(chip: Any) -> None:
    """Operands that start together may start anywhere; the message says where they do."""
    tiles = [chip.put(np.ones((128, 16))), chip.put(np.ones((128, 4)))]
    index = chip.put(np.ones((128, 1)), "uint16")
    nisa.local_gather(tiles[0][32:64], tiles[1][32:64], index[32:64])
    with pytest.raises(ConstraintError, match="got dst from 32, src_buffer from 32, index from 64"):
        nisa.local_gather(tiles[0][32:64], tiles[1][32:64], index[64:96])
