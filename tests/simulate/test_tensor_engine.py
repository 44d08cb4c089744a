"""TensorE: products against float64, accumulation in PSUM, transposes, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, HazardError, UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

INPUTS = ("float32", "tfloat32", "bfloat16", "float16", "float8_e4m3", "float8_e5m2")


def psum(chip: Any, *shape: int, dtype: str = "float32") -> Any:
    return chip.new(shape, dtype, nl.psum)


def small_integers(rng: Any, *shape: int) -> Any:
    """Return values that every input type holds and whose sums float32 holds exactly."""
    return rng.integers(-4, 5, shape).astype(np.float64)


def multiplied(chip: Any, weights: Any, moving: Any, dst: Any = None, **options: Any) -> Any:
    """Return the result of one matmul as float64, and its tensor."""
    if dst is None:
        dst = psum(chip, int(np.prod(weights.shape[1:])), *moving.shape[1:])
    nisa.nc_matmul(dst=dst, stationary=weights, moving=moving, **options)
    return dst._array.astype(np.float64)


# Products.


@pytest.mark.parametrize("dtype", INPUTS)
@pytest.mark.parametrize(("rows", "columns", "moving"), [(1, 1, 1), (7, 5, 33), (128, 128, 512)])
def test_product_of_integers_is_exact(
    chip: Any, rng: Any, dtype: str, rows: int, columns: int, moving: int
) -> None:
    a, b = small_integers(rng, rows, columns), small_integers(rng, rows, moving)
    result = multiplied(chip, chip.put(a, dtype), chip.put(b, dtype))
    np.testing.assert_array_equal(result, a.T @ b)


@pytest.mark.parametrize(
    ("first", "second", "target"),
    [
        ("bfloat16", "float16", "trn1"),
        ("float8_e5m2", "float8_e4m3", "trn1"),
        ("float16", "float8_e4m3", "trn2"),
        ("tfloat32", "float32", "trn1"),
        ("float8_e4m3fn", "float8_e5m2", "trn3"),
    ],
)
def test_mixed_types(start: Any, rng: Any, first: str, second: str, target: str) -> None:
    a, b = small_integers(rng, 9, 6), small_integers(rng, 9, 11)
    with start(target) as chip:
        result = multiplied(chip, chip.put(a, first), chip.put(b, second))
    np.testing.assert_array_equal(result, a.T @ b)


def test_sums_are_rounded_as_float32(chip: Any, rng: Any) -> None:
    a, b = rng.standard_normal((128, 16)), rng.standard_normal((128, 40))
    weights, moving = chip.put(a), chip.put(b)
    a, b = a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
    error = np.abs(multiplied(chip, weights, moving) - a.T @ b)
    assert np.all(error <= 128 * 2.0**-24 * (np.abs(a).T @ np.abs(b)))
    assert error.max() > 0


def test_views_with_several_free_dimensions(chip: Any, rng: Any) -> None:
    """A strided window of an image streams as it is, without being gathered first."""
    a, image = small_integers(rng, 5, 4, 3), small_integers(rng, 5, 8, 10)
    weights, held = chip.put(a, "bfloat16"), chip.put(image, "bfloat16")
    whole = psum(chip, 12, 2, 3, 5)
    result = multiplied(chip, weights, held[:, 1:7:2, 0:10:2], dst=whole[:, 1])
    expected = np.einsum("km,kyx->myx", a.reshape(5, 12), image[:, 1:7:2, 0:10:2])
    np.testing.assert_array_equal(result, expected)
    turned = multiplied(chip, weights.permute((0, 2, 1)), held[:, 0])
    np.testing.assert_array_equal(turned, a.transpose(0, 2, 1).reshape(5, 12).T @ image[:, 0])


def test_operands_from_different_partitions(chip: Any, rng: Any) -> None:
    a, b = small_integers(rng, 128, 4), small_integers(rng, 128, 6)
    weights, moving = chip.put(a), chip.put(b)
    result = multiplied(chip, weights[32:64], moving[96:128], dst=psum(chip, 128, 6)[64:68])
    np.testing.assert_array_equal(result, a[32:64].T @ b[96:128])


def test_bfloat16_result_is_rounded_once(start: Any, rng: Any) -> None:
    a, b = rng.integers(-99, 99, (128, 4)) / 8, rng.integers(-99, 99, (128, 6)) / 8
    with start("trn3") as chip:
        dst = psum(chip, 4, 6, dtype="bfloat16")
        result = multiplied(chip, chip.put(a), chip.put(b), dst=dst)
    exact = a.T @ b  # every sum is exact in float32
    spacing = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
    np.testing.assert_array_equal(result, np.round(exact / spacing) * spacing)


def test_nan_and_infinity_spread_over_their_sums_only(chip: Any) -> None:
    a, b = np.ones((3, 2)), np.ones((3, 4))
    b[1, 0], b[1, 1], b[2, 2] = np.nan, np.inf, -np.inf
    result = multiplied(chip, chip.put(a), chip.put(b))
    np.testing.assert_array_equal(result, [[np.nan, np.inf, -np.inf, 3]] * 2)


# Accumulation.


def test_accumulate_false_true_and_none(chip: Any, rng: Any) -> None:
    a, b = small_integers(rng, 8, 4), small_integers(rng, 8, 6)
    weights, moving, dst = chip.put(a), chip.put(b), psum(chip, 4, 6)
    one = a.T @ b
    for wish, times in ((None, 1), (None, 2), (True, 3), (False, 1), (True, 2), (None, 3)):
        result = multiplied(chip, weights, moving, dst=dst, accumulate=wish)
        np.testing.assert_array_equal(result, times * one)


def test_overlapping_regions_add_where_they_overlap(chip: Any) -> None:
    one, dst = chip.put(np.ones((1, 4))), psum(chip, 4, 6)
    moving = chip.put(np.ones((1, 6)))
    multiplied(chip, one, moving, dst=dst, accumulate=False)
    multiplied(chip, one, moving[:, :4], dst=dst[:, :4], accumulate=None)
    multiplied(chip, one, moving[:, :4], dst=dst[:, 2:], accumulate=True)
    np.testing.assert_array_equal(dst._array, [[2, 2, 3, 3, 2, 2]] * 4)


def test_region_written_in_part_is_refused(chip: Any) -> None:
    one, dst = chip.put(np.ones((1, 4))), psum(chip, 4, 6)
    multiplied(chip, one, one, dst=dst[:, :4])
    moving = chip.put(np.ones((1, 6)))
    with pytest.raises(HazardError, match="with accumulate=None, part of dst already holds") as no:
        multiplied(chip, one, moving, dst=dst)
    assert "cover the region with one accumulate=False matmul first" in str(no.value)
    with pytest.raises(UninitializedReadError, match="accumulates onto elements of dst that no"):
        multiplied(chip, one, moving, dst=dst, accumulate=True)
    multiplied(chip, one, moving, dst=dst, accumulate=False)
    multiplied(chip, one, moving, dst=dst)
    np.testing.assert_array_equal(dst._array, np.full((4, 6), 2))


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_accumulating_onto_nothing_is_refused(start: Any, target: str) -> None:
    with start(target) as chip:
        one = chip.put(np.ones((2, 4)))
        with pytest.raises(UninitializedReadError, match="start with accumulate=False"):
            multiplied(chip, one, one, accumulate=True)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("wish", [None, True])
def test_accumulating_onto_a_memset_is_undefined(start: Any, target: str, wish: Any) -> None:
    with start(target) as chip:
        one, dst = chip.put(np.ones((2, 4))), psum(chip, 4, 4)
        nisa.memset(dst=dst, value=0)
        with pytest.raises(HazardError, match=f"matmul wrote .* is undefined on {target}; start"):
            multiplied(chip, one, one, dst=dst, accumulate=wish)
        multiplied(chip, one, one, dst=dst, accumulate=False)
        nisa.memset(dst=dst[:, 3:], value=0)
        with pytest.raises(HazardError, match="another instruction than a matmul wrote"):
            multiplied(chip, one, one, dst=dst, accumulate=wish)


@pytest.mark.parametrize("wish", [None, True])
def test_accumulating_onto_a_memset_adds_on_trn3(start: Any, wish: Any) -> None:
    with start("trn3") as chip:
        one, dst = chip.put(np.ones((2, 4))), psum(chip, 4, 4)
        nisa.memset(dst=dst, value=5)
        np.testing.assert_array_equal(multiplied(chip, one, one, dst=dst, accumulate=wish), 7)


def test_reading_unwritten_operands_is_refused(chip: Any) -> None:
    one, half = chip.put(np.ones((2, 4))), chip.new((2, 6))
    nisa.memset(dst=half[:, :4], value=1)
    with pytest.raises(UninitializedReadError, match="moving reads 4 of 12 elements that nothing"):
        multiplied(chip, one, half)


@pytest.mark.parametrize(
    ("flag", "operand"),
    [("is_stationary_onezero", "stationary"), ("is_moving_onezero", "moving")],
)
def test_onezero_flags_must_be_true(chip: Any, flag: str, operand: str) -> None:
    binary, other = chip.put([[0.0, 1.0], [1.0, 0.0]]), chip.put([[0.5, -1.0], [1.0, 0.0]])
    roles = {"stationary": other, "moving": other, operand: binary}
    np.testing.assert_array_equal(
        multiplied(chip, roles["stationary"], roles["moving"], **{flag: True}),
        roles["stationary"]._array.T @ roles["moving"]._array,
    )
    with pytest.raises(HazardError, match="flagged onezero must hold only ones and zeros"):
        multiplied(chip, other, other, **{flag: True})


def test_a_result_fits_one_bank(chip: Any) -> None:
    one, banks = chip.put(np.ones((1, 4))), psum(chip, 4, 1024)
    moving = chip.put(np.ones((1, 512)))
    multiplied(chip, one, moving, dst=banks[:, 512:])
    with pytest.raises(ConstraintError, match="dst must lie in one PSUM bank of 2 KiB"):
        multiplied(chip, one, moving, dst=banks[:, 511:1023])


def test_counters(chip: Any) -> None:
    weights, moving = (
        chip.put(np.ones((7, 5)), "bfloat16"),
        chip.put(np.ones((7, 3, 4)), "bfloat16"),
    )
    multiplied(chip, weights, moving)
    multiplied(chip, weights, moving[:, 0])
    assert chip.program.macs == 7 * 5 * 12 + 7 * 5 * 4
    assert chip.program.macs_by_type == {"bfloat16": 560}
    assert chip.program.moving_columns == 16


# Transposes.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e5m2"])
@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_transpose_by_tensor_engine(start: Any, rng: Any, dtype: str, target: str) -> None:
    values = small_integers(rng, 100, 3, 40)
    with start(target) as chip:
        dst = psum(chip, 120, 100, dtype=dtype)
        nisa.nc_transpose(dst=dst, data=chip.put(values, dtype))
        assert chip.last.lane.label == "TensorE"
        np.testing.assert_array_equal(dst._array.astype(np.float64), values.reshape(100, 120).T)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8", "uint8", "bool_"])
@pytest.mark.parametrize("spaces", ["sbuf sbuf", "psum sbuf", "psum psum", "sbuf psum"])
def test_transpose_by_vector_engine(chip: Any, rng: Any, dtype: str, spaces: str) -> None:
    values = rng.integers(0, 2, (20, 2, 15)) if dtype == "bool_" else rng.integers(0, 99, (20, 30))
    source, target = (getattr(nl, space) for space in spaces.split())
    dst = chip.new((30, 20), dtype, target)
    wish = nisa.engine.vector if spaces == "sbuf psum" else nisa.engine.unknown
    nisa.nc_transpose(dst=dst, data=chip.put(values, dtype, source), engine=wish)
    assert chip.last.lane.label == "VectorE"
    np.testing.assert_array_equal(dst._array, values.reshape(20, 30).T)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_transpose_of_nan_and_infinity(start: Any, target: str) -> None:
    """trn1 multiplies by the identity: what is not finite spoils its column (isa nc_transpose)."""
    values = np.arange(12.0).reshape(3, 4)
    values[1, 0], values[2, 3] = np.nan, np.inf
    with start(target) as chip:
        dst = psum(chip, 4, 3)
        nisa.nc_transpose(dst=dst, data=chip.put(values))
        expected = values.T.copy()
        if target == "trn1":
            expected[0] = np.nan
            expected[3, :2] = np.nan
        np.testing.assert_array_equal(dst._array, expected)


def test_vector_engine_transposes_bits(chip: Any) -> None:
    bits = np.array([[0x7FC00001, 0x80000000], [0x7F800000, 0x00000001]], dtype=np.uint32)
    dst = chip.new((2, 2))
    nisa.nc_transpose(dst=dst, data=chip.put(bits, "uint32").view("float32"))
    np.testing.assert_array_equal(dst.view("uint32")._array, bits.T)
