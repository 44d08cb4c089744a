"""Gathers and scatters: an index for each row, against NumPy's own indexing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nki
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkiconv.simulate import use_target
from nkiconv.simulate.errors import (
    HazardError,
    OutOfBoundsError,
    UninitializedReadError,
)
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.registers import VirtualRegister

HBM = nl.shared_hbm
SKIP = nisa.oob_mode.skip


@pytest.fixture
def chip(start: Any) -> Iterator[Any]:
    """Run the test inside a program for trn2, the first with gathers."""
    with start("trn2") as begun:
        yield begun


def numbered(*shape: int) -> Any:
    return np.arange(np.prod(shape)).reshape(shape)


def column(chip: Any, indices: Any, dtype: str = "int32") -> Any:
    return chip.put(np.asarray(indices)[:, None], dtype)


@given(data=st.data())
def test_gather_and_scatter(start: Any, data: st.DataObject) -> None:
    limit, count = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    inner = data.draw(st.sampled_from([(1,), (5,), (2, 3)]))
    picked = data.draw(st.lists(st.integers(-3, limit + 3), min_size=count, max_size=count))
    inside = [0 <= i < limit for i in picked]
    table, new = numbered(limit, *inner), numbered(count, *inner) + 1000
    with start("trn3") as chip:
        index = column(chip, picked)
        dst = chip.put(np.full((count, *inner), -1), "int32")
        src = chip.put(table, "int32", HBM).vector_select(0, index)
        nisa.dma_copy(dst=dst, src=src, oob_mode=SKIP)
        expected = np.full((count, *inner), -1)
        expected[inside] = table[[i for i, ok in zip(picked, inside, strict=True) if ok]]
        np.testing.assert_array_equal(dst._array, expected)
        assert chip.program.hbm_read_bytes == 4 * sum(inside) * int(np.prod(inner))

        once = len({i for i, ok in zip(picked, inside, strict=True) if ok}) == sum(inside)
        held = chip.put(table, "int32", HBM)
        scatter = {"dst": held.vector_select(0, index), "src": chip.put(new, "int32")}
        if not once:
            with pytest.raises(HazardError, match="bring different values to one place"):
                nisa.dma_copy(**scatter, oob_mode=SKIP)
            return
        nisa.dma_copy(**scatter, oob_mode=SKIP)
        for i, ok, row in zip(picked, inside, new, strict=True):
            if ok:
                table[i] = row
        np.testing.assert_array_equal(held._array, table)


def test_gather_with_offset_within_the_rows(chip: Any) -> None:
    """As the vendor's library gathers a part of each row."""
    table = numbered(20, 12)
    index = chip.put([[9, 3], [4, 19]], "uint32").ap([[2, 2], [1, 1]], offset=1)
    dst = chip.new((2, 4), "bfloat16")
    source = chip.put(table, buffer=HBM).ap([[12, 2], [1, 4]], offset=8, vector_offset=index)
    nisa.dma_copy(dst=dst, src=source)
    np.testing.assert_array_equal(dst._array.astype(int), table[[3, 19], 8:12])


def test_rows_may_overlap_in_a_flat_cache(chip: Any) -> None:
    """An update of a cache that lies transposed, as the vendor's attention kernels do it."""
    batch, depth, length, new_tokens = 2, 3, 8, 2
    cache = chip.put(np.zeros((batch, depth, length)), buffer=HBM)
    index = column(chip, [5, 1 * depth * length + 2])
    new = numbered(batch, depth, new_tokens)
    nisa.dma_copy(
        dst=cache.reshape((batch * depth * length,)).ap(
            [[1, batch], [length, depth], [1, new_tokens]], offset=0, vector_offset=index
        ),
        src=chip.put(new),
    )
    expected = np.zeros((batch, depth, length))
    expected[0, :, 5:7], expected[1, :, 2:4] = new
    np.testing.assert_array_equal(cache._array, expected)


def test_gather_from_hbm_to_hbm(chip: Any) -> None:
    """gather_rows of the access-pattern deep dive, at a smaller size."""
    offsets = chip.new((16, 1), "int32")
    nisa.iota(offsets, [[1, 1]], 0, 2)
    result = chip.new((16, 8), buffer=HBM)
    a = chip.put(numbered(32, 8), buffer=HBM)
    nisa.dma_copy(src=a.vector_select(0, offsets), dst=result[...])
    np.testing.assert_array_equal(result._array, numbered(32, 8)[::2])


def test_rows_out_of_bounds(chip: Any) -> None:
    a = chip.put(numbered(8, 4), buffer=HBM)
    with pytest.raises(OutOfBoundsError, match=r"an index of src is 8, outside the 8 rows .*skip"):
        nisa.dma_copy(dst=chip.new((2, 4)), src=a.vector_select(0, column(chip, [0, 8])))
    assert len(chip.program.trace) == 0


def test_static_offset_that_leaves_the_tensor(chip: Any) -> None:
    """An index within the rows counts as outside where the offset takes it behind the end."""
    a = chip.put(numbered(8, 4), buffer=HBM)
    view = a.ap([[4, 2], [1, 4]], offset=8, vector_offset=column(chip, [5, 6]))
    dst = chip.put(np.zeros((2, 4)))
    with pytest.raises(OutOfBoundsError, match="an index of src is 6"):
        nisa.dma_copy(dst=dst, src=view)
    nisa.dma_copy(dst=dst, src=view, oob_mode=SKIP)
    np.testing.assert_array_equal(dst._array, [[28, 29, 30, 31], [0, 0, 0, 0]])
    partly = a.ap([[4, 1], [1, 4]], offset=2, vector_offset=column(chip, [7]))
    with pytest.raises(OutOfBoundsError, match="begins inside its memory and ends 8 B behind"):
        nisa.dma_copy(dst=chip.new((1, 4)), src=partly, oob_mode=SKIP)


def test_only_what_was_written_can_be_gathered(chip: Any) -> None:
    a = chip.new((8, 4), "int16", HBM)
    nisa.dma_copy(dst=a[2:4], src=chip.put(numbered(2, 4), "int16"))
    dst = chip.new((2, 4), "int16")
    nisa.dma_copy(dst=dst, src=a.vector_select(0, column(chip, [3, 2])))
    assert dst._array.tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    words = r"src reads through its indices elements that nothing has written, in int16\[8, 4\]"
    with pytest.raises(UninitializedReadError, match=words):
        nisa.dma_copy(dst=dst, src=a.vector_select(0, column(chip, [3, 1])))


def test_half_an_element_is_not_written(chip: Any) -> None:
    a = chip.new((4, 2), "float32", HBM)
    nisa.dma_copy(dst=a.view("int16")[:, 0:3], src=chip.put(numbered(4, 3), "int16", HBM))
    words = "src reads through its indices elements that nothing has written"
    with pytest.raises(UninitializedReadError, match=words):
        nisa.dma_copy(dst=chip.new((1, 2)), src=a.vector_select(0, column(chip, [2])))
    nisa.dma_copy(dst=chip.new((1, 1)), src=a.vector_select(0, column(chip, [2]))[:, 0:1])


def test_scattered_rows_are_seen_by_who_has_read_before(chip: Any) -> None:
    """Low-precision tensors are widened once and kept, until somebody writes."""
    held, wide = chip.put(np.zeros((4, 2)), "bfloat16", HBM), chip.new((4, 2))
    for _ in range(3):
        nisa.dma_copy(dst=wide, src=held)
    rows = held.vector_select(0, column(chip, [1]))
    nisa.dma_copy(dst=rows, src=chip.put([[3, 4]], "bfloat16"))
    nisa.dma_copy(dst=wide, src=held)
    assert wide._array.tolist() == [[0, 0], [3, 4], [0, 0], [0, 0]]


def test_what_is_skipped_stays_unwritten(chip: Any) -> None:
    a, dst = chip.put(numbered(8, 4), buffer=HBM), chip.new((3, 4))
    nisa.dma_copy(dst=dst, src=a.vector_select(0, column(chip, [1, 99, 2])), oob_mode=SKIP)
    counts = [dst._storage.count_unwritten(dst[i : i + 1], dst._element) for i in range(3)]
    assert counts == [0, 4, 0]
    out = chip.new((5, 4), buffer=HBM)
    twice = dst[0:1].ap([[4, 1], [0, 2], [1, 4]])
    nisa.dma_copy(dst=out.vector_select(0, column(chip, [4, 7])), src=twice, oob_mode=SKIP)
    counts = [out._storage.count_unwritten(out[i : i + 1], out._element) for i in range(5)]
    assert counts == [4, 4, 4, 4, 0]


def test_equal_rows_may_land_on_one_place(chip: Any) -> None:
    out = chip.new((3, 4), buffer=HBM)
    rows = chip.put([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]])
    nisa.dma_copy(dst=out.vector_select(0, column(chip, [2, 0, 2])), src=rows)
    assert out[2]._array.tolist() == [1, 2, 3, 4]
    with pytest.raises(HazardError, match="which of them stays is not defined; the index 2"):
        nisa.dma_copy(dst=out.vector_select(0, column(chip, [0, 2, 2])), src=rows)


def test_read_only_destination(chip: Any) -> None:
    frozen = chip.program.wrap_input(np.zeros((4, 2), np.float32), "float32", "x", read_only=True)
    with pytest.raises(HazardError, match="the caller's array is read-only"):
        nisa.dma_copy(dst=frozen.vector_select(0, column(chip, [0])), src=chip.put([[1, 2]]))


# Two cores.


@nki.jit
def halves(x_hbm: Any, start_hbm: Any) -> Any:
    """Scatter four rows of each core to where ``start_hbm[core]`` says."""
    core = nl.program_id(0)
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    first, tile = nl.ndarray((4, 1), nl.int32), nl.ndarray((4, 2), x_hbm.dtype)
    nisa.dma_copy(dst=first, src=start_hbm[core])
    nisa.dma_copy(dst=tile, src=x_hbm[core * 4 : core * 4 + 4])
    nisa.dma_copy(dst=y_hbm.vector_select(0, first), src=tile)
    return y_hbm


def test_cores_may_scatter_to_rows_of_their_own() -> None:
    """Only what is touched counts, though the schedule must expect any row."""
    x = numbered(8, 2).astype(np.float32)
    places = np.array([6, 1, 3, 0, 2, 7, 5, 4], np.int32)
    with use_target("trn2"):
        y = halves[2](x, places.reshape(2, 4, 1))
        np.testing.assert_array_equal(y[places], x)
        places[5] = 6
        with pytest.raises(HazardError, match="nothing orders the two"):
            halves[2](x, places.reshape(2, 4, 1))


# The record.


def test_index_is_an_operand_of_the_record(chip: Any) -> None:
    """The schedule sees what the compiler can know: that the index is read, and how far it goes."""
    index, table = column(chip, [3, 1]), chip.put(numbered(8, 4), buffer=HBM)
    nisa.dma_copy(dst=chip.new((2, 2)), src=table.vector_select(0, index)[:, 1:3])
    dst, src, read = chip.last.accesses
    assert dst.write
    assert not src.write
    assert not read.write
    assert (src.first_byte, src.end_byte) == (4, 7 * 16 + 12)
    assert read.storage == index._storage.allocation.number
    assert (read.first_byte, read.end_byte, read.end_partition) == (0, 4, 2)
    assert index._storage.allocation.last_use == 0
    held = chip.put(numbered(4, 6, 2))
    nisa.tensor_copy(dst=chip.new((4, 1)), src=held.select(1, VirtualRegister(2))[:, 1:2])
    src = chip.last.accesses[1]
    assert (src.first_byte, src.end_byte, src.end_partition) == (4, 48, 4)
    assert len(chip.last.accesses) == 2


def test_a_descriptor_for_each_gathered_row(chip: Any) -> None:
    """256 rows of 4 B, which a plain copy moves as one run."""
    table = chip.put(np.zeros((256, 1)), buffer=HBM)
    flat = chip.new((64,), buffer=HBM)
    nisa.dma_copy(dst=flat, src=table[0:64])  # at least what 512 B take
    assert chip.last.occupancy_ps == round((40 + (4.8 + 512 / 27.2) / 16) * 1000)
    nisa.dma_copy(dst=flat, src=table.vector_select(0, column(chip, range(64))))
    assert chip.last.occupancy_ps == round((40 + 64 / 16 * 50) * 1000)
