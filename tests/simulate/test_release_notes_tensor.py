"""What the release notes of NKI 0.4, 0.5 and 0.6 say about matmuls and MX, item by item."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.simulate import simulate_kernel, use_target
from nkiconv.simulate.errors import DtypeError, HazardError, UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

E4 = "float8_e4m3fn_x4"


def psum(chip: Any, *shape: int, dtype: str = "float32") -> Any:
    return chip.new(shape, dtype, nl.psum)


def integers(rng: Any, *shape: int) -> Any:
    return rng.integers(-4, 5, shape).astype(np.float64)


def members(tensor: Any, dtype: Any = ml_dtypes.float8_e4m3fn) -> Any:
    return np.ascontiguousarray(tensor._array).view(np.uint8).view(dtype).astype(np.float64)


# NKI 0.4.0.


def test_float8_e4m3fn_inputs(start: Any, rng: Any) -> None:
    """0.4.0, new features: nc_matmul takes float8_e4m3fn on trn3, not mixed with float8_e4m3."""
    a, b = integers(rng, 8, 4), integers(rng, 8, 6)
    with start("trn3") as chip:
        dst = psum(chip, 4, 6)
        nisa.nc_matmul(dst, chip.put(a, "float8_e4m3fn"), chip.put(b, "float8_e4m3fn"))
        np.testing.assert_array_equal(dst._array, a.T @ b)
        with pytest.raises(DtypeError, match="float8_e4m3 and float8_e4m3fn cannot be mixed"):
            nisa.nc_matmul(dst, chip.put(a, "float8_e4m3"), chip.put(b, "float8_e4m3fn"))
    with start("trn2") as chip, pytest.raises(DtypeError, match="float8_e4m3fn needs trn3"):
        nisa.nc_matmul(psum(chip, 4, 6), chip.put(a, "float8_e4m3fn"), chip.put(b, "bfloat16"))


def test_operands_of_three_and_more_dimensions(chip: Any, rng: Any) -> None:
    """0.4.0, bug fixes: nc_matmul used to drop the elements of further dimensions."""
    a, b = integers(rng, 6, 2, 3), integers(rng, 6, 2, 5, 7)
    dst = psum(chip, 6, 2, 5, 7)
    nisa.nc_matmul(dst, chip.put(a), chip.put(b))
    np.testing.assert_array_equal(
        dst._array, np.einsum("kxy,kabc->xyabc", a, b).reshape(6, 2, 5, 7)
    )
    assert np.abs(dst._array).sum(axis=(0, 2, 3)).min() > 0


def test_quantize_mx_to_e4m3(start: Any) -> None:
    """0.4.0, bug fixes: quantize_mx with a float8_e4m3fn_x4 output."""
    values = np.tile([1.0, -0.5, 0.25, 3.0], (32, 2))
    with start("trn3") as chip:
        dst, scale = chip.new((32, 2), E4), chip.new((4, 2), "uint8")
        nisa.quantize_mx(dst, chip.put(values, "bfloat16"), scale)
        # The largest is 3 = 1.5 * 2: X = 2**(1 - 7), and everything else is 64 times as large.
        np.testing.assert_array_equal(members(dst), 64 * values)
        np.testing.assert_array_equal(scale._array, np.full((4, 2), 127 - 6))


def test_packed_types_on_trn3(start: Any) -> None:
    """0.4.0, bug fixes: packed MX types when targeting trn3; the others do not have them."""
    for target in ("trn1", "trn2", "trn3"):
        with start(target) as chip:
            held = chip.new((4, 6), "float8_e5m2_x4")
            if target != "trn3":
                with pytest.raises(DtypeError, match=f"needs trn3; the target is {target}"):
                    nisa.memset(dst=held, value=0)
                continue
            nisa.memset(dst=held, value=0)
            np.testing.assert_array_equal(members(held, ml_dtypes.float8_e5m2), np.zeros((4, 24)))


# NKI 0.5.0.


def test_e8m0_scales(start: Any) -> None:
    """0.5.0, new features: float8_e8m0fnu scales, where uint8 stood for them before."""
    values = np.full((32, 4), 2.0)
    with start("trn3") as chip:
        dst, scale = chip.new((32, 1), E4), chip.new((4, 1), "float8_e8m0fnu")
        nisa.quantize_mx(dst, chip.put(values, "bfloat16"), scale)
        np.testing.assert_array_equal(scale._array.astype(np.float64), np.full((4, 1), 2.0**-6))
        wide = [side.broadcast(1, 2) for side in (dst, scale)]
        product = psum(chip, 2, 1)
        nisa.nc_matmul_mx(product, wide[0], dst, wide[1], scale)
        np.testing.assert_array_equal(product._array, np.full((2, 1), 4.0 * 128))


def test_8192_columns_of_bfloat16(start: Any) -> None:
    """0.5.0, new features: nc_matmul writes up to 8192 bfloat16 elements."""
    with start("trn3") as chip:
        moving = np.arange(8192)[np.newaxis] % 97
        dst = psum(chip, 1, 8192, dtype="bfloat16")
        nisa.nc_matmul(dst, chip.put([[2.0]]), chip.put(moving))
        np.testing.assert_array_equal(dst._array.astype(np.float64), 2 * moving)


def test_block_scale_is_twice_that_of_ocp(start: Any) -> None:
    """0.5.0, improvements: the largest values of a group round up instead of being clamped.

    With OCP's sample algorithm X = 2**(0 - 8) and 1.9375 / X = 496 would be clamped to 448, 10 %
    off.  With twice that scale it is 248, between 240 and 256, and rounds to even.
    """
    values = np.zeros((32, 4))
    values[0] = [1.9375, 1.0, 0.0, 0.0]
    with start("trn3") as chip:
        dst, scale = chip.new((32, 1), E4), chip.new((4, 1), "uint8")
        nisa.quantize_mx(dst, chip.put(values, "bfloat16"), scale)
        assert scale._array[0, 0] == 127 - 7
        assert members(dst)[0].tolist() == [256.0, 128.0, 0.0, 0.0]


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_accumulating_onto_uninitialized_psum(start: Any, target: str) -> None:
    """0.5.0, improvements: where the vendor warns of accumulate=True on fresh PSUM, we refuse."""
    with start(target) as chip:
        one = chip.put(np.ones((2, 2)))
        with pytest.raises(UninitializedReadError, match="start with accumulate=False"):
            nisa.nc_matmul(psum(chip, 2, 2), one, one, accumulate=True)


def test_convolution_of_views(chip: Any, rng: Any) -> None:
    """0.5.0, bug fixes: nc_matmul with more than two dimensions in kernels for convolutions."""
    image, taps = integers(rng, 5, 8, 9), integers(rng, 5, 3, 3, 4)
    held, weights, dst = chip.put(image), chip.put(taps), psum(chip, 4, 6, 7)
    for y in range(3):
        for x in range(3):
            nisa.nc_matmul(dst, weights[:, y, x], held[:, y : y + 6, x : x + 7])
    wanted = sum(
        np.einsum("km,kyx->myx", taps[:, y, x], image[:, y : y + 6, x : x + 7])
        for y in range(3)
        for x in range(3)
    )
    np.testing.assert_array_equal(dst._array, wanted)


# NKI 0.6.0.


def test_sliced_scale_buffers(start: Any, rng: Any) -> None:
    """0.6.0, bug fixes: slices of one scale tile neither fail nor spoil what is there already."""
    a, b = rng.standard_normal((64, 8)), 100 * rng.standard_normal((64, 16))
    with start("trn3") as chip:
        shared = chip.new((64, 4), "uint8")
        parts = {0: (a, shared[0:, :2]), 4: (b, shared[4:, :])}
        data, alone = {}, {}
        for at, (values, part) in parts.items():
            data[at] = chip.new((64, values.shape[1] // 4), E4)
            alone[at] = chip.new((64, values.shape[1] // 4), "uint8")
            source = chip.put(values, "bfloat16")
            nisa.quantize_mx(data[at], source, part)
            nisa.quantize_mx(data[at], source, alone[at])
        for at, (_, part) in parts.items():
            for quadrant in (0, 32):
                np.testing.assert_array_equal(
                    part._array[quadrant : quadrant + 4], alone[at]._array[quadrant : quadrant + 4]
                )
        together, apart = psum(chip, 2, 4), psum(chip, 2, 4)
        nisa.nc_matmul_mx(together, data[0], data[4], parts[0][1], parts[4][1])
        nisa.nc_matmul_mx(apart, data[0], data[4], alone[0], alone[4])
        np.testing.assert_array_equal(together._array, apart._array)
        exact = np.einsum("kmj,knj->mn", a.reshape(64, 2, 4), b.reshape(64, 4, 4))
        assert np.abs(together._array - exact).max() < 0.05 * np.abs(exact).max()


def test_double_row_has_no_oversized_result(start: Any, rng: Any) -> None:
    """0.6.0, bug fixes: double_row used to be missed, and the result came out twice as large."""
    a, b = integers(rng, 16, 2, 6), integers(rng, 16, 2, 10)

    def kernel(first: Any, second: Any) -> Any:
        tiles = []
        for given in (first, second):
            held = nl.ndarray(given.shape, given.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=held, src=given)
            tiles.append(held)
        product = nl.ndarray((6, 10), nl.float32, buffer=nl.psum)
        nisa.nc_matmul(product, tiles[0], tiles[1], perf_mode=nisa.matmul_perf_mode.double_row)
        copied = nl.ndarray((6, 10), nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=copied, src=product)
        result = nl.ndarray((6, 10), nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=result, src=copied)
        return result

    with use_target("trn2"):
        found = simulate_kernel(
            kernel, a.astype(ml_dtypes.float8_e4m3), b.astype(ml_dtypes.float8_e5m2)
        )
    np.testing.assert_array_equal(found, np.einsum("kjm,kjn->mn", a, b))


def test_overlapping_regions_accumulate(chip: Any, rng: Any) -> None:
    """0.6.0, bug fixes: overlapping PSUM regions add up, as the taps of a convolution write them.

    Each tap writes where its input lands: the first one all columns, the others shifted parts.
    """
    line, taps = integers(rng, 3, 9), integers(rng, 3, 3, 2)
    held, weights, dst = chip.put(line), chip.put(taps), psum(chip, 2, 9)
    wanted = np.zeros((2, 9))
    for tap, (start, end) in enumerate([(0, 9), (1, 9), (2, 9)]):
        count = end - start
        nisa.nc_matmul(dst[:, start:end], weights[:, tap], held[:, :count])
        wanted[:, start:end] += taps[:, tap].T @ line[:, :count]
    np.testing.assert_array_equal(dst._array, wanted)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_accumulation_that_the_hardware_gets_wrong(start: Any, target: str) -> None:
    """0.6.0, bug fixes: the vendor warns of such patterns; here they are refused."""
    with start(target) as chip:
        one, dst = chip.put(np.ones((2, 2))), psum(chip, 2, 4)
        nisa.nc_matmul(dst[:, :2], one, one)
        with pytest.raises(HazardError, match="part of dst already holds a matmul's result"):
            nisa.nc_matmul(dst[:, 1:3], one, one)
        nisa.memset(dst=dst, value=0)
        with pytest.raises(HazardError, match="another instruction than a matmul wrote"):
            nisa.nc_matmul(dst[:, :2], one, one)
