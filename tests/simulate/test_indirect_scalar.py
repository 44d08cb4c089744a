"""Views that one index of run time moves as a whole, against NumPy's own indexing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nki
import numpy as np
import pytest

from nkiconv.simulate import use_target
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


def test_index_that_leaves_its_dimension_but_not_the_memory(chip: Any) -> None:
    view = chip.put(numbered(4, 6, 2), buffer=HBM).select(1, VirtualRegister(6))
    with pytest.raises(OutOfBoundsError, match="is 6, outside the 6 elements of the dimension"):
        nisa.dma_copy(dst=chip.new((3, 2)), src=view[0:3])


def test_offset_that_takes_an_index_behind_the_end(chip: Any) -> None:
    view = chip.put(numbered(8, 4), buffer=HBM).ap(
        [[1, 2]], offset=8, scalar_offset=VirtualRegister(6)
    )
    dst = chip.put([[7, 7]])
    with pytest.raises(OutOfBoundsError, match="the index of src is 6"):
        nisa.dma_copy(dst=dst, src=view)
    nisa.dma_copy(dst=dst, src=view, oob_mode=SKIP)
    assert dst._array.tolist() == [[7, 7]]


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
    words = "nisa.reciprocal: data cannot be a view at an index of run time, .*nisa.tensor_copy or"
    with pytest.raises(ConstraintError, match=words):
        nisa.reciprocal(dst=chip.new((4, 3)), data=view)
    with pytest.raises(ConstraintError, match="srcs cannot be a view at an index of run time"):
        nisa.dma_compute(chip.new((4, 3)), [view, view], nl.add)


@nki.jit
def moved(x_hbm: Any, start_hbm: Any) -> Any:
    """Copy a row of each core to where ``start_hbm[core]`` says."""
    core = nl.program_id(0)
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    index = nisa.register_alloc()
    nisa.register_load(index, start_hbm[core])
    nisa.dma_copy(dst=y_hbm.select(0, index), src=x_hbm[core])
    return y_hbm


def test_cores_may_write_at_indices_of_their_own() -> None:
    x = numbered(2, 2).astype(np.float32)
    with use_target("trn2"):
        np.testing.assert_array_equal(moved[2](x, np.array([[1], [0]], np.int32)), x[::-1])
        with pytest.raises(HazardError, match="nothing orders the two"):
            moved[2](x, np.array([[1], [1]], np.int32))
