"""What the release notes of NKI 0.3 to 0.6 say of DMA and of offsets in registers.

Each is a defect that the vendor mended in its own simulator, or a change that kernels depend on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    NkiconvError,
    OutOfBoundsError,
    ShapeError,
)
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.registers import VirtualRegister

HBM = nl.shared_hbm
SKIP = nisa.oob_mode.skip


@pytest.fixture
def chip(start: Any) -> Iterator[Any]:
    """Run the test inside a program for trn2."""
    with start("trn2") as begun:
        yield begun


# 0.3.0.


def test_no_integers_for_enumerations(chip: Any) -> None:
    """0.3.0, Breaking changes: raw integer enum constants are no longer accepted."""
    x = chip.put([[1.0, 2.0]], buffer=HBM)
    for options in ({"dge_mode": 2}, {"oob_mode": 0}, {"dge_mode": 3}):
        with pytest.raises(ConstraintError, match=r"must be a member of nki.isa"):
            nisa.dma_copy(dst=chip.new((1, 2)), src=x, **options)


def test_no_psum(chip: Any) -> None:
    """0.3.0, Breaking changes: dma_copy no longer reads directly from PSUM."""
    with pytest.raises(ConstraintError, match="src must be in HBM or SBUF"):
        nisa.dma_copy(dst=chip.new((4, 8)), src=chip.new((4, 8), buffer=nl.psum))


def test_hardware_descriptors_do_not_cast(chip: Any) -> None:
    """0.3.0, Breaking changes: hwdge enforces matching element types."""
    x, dst = chip.put([[1.0, 2.0]], "float16", HBM), chip.new((1, 2), "bfloat16")
    with pytest.raises(DtypeError, match=r"between equal dtypes only; reinterpret with .view"):
        nisa.dma_copy(dst=dst, src=x, dge_mode=nisa.dge_mode.hwdge)
    nisa.dma_copy(dst=dst.view("float16"), src=x, dge_mode=nisa.dge_mode.hwdge)
    assert dst._array.view(np.float16).tolist() == [[1.0, 2.0]]


def test_update_is_another_instruction(chip: Any) -> None:
    """0.3.0, Breaking changes: dst_rmw_op and unique_indices of dma_copy are gone."""
    x = chip.put([[1.0, 2.0]], buffer=HBM)
    for option in ("dst_rmw_op", "unique_indices"):
        with pytest.raises(TypeError, match=option):
            nisa.dma_copy(dst=chip.new((1, 2)), src=x, **{option: None})


# 0.4.0.


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int16"])
def test_skip_keeps_the_bits_of_integers(chip: Any, dtype: str) -> None:
    """0.4.0, Bug fixes: dma_copy with oob_mode.skip no longer casts integers to float32."""
    limits = np.iinfo(dtype)
    table = np.array([[limits.max, limits.max - 1], [limits.min, 2**14 + 1]])
    dst = chip.put(np.full((3, 2), limits.max - 2), dtype)
    index = chip.put([[1], [5], [0]], "int32")
    nisa.dma_copy(dst=dst, src=chip.put(table, dtype, HBM).vector_select(0, index), oob_mode=SKIP)
    np.testing.assert_array_equal(dst._array, [table[1], [limits.max - 2] * 2, table[0]])


def test_offset_of_iota_in_a_register(chip: Any) -> None:
    """0.4.0, Bug fixes: iota handles dynamic register offsets, each time anew."""
    dst, register = chip.new((4, 3), "int32"), VirtualRegister(100)
    for offset in (100, -7, 0):
        register._write(offset, "test")
        nisa.iota(dst, [[2, 3]], register, 10)
        expected = offset + 10 * np.arange(4)[:, None] + 2 * np.arange(3)
        np.testing.assert_array_equal(dst._array, expected)


def test_offset_of_affine_select_in_a_register(chip: Any) -> None:
    """0.4.0, Bug fixes: affine_select handles dynamic register offsets, each time anew."""
    x, register = chip.put(np.ones((4, 6))), VirtualRegister(0)
    for offset in (0, 2, -3):
        register._write(offset, "test")
        dst = chip.new((4, 6))
        nisa.affine_select(dst, [[-1, 6]], 1, x, -5.0, cmp_op=nl.greater_equal, offset=register)
        holds = offset + np.arange(4)[:, None] - np.arange(6) >= 0
        np.testing.assert_array_equal(dst._array, np.where(holds, 1, -5))


def test_offset_in_a_register_that_is_too_large(chip: Any) -> None:
    """0.4.0: what the register holds is checked like a number, though a call looks the same."""
    dst, register = chip.new((4, 3), "uint8"), VirtualRegister(0)
    nisa.iota(dst, [[1, 3]], register)
    register._write(254, "test")
    with pytest.raises(DtypeError, match="representable in dst's integer dtype"):
        nisa.iota(dst, [[1, 3]], register)
    with pytest.raises(NkiconvError, match=r"nisa.iota: the register holds nothing yet"):
        nisa.iota(dst, [[1, 3]], VirtualRegister())


def test_skip_of_dma_compute(chip: Any) -> None:
    """0.4.0, New features: dma_compute takes oob_mode, skip with indirect indexing only."""
    held, more = chip.put(np.ones((2, 3))), chip.put(np.full((4, 3), 5), buffer=HBM)
    with pytest.raises(ConstraintError, match=r"oob_mode.skip needs an operand with an address"):
        nisa.dma_compute(held, [held, more[0:2]], nl.add, oob_mode=SKIP)
    rows = more.vector_select(0, chip.put([[4], [3]], "int32"))
    nisa.dma_compute(held, [held, rows], nl.add, oob_mode=SKIP)
    assert held._array.tolist() == [[1] * 3, [6] * 3]


def test_dma_compute_does_not_scale(chip: Any) -> None:
    """0.4.0, Bug fixes: dma_compute no longer applies a scale that the hardware does not have."""
    x = chip.put(np.ones((2, 3)), buffer=HBM)
    with pytest.raises(ConstraintError, match=r"scales must be None, or 1.0 for each of srcs"):
        nisa.dma_compute(chip.new((2, 3)), [x, x], nl.add, scales=[1.0, 0.5])


def test_rank_of_a_transpose(chip: Any) -> None:
    """0.4.0, Breaking changes: dst of dma_transpose has the rank of src, too."""
    src, dst = chip.put(np.ones((16, 1, 1, 8)), "float16", HBM), chip.new((8, 1, 16), "float16")
    with pytest.raises(ShapeError, match="of the same rank"):
        nisa.dma_transpose(dst=dst, src=src, axes=(3, 1, 2, 0))
    nisa.dma_transpose(dst=dst.expand_dim(2), src=src, axes=(3, 1, 2, 0))


def test_loop_counter_as_offset(chip: Any) -> None:
    """0.4.0, Bug fixes: a loop's counter is a register, and can be a scalar_offset."""
    table, out = np.arange(32).reshape(8, 4), chip.new((8, 4), buffer=HBM)
    source, tile = chip.put(table, buffer=HBM), chip.new((2, 4))
    for start in (0, 2, 4, 6):
        counter = VirtualRegister(start, frozen=True)
        nisa.dma_copy(dst=tile, src=source.ap([[4, 2], [1, 4]], scalar_offset=counter))
        nisa.dma_copy(dst=out.ap([[4, 2], [1, 4]], scalar_offset=counter), src=tile)
    np.testing.assert_array_equal(out._array, table)


# 0.5.0.


def test_skip_of_a_transpose_at_one_index(chip: Any) -> None:
    """0.5.0, New features: dma_transpose with scalar_offset takes oob_mode.skip."""
    x, dst = np.arange(4 * 16 * 8).reshape(4, 16, 8), chip.put(np.full((8, 16), -1), "int16")
    source, index = chip.put(x, "int16", HBM), chip.put([[4]], "int32")
    with pytest.raises(OutOfBoundsError, match="the index of src is 4"):
        nisa.dma_transpose(dst=dst, src=source.select(0, index))
    nisa.dma_transpose(dst=dst, src=source.select(0, index), oob_mode=SKIP)
    assert (dst._array == -1).all()
    nisa.dma_transpose(dst=dst, src=source.select(0, chip.put([[2]], "int32")), oob_mode=SKIP)
    np.testing.assert_array_equal(dst._array, x[2].T)


def test_gather_transpose_keeps_dst(chip: Any) -> None:
    """0.5.0, Bug fixes: a gather transpose no longer overwrites dst where an index is outside."""
    x, dst = np.arange(20 * 8).reshape(20, 8), chip.put(np.full((8, 16), -1), "int16")
    picked = np.arange(16) * 2
    src = chip.put(x, "int16", HBM).vector_select(0, chip.put(picked[:, None], "uint32"))
    nisa.dma_transpose(dst=dst, src=src, oob_mode=SKIP)
    expected = np.full((8, 16), -1)
    expected[:, :10] = x[picked[:10]].T
    np.testing.assert_array_equal(dst._array, expected)


def test_reinterpreted_rows(chip: Any) -> None:
    """0.5.0, Known issues: reinterpret_cast with vector_select is not supported yet."""
    rows = chip.put(np.ones((4, 8)), buffer=HBM).vector_select(0, chip.put([[1]], "int32"))
    with pytest.raises(ConstraintError, match="not supported after a dynamic or vector select"):
        rows.reinterpret_cast("bfloat16")


# 0.6.0.


def test_relaxed_transposes(chip: Any) -> None:
    """0.6.0, New features: hwdge takes 1, 2, 4 or 8 rows, and less than 128 columns."""
    x = np.arange(2 * 8 * 40).reshape(2, 8, 40)
    dst = chip.new((40, 8, 2), "int16")
    nisa.dma_transpose(dst=dst, src=chip.put(x, "int16", HBM), dge_mode=nisa.dge_mode.hwdge)
    np.testing.assert_array_equal(dst._array, x.transpose(2, 1, 0))
