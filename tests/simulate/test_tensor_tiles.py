"""TensorE's flags: tiles of the array, two rows of float8 at once, transposes, wide results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, DtypeError, HazardError
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.profile import _peak_us
from nkiconv.simulate.schedule import Timeline, schedule

DOUBLE = nisa.matmul_perf_mode.double_row


def psum(chip: Any, *shape: int, dtype: str = "float32") -> Any:
    return chip.new(shape, dtype, nl.psum)


def small_integers(rng: Any, *shape: int) -> Any:
    return rng.integers(-4, 5, shape).astype(np.float64)


def timeline(chip: Any) -> Timeline:
    program = chip.program
    return schedule(program.trace, program.allocations, Placement({}, {}, 0, 0), program.hardware)


def starts_ns(chip: Any) -> list[float]:
    return [at / 1000 for at in timeline(chip).start_ps]


# Tiles.


@pytest.mark.parametrize(
    ("target", "position", "size"),
    [("trn1", (0, 64), (64, 64)), ("trn1", (64, 0), (64, 128)), ("trn2", (96, 32), (32, 32)),
     ("trn2", (0, 96), (128, 32)), ("trn3", (64, 0), (64, 64)), ("trn1", [0, 0], [128, 128])],
)  # fmt: skip
def test_a_tile_multiplies_as_the_array_does(
    start: Any, rng: Any, target: str, position: Any, size: Any
) -> None:
    (row, column), (rows, columns) = position, size
    a, b = small_integers(rng, 128, columns), small_integers(rng, 128, 40)
    with start(target) as chip:
        weights, moving = chip.put(a)[row : row + rows], chip.put(b)[row : row + rows]
        dst = psum(chip, 128, 40)[column : column + columns]
        for wish in (False, True):
            nisa.nc_matmul(
                dst, weights, moving, accumulate=wish, tile_position=position, tile_size=size
            )
        inside = slice(row, row + rows)
        np.testing.assert_array_equal(dst._array, 2 * a[inside].T @ b[inside])


def test_small_tensors_lie_where_the_tile_wants_them(chip: Any, rng: Any) -> None:
    """The compiler places them; a view of a larger tensor is where it is."""
    a, b = small_integers(rng, 64, 64), small_integers(rng, 64, 8)
    tile = {"tile_position": (64, 64), "tile_size": (64, 64)}
    dst = psum(chip, 64, 8)
    nisa.nc_matmul(dst, chip.put(a), chip.put(b), **tile)
    np.testing.assert_array_equal(dst._array, a.T @ b)
    whole = chip.put(np.ones((128, 8)))
    with pytest.raises(ConstraintError, match="dst from 0, stationary from 0, moving from 0 with"):
        nisa.nc_matmul(psum(chip, 64, 8), chip.put(a), whole[:64], **tile)
    with pytest.raises(ConstraintError, match="dst at that of its first column; got dst from 0, "):
        nisa.nc_matmul(psum(chip, 128, 8)[:64], chip.put(a), whole[64:], **tile)


def test_tensors_with_an_address_lie_there(chip: Any, rng: Any) -> None:
    a = small_integers(rng, 64, 8)
    low, high = (nl.ndarray((64, 8), "float32", address=(at, 64)) for at in (0, 64))
    for tensor in (low, high):
        nisa.dma_copy(dst=tensor, src=chip.put(a, buffer=nl.shared_hbm))
    dst = psum(chip, 8, 8)
    tile = {"tile_position": (64, 0), "tile_size": (64, 128)}
    nisa.nc_matmul(dst, high, high, **tile)
    np.testing.assert_array_equal(dst._array, a.T @ a)
    with pytest.raises(ConstraintError, match="stationary from 0, moving from 64 with tile_pos"):
        nisa.nc_matmul(dst, low, high, **tile)


@pytest.mark.parametrize(
    ("position", "size", "words"),
    [
        ((0, 0), (), "must both be left out, or both be two whole numbers; got tile_position="),
        ((0, 0, 0), (64, 64), "must both be left out"),
        ((0, True), (64, 64), "must both be left out"),
        ((0, 0.0), (64, 64), "must both be left out"),
        ((0, 0), (64, 32), "tile_size must be 128 or 64 rows and columns each, from trn2 on also"),
        ((0, 0), (96, 128), "tile_size must be 128 or 64"),
        ((128, 0), (64, 128), "tile_position must be multiples of tile_size below 128"),
        ((0, -64), (64, 64), "tile_position must be multiples of tile_size below 128"),
        ((0, 64), (128, 128), "tile_position must be multiples of tile_size below 128"),
        ((0, 0), (64, 128), "at most 128 partitions and columns, or tile_size; got 100 partitions"),
    ],
)
def test_tiles_that_do_not_exist(chip: Any, position: Any, size: Any, words: str) -> None:
    a = chip.put(np.ones((100, 8)))
    with pytest.raises((ConstraintError, AssertionError), match=words):
        nisa.nc_matmul(psum(chip, 8, 8), a, a, tile_position=position, tile_size=size)


def test_disjoint_tiles_work_side_by_side(start: Any) -> None:
    """Four row tiles of 512 columns; each starts 64 cycles after the one before (assumed)."""
    with start("trn2") as chip:
        a, b = chip.put(np.ones((128, 32)), "bfloat16"), chip.put(np.ones((128, 512)), "bfloat16")
        banks = [psum(chip, 32, 512) for _ in range(5)]
        for bank, row in zip(banks, (0, 32, 64, 96, 32), strict=True):
            nisa.nc_matmul(
                bank, a[row : row + 32], b[row : row + 32],
                tile_position=(row, 0), tile_size=(32, 128),
            )  # fmt: skip
        nisa.nc_matmul(banks[0], a, b, accumulate=False)
        busy = (512 + 6) / 2.4
        each = 64 / 2.4
        wanted = [0, each, 2 * each, 3 * each, each + busy, each + 2 * busy]
        np.testing.assert_allclose(starts_ns(chip), wanted, atol=0.01)
        # Busy is when any cell works, so that it never exceeds the time that passes.
        assert timeline(chip).busy_ps[0] == pytest.approx(1000 * (each + 3 * busy), abs=5)


def test_column_tiles_and_row_tiles_share_no_cell_or_wait(start: Any) -> None:
    with start("trn2") as chip:
        a = chip.put(np.ones((128, 64)), "bfloat16")
        b = chip.put(np.ones((128, 256)), "bfloat16")
        for column, row, rows in ((0, 0, 128), (64, 0, 64), (64, 64, 64), (0, 64, 64)):
            nisa.nc_matmul(
                psum(chip, 128, 256)[column : column + 64], a[row : row + rows],
                b[row : row + rows], tile_position=(row, column), tile_size=(rows, 64),
            )  # fmt: skip
        each, busy = 64 / 2.4, 262 / 2.4
        np.testing.assert_allclose(starts_ns(chip), [0, each, 2 * each, busy], atol=0.01)


# Two rows of float8 at once.


@pytest.mark.parametrize(
    ("target", "first", "second"),
    [("trn2", "float8_e4m3", "float8_e5m2"), ("trn3", "float8_e4m3fn", "float8_e4m3fn"),
     ("trn3", "float8_e5m2", "float8_e4m3fn")],
)  # fmt: skip
@pytest.mark.parametrize(("rows", "columns", "moving"), [(1, 1, 3), (128, 128, 512)])
def test_double_row(
    start: Any, rng: Any, target: str, first: str, second: str, rows: int, columns: int, moving: int
) -> None:
    """``[128, 2, M]`` and ``[128, 2, N]``: the contraction is 256 long."""
    a, b = small_integers(rng, rows, 2, columns), small_integers(rng, rows, 2, moving)
    with start(target) as chip:
        dst = psum(chip, columns, moving)
        nisa.nc_matmul(dst, chip.put(a, first), chip.put(b, second), perf_mode=DOUBLE)
        np.testing.assert_array_equal(dst._array, np.einsum("kjm,kjn->mn", a, b))
        assert chip.program.macs == rows * 2 * columns * moving
        assert chip.program.moving_columns == moving
        assert dict(chip.program.macs_by_type) == {second: rows * 2 * columns * moving}


def test_double_row_of_strided_views_by_its_name(start: Any, rng: Any) -> None:
    """As the vendor's kernels write it: two heads of a larger tile, and the mode as a string."""
    a, b = small_integers(rng, 16, 6, 8), small_integers(rng, 16, 2, 4, 10)
    with start("trn2") as chip:
        weights, moving = chip.put(a, "float8_e4m3"), chip.put(b, "float8_e4m3")
        dst = psum(chip, 8, 20)
        nisa.nc_matmul(dst, weights[:, 1:4:2], moving[:, :, ::2], perf_mode="double_row")
        wanted = np.einsum("kjm,kjn->mn", a[:, 1:4:2], b[:, :, ::2].reshape(16, 2, 20))
        np.testing.assert_array_equal(dst._array, wanted)
        nisa.nc_matmul(psum(chip, 16, 80), weights[:, :2], moving, perf_mode="none")


def test_double_row_has_half_the_columns_of_its_elements(start: Any) -> None:
    with start("trn2") as chip:
        a, b = chip.put(np.ones((2, 2, 129)), "float8_e5m2"), chip.put(
            np.ones((2, 2, 513)), "float8_e5m2"
        )  # fmt: skip
        with pytest.raises(AssertionError, match="got 2 partitions and 129 columns for 128"):
            nisa.nc_matmul(psum(chip, 4, 512), a, b[:, :, :512], perf_mode=DOUBLE)
        with pytest.raises(AssertionError, match="got 513 columns for 512 on trn2"):
            nisa.nc_matmul(psum(chip, 4, 512), a[:, :, :4], b, perf_mode=DOUBLE)
        with pytest.raises(AssertionError, match="first free dimension of 2, in stationary and"):
            nisa.nc_matmul(psum(chip, 4, 512), a[:, 0, :4], b[:, 0, :512], perf_mode=DOUBLE)
        identity = chip.put(np.ones((2, 2, 2)), "float8_e5m2")
        with pytest.raises(ConstraintError, match="column tiles or is_transpose; got is_transpose"):
            nisa.nc_matmul(
                psum(chip, 2, 2), identity, identity, is_transpose=True, perf_mode=DOUBLE
            )


# Transposes.


@pytest.mark.parametrize(
    ("target", "dtype", "result"),
    [("trn1", "bfloat16", "float32"), ("trn1", "float32", "float32"),
     ("trn2", "bfloat16", "bfloat16"), ("trn2", "float16", "float16"),
     ("trn2", "float32", "float32"), ("trn3", "bfloat16", "bfloat16")],
)  # fmt: skip
def test_transpose_by_a_matmul(start: Any, rng: Any, target: str, dtype: str, result: str) -> None:
    values = small_integers(rng, 40, 5, 20)
    with start(target) as chip:
        dst = psum(chip, 100, 40, dtype=result)
        nisa.nc_matmul(dst, chip.put(values, dtype), chip.put(np.eye(40), dtype), is_transpose=True)
        np.testing.assert_array_equal(dst._array.astype(np.float64), values.reshape(40, 100).T)
        assert (chip.program.macs, chip.program.moving_columns) == (0, 0)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_transpose_mode_keeps_nan_and_infinity_apart(start: Any, target: str) -> None:
    """trn1 multiplies and adds: NaN and infinity times 0 spoil the sums that they meet."""
    values = np.array([[1.0, np.nan, 3.0], [np.inf, 5.0, 6.0]], np.float32)
    with start(target) as chip:
        dst = psum(chip, 3, 2)
        nisa.nc_matmul(dst, chip.put(values), chip.put(np.eye(2)), is_transpose=True)
        expected = values.T.copy()
        if target == "trn1":
            expected[0, 0], expected[1, 1] = np.nan, np.nan
        np.testing.assert_array_equal(dst._array, expected)


def test_transpose_mode_keeps_every_bit(start: Any) -> None:
    bits = np.array([[0x7FC1, 0x8000], [0xFF81, 0x0001]], dtype=np.uint16)
    with start("trn2") as chip:
        dst = psum(chip, 2, 2, dtype="bfloat16")
        data = chip.put(bits, "uint16").view("bfloat16")
        nisa.nc_matmul(dst, data, chip.put(np.eye(2), "bfloat16"), is_transpose=True)
        np.testing.assert_array_equal(dst.view("uint16")._array, bits.T)


def test_float8_is_transposed_into_16_bits(start: Any) -> None:
    """The upper half is zero (A3, Built-in Transpose Support)."""
    bits = np.array([[0x7F, 0x80, 0x01], [0xFF, 0x38, 0x00]], dtype=np.uint8)
    with start("trn2") as chip:
        data = chip.put(bits, "uint8").view("float8_e4m3")
        one = chip.put(np.eye(2), "float8_e4m3")
        dst = psum(chip, 3, 2, dtype="uint16")
        nisa.nc_matmul(dst, data, one, is_transpose=True)
        np.testing.assert_array_equal(dst._array, bits.T)
        with pytest.raises(DtypeError, match="float8 as uint16 with zeros in the upper half"):
            nisa.nc_matmul(psum(chip, 3, 2, dtype="float8_e4m3"), data, one, is_transpose=True)


def test_a_transpose_does_not_accumulate(start: Any) -> None:
    with start("trn2") as chip:
        data, one = chip.put(np.ones((2, 3))), chip.put(np.eye(2))
        dst = psum(chip, 3, 2)
        with pytest.raises(HazardError, match="passes bits on and cannot add them"):
            nisa.nc_matmul(dst, data, one, is_transpose=True, accumulate=True)
        nisa.nc_matmul(dst, data, one, is_transpose=True)
        with pytest.raises(HazardError, match="set accumulate=False, or use a fresh tensor"):
            nisa.nc_matmul(dst, data, one, is_transpose=True)
        nisa.nc_matmul(dst, data, one, is_transpose=True, accumulate=False)
        np.testing.assert_array_equal(dst._array, np.ones((3, 2)))


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_a_transpose_needs_the_identity(start: Any, target: str) -> None:
    with start(target) as chip:
        data = chip.put(np.ones((2, 3)))
        for moving in ([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]):
            held = chip.put(moving)
            with pytest.raises(HazardError, match="moving of a transpose must be the identity"):
                nisa.nc_matmul(psum(chip, 3, held.shape[1]), data, held, is_transpose=True)


# Results on trn3.


@pytest.mark.parametrize(("dtype", "columns"), [("float32", 4096), ("bfloat16", 8192)])
def test_a_result_may_fill_psum_on_trn3(start: Any, dtype: str, columns: int) -> None:
    a, b = np.full((2, 3), 2.0), np.arange(2 * columns).reshape(2, columns) % 50
    with start("trn3") as chip:
        dst = psum(chip, 3, columns, dtype=dtype)
        weights, moving = chip.put(a, "bfloat16"), chip.put(b, "bfloat16")
        for times_added in (1, 2):
            nisa.nc_matmul(dst, weights, moving)
            np.testing.assert_array_equal(dst._array.astype(np.float64), times_added * (a.T @ b))
        assert HARDWARE["trn3"].psum_banks == 8


def test_bfloat16_results_are_added_in_float32_and_rounded_each_time(start: Any) -> None:
    """A4, BF16 Matmul Results in PSUM: 256 + 1 is 257, between the bfloat16 256 and 258."""
    with start("trn3") as chip:
        dst, one = psum(chip, 1, 1, dtype="bfloat16"), chip.put([[1.0]])
        nisa.nc_matmul(dst, one, chip.put([[256.0]]), accumulate=False)
        for step, sum_in_psum in ((1.0, 256.0), (1.0, 256.0), (1.5, 258.0)):
            nisa.nc_matmul(dst, one, chip.put([[step]]), accumulate=True)
            assert float(dst._array[0, 0]) == sum_in_psum


@pytest.mark.parametrize(
    ("target", "dtype", "teraflops"),
    [("trn1", "bfloat16", 92), ("trn1", "float32", 23), ("trn1", "float8_e5m2", 92),
     ("trn2", "bfloat16", 79), ("trn2", "float8_e4m3", 158), ("trn2", "float32", 20),
     ("trn3", "float8_e4m3fn_x4", 315), ("trn3", "float4_e2m1fn_x4", 315), ("trn3", "float16", 79)],
)  # fmt: skip
def test_peak_rates(target: str, dtype: str, teraflops: float) -> None:
    """A2, A3 and A4 state them, rounded, for the best mode of each type."""
    macs_per_us = 1e9 / _peak_us(dtype, 10**9, HARDWARE[target])
    assert 2 * macs_per_us / 1e6 == pytest.approx(teraflops, rel=0.02)
