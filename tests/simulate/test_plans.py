"""What a call takes over from an earlier one that looks like it, and what it must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate import profile, simulate_kernel
from nkiconv.simulate.errors import (
    ConstraintError,
    NkiconvError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

# --- Calls that look alike, and calls that only seem to -------------------------------------------


def test_an_option_that_is_named_later_is_checked(chip: Any) -> None:
    a, b = chip.put(np.ones((4, 8))), chip.new((4, 8))
    for _ in range(2):
        nisa.tensor_copy(dst=b, src=a)
    for _ in range(2):
        with pytest.raises(ConstraintError, match=r"engine=.*tensor"):
            nisa.tensor_copy(dst=b, src=a, engine=nisa.engine.tensor)
        with pytest.raises(ConstraintError, match=r"engine=.*tensor"):
            nisa.tensor_copy(b, a, nisa.engine.tensor)


def test_an_option_counts_with_its_type(chip: Any) -> None:
    """2 and 2.0 are equal, but an integer dtype takes the first alone."""
    b = chip.new((4, 8), "int32")
    for _ in range(2):
        nisa.memset(dst=b, value=2)
        with pytest.raises(NkiconvError, match=r"2 instead of 2\.0"):
            nisa.memset(dst=b, value=2.0)


def test_positions_and_names_are_one_call(start: Any) -> None:
    """Costs and accesses do not depend on how arguments are passed."""
    for target in ("trn1", "trn2"):
        with start(target) as chip:
            a, b = chip.put(np.ones((4, 8))), chip.new((4, 8))
            engine = nisa.engine.vector
            nisa.tensor_copy(dst=b, src=a, engine=engine, name="x")
            nisa.tensor_copy(b, a, engine, "x")
            nisa.tensor_copy(b, a, name="x", engine=engine)
            steps = list(chip.program.trace.steps())
        for step in steps[1:]:
            assert (step.occupancy_ps, step.lane, step.accesses, step.label) == (
                steps[0].occupancy_ps,
                steps[0].lane,
                steps[0].accesses,
                "x",
            )


def test_another_shape_or_place_is_another_call(chip: Any) -> None:
    a, b = chip.put(np.ones((128, 8))), chip.new((128, 8))
    nisa.tensor_copy(dst=b[0:32], src=a[0:32])
    nisa.tensor_copy(dst=b[32:64], src=a[96:128])
    with pytest.raises(ConstraintError, match="covers 32 partitions from 16"):
        nisa.tensor_copy(dst=b[16:48], src=a[0:32])
    with pytest.raises(ShapeError):
        nisa.tensor_copy(dst=b[0:32, 0:7], src=a[0:32])
    boxes = [[a.first_partition for a in s.accesses] for s in chip.program.trace.steps()]
    assert boxes == [[0, 0], [32, 96]]


def test_what_memory_holds_is_asked_every_time(chip: Any) -> None:
    a, b, fresh = chip.put(np.ones((4, 8))), chip.new((4, 8)), chip.new((4, 8))
    nisa.tensor_copy(dst=b, src=a)
    with pytest.raises(UninitializedReadError, match="src reads 32 of 32 elements"):
        nisa.tensor_copy(dst=b, src=fresh)


def test_a_matmul_is_counted_every_time(chip: Any) -> None:
    a, b = chip.put(np.ones((4, 8))), chip.put(np.ones((4, 16)))
    acc = chip.new((8, 16), buffer=nl.psum)
    for _ in range(3):
        nisa.nc_matmul(dst=acc, stationary=a, moving=b)
    assert chip.program.macs == 3 * 4 * 8 * 16
    assert chip.program.moving_columns == 3 * 16
    assert chip.program.macs_by_type == {"float32": 3 * 4 * 8 * 16}


# --- Source lines ---------------------------------------------------------------------------------


def _double(dst: Any, src: Any) -> None:
    nisa.tensor_tensor(dst=dst, data1=src, data2=src, op=nl.add)


def _kernel(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    a_sb = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=a_sb, src=x_hbm)
    for _ in range(2):
        _double(a_sb, a_sb)
        a_sb = nl.add(a_sb, a_sb)
        a_sb = nl.add(a_sb, a_sb)
    nisa.dma_copy(dst=y_hbm, src=a_sb)
    return y_hbm


def test_every_instruction_has_its_own_line() -> None:
    """Also in a second round, when the place is known; functions on tiles have the caller's."""
    x = np.ones((4, 8), np.float32)
    result, seen = profile(simulate_kernel, _kernel, x)
    assert (result == 64).all()
    first = _kernel.__code__.co_firstlineno
    helper = _double.__code__.co_firstlineno + 1
    lines = [e.source for e in seen.events if e.opcode not in ("start", "end")]
    expected = [first + 3, *[helper, first + 6, first + 7] * 2, first + 8]
    assert lines == [f"test_plans.py:{line}" for line in expected]


# --- Work in the destination ----------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("backwards", [False, True])
def test_pairs_that_overlap_their_destination(chip: Any, shift: int, backwards: bool) -> None:
    """All of the operands is read before anything is written."""
    values = np.arange(4 * 12, dtype=np.float32).reshape(4, 12)
    a = chip.put(values)
    low, high = slice(0, 8), slice(shift, shift + 8)
    into, out_of = (high, low) if backwards else (low, high)
    nisa.tensor_tensor(dst=a[:, into], data1=a[:, out_of], data2=a[:, low], op=nl.add)
    expected = values.copy()
    expected[:, into] = values[:, out_of] + values[:, low]
    np.testing.assert_array_equal(a._array, expected)


def test_pairs_round_to_tfloat32(chip: Any) -> None:
    """tfloat32 is held as float32, but has 10 bits of mantissa: 1 + 2^-11 is a tie, to even."""
    a, dst = chip.put(np.full((2, 2), 1 + 2.0**-11)), chip.new((2, 2), "tfloat32")
    zero = chip.put(np.zeros((2, 2)))
    nisa.tensor_tensor(dst=dst, data1=a, data2=zero, op=nl.add)
    assert (dst._array == 1).all()


def test_pairs_into_another_shape(chip: Any) -> None:
    a, b = chip.put(np.arange(16.0).reshape(2, 8)), chip.put(np.ones((2, 8)))
    dst = chip.new((2, 2, 4))
    nisa.tensor_tensor(dst=dst, data1=a, data2=b, op=nl.add)
    np.testing.assert_array_equal(dst._array.reshape(2, 8), np.arange(1.0, 17).reshape(2, 8))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int16"])
def test_memset_of_a_part(chip: Any, dtype: str) -> None:
    a = chip.put(np.zeros((4, 8)), dtype)
    nisa.memset(dst=a[:, 2:4], value=3)
    expected = np.zeros((4, 8))
    expected[:, 2:4] = 3
    np.testing.assert_array_equal(a._array.astype(np.float64), expected)
