"""VectorE and GpSimdE against float64 NumPy: every operator, type, memory and reduction.

Data are chosen so that float32 holds every result exactly: then the only rounding is the last one,
to dst's type, and results are compared for equality.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.ops import OPS

E = nisa.engine
NUMPY: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16}
DTYPES = ("float32", "bfloat16", "float16", "int32", "int8", "uint8")

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "maximum": lambda x, y: np.where(x > y, x, y),
    "minimum": lambda x, y: np.where(x < y, x, y),
    "equal": operator.eq,
    "not_equal": operator.ne,
    "greater_equal": operator.ge,
    "greater": operator.gt,
    "less_equal": operator.le,
    "less": operator.lt,
    "logical_and": lambda x, y: (x != 0) & (y != 0),
    "logical_or": lambda x, y: (x != 0) | (y != 0),
    "logical_xor": lambda x, y: (x != 0) != (y != 0),
    "power": lambda x, y: x**y,
    "abs_max": lambda x, y: np.where(abs(x) > abs(y), x, y),  # with its sign; y wins a tie
    "abs_min": lambda x, y: np.where(abs(x) < abs(y), x, y),
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "abs": abs,
    "square": lambda x: x * x,
    "relu": lambda x: np.where(x > 0, x, 0),
    "rsqrt": lambda x: x**-0.5,
    "reciprocal": lambda x: 1 / x,
}
BITS: dict[str, Callable[[int, int, int], int]] = {  # of two bit patterns, and their width
    "bitwise_and": lambda x, y, width: x & y,
    "bitwise_or": lambda x, y, width: x | y,
    "bitwise_xor": lambda x, y, width: x ^ y,
    "left_shift": lambda x, y, width: (x << y) % 2**width,
    "right_shift": lambda x, y, width: x >> y,  # logical: the vendor has no arithmetic one
    "invert": lambda x, y, width: x ^ (2**width - 1),
}
REDUCE: dict[str, Callable[[Any], Any]] = {  # along the last axis
    "add": lambda x: x.sum(-1),
    "subtract": lambda x: x[..., 0] - x[..., 1:].sum(-1),
    "multiply": lambda x: x.prod(-1),
    "maximum": lambda x: x.max(-1),
    "minimum": lambda x: x.min(-1),
    "logical_and": lambda x: (x != 0).all(-1),
    "logical_or": lambda x: (x != 0).any(-1),
    "logical_xor": lambda x: (x != 0).sum(-1) % 2,
}
REDUCE_BITS = ("bitwise_and", "bitwise_or", "bitwise_xor")


def rounded(values: Any, dtype: str) -> Any:
    """Round float64 to a type, integers to nearest even and saturating."""
    values = np.asarray(values, dtype=np.float64)
    numpy = np.dtype(NUMPY.get(dtype, dtype))
    if numpy.kind in "iu":
        limits = np.iinfo(numpy)
        return np.clip(np.nan_to_num(np.rint(values)), limits.min, limits.max).astype(numpy)
    return values.astype(np.float32).astype(numpy)


def sample(rng: Any, shape: tuple[int, ...], dtype: str, op: str = "add") -> Any:
    """Return float64 values of `dtype` on which `op` is exact in float32."""
    if op in ("power", "rsqrt", "reciprocal"):
        return rng.choice([1.0, 4.0, 16.0], shape)
    values = rng.integers(0 if dtype == "uint8" else -8, 9, shape)
    return values.astype(np.float64) / (1 if "int" in dtype else 4)


def other_sample(rng: Any, shape: tuple[int, ...], dtype: str, op: str) -> Any:
    return rng.integers(-1, 3, shape) / 1.0 if op == "power" else sample(rng, shape, dtype, op)


def test_the_tables_hold_every_operator() -> None:
    assert BINARY.keys() | BITS.keys() == {n for n, o in OPS.items() if o.binary} | {"invert"}
    assert UNARY.keys() | {"invert"} == {n for n, o in OPS.items() if o.unary}
    assert REDUCE.keys() | set(REDUCE_BITS) == {n for n, o in OPS.items() if o.reduces}


# tensor_tensor.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", BINARY)
def test_pairs(start: Any, rng: Any, op: str, dtype: str) -> None:
    x, y = sample(rng, (32, 12), dtype, op), other_sample(rng, (32, 12), "int8", op)
    if dtype == "uint8":
        y = abs(y)
    with start("trn3") as chip:
        dst = chip.new((32, 3, 4), dtype)
        nisa.tensor_tensor(dst, chip.put(x, dtype), chip.put(y, dtype), op=OPS[op])
        result = dst._array.reshape(32, 12)
    np.testing.assert_array_equal(result, rounded(BINARY[op](x, y), dtype))


@pytest.mark.parametrize("spaces", ["sbuf sbuf", "psum sbuf", "sbuf psum"])
@pytest.mark.parametrize("out", ["sbuf", "psum"])
def test_pairs_in_both_memories(chip: Any, rng: Any, spaces: str, out: str) -> None:
    x, y = sample(rng, (64, 6, 10), "float32"), sample(rng, (64, 5, 6), "bfloat16")
    first, second = (getattr(nl, space) for space in spaces.split())
    dst = chip.new((64, 6, 5), "float16", getattr(nl, out))
    nisa.tensor_tensor(
        dst=dst,
        data1=chip.put(x, "float32", first)[:, :, 1:10:2],
        data2=chip.put(y, "bfloat16", second).permute((0, 2, 1)),
        op=nl.subtract,
    )
    np.testing.assert_array_equal(dst._array, x[:, :, 1:10:2] - y.transpose(0, 2, 1))
    assert chip.last.lane.label == "VectorE"


def test_integers_of_32_bits_are_exact_on_gpsimd(chip: Any) -> None:
    x, y = [[2**24 + 1, 2**31 - 1, -(2**31)]], [[2, 1, 7]]
    for buffer, wish, lane, expected in (
        (nl.sbuf, E.unknown, "GpSimdE", [2**24 + 3, -(2**31), 7 - 2**31]),
        (nl.sbuf, E.vector, "VectorE", [2**24 + 2, 2**31 - 1, -(2**31)]),
        (nl.psum, E.unknown, "VectorE", [2**24 + 2, 2**31 - 1, -(2**31)]),
    ):
        dst = chip.new((1, 3), "int32")
        data1, data2 = chip.put(x, "int32", buffer), chip.put(y, "int32")
        nisa.tensor_tensor(dst=dst, data1=data1, data2=data2, op=nl.add, engine=wish)
        assert chip.last.lane.label == lane
        np.testing.assert_array_equal(dst._array, [expected])


@given(data=st.data())
def test_pairs_of_any_shape(start: Any, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, 128), label="partitions")
    free = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4), label="free dimensions")
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    op = data.draw(st.sampled_from(sorted(BINARY.keys() - {"power"})), label="op")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    x, y = (sample(rng, (parts, *free), "uint8") for _ in "xy")
    with start("trn3") as chip:
        dst = chip.new((parts, prod(free)), dtype)
        nisa.tensor_tensor(dst, chip.put(x, dtype), chip.put(y, dtype), op=OPS[op])
        result = dst._array.reshape(x.shape)
    np.testing.assert_array_equal(result, rounded(BINARY[op](x, y), dtype))


# tensor_scalar and scalar_tensor_tensor.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("op", BINARY)
def test_scalars(start: Any, rng: Any, op: str, reverse: bool, dtype: str) -> None:
    """A number and a column of float32, one after the other, each on the side that is asked for."""
    x, column = sample(rng, (32, 4, 3), dtype, op), other_sample(rng, (32, 1, 1), "int8", op)
    if op == "power" and reverse:
        x, column = abs(other_sample(rng, (32, 4, 3), dtype, op)), np.full((32, 1, 1), 2.0)
    f = BINARY[op]
    expected = f(column, x) if reverse else f(x, column)
    with start("trn3") as chip:
        dst = chip.new((32, 12), dtype)
        place = nl.psum if dtype == "float16" else nl.sbuf
        operand = chip.put(column.reshape(32, 1), "float32", place)
        nisa.tensor_scalar(dst, chip.put(x, dtype), OPS[op], operand, reverse)
        np.testing.assert_array_equal(dst._array, rounded(expected, dtype).reshape(32, 12))
        nisa.tensor_scalar(
            dst, chip.put(x, dtype), nl.multiply, 1, op1=OPS[op], operand1=2.0, reverse1=reverse
        )
        twos = np.full_like(x, 2.0)
        expected = f(twos, x) if reverse else f(x, twos)
        np.testing.assert_array_equal(dst._array, rounded(expected, dtype).reshape(32, 12))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("operand", [None, 0, 0.0])
def test_unary_operators(start: Any, rng: Any, op: str, dtype: str, operand: Any) -> None:
    x = sample(rng, (8, 10), dtype, op)
    with start("trn3") as chip:
        dst = chip.new((8, 10), dtype)
        nisa.tensor_scalar(dst, chip.put(x, dtype), OPS[op], operand, op1=nl.add, operand1=1)
        assert chip.last.lane.label == ("GpSimdE" if op == "rsqrt" else "VectorE")
        np.testing.assert_array_equal(dst._array, rounded(UNARY[op](x) + 1, dtype))


@given(data=st.data())
def test_scalars_on_any_view(start: Any, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, 128), label="partitions")
    sizes = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3), label="sizes")
    cut = [slice(None)]
    for size in sizes:
        begin = data.draw(st.integers(0, size - 1))
        end, step = data.draw(st.integers(begin + 1, size)), data.draw(st.integers(1, 3))
        cut.append(slice(begin, end, step))
    op0, op1 = (data.draw(st.sampled_from(["add", "subtract", "multiply", "less"])) for _ in "01")
    flip0, flip1 = (data.draw(st.booleans()) for _ in "01")
    x = np.arange(parts * prod(sizes)).reshape(parts, *sizes) % 61 - 30.0
    view, column = x[tuple(cut)], np.arange(parts) % 5 - 2.0
    first = np.broadcast_to(column.reshape(-1, *[1] * len(sizes)), view.shape)
    middle = BINARY[op0](first, view) * 1.0 if flip0 else BINARY[op0](view, first) * 1.0
    expected = BINARY[op1](3.0, middle) if flip1 else BINARY[op1](middle, 3.0)
    with start("trn1") as chip:
        dst = chip.new(view.shape)
        source = chip.put(x)[tuple(cut)]
        operand = chip.put(column.reshape(-1, 1))
        nisa.tensor_scalar(dst, source, OPS[op0], operand, flip0, OPS[op1], 3.0, flip1)
        np.testing.assert_array_equal(dst._array, expected * 1.0)


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("reverse", [False, True])
def test_scalar_and_tensor(start: Any, rng: Any, op: str, reverse: bool) -> None:
    x, y = sample(rng, (32, 5, 4), "int32", op), other_sample(rng, (32, 4, 5), "int8", op)
    if op == "power" and reverse:
        x, y = y.reshape(x.shape), x.reshape(y.shape)
    column = np.full((32, 1), 2.0)
    swapped = y.transpose(0, 2, 1)
    expected = BINARY[op](swapped, 2 - x) if reverse else BINARY[op](x - 2, swapped)
    if op == "power":  # keep whole exponents and positive bases
        column, expected = column * 0, BINARY[op](swapped, x) if reverse else BINARY[op](x, swapped)
    with start("trn3") as chip:
        dst = chip.new((32, 20))
        nisa.scalar_tensor_tensor(
            dst=dst,
            data=chip.put(x, "bfloat16", nl.psum),
            op0=nl.add if op == "power" else nl.subtract,
            operand0=chip.put(column, "bfloat16"),
            reverse0=reverse,
            op1=OPS[op],
            operand1=chip.put(y, "float16").permute((0, 2, 1)),
            reverse1=reverse,
        )
        np.testing.assert_array_equal(dst._array.reshape(x.shape), rounded(expected, "float32"))


# Bit patterns.


def unsigned(values: Any) -> Any:
    return values.view(f"u{values.dtype.itemsize}")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("op", BITS)
def test_bit_patterns(chip: Any, rng: Any, op: str, dtype: str) -> None:
    width = 8 * np.dtype(dtype).itemsize
    x = np.frombuffer(rng.bytes(width // 8 * 24), dtype).reshape(4, 6)
    y = rng.integers(0, width, (4, 6)).astype(dtype)
    f = np.vectorize(lambda a, b: BITS[op](int(a), int(b), width), otypes=[object])
    dst = chip.new((4, 6), dtype)
    if op != "invert":
        nisa.tensor_tensor(dst, chip.put(x, dtype), chip.put(y, dtype), op=OPS[op])
        np.testing.assert_array_equal(unsigned(dst._array), f(unsigned(x), y))
    operand = None if op == "invert" else 3
    nisa.tensor_scalar(dst, chip.put(x, dtype), OPS[op], operand)
    np.testing.assert_array_equal(unsigned(dst._array), f(unsigned(x), 3))
    if op != "invert":
        nisa.tensor_scalar(dst, chip.put(x, dtype), OPS[op], chip.put(y[:, :1], dtype))
        np.testing.assert_array_equal(unsigned(dst._array), f(unsigned(x), y[:, :1]))


def test_bit_patterns_keep_their_bits_in_another_type(chip: Any) -> None:
    """No cast on the way: -1 in int32 is 0xFFFFFFFF in uint32, not saturated to 0."""
    for source, target in (("int32", "uint32"), ("uint32", "int32")):
        x = np.array([[0xFFFFFFFF, 0x80000001]], dtype=np.uint32)
        dst = chip.new((1, 2), target)
        nisa.tensor_scalar(dst, chip.put(x.view(source), source), nl.bitwise_or, 0)
        np.testing.assert_array_equal(dst._array.view(np.uint32), x)


# tensor_reduce.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8"])
@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("op", REDUCE)
def test_reductions(chip: Any, rng: Any, op: str, negate: bool, dtype: str) -> None:
    x = rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0], (16, 3, 4, 5))
    space = nl.psum if negate else nl.sbuf
    data = chip.put(x, dtype, space)
    for axis, kept in ((3, (3, 4)), (-1, (3, 4)), ((2, 3), (3,)), ([3, 2], (3,)), ((1, 2, 3), ())):
        expected = REDUCE[op](x.reshape(16, *kept, -1)) * (-1.0 if negate else 1.0)
        dst = chip.new((16, prod(kept)), dtype, space)
        nisa.tensor_reduce(dst=dst, op=OPS[op], data=data, axis=axis, negate=negate)
        np.testing.assert_array_equal(dst._array.reshape(expected.shape), rounded(expected, dtype))
        shape = (16, *kept, *[1] * (3 - len(kept)))
        same = chip.new(shape, dtype)
        nisa.tensor_reduce(same, OPS[op], data, axis, negate=negate, keepdims=True)
        np.testing.assert_array_equal(same._array.reshape(expected.shape), rounded(expected, dtype))


@pytest.mark.parametrize("op", REDUCE_BITS)
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32"])
def test_reductions_of_bits(chip: Any, rng: Any, op: str, dtype: str) -> None:
    x = np.frombuffer(rng.bytes(960), dtype).reshape(8, 3, -1)
    dst = chip.new((8, 3), dtype)
    nisa.tensor_reduce(dst=dst, op=OPS[op], data=chip.put(x, dtype), axis=2)
    np.testing.assert_array_equal(dst._array, getattr(np, op).reduce(x, axis=2))


def test_reduction_of_a_strided_view(chip: Any, rng: Any) -> None:
    """Pooling: windows of 2 x 3 become the last two dimensions of a view."""
    x = rng.integers(-99, 99, (8, 6, 9)).astype(np.float64)
    windows = chip.put(x).rearrange(
        ("p", ("y", "i"), ("x", "j")), ("p", "y", "x", "i", "j"), {"i": 2, "j": 3}
    )
    dst = chip.new((8, 3, 3))
    nisa.tensor_reduce(dst=dst, op=nl.maximum, data=windows, axis=(3, 4))
    np.testing.assert_array_equal(dst._array, x.reshape(8, 3, 2, 3, 3).max((2, 4)))


def test_reduction_adds_in_float32(chip: Any, rng: Any) -> None:
    x = rng.standard_normal((16, 4000)).astype(np.float32)
    dst = chip.new((16, 1))
    nisa.tensor_reduce(dst=dst, op=nl.add, data=chip.put(x), axis=1)
    error = np.abs(dst._array[:, 0] - x.astype(np.float64).sum(1))
    assert np.all(error <= 4000 * 2.0**-24 * np.abs(x).sum(1))


def test_not_a_number_and_infinity(chip: Any) -> None:
    inf, nan = np.inf, np.nan
    x, y = [[inf, inf, nan, 0.0, -1.0]], [[inf, -inf, nan, inf, 0.0]]
    expected = {
        nl.add: [inf, nan, nan, inf, -1],
        nl.multiply: [inf, -inf, nan, nan, 0],
        nl.equal: [1, 0, 0, 0, 0],
        nl.greater_equal: [1, 1, 0, 0, 0],
        nl.logical_and: [1, 1, 1, 0, 0],
    }
    dst, a, b = chip.new((1, 5)), chip.put(x), chip.put(y)
    for op, values in expected.items():
        nisa.tensor_tensor(dst=dst, data1=a, data2=b, op=op)
        np.testing.assert_array_equal(dst._array, [values])
    nisa.tensor_scalar(dst=dst, data=b, op0=nl.reciprocal, operand0=None)
    np.testing.assert_array_equal(dst._array, [[0, 0, nan, 0, inf]])
