"""bn_stats and bn_aggr against the definitions of mean and variance in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl


def stats(chip: Any, x: Any, dtype: str = "float32", space: Any = nl.sbuf) -> Any:
    dst = chip.new((len(x), 6))
    nisa.bn_stats(dst=dst, data=chip.put(x, dtype, space))
    return dst


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("elems", [2, 3, 8, 511, 512])
def test_statistics_of_even_and_odd_elements(chip: Any, rng: Any, dtype: str, elems: int) -> None:
    x = rng.integers(-9, 10, (4, elems))
    expected = []
    for row in x.astype(np.float64):
        for part in (row[::2], row[1::2]):
            expected += [len(part), part.mean(), part.var() * len(part)]
    made = stats(chip, x, dtype, nl.psum)._array
    np.testing.assert_allclose(made, np.reshape(expected, (4, 6)), rtol=1e-5, atol=1e-6)
    assert np.array_equal(made[:, ::3], [[(elems + 1) // 2, elems // 2]] * 4)


def test_elements_alternate_over_all_free_dimensions(chip: Any) -> None:
    x = np.arange(9.0).reshape(1, 3, 3)
    np.testing.assert_array_equal(stats(chip, x)._array, [[5, 4, 40, 4, 4, 20]])


def test_a_single_element_has_no_odd_ones(chip: Any) -> None:
    np.testing.assert_array_equal(stats(chip, np.array([[7.0]]))._array, [[1, 7, 0, 0, 0, 0]])


@pytest.mark.parametrize("sizes", [(1,), (2,), (7,), (512,), (512, 512, 100), (5, 1)])
def test_aggregate(chip: Any, rng: Any, sizes: tuple[int, ...]) -> None:
    """Tiles of any sizes give the mean and variance of all their elements together."""
    x = rng.standard_normal((8, sum(sizes))).astype(np.float32) * 3 + 5
    held, at = chip.new((8, len(sizes), 6)), 0
    for tile, size in enumerate(sizes):
        nisa.bn_stats(dst=held[:, tile], data=chip.put(x[:, at : at + size]))
        at += size
    dst = chip.new((8, 2))
    nisa.bn_aggr(dst=dst, data=held)
    wide = x.astype(np.float64)
    expected = np.stack([wide.mean(1), wide.var(1)], axis=1)
    np.testing.assert_allclose(dst._array, expected, rtol=2e-6, atol=2e-6)


def test_aggregate_weighs_tuples_by_their_counts(chip: Any) -> None:
    dst = chip.new((1, 2), "bfloat16", nl.psum)
    nisa.bn_aggr(dst, chip.put([[1.0, 4, 0, 3, 0, 9]], "float16"))
    np.testing.assert_array_equal(dst._array.astype(np.float64), [[1, 5.25]])
