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
    round_to,
    to_float32,
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
    assert set(vendor) == {*ELEMENT_TYPES, *PACKED_TYPES}
    for name in vendor:
        assert getattr(nl, name) == name


@pytest.mark.parametrize(
    ("name", "bits"),
    [("float32", 32), ("tfloat32", 32), ("bfloat16", 16), ("float16", 16), ("float8_e5m2", 8),
     ("float8_e8m0fnu", 8), ("int8", 8), ("uint16", 16), ("int32", 32), ("bool_", 8)],
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
    for name in PACKED_TYPES:
        with pytest.raises(DtypeError, match=f"{name} belongs to trn3's MX matmul"):
            element_type(name, op="op")


def test_types_of_host_arrays() -> None:
    for name in set(ELEMENT_TYPES) - {"tfloat32", "bool_"}:
        assert from_numpy(ELEMENT_TYPES[name].numpy, op="op").name == name
    assert from_numpy(np.dtype(bool), op="op").name == "bool_"
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


# --- Rounding ------------------------------------------------------------------------------------

# One step below, at and above the middle between two neighbours; ties go to the even one.
TIES = [
    ("bfloat16", [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], [1.0, 1 + 2**-6, 1 + 2**-7]),
    ("float16", [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20], [1.0, 1 + 2**-9, 1 + 2**-10]),
    ("tfloat32", [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20], [1.0, 1 + 2**-9, 1 + 2**-10]),
    ("float8_e4m3", [17.0, 19.0, 17.5], [16.0, 20.0, 18.0]),
    ("float8_e5m2", [9.0, 11.0, 9.5], [8.0, 12.0, 10.0]),
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
    assert result.astype(np.float64).tolist() == expected


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
