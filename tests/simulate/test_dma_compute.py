"""dma_compute against float64 NumPy: sums in float32, lists of sources, counters and cost."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.simulate.errors import (
    ConstraintError,
    HazardError,
    OutOfBoundsError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

PLACES = {"sbuf": nl.sbuf, "hbm": nl.shared_hbm}
LANES = {  # places of the sources, of the destination: the ring
    ("hbm hbm", "sbuf"): "DMA load",
    ("hbm sbuf", "sbuf"): "DMA load",
    ("sbuf hbm", "hbm"): "DMA store",
    ("sbuf sbuf", "hbm"): "DMA store",
    ("sbuf sbuf", "sbuf"): "DMA local",
    ("hbm hbm", "hbm"): "DMA local",
}


@pytest.mark.parametrize(("sources", "target"), LANES)
def test_sum(chip: Any, rng: Any, sources: str, target: str) -> None:
    data = rng.integers(-99, 99, (2, 20, 12))
    srcs = [
        chip.put(x, buffer=PLACES[place]) for x, place in zip(data, sources.split(), strict=True)
    ]
    dst = chip.new((20, 12), buffer=PLACES[target])
    nisa.dma_compute(dst, srcs, nl.add)
    np.testing.assert_array_equal(dst._array, data.sum(0))
    assert chip.last.lane.label == LANES[sources, target]
    program = chip.program
    assert program.hbm_read_bytes == sources.split().count("hbm") * 20 * 12 * 4
    assert program.hbm_write_bytes == (target == "hbm") * 20 * 12 * 4
    assert program.dma_transfers == 1
    assert len(chip.last.accesses) == 3


@pytest.mark.parametrize("number", [1, 2, 3, 16])
@pytest.mark.parametrize("scales", [None, 1.0])
def test_number_of_sources(chip: Any, rng: Any, scales: float | None, number: int) -> None:
    data = rng.integers(-99, 99, (number, 8, 6))
    srcs = tuple(chip.put(x, buffer=nl.shared_hbm) for x in data)
    dst = chip.new((8, 6))
    nisa.dma_compute(dst, srcs, nl.add, scales=None if scales is None else [scales] * number)
    np.testing.assert_array_equal(dst._array, data.sum(0))


def test_types_and_shapes_may_differ(chip: Any) -> None:
    """Everything is summed in float32, in row-major order, and rounded once at the end."""
    small = chip.put(np.full((4, 6), 2.0**-8), "bfloat16")
    whole = chip.put(np.arange(24).reshape(2, 12), "int32", nl.shared_hbm)
    dst = chip.new((8, 3), "bfloat16", nl.shared_hbm)
    nisa.dma_compute(dst, [whole, small, small], nl.add)
    exact = np.arange(24).reshape(8, 3) + 2 * 2.0**-8
    np.testing.assert_array_equal(dst._array, exact.astype(ml_dtypes.bfloat16))
    assert float(dst._array[0, 1]) == 1.0078125  # rounding after each sum would lose both


def test_a_destination_may_be_a_source(chip: Any) -> None:
    held, more = chip.put(np.full((4, 4), 3)), chip.put(np.ones((4, 4)), buffer=nl.shared_hbm)
    nisa.dma_compute(held, [held, more, held], nl.add)
    assert held._array.tolist() == [[7.0] * 4] * 4


@pytest.mark.parametrize("srcs", [None, [], 3, "17"])
def test_what_is_no_list_of_sources(chip: Any, srcs: Any) -> None:
    one = chip.put(np.ones((4, 4)))
    given = [one] * 17 if srcs == "17" else srcs
    with pytest.raises(ConstraintError, match="srcs must be a list of 1 to 16 tensors, got"):
        nisa.dma_compute(chip.new((4, 4)), given, nl.add)
    with pytest.raises(ConstraintError, match="srcs must be a list of 1 to 16 tensors, got <Nki"):
        nisa.dma_compute(chip.new((4, 4)), one, nl.add)


@pytest.mark.parametrize("value", [1.0, None, "tile", True])
def test_what_is_no_source(chip: Any, value: Any) -> None:
    with pytest.raises(ConstraintError, match="srcs must be a tensor, got"):
        nisa.dma_compute(chip.new((4, 4)), [chip.put(np.ones((4, 4))), value], nl.add)


def test_every_source_is_checked(chip: Any) -> None:
    good = chip.put(np.ones((4, 4)))
    with pytest.raises(ConstraintError, match="srcs must be in HBM or SBUF, got"):
        nisa.dma_compute(chip.new((4, 4)), [good, chip.new((4, 4), buffer=nl.psum)], nl.add)
    with pytest.raises(UninitializedReadError, match="srcs reads 16 of 16 elements"):
        nisa.dma_compute(chip.new((4, 4)), [good, chip.new((4, 4))], nl.add)
    nisa.dma_compute(chip.new((4, 4)), [good, good], nl.add)
    with pytest.raises(ShapeError, match="dst and each of srcs"):  # another shape in a like list
        nisa.dma_compute(chip.new((4, 4)), [good, chip.put(np.ones((4, 5)))], nl.add)
    with pytest.raises(HazardError, match="dst repeats elements"):
        nisa.dma_compute(chip.new((4, 1)).broadcast(1, 4), [good], nl.add)


@pytest.mark.parametrize("scales", [[1.0], [1.0, 0.5], 1.0, [1.0, "1"], [1.0, True], [1.0] * 3])
def test_scales(chip: Any, scales: Any) -> None:
    srcs = [chip.put(np.ones((4, 4)))] * 2
    with pytest.raises(ConstraintError, match=r"scales must be None, or 1\.0 for each of srcs"):
        nisa.dma_compute(chip.new((4, 4)), srcs, nl.add, scales)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_occupancy(start: Any, number: int) -> None:
    """Each source takes as long as its copy: 128 rows of 256 B by 16 engines."""
    with start("trn2") as chip:
        srcs = [chip.put(np.ones((128, 64)), buffer=nl.shared_hbm)] * number
        nisa.dma_compute(chip.new((128, 64)), srcs, nl.add)
        each_ns = 128 / 16 * (4.8 + 256 / 27.2)
        assert chip.last.occupancy_ps == round(1000 * number * each_ns)


# Rows that an index names.


@pytest.mark.parametrize("order", [1, -1])
def test_scatter_adds_to_rows(start: Any, order: int) -> None:
    table, more = np.arange(40).reshape(8, 5), np.arange(15).reshape(3, 5) * 100
    with start("trn2") as chip:
        held = chip.put(table, "bfloat16", nl.shared_hbm)
        index = chip.put([[6], [0], [3]], "uint32")
        rows = held.vector_select(0, index)
        again = held.ap([[5, 3], [1, 5]], vector_offset=index)  # the same view by another name
        nisa.dma_compute(rows, [again, chip.put(more)][::order], nl.add, unique_indices=True)
        expected = table.copy()
        expected[[6, 0, 3]] += more
        np.testing.assert_array_equal(held._array, expected.astype(ml_dtypes.bfloat16))
        assert chip.last.lane.label == "DMA store"


def test_gather_adds_rows(start: Any) -> None:
    """reduced += input[index], as the vendor's library reduces over experts."""
    table, held = np.arange(40).reshape(8, 5), np.ones((3, 5))
    with start("trn2") as chip:
        reduced = chip.put(held)
        index = chip.put([[7], [7], [9]], "uint32")
        src = chip.put(table, buffer=nl.shared_hbm).vector_select(0, index)
        with pytest.raises(OutOfBoundsError, match="an index of srcs is 9, outside the 8 rows"):
            nisa.dma_compute(reduced[:, :], [src, reduced[:, :]], nl.add)
        nisa.dma_compute(reduced[:, :], [src, reduced[:, :]], nl.add, oob_mode=nisa.oob_mode.skip)
        np.testing.assert_array_equal(reduced._array, [*(1 + table[[7, 7]]), np.ones(5)])
        assert chip.program.hbm_read_bytes == 2 * 5 * 4


def test_skipped_rows_of_a_scatter(start: Any) -> None:
    with start("trn3") as chip:
        held = chip.put(np.ones((4, 2)), buffer=nl.shared_hbm)
        rows = held.vector_select(0, chip.put([[4], [1]], "int32"))
        more = chip.put([[10, 20], [30, 40]])
        nisa.dma_compute(rows, [rows, more], nl.add, oob_mode=nisa.oob_mode.skip)
        assert held._array.tolist() == [[1, 1], [31, 41], [1, 1], [1, 1]]


def test_indices_that_are_not_unique(start: Any) -> None:
    with start("trn2") as chip:
        held = chip.put(np.ones((4, 2)), buffer=nl.shared_hbm)
        rows = held.vector_select(0, chip.put([[2], [2]], "int32"))
        words = r"unique_indices=True, but the indices of dst are \[2, 2\]"
        with pytest.raises(HazardError, match=words):
            nisa.dma_compute(rows, [rows, chip.put(np.zeros((2, 2)))], nl.add)


@pytest.mark.parametrize(
    "case", ["three sources", "other rows", "data in HBM", "to SBUF", "plain destination"]
)
def test_what_is_no_update_of_rows(start: Any, case: str) -> None:
    with start("trn2") as chip:
        held = chip.put(np.ones((4, 2)), buffer=nl.shared_hbm)
        index, other = chip.put([[1], [2]], "int32"), chip.put([[1], [2]], "int32")
        rows, more = held.vector_select(0, index), chip.put(np.ones((2, 2)))
        far = chip.put(np.ones((2, 2)), buffer=nl.shared_hbm)
        dst, srcs = {
            "three sources": (rows, [rows, more, more]),
            "other rows": (rows, [held.vector_select(0, other), more]),
            "data in HBM": (rows, [rows, far]),
            "to SBUF": (more, [rows, chip.put(np.ones((2, 2)))]),
            "plain destination": (far, [rows, far]),
        }[case]
        with pytest.raises(ConstraintError, match="with a vector offset srcs must be two"):
            nisa.dma_compute(dst, srcs, nl.add)
