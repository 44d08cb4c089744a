"""Copies, fills and the rounding of every type: what happens to a value when it is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.dtypes import ELEMENT_TYPES, PACKED_TYPES
from nkiconv.simulate.errors import UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

E = nisa.engine
INF, NAN = np.inf, np.nan

# dtype: (value, what is stored); to nearest, ties to even, integers saturating.
ROUNDED: dict[str, list[tuple[float, float]]] = {
    "float32": [(0.1, float(np.float32(0.1))), (-0.0, -0.0), (INF, INF), (NAN, NAN)],
    "tfloat32": [
        (1 + 2.0**-11, 1), (1 + 3 * 2.0**-11, 1 + 2.0**-9), (1 + 2.0**-11 + 2.0**-20, 1 + 2.0**-10),
        (3.4028235e38, INF), (-INF, -INF), (NAN, NAN), (-0.0, -0.0),
    ],
    "bfloat16": [
        (1 + 2.0**-8, 1), (1 + 3 * 2.0**-8, 1 + 2.0**-6), (1 + 2.0**-8 + 2.0**-20, 1 + 2.0**-7),
        (1.9999, 2), (3.395e38, 3.3895313892515355e38), (3.4e38, INF), (-INF, -INF), (NAN, NAN),
    ],
    "float16": [
        (1 + 2.0**-11, 1), (1 + 3 * 2.0**-11, 1 + 2.0**-9), (65519, 65504), (65520, INF),
        (2.0**-25, 0), (1.5 * 2.0**-25, 2.0**-24), (-INF, -INF), (NAN, NAN),
    ],
    "float8_e4m3": [(1 + 2.0**-4, 1), (1 + 3 * 2.0**-4, 1.25), (-240, -240), (NAN, NAN)],
    "float8_e4m3fn": [(1 + 2.0**-4, 1), (1 + 3 * 2.0**-4, 1.25), (448, 448), (NAN, NAN)],
    "float8_e5m2": [(1.125, 1), (1.375, 1.5), (57344, 57344), (INF, INF), (NAN, NAN)],
    "int8": [
        (0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (126.5, 126), (127.5, 127),
        (300, 127), (-128.6, -128), (INF, 127), (-INF, -128), (NAN, 0),
    ],
    "uint8": [(-0.6, 0), (-9, 0), (254.5, 254), (255.4, 255), (1e9, 255), (NAN, 0)],
    "int16": [(32766.5, 32766), (1e9, 32767), (-1e9, -32768)],
    "uint16": [(65534.5, 65534), (1e9, 65535), (-1, 0)],
    "int32": [(2.0**31 - 128, 2**31 - 128), (2.0**31, 2**31 - 1), (-3e9, -(2**31)), (NAN, 0)],
    "uint32": [(2.0**32 - 256, 2**32 - 256), (2.0**32, 2**32 - 1), (-1, 0), (INF, 2**32 - 1)],
    "bool_": [(0, 0), (-0.0, 0), (0.25, 1), (-3, 1), (NAN, 1)],
}  # fmt: skip


def write_by_copy(dst: Any, src: Any) -> object:
    return nisa.tensor_copy(dst=dst, src=src)


def write_by_activation(dst: Any, src: Any) -> object:
    return nisa.activation(dst=dst, op=nl.copy, data=src)


def write_by_dma(dst: Any, src: Any) -> object:
    return nisa.dma_copy(dst=dst, src=src)


def write_by_arithmetic(dst: Any, src: Any) -> object:
    return nisa.tensor_scalar(dst=dst, data=src, op0=nl.multiply, operand0=1.0)


@pytest.mark.parametrize(
    "write", [write_by_copy, write_by_activation, write_by_dma, write_by_arithmetic]
)
@pytest.mark.parametrize("dtype", ROUNDED)
def test_rounding(chip: Any, dtype: str, write: Any) -> None:
    values, stored = (np.array([column]) for column in zip(*ROUNDED[dtype], strict=True))
    dst = chip.new(values.shape, dtype)
    write(dst, chip.put(values))
    found = dst._array.astype(np.float64)
    np.testing.assert_array_equal(found, stored)
    if ELEMENT_TYPES[dtype].kind == "float":
        numbers = ~np.isnan(stored)
        np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(stored)[numbers])


@pytest.mark.parametrize("dtype", sorted(ELEMENT_TYPES))
@pytest.mark.parametrize("wish", [E.vector, E.gpsimd, E.scalar])
def test_copy_within_a_type_keeps_every_bit(start: Any, rng: Any, dtype: str, wish: Any) -> None:
    """NaN payloads, negative zeros and integers beyond 2^24 arrive as they are."""
    item = ELEMENT_TYPES[dtype].itemsize
    bits = np.frombuffer(rng.bytes(8 * 64 * item), f"u{item}").reshape(8, 64).copy()
    if dtype == "tfloat32":
        bits &= np.uint32(0xFFFFE000)  # the bits that the type has
    with start("trn3" if dtype in PACKED_TYPES else "trn2") as chip:
        source, dst = chip.put(bits, f"uint{8 * item}"), chip.new((8, 4, 8), dtype)
        nisa.tensor_copy(dst=dst, src=source.view(dtype)[:, ::2], engine=wish)
        copied = np.array(dst._array).view(f"u{item}").reshape(8, 32)
        np.testing.assert_array_equal(copied, bits[:, ::2])


@pytest.mark.parametrize("target", ["float32", "bfloat16", "float16", "int32", "int8", "uint8"])
@pytest.mark.parametrize("source", ["float32", "bfloat16", "float16", "int32", "int8", "uint8"])
def test_copy_between_types(chip: Any, source: str, target: str) -> None:
    """Whole numbers that the one type holds and the other may not."""
    values = np.arange(0 if source == "uint8" else -128, 128).reshape(32, -1)
    limits = {"int8": (-128, 127), "uint8": (0, 255)}.get(target, (-1000, 1000))
    for buffer in (nl.sbuf, nl.psum):
        dst = chip.new(values.shape, target, buffer)
        nisa.tensor_copy(dst=dst, src=chip.put(values, source, buffer))
        np.testing.assert_array_equal(dst._array.astype(np.int64), np.clip(values, *limits))


def test_copy_between_types_goes_through_float32(chip: Any) -> None:
    dst = chip.new((1, 3), "uint32")
    nisa.tensor_copy(dst=dst, src=chip.put([[2**24 + 1, 2**31 - 1, -5]], "int32"))
    np.testing.assert_array_equal(dst._array, [[2**24, 2**31, 0]])


def test_copy_between_quarters_of_the_partitions(chip: Any, rng: Any) -> None:
    values = rng.standard_normal((128, 6)).astype(np.float32)
    source, dst = chip.put(values), chip.new((128, 6), buffer=nl.psum)
    nisa.tensor_copy(dst=dst[0:32], src=source[96:128])
    nisa.tensor_copy(dst=dst[64:128, ::2], src=source[0:64, 3:])
    np.testing.assert_array_equal(dst[0:32]._array, values[96:])
    np.testing.assert_array_equal(dst[64:128, ::2]._array, values[:64, 3:])
    assert dst._storage.count_unwritten(dst, dst._element) == 32 * 6 + 64 * 3


def test_copy_onto_itself_reads_before_it_writes(chip: Any) -> None:
    held = chip.put([[1, 2, 3, 4, 5, 6]])
    nisa.tensor_copy(dst=held[:, 1:], src=held[:, :5])
    np.testing.assert_array_equal(held._array, [[1, 1, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("dtype", "value", "stored"),
    [
        ("float32", 0.1, np.float32(0.1)),
        ("float32", -INF, -INF),
        ("bfloat16", 1 + 2.0**-8, 1),
        ("float16", 65520, INF),
        ("int8", -128, -128),
        ("int8", 3, 3),
        ("uint32", 2**32 - 1, 2**32 - 1),
        ("bool_", 5, 1),
    ],
)
def test_memset(chip: Any, dtype: str, value: Any, stored: Any) -> None:
    tensor = chip.new((8, 6, 4), dtype, nl.psum)
    nisa.memset(dst=tensor[:, 1::2], value=value)
    np.testing.assert_array_equal(tensor[:, 1::2]._array.astype(np.float64), np.float64(stored))
    assert tensor._storage.count_unwritten(tensor, tensor._element) == 8 * 3 * 4


@pytest.mark.parametrize("dtype", sorted(set(ELEMENT_TYPES) - {"float8_e8m0fnu"}))
def test_zeros(start: Any, dtype: str) -> None:
    with start("trn3" if dtype in PACKED_TYPES else "trn1") as chip:
        made = nl.zeros((4, 5), dtype)
        np.testing.assert_array_equal(made._array.astype(np.float32), np.zeros((4, 5)))
        assert [step.opcode for step in chip.program.trace.steps()] == ["memset"]


def test_reading_what_nothing_wrote_is_refused_with_the_count(chip: Any) -> None:
    data, dst = chip.new((8, 10)), chip.new((8, 10))
    nisa.memset(dst=data[:, :7], value=1)
    with pytest.raises(UninitializedReadError) as refused:
        nisa.tensor_copy(dst=dst, src=data)
    assert "nisa.tensor_copy: src reads 24 of 80 elements that nothing has written, in " in str(
        refused.value
    )
    with pytest.raises(UninitializedReadError, match="operand0 reads 8 of 8 elements"):
        nisa.tensor_scalar(dst[:, :7], data[:, :7], nl.add, chip.new((8, 1)))
    with pytest.raises(UninitializedReadError, match="src reads 24 of 80 elements"):
        nisa.dma_copy(dst=chip.new((80,), buffer=nl.shared_hbm), src=data)
    nisa.tensor_copy(dst=dst[:, :7], src=data[:, :7])
    assert chip.last.opcode == "tensor_copy"
