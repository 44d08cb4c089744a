"""MX on trn3: quantization by groups of 32, and matmuls with scales.

The references below work on plain float64 arrays with one scale for each group of 8 partitions by
4 numbers; they know nothing of quadrants or packing.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.simulate.errors import HazardError, UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

E5, E4, F4 = "float8_e5m2_x4", "float8_e4m3fn_x4", "float4_e2m1fn_x4"
MEMBER = {
    E5: ml_dtypes.float8_e5m2,
    E4: ml_dtypes.float8_e4m3fn,
    F4: ml_dtypes.float4_e2m1fn,
}
BITS = {E5: "uint32", E4: "uint32", F4: "uint16"}


@pytest.fixture
def chip(start: Any) -> Any:
    with start("trn3") as begun:
        yield begun


def psum(chip: Any, *shape: int, dtype: str = "float32") -> Any:
    return chip.new(shape, dtype, nl.psum)


def bits_of(members: Any, dtype: str) -> Any:
    """Pack members, given as floats of shape (..., 4 F), the way the formats' definition has it."""
    codes = members.astype(MEMBER[dtype]).view(np.uint8).astype(np.uint64)
    width = 4 if dtype == F4 else 8
    fours = codes.reshape(*codes.shape[:-1], -1, 4)
    return sum(fours[..., i] << np.uint64(width * i) for i in range(4))


def random_members(rng: Any, dtype: str, *shape: int) -> Any:
    """Return numbers that the members hold exactly, of all sizes."""
    values = rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.integers(-3, 3, shape)
    return values.astype(MEMBER[dtype]).astype(np.float64)


def scaled(members: Any, exponents: Any) -> Any:
    """Return members times scales: (K, 4 F) and biased exponents (K / 8, F)."""
    factors = 2.0 ** (exponents.astype(np.float64) - 127)
    return members * np.repeat(np.repeat(factors, 8, axis=0), 4, axis=1)


def by_hand(a: Any, b: Any) -> Any:
    """Return the product over partitions and members of scaled operands (K, 4 M) and (K, 4 N)."""
    k = len(a)
    return np.einsum("kmj,knj->mn", a.reshape(k, -1, 4), b.reshape(k, -1, 4))


def spread(chip: Any, exponents: Any, rows: int, at: int = 0, dtype: str = "uint8") -> Any:
    """Put scales (K / 8, F) into a tile where the instructions look for them."""
    tile = np.full((rows, exponents.shape[1]), 200)  # what nothing should look at
    for group, row in enumerate(exponents):
        tile[group // 4 * 32 + group % 4 + at] = row
    return chip.put(tile, "uint8").view(dtype)


# Matmul.


@pytest.mark.parametrize(("first", "second"), [(E5, E5), (E4, E4), (F4, F4), (F4, E5), (E4, F4)])
@pytest.mark.parametrize(("rows", "m", "n"), [(32, 2, 1), (96, 6, 7), (128, 128, 512)])
@pytest.mark.parametrize("scale", ["uint8", "float8_e8m0fnu"])
def test_product(
    chip: Any, rng: Any, first: str, second: str, rows: int, m: int, n: int, scale: str
) -> None:
    a, b = random_members(rng, first, rows, 4 * m), random_members(rng, second, rows, 4 * n)
    ea, eb = rng.integers(125, 130, (rows // 8, m)), rng.integers(120, 123, (rows // 8, n))
    dst = psum(chip, m, n)
    nisa.nc_matmul_mx(
        dst, chip.put(bits_of(a, first), BITS[first]).view(first),
        chip.put(bits_of(b, second), BITS[second]).view(second),
        spread(chip, ea, rows, dtype=scale), spread(chip, eb, rows, dtype=scale),
    )  # fmt: skip
    exact = by_hand(scaled(a, ea), scaled(b, eb))
    magnitude = by_hand(np.abs(scaled(a, ea)), np.abs(scaled(b, eb)))
    assert np.all(np.abs(dst._array - exact) <= 4 * rows * 2.0**-24 * magnitude)
    assert chip.program.macs == 4 * rows * m * n
    assert chip.program.moving_columns == n


def test_few_partitions_need_no_more_than_their_scales(chip: Any, rng: Any) -> None:
    a, b = random_members(rng, E4, 32, 8), random_members(rng, E4, 32, 12)
    ea, eb = rng.integers(125, 130, (4, 2)), rng.integers(125, 130, (4, 3))
    dst = psum(chip, 2, 3)
    weights, moving = (chip.put(bits_of(x, E4), "uint32").view(E4) for x in (a, b))
    nisa.nc_matmul_mx(dst, weights, moving, chip.put(ea, "uint8"), chip.put(eb, "uint8"))
    np.testing.assert_array_equal(dst._array, by_hand(scaled(a, ea), scaled(b, eb)))


@pytest.mark.parametrize("at", [0, 4, 8, 12])
def test_packed_scales(chip: Any, rng: Any, at: int) -> None:
    """Scales of several tensors side by side: those of this one begin `at` into each quadrant."""
    a, b = random_members(rng, E5, 64, 8), random_members(rng, E5, 64, 12)
    ea, eb = rng.integers(125, 130, (8, 2)), rng.integers(125, 130, (8, 3))
    dst = psum(chip, 2, 3)
    weights, moving = (chip.put(bits_of(x, E5), "uint32").view(E5) for x in (a, b))
    nisa.nc_matmul_mx(dst, weights, moving, spread(chip, ea, 64, at)[at:], spread(chip, eb, 64, 0))
    np.testing.assert_array_equal(dst._array, by_hand(scaled(a, ea), scaled(b, eb)))


def test_accumulation_and_row_tiles(chip: Any, rng: Any) -> None:
    a, b = random_members(rng, E4, 128, 8), random_members(rng, E4, 128, 12)
    ea, eb = rng.integers(125, 130, (16, 2)), rng.integers(125, 130, (16, 3))
    weights, moving = (chip.put(bits_of(x, E4), "uint32").view(E4) for x in (a, b))
    scales = spread(chip, ea, 128), spread(chip, eb, 128)
    dst = psum(chip, 2, 3)
    for row in (0, 64):
        half = slice(row, row + 64)
        nisa.nc_matmul_mx(
            dst, weights[half], moving[half], scales[0][half], scales[1][half],
            tile_position=(row, 0), tile_size=(64, 128), accumulate=row > 0,
        )  # fmt: skip
    wanted = by_hand(scaled(a, ea), scaled(b, eb))
    np.testing.assert_array_equal(dst._array, wanted)
    nisa.nc_matmul_mx(dst, weights, moving, *scales)
    np.testing.assert_array_equal(dst._array, 2 * wanted)
    with pytest.raises(UninitializedReadError, match="nc_matmul_mx: accumulates onto elements"):
        nisa.nc_matmul_mx(psum(chip, 2, 3), weights, moving, *scales, accumulate=True)


def test_scales_far_out(chip: Any) -> None:
    """448 times 2**120 leaves float32; times 2**-120 it is back. A scale of 255 is NaN."""
    a = np.zeros((32, 8))
    a[0, 0] = a[0, 4] = 448.0
    held = chip.put(bits_of(a, E4), "uint32").view(E4)
    high, low = np.full((4, 2), 247), np.full((4, 2), 7)
    dst = psum(chip, 2, 2)
    nisa.nc_matmul_mx(dst, held, held, chip.put(high, "uint8"), chip.put(low, "uint8"))
    np.testing.assert_array_equal(dst._array, np.full((2, 2), 448.0**2))
    nisa.nc_matmul_mx(dst, held, held, chip.put(high, "uint8"), chip.put(low, "uint8"))
    np.testing.assert_array_equal(dst._array, np.full((2, 2), 2 * 448.0**2))
    low[0, 1] = 255
    nisa.nc_matmul_mx(
        dst, held, held, chip.put(high, "uint8"), chip.put(low, "uint8"), accumulate=False
    )
    np.testing.assert_array_equal(dst._array, [[448.0**2, np.nan]] * 2)


def test_bfloat16_result(chip: Any, rng: Any) -> None:
    a = random_members(rng, E5, 32, 8)
    neutral = chip.put(np.full((4, 2), 127), "uint8")
    held, dst = chip.put(bits_of(a, E5), "uint32").view(E5), psum(chip, 2, 2, dtype="bfloat16")
    nisa.nc_matmul_mx(dst, held, held, neutral, neutral)
    wanted = by_hand(a, a).astype(ml_dtypes.bfloat16)  # the sum itself is exact
    np.testing.assert_array_equal(dst._array, wanted)


def test_columns_by_an_index(chip: Any, rng: Any) -> None:
    """Data and its scales are one tensor: they take columns by one index (Tensor indirection)."""
    a, b = rng.standard_normal((64, 8)), rng.standard_normal((64, 24))
    sides = []
    for values in (a, b):
        data = chip.new((64, values.shape[1] // 4), E5)
        scale = chip.new(data.shape, "uint8")
        nisa.quantize_mx(data, chip.put(values, "bfloat16"), scale)
        sides.append((data, scale))
    (weights, weight_scale), (moving, moving_scale) = sides
    whole, cut = psum(chip, 2, 6), psum(chip, 2, 3)
    nisa.nc_matmul_mx(whole, weights, moving, weight_scale, moving_scale)
    picked = [4, 0, 5]
    index, same = (chip.put(np.tile([*picked, *[0] * 29], 2)[:, None], "uint32") for _ in range(2))
    taken = (moving.indirect(index, 3), moving_scale.indirect(index, 3))
    nisa.nc_matmul_mx(cut, weights, taken[0], weight_scale, taken[1])
    np.testing.assert_array_equal(cut._array, whole._array[:, picked])
    for scales in (moving_scale[:, :3], moving_scale.indirect(same, 3)):
        with pytest.raises(AssertionError, match="or both take columns by the same index"):
            nisa.nc_matmul_mx(cut, weights, taken[0], weight_scale, scales, accumulate=False)
    with pytest.raises(AssertionError, match="or both take columns by the same index"):
        nisa.nc_matmul_mx(cut, weights, moving[:, :3], weight_scale, taken[1], accumulate=False)
    with pytest.raises(AssertionError, match="tile_position must be unset or"):
        nisa.nc_matmul_mx(
            cut, weights, taken[0], weight_scale, taken[1],
            tile_position=(64, 0), tile_size=(64, 128),
        )  # fmt: skip


# Quantization.


def quantized(chip: Any, values: Any, dtype: str, source: str = "bfloat16", rows: int = 0) -> Any:
    """Return members as floats, and biased exponents by groups, read where they belong."""
    p, f = values.shape
    dst, scale = chip.new((p, f // 4), dtype), chip.new((rows or p, f // 4), "uint8")
    nisa.quantize_mx(dst, chip.put(values, source), scale)
    members = np.array(dst._array).view(np.uint8).view(MEMBER[dtype]).astype(np.float64)
    found = np.array([scale._array[g // 4 * 32 + g % 4] for g in range(p // 8)])
    return members.reshape(p, f), found


@pytest.mark.parametrize("source", ["bfloat16", "float16"])
@pytest.mark.parametrize(("dtype", "largest"), [(E4, 8), (E5, 15)])
def test_quantization_by_its_definition(
    chip: Any, rng: Any, dtype: str, largest: int, source: str
) -> None:
    values = rng.standard_normal((96, 40)) * 2.0 ** rng.integers(-10, 10, (96, 40))
    values = values.astype(ml_dtypes.bfloat16).astype(np.float16).astype(np.float64)
    members, exponents = quantized(chip, values, dtype, source)
    for group in range(12):
        for four in range(10):
            part = values[8 * group : 8 * group + 8, 4 * four : 4 * four + 4]
            scale = np.floor(np.log2(np.abs(part).max())) - (largest - 1)
            assert exponents[group, four] == scale + 127
            wanted = (part / 2.0**scale).astype(MEMBER[dtype]).astype(np.float64)
            np.testing.assert_array_equal(
                members[8 * group : 8 * group + 8, 4 * four : 4 * four + 4], wanted
            )
    assert np.isfinite(members).all()


def test_quantization_worked_by_hand(chip: Any) -> None:
    """The largest is 5 = 1.25 * 2**2, so X = 2**(2 - 7) for E4M3: 5 / X = 160, 0.1 / X = 3.2."""
    values = np.zeros((32, 8))
    values[0, 0], values[7, 3], values[8, 0], values[3, 4] = 5.0, -0.1, 3.0, 2.0**-133
    members, exponents = quantized(chip, values, E4, rows=4)
    assert exponents.tolist() == [[122, 0], [121, 0], [0, 0], [0, 0]]
    assert members[0, 0] == 160
    assert members[7, 3] == -3.25
    assert members[8, 0] == 192  # 3 = 1.5 * 2, X = 2**-6
    # A group of very small numbers cannot have a smaller scale than 2**-127: 2**-6 is left.
    assert members[3, 4] == 2.0**-6
    assert np.count_nonzero(members) == 4


def test_e8m0_scales_have_the_bits_of_uint8_ones(chip: Any, rng: Any) -> None:
    values, dst = chip.put(rng.standard_normal((64, 16)), "bfloat16"), chip.new((64, 4), E5)
    tiles = [chip.new((64, 4), kind) for kind in ("uint8", "float8_e8m0fnu")]
    for tile in tiles:
        nisa.quantize_mx(dst, values, tile)
    found = [tile.view("uint8")._array[32 * q : 32 * q + 4] for tile in tiles for q in range(2)]
    np.testing.assert_array_equal(found[:2], found[2:])
    assert found[0].min() > 100
    assert found[0].max() < 120


def test_only_the_scales_are_written(chip: Any) -> None:
    values, scale = chip.put(np.ones((64, 8)), "bfloat16"), chip.new((64, 2), "uint8")
    nisa.quantize_mx(chip.new((64, 2), E4), values, scale[8:])
    for rows in (slice(0, 8), slice(12, 40), slice(44, 64)):
        assert scale._storage.count_unwritten(scale[rows], scale._element) == scale[rows].size
    assert scale._storage.count_unwritten(scale[40:44], scale._element) == 0


def test_quantized_operands_multiply_to_nearly_the_product(chip: Any, rng: Any) -> None:
    a, b = rng.standard_normal((128, 4 * 16)), rng.standard_normal((128, 4 * 24))
    sides = []
    for values in (a, b):
        columns = values.shape[1] // 4
        data, scale = chip.new((128, columns), E4), chip.new((128, columns), "float8_e8m0fnu")
        nisa.quantize_mx(data, chip.put(values, "bfloat16"), scale)
        sides.append((data, scale))
    dst = psum(chip, 16, 24)
    nisa.nc_matmul_mx(dst, sides[0][0], sides[1][0], sides[0][1], sides[1][1])
    # Three bits of mantissa: each factor is off by up to 2**-4 of itself.
    off = np.abs(dst._array - by_hand(a, b))
    assert np.all(off <= (2 * 2.0**-4 + 2.0**-7) * by_hand(np.abs(a), np.abs(b)))
    assert off.max() > 0


def test_scales_out_of_a_tile_that_is_written_in_part(chip: Any) -> None:
    ones = chip.put(np.full((64, 2), 0x38383838), "uint32").view(E4)  # four times 1.0
    tile, dst = chip.new((64, 4), "uint8"), psum(chip, 2, 2)
    nisa.memset(dst=tile[:, 1:3], value=128)
    nisa.nc_matmul_mx(dst, ones, ones, tile[:, 1:3], tile[:, 1:3])
    np.testing.assert_array_equal(dst._array, np.full((2, 2), 2.0 * 2.0 * 256))
    with pytest.raises(UninitializedReadError, match="moving_scale reads 8 of 16 elements that"):
        nisa.nc_matmul_mx(dst, ones, ones, tile[:, 1:3], tile[:, 2:4])


def test_more_partitions_of_scales_than_data(chip: Any) -> None:
    data, scale = chip.new((32, 2), E4), chip.new((64, 2), "uint8")
    with pytest.raises(AssertionError, match="and no more partitions than that; got dst float8"):
        nisa.quantize_mx(data, chip.put(np.ones((32, 8)), "bfloat16"), scale)
    nisa.quantize_mx(data, chip.put(np.ones((32, 8)), "bfloat16"), scale[:32])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantization_refuses_what_is_not_finite(chip: Any, bad: float) -> None:
    values = np.ones((32, 4))
    values[5, 2] = bad
    with pytest.raises(HazardError, match="src must be finite"):
        quantized(chip, values, E4)
