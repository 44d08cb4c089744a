"""Transfers whose addresses are known at run time only, against NumPy's own indexing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkiconv.simulate.errors import (
    ConstraintError,
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


# One index for the whole view.


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("kind", ["int32", "uint32", "register"])
def test_select_of_a_batch(start: Any, target: str, kind: str) -> None:
    x = numbered(4, 6, 5)
    with start(target) as chip:
        index = VirtualRegister(2) if kind == "register" else chip.put([[2]], kind)
        dst = chip.new((6, 5))
        nisa.dma_copy(dst=dst, src=chip.put(x, buffer=HBM).select(0, index))
        np.testing.assert_array_equal(dst._array, x[2])


def test_documented_pattern_with_a_scalar_offset(chip: Any) -> None:
    """A[batch:batch+128, 0:256] of the access-pattern deep dive, at a smaller size."""
    a = numbered(64, 12)
    result = chip.new((16, 6), buffer=HBM)
    source = chip.put(a, buffer=HBM)
    batch = chip.put([[3 * 16]], "int32")
    view = source.ap([[12, 16], [1, 6]], offset=0, scalar_offset=batch, indirect_dim=0)
    nisa.dma_copy(src=view, dst=result[...])
    np.testing.assert_array_equal(result._array, a[48:64, 0:6])


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_base_tensor_scales_the_index(chip: Any, dim: int) -> None:
    a, step = numbered(3, 4, 5), (20, 5, 1)[dim]
    dst = chip.new((2, 3))
    view = chip.put(a, buffer=HBM).ap(
        [[5, 2], [1, 3]], offset=6, scalar_offset=VirtualRegister(1), indirect_dim=dim
    )
    nisa.dma_copy(dst=dst, src=view)
    begin = 6 + step
    expected = [[begin + 5 * row + i for i in range(3)] for row in range(2)]
    assert dst._array.tolist() == expected


def test_reinterpreted_elements_count_in_the_tensor_s_own(chip: Any) -> None:
    x = np.arange(4 * 8, dtype=np.float32).reshape(4, 8)
    view = chip.put(x).ap(
        [[16, 4], [1, 4]], dtype="bfloat16", scalar_offset=VirtualRegister(3), indirect_dim=1
    )
    dst = chip.new((4, 4), "bfloat16")
    nisa.dma_copy(dst=dst, src=view)
    np.testing.assert_array_equal(dst._array.view(np.uint16), x.view(np.uint16)[:, 6:10])


@pytest.mark.parametrize("space", ["sbuf", "shared_hbm"])
def test_destination_at_an_index(chip: Any, space: str) -> None:
    dst = chip.put(np.zeros((4, 6, 3)), buffer=getattr(nl, space))
    nisa.dma_copy(dst=dst.select(1, chip.put([[4]], "uint32")), src=chip.put(numbered(4, 3)))
    expected = np.zeros((4, 6, 3))
    expected[:, 4] = numbered(4, 3)
    np.testing.assert_array_equal(dst._array, expected)


def test_both_sides_at_indices(chip: Any) -> None:
    cache, fresh = chip.put(np.zeros((9, 4)), buffer=HBM), chip.put(numbered(5, 4), buffer=HBM)
    nisa.dma_copy(
        dst=cache.select(0, VirtualRegister(8)), src=fresh.select(0, chip.put([[1]], "int32"))
    )
    assert cache._array.sum(1).tolist() == [0] * 8 + [4 + 5 + 6 + 7]


@pytest.mark.parametrize("engine", ["vector", "scalar", "gpsimd"])
def test_tensor_copy_takes_scalar_offsets(chip: Any, engine: str) -> None:
    """They replace the tensor_copy_dynamic_src and _dst of earlier releases."""
    x = numbered(4, 6, 3)
    held, dst = chip.put(x), chip.put(np.zeros((4, 3, 2)))
    nisa.tensor_copy(
        dst=dst.select(2, VirtualRegister(1)),
        src=held.select(1, chip.put([[5]], "int32")),
        engine=getattr(nisa.engine, engine),
    )
    np.testing.assert_array_equal(dst._array[:, :, 1], x[:, 5])
    np.testing.assert_array_equal(dst._array[:, :, 0], 0)


def test_register_is_read_when_the_instruction_executes(chip: Any) -> None:
    register = VirtualRegister(0)
    view, dst = chip.put(numbered(4, 6), buffer=HBM).select(0, register), chip.new((6,), buffer=HBM)
    for row in (2, 1, 3):
        register._write(row, "test")
        nisa.dma_copy(dst=dst, src=view)
        np.testing.assert_array_equal(dst._array, numbered(4, 6)[row])


def test_empty_register(chip: Any) -> None:
    view = chip.put(numbered(4, 6), buffer=HBM).select(0, VirtualRegister())
    with pytest.raises(UninitializedReadError, match=r"nisa.dma_copy: the register holds nothing"):
        nisa.dma_copy(dst=chip.new((6,), buffer=HBM), src=view)


@pytest.mark.parametrize("value", [-1, 4, 2**31 - 1])
def test_index_out_of_bounds(chip: Any, value: int) -> None:
    a, dst = chip.put(numbered(4, 6), buffer=HBM), chip.put(np.full((1, 6), 7))
    src = a.select(0, chip.put([[value]], "int32"))
    words = f"the index of src is {value}, outside the 4 elements of the dimension that it indexes"
    with pytest.raises(OutOfBoundsError, match=words):
        nisa.dma_copy(dst=dst, src=src)
    nisa.dma_copy(dst=dst, src=src, oob_mode=SKIP)
    assert dst._array.tolist() == [[7.0] * 6]
    assert chip.program.hbm_read_bytes == 0


def test_view_that_begins_inside_and_ends_outside(chip: Any) -> None:
    """Refused in every mode: what of it is skipped is not documented."""
    view = chip.put(numbered(8, 4), buffer=HBM).ap(
        [[4, 4], [1, 4]], scalar_offset=VirtualRegister(6)
    )
    for mode in nisa.oob_mode:
        with pytest.raises(OutOfBoundsError, match="begins inside its memory and ends 32 B behind"):
            nisa.dma_copy(dst=chip.new((4, 4)), src=view, oob_mode=mode)
    held = chip.put(numbered(2, 8)).ap(
        [[8, 2], [1, 3]], scalar_offset=VirtualRegister(6), indirect_dim=1
    )
    with pytest.raises(OutOfBoundsError, match="ends 4 B behind"):
        nisa.tensor_copy(dst=chip.new((2, 3)), src=held)


def test_index_that_nothing_has_written(chip: Any) -> None:
    view = chip.put(numbered(4, 6), buffer=HBM).select(0, chip.new((1, 1), "int32"))
    with pytest.raises(UninitializedReadError, match="the index of src has elements that nothing"):
        nisa.dma_copy(dst=chip.new((1, 6)), src=view)


def test_other_instructions_refuse(chip: Any) -> None:
    view = chip.put(numbered(4, 6, 3)).select(1, VirtualRegister(1))
    words = "nisa.reciprocal: data cannot be a scalar offset of run time, .*nisa.tensor_copy or"
    with pytest.raises(ConstraintError, match=words):
        nisa.reciprocal(dst=chip.new((4, 3)), data=view)
    with pytest.raises(ConstraintError, match="srcs cannot be a scalar offset of run time"):
        nisa.dma_compute(chip.new((4, 3)), [view, view], nl.add)


# An index for each row.


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
    batch, depth, length = 2, 3, 8
    cache = chip.put(np.zeros((batch, depth, length)), buffer=HBM)
    index = column(chip, [5, 1 * depth * length + 2])
    new = numbered(batch, depth)
    nisa.dma_copy(
        dst=cache.reshape((batch * depth * length,)).ap(
            [[1, batch], [length, depth], [1, 1]], offset=0, vector_offset=index
        ),
        src=chip.put(new).ap([[depth, batch], [1, depth], [1, 1]]),
    )
    expected = np.zeros((batch, depth, length))
    expected[0, :, 5], expected[1, :, 2] = new
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
    """64 rows of 512 B, which a plain copy would move as one run of each partition as well."""
    table = chip.put(np.zeros((256, 128)), buffer=HBM)
    flat = chip.new((64 * 128,), buffer=HBM)
    nisa.dma_copy(dst=flat, src=table[0:64])
    assert chip.last.occupancy_ps == round(64 * 512 / 375 * 1000)  # one run, shared out
    nisa.dma_copy(dst=flat, src=table.vector_select(0, column(chip, range(64))))
    assert chip.last.occupancy_ps == round(64 / 16 * (4.8 + 512 / 27.2) * 1000)
