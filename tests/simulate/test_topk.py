"""topk: the snake of a core, the order of the results, and where they lie."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.simulate.errors import UninitializedReadError
from nkiconv.simulate.nki import isa as nisa

torch = pytest.importorskip("torch")


def snaked(elements: Any) -> Any:
    """Lay the elements of each core (a row) out over 16 partitions, column by column."""
    columns = -(-elements.shape[1] // 16)
    out = np.full((16 * len(elements), columns), np.inf)
    for core, row in enumerate(elements):
        for i, value in enumerate(row):
            out[16 * core + i % 16, i // 16] = value
    return out


def unsnaked(tile: Any, count: int) -> Any:
    cores = len(tile) // 16
    return np.array([[tile[16 * c + j % 16, j // 16] for j in range(count)] for c in range(cores)])


def run(c: Any, elements: Any, k: int, n: int | None = None) -> tuple[Any, Any]:
    source = snaked(elements)
    src = c.put(source, "bfloat16")
    values = c.new((len(source), k), "bfloat16")
    places = c.new((len(source), k), "uint32")
    nisa.topk(values, places, src, n or elements.shape[1])
    return values, places


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize(("cores", "n", "k"), [(1, 42, 8), (8, 160, 32), (2, 8, 8), (3, 500, 100)])
def test_largest_of_each_core(
    start: Any, rng: Any, target: str, cores: int, n: int, k: int
) -> None:
    # Distinct numbers that bfloat16 holds.
    numbers = np.arange(-128, 128) if n <= 256 else np.arange(-512, 512) * 2.0**-9
    drawn = np.stack([rng.permutation(numbers)[:n] for _ in range(cores)])
    x = drawn if n <= 256 else np.stack([np.arange(n) % 251 - 100.0 for _ in range(cores)])
    x = x.astype(ml_dtypes.bfloat16).astype(np.float64)
    with start(target) as chip:
        values, places = run(chip, x, k)
        assert (chip.last.lane.label, chip.last.opcode) == ("GpSimdE", "topk")
    found = unsnaked(values._array.astype(float), k)
    at = unsnaked(places._array, k)
    assert found.tolist() == torch.topk(torch.tensor(x), k).values.flip(1).tolist()
    assert np.take_along_axis(x, at.astype(int), axis=1).tolist() == found.tolist()
    assert all(len(set(row)) == k for row in at.tolist())


def test_by_hand(chip: Any) -> None:
    x = np.zeros((1, 20))
    x[0, [17, 3, 9]] = [5.0, 7.0, -1.0]
    values, places = run(chip, x, 3)
    # Ascending down the partitions of the first column; equal zeros: the first one.
    assert values[0:3, 0]._array.astype(float).ravel().tolist() == [0, 5, 7]
    assert places[0:3, 0]._array.ravel().tolist() == [0, 17, 3]


def test_elements_beyond_n_do_not_count(chip: Any) -> None:
    x = np.arange(48.0)[None]
    values, places = run(chip, x, 2, n=42)
    assert values[0:2, 0]._array.astype(float).ravel().tolist() == [40, 41]
    assert places[0:2, 0]._array.ravel().tolist() == [40, 41]


def test_results_fill_the_first_columns_only(chip: Any) -> None:
    """20 results: a column of 16, and four partitions of the next."""
    values, places = run(chip, np.arange(64.0).repeat(1)[None], 20)
    for tile in (values, places):
        assert tile._storage.count_unwritten(tile, tile._kind) == 16 * 20 - 20
        with pytest.raises(UninitializedReadError, match="reads 12 of 32 elements"):
            nisa.tensor_copy(chip.new((16, 2), tile.dtype), tile[:, 0:2])
        nisa.tensor_copy(chip.new((16, 1), tile.dtype), tile[:, 0:1])


def test_columns_beyond_the_active_ones_may_be_unwritten(chip: Any) -> None:
    src = chip.new((16, 9), "bfloat16")
    values, places = chip.new((16, 1), "bfloat16"), chip.new((16, 1), "uint32")
    nisa.memset(src[:, 0:3], 1.0)
    nisa.topk(values, places, src, 48)
    with pytest.raises(UninitializedReadError, match="src reads 16 of 64"):
        nisa.topk(values, places, src, 49)


def test_other_columns_keep_what_they_hold(chip: Any) -> None:
    src = chip.put(np.ones((16, 1)), "bfloat16")
    values = chip.put(np.full((16, 3), 9.0), "bfloat16")
    nisa.topk(values, chip.new((16, 3), "uint32"), src, 8)
    assert (values[:, 1:3]._array.astype(float) == 9).all()


@pytest.mark.parametrize(("target", "ghz"), [("trn1", 1.4), ("trn2", 1.2)])
def test_cost_is_the_pages(start: Any, target: str, ghz: float) -> None:
    with start(target) as chip:
        run(chip, np.ones((2, 42)), 8)
        assert chip.last.occupancy_ps == round(1000 * (4 * 42 + 8) / ghz)
