"""Element types: their table, widening, and the one place where values round."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkiconv.simulate.coverage import names_of
from nkiconv.simulate.dtypes import (
    ELEMENT_TYPES,
    PACKED_TYPES,
    element_type,
    from_numpy,
    packed,
    round_to,
    to_float32,
    unpacked,
)
from nkiconv.simulate.errors import DtypeError
from nkiconv.simulate.nki import language as nl

INTEGERS = [name for name, kind in ELEMENT_TYPES.items() if kind.kind == "int"]
FLOATS = [name for name, kind in ELEMENT_TYPES.items() if kind.kind == "float"]

INF, NAN = np.inf, np.nan


def rounded(values: Any, dtype: str) -> Any:
    with np.errstate(over="ignore"):
        single = np.asarray(values, dtype=np.float32)
    return round_to(single, ELEMENT_TYPES[dtype])


# --- The table -----------------------------------------------------------------------------------


def test_the_vendors_types_are_all_there() -> None:
    values = names_of("nki.language")["values"]
    vendor = [n for n in values if re.fullmatch(r"bool_|u?int\d+|[bt]?float\d.*", n)]
    assert set(vendor) == {*ELEMENT_TYPES}
    for name in vendor:
        assert getattr(nl, name) == name


@pytest.mark.parametrize(
    ("name", "bits"),
    [("float32", 32), ("tfloat32", 32), ("bfloat16", 16), ("float16", 16), ("float8_e5m2", 8),
     ("float8_e8m0fnu", 8), ("float8_e5m2_x4", 32), ("float8_e4m3fn_x4", 32),
     ("float4_e2m1fn_x4", 16), ("int8", 8), ("uint16", 16), ("int32", 32), ("bool_", 8)],
)  # fmt: skip
def test_sizes(name: str, bits: int) -> None:
    assert element_type(name, op="op").itemsize == bits // 8


def test_unknown_types() -> None:
    with pytest.raises(
        DtypeError, match=r"op: 'float64' is not an NKI dtype; use one of .*float32"
    ):
        element_type("float64", op="op")
    with pytest.raises(DtypeError, match="is not an NKI dtype"):
        element_type(np.float32, op="op")


def test_types_of_host_arrays() -> None:
    for name in set(ELEMENT_TYPES) - {"tfloat32", "bool_", *PACKED_TYPES}:
        assert from_numpy(ELEMENT_TYPES[name].numpy, op="op").name == name
    assert from_numpy(np.dtype(bool), op="op").name == "bool_"
    for name in PACKED_TYPES:
        named = np.dtype([(name, ELEMENT_TYPES[name].numpy)])
        assert from_numpy(named, op="op").name == name
        for wrong in ([(name, "u8")], [("x", "u4")], [(name, named[0]), ("x", "u4")]):
            with pytest.raises(DtypeError, match="op: a NeuronCore has no "):
                from_numpy(np.dtype(wrong), op="op")
    with pytest.raises(DtypeError, match=r"op: a NeuronCore has no float64 elements; .*float32"):
        from_numpy(np.dtype(np.float64), op="op")


# --- Widening ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_widening_is_exact_for_every_pattern(name: str) -> None:
    kind = ELEMENT_TYPES[name]
    patterns = np.arange(65_536, dtype=np.uint16).view(kind.numpy)
    wide = to_float32(patterns, kind)
    assert wide.dtype == np.float32
    expected = patterns.astype(np.float32)
    if name == "bfloat16":  # the upper half of a float32, bit for bit, NaN patterns included
        assert (wide.view(np.uint32) == np.arange(65_536, dtype=np.uint32) << 16).all()
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(wide.view(np.uint32)[number], expected.view(np.uint32)[number])
    assert (np.isnan(wide) == ~number).all()


def test_widening_follows_strides() -> None:
    values = np.arange(24).reshape(4, 6).astype(ml_dtypes.bfloat16)
    for view in (
        values[::2, 1::2],
        values.T,
        np.broadcast_to(values[:, :1], (4, 3)),
        values[1, 2:3],
    ):
        np.testing.assert_array_equal(
            to_float32(view, ELEMENT_TYPES["bfloat16"]), view.astype(np.float32)
        )


@pytest.mark.parametrize("name", FLOATS)
def test_there_and_back(name: str) -> None:
    kind = ELEMENT_TYPES[name]
    if kind.itemsize == 4:
        values = rounded([0.1, -0.0, 1e-40, 3e38, INF, NAN], name)
    else:
        bits = np.arange(256**kind.itemsize, dtype=f"u{kind.itemsize}")
        values = bits.view(kind.numpy)
    wide = to_float32(values, kind)
    again = to_float32(round_to(wide, kind), kind)
    np.testing.assert_array_equal(again, wide)
    number = ~np.isnan(wide)
    assert (np.signbit(again) == np.signbit(wide))[number].all()


# --- Packed elements -----------------------------------------------------------------------------

FOURS = {  # four numbers, and the bits of the element that holds them: the first one lowest
    "float8_e5m2_x4": ([1.0, -2.0, 57_344.0, 2.0**-16], 0x017B_C03C),
    "float8_e4m3fn_x4": ([1.0, -2.0, 448.0, 2.0**-9], 0x017E_C038),
    "float4_e2m1fn_x4": ([0.5, -1.0, 6.0, 3.0], 0x57A1),
}


@pytest.mark.parametrize("name", PACKED_TYPES)
def test_members_of_packed_elements(name: str) -> None:
    numbers, bits = FOURS[name]
    held = np.full((2, 3), bits, ELEMENT_TYPES[name].numpy)
    found = unpacked(held[:, ::2], name)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.broadcast_to(numbers, (2, 2, 4)))
    if not name.startswith("float4"):
        again = packed(found, name)
        assert again.shape == (2, 2, 1)
        np.testing.assert_array_equal(again[..., 0], held[:, ::2])


@pytest.mark.parametrize("name", PACKED_TYPES)
def test_every_pattern_of_a_member(name: str) -> None:
    """All members of all positions, against the formats' definition: sign, exponent, mantissa."""
    bits, exponent_bits, mantissa_bits, bias = {
        "float8_e5m2_x4": (8, 5, 2, 15), "float8_e4m3fn_x4": (8, 4, 3, 7),
        "float4_e2m1fn_x4": (4, 2, 1, 1),
    }[name]  # fmt: skip
    codes = np.arange(1 << bits, dtype=np.uint64).reshape(-1, 4)
    held = sum(codes[:, i] << np.uint64(bits * i) for i in range(4))
    found = unpacked(np.asarray(held, ELEMENT_TYPES[name].numpy), name).reshape(-1)
    for code, value in enumerate(found.tolist()):
        mantissa = code & ((1 << mantissa_bits) - 1)
        exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1)
        sign = -1.0 if code >> (bits - 1) else 1.0
        if name == "float8_e5m2_x4" and exponent == 31:
            assert np.isnan(value) if mantissa else value == sign * INF
        elif name == "float8_e4m3fn_x4" and code & 0x7F == 0x7F:
            assert np.isnan(value)
        else:
            fraction = mantissa / (1 << mantissa_bits) + (exponent > 0)
            assert value == sign * fraction * 2.0 ** (max(exponent, 1) - bias)


# --- Rounding ------------------------------------------------------------------------------------

# One step below, at and above the middle between two neighbours; ties go to the even one.
TIES = [
    ("bfloat16", [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], [1.0, 1 + 2**-6, 1 + 2**-7]),
    ("float16", [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20], [1.0, 1 + 2**-9, 1 + 2**-10]),
    ("tfloat32", [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20], [1.0, 1 + 2**-9, 1 + 2**-10]),
    ("float8_e4m3", [17.0, 19.0, 17.5], [16.0, 20.0, 18.0]),
    ("float8_e5m2", [9.0, 11.0, 9.5], [8.0, 12.0, 10.0]),
    # The largest number, half a step beyond it, and further: infinity where the format has it.
    ("float8_e4m3", [240.0, 247.99, -248.0], [240.0, 240.0, -INF]),
    ("float8_e5m2", [57_344.0, 61_439.0, 61_440.0], [57_344.0, 57_344.0, INF]),
    ("float8_e4m3fn", [448.0, 464.0, 464.01], [448.0, 448.0, NAN]),
    ("float8_e4m3fn", [INF, -INF, 2.0**-9], [NAN, NAN, 2.0**-9]),
    ("float8_e4m3", [2.0**-9, 2.0**-10, 3 * 2.0**-10], [2.0**-9, 0.0, 2.0**-8]),
    ("float8_e5m2", [2.0**-16, 2.0**-17, 3 * 2.0**-17], [2.0**-16, 0.0, 2.0**-15]),
    ("float8_e8m0fnu", [1.0, 2.0**127, 2.0**-127], [1.0, 2.0**127, 2.0**-127]),
    ("float8_e8m0fnu", [0.0, -1.0, INF], [NAN, NAN, NAN]),
    ("bfloat16", [1.9999, -1.9999, 1e39], [2.0, -2.0, INF]),
    ("float16", [65_519.0, 65_520.0, -65_520.0], [65_504.0, INF, -INF]),
    ("tfloat32", [3.4028235e38, INF, -INF], [INF, INF, -INF]),
    ("int8", [0.5, 1.5, -2.5], [0, 2, -2]),
    ("int8", [127.5, 1e9, -128.6], [127, 127, -128]),
    ("uint8", [-0.4, -7.0, 255.5], [0, 0, 255]),
    ("int32", [2.0**31, -(2.0**31), 2.0**31 - 128], [2**31 - 1, -(2**31), 2**31 - 128]),
    ("uint32", [2.0**32, -1.0, 2.0**32 - 256], [2**32 - 1, 0, 2**32 - 256]),
    ("int16", [INF, -INF, NAN], [32_767, -32_768, 0]),
    ("bool_", [0.0, -0.0, 0.25], [0, 0, 1]),
    ("bool_", [NAN, -1.0, 256.0], [1, 1, 1]),
]


@pytest.mark.parametrize(("dtype", "values", "expected"), TIES)
def test_rounding_by_hand(dtype: str, values: list[float], expected: list[float]) -> None:
    result = rounded(values, dtype)
    assert result.dtype == ELEMENT_TYPES[dtype].numpy
    np.testing.assert_array_equal(result.astype(np.float64), expected)


@pytest.mark.parametrize("dtype", [n for n in FLOATS if n != "float8_e8m0fnu"])
def test_nan_stays_nan(dtype: str) -> None:
    # Quiet ones, those with a payload in the last bits alone, and poison.
    patterns = [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF]
    values = np.array(patterns, np.uint32).view(np.float32)
    assert np.isnan(rounded(values, dtype).astype(np.float32)).all()


@given(st.floats(width=32, min_value=-(2.0**127), max_value=2.0**127))
def test_tf32_is_the_nearest_with_ten_bits(value: float) -> None:
    found = rounded([value], "tfloat32")
    assert found.view(np.uint32)[0] & 0x1FFF == 0
    # Its neighbours with ten bits are no nearer.
    steps = (found.view(np.uint32)[0] + np.array([-0x2000, 0x2000])).astype(np.uint32)
    neighbours = steps.view(np.float32).astype(np.float64)
    off = abs(float(found[0]) - value)
    near = np.abs(neighbours[np.isfinite(neighbours)] - value)
    assert (off <= near).all()


@pytest.mark.parametrize("dtype", INTEGERS)
@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
def test_integers_are_nearest_even_and_saturate(dtype: str, values: list[float]) -> None:
    limits = np.iinfo(dtype)
    # Python rounds halves to even as well, and its integers have no limits.
    wanted = [
        min(max(round(v), limits.min), limits.max) if np.isfinite(v)
        else (limits.max if v > 0 else limits.min)
        for v in map(float, np.array(values, np.float32))
    ]  # fmt: skip
    assert rounded(values, dtype).tolist() == wanted


def test_what_needs_no_rounding_is_passed_on() -> None:
    values = np.arange(4, dtype=np.int32) + 2**30  # more bits than a float32 has
    assert round_to(values, ELEMENT_TYPES["int32"]) is values
