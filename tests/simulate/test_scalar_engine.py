"""ScalarE against float64: every function, scale and bias, and sums that gather in registers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkiconv.simulate.activations import erfc
from nkiconv.simulate.engines.scalar import ActivationRangeWarning
from nkiconv.simulate.errors import UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.ops import OPS

IDLE, RESET, REDUCE, BOTH = (
    nisa.reduce_cmd.idle,
    nisa.reduce_cmd.reset,
    nisa.reduce_cmd.reduce,
    nisa.reduce_cmd.reset_reduce,
)
FLOAT32_PI = float(np.float32(math.pi))
# Documented range of the input, for reciprocal of its magnitude (Supported Activation Functions).
LIMITED = {
    "rsqrt": (2.0**-87, 2.0**97),
    "reciprocal": (2.0**-42, 2.0**42),
    "log": (2.0**-64, 2.0**64),
    "sqrt": (2.0**-116, 2.0**118),
    "sin": (-FLOAT32_PI, FLOAT32_PI),
    "arctan": (-FLOAT32_PI / 2, FLOAT32_PI / 2),
}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "copy": lambda x: x,
    "abs": abs,
    "square": lambda x: x * x,
    "relu": lambda x: max(x, 0.0),
    "sign": lambda x: math.copysign(1, x) if x else 0.0,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
    "tanh": math.tanh,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "softplus": lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0),
    "erf": math.erf,
    "gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "gelu_apprx_tanh": lambda x: 0.5 * x * (
        1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    ),
    "gelu_apprx_sigmoid": lambda x: x * sigmoid(1.702 * x),
    "gelu_apprx_sigmoid_dx": lambda x: sigmoid(1.702 * x) * (1 + 1.702 * x * sigmoid(-1.702 * x)),
    "gelu_dx": lambda x: 0.5 * math.erfc(-x / math.sqrt(2)) + (
        x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    ),
    "silu_dx": lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(-abs(x))) + max(x, 0)),
    "erf_dx": lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x),
    "sin": math.sin,
    "arctan": math.atan,
}  # fmt: skip
POSITIVE = {"rsqrt", "sqrt", "log"}


def activate(chip: Any, op: Any, data: Any, dtype: str = "float32", **options: Any) -> Any:
    dst = chip.new(data.shape, dtype)
    nisa.activation(dst=dst, op=op, data=data, **options)
    return np.array(dst._array)


def exactly(op: str, values: Any) -> Any:
    return np.vectorize(FUNCTIONS[op], otypes=[float])(np.asarray(values, dtype=np.float64))


def test_the_table_holds_every_function() -> None:
    table = {name: op.scalar for name, op in OPS.items() if op.scalar}
    assert FUNCTIONS.keys() | {"prelu"} == table.keys()  # test_activate2.py has prelu
    assert {name: scalar.valid for name, scalar in table.items() if scalar.valid} == LIMITED
    assert len(table) == 26  # rows of the vendor's table


@pytest.mark.parametrize("op", FUNCTIONS)
def test_function(chip: Any, op: str) -> None:
    """Within a few units in the last place of float32, over the range that networks use."""
    low, high = (2.0**-10, 30) if op in POSITIVE else (-12, 12)
    if op in ("sin", "arctan"):
        low, high = LIMITED[op]
    x = np.linspace(low, high, 480, dtype=np.float32).reshape(16, 30)
    # Sums that cancel: erf is 1 - erfc, of which the fit is within 1.2e-7.  Then float32's least.
    absolute = {"erf": 2e-7, "gelu_dx": 2e-7, "gelu_apprx_sigmoid_dx": 1e-8, "silu_dx": 1e-8,
                "gelu_apprx_tanh": 1e-14, "erf_dx": 2e-45}.get(op, 0)  # fmt: skip
    result = activate(chip, OPS[op], chip.put(x))
    np.testing.assert_allclose(result, exactly(op, x), rtol=4e-7, atol=absolute)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "int8", "uint8"])
@pytest.mark.parametrize("op", ["copy", "abs", "square", "relu", "sign"])
@pytest.mark.parametrize("space", ["sbuf", "psum"])
def test_exact_functions_of_every_type(chip: Any, op: str, dtype: str, space: str) -> None:
    x = np.arange(0 if dtype == "uint8" else -5, 6)
    result = activate(chip, OPS[op], chip.put([x], dtype, getattr(nl, space)), "bfloat16")
    np.testing.assert_array_equal(result.astype(np.float64), [exactly(op, x)])
    back = activate(chip, OPS[op], chip.put([x], "float32"), dtype)
    np.testing.assert_array_equal(back.astype(np.float64), [exactly(op, x)])


@pytest.mark.parametrize("op", FUNCTIONS)
def test_not_a_number_and_infinity(chip: Any, op: str) -> None:
    limits = {
        "copy": (np.inf, -np.inf), "abs": (np.inf, np.inf), "square": (np.inf, np.inf),
        "relu": (np.inf, 0), "sign": (1, -1), "reciprocal": (0, 0), "rsqrt": (0, np.nan),
        "sqrt": (np.inf, np.nan), "log": (np.inf, np.nan), "exp": (np.inf, 0), "tanh": (1, -1),
        "sigmoid": (1, 0), "softplus": (np.inf, 0), "erf": (1, -1),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ActivationRangeWarning)
        result = activate(chip, OPS[op], chip.put([[np.nan, np.inf, -np.inf]]))[0]
    assert np.isnan(result[0])
    if op in limits:  # silu and gelu at -inf are 0 times infinity: nothing is documented
        np.testing.assert_array_equal(result[1:], limits[op])


@given(st.floats(-26, 26))
def test_erfc(x: float) -> None:
    """Within 1.2e-7 of its value, relatively, as Numerical Recipes states."""
    assert float(erfc(np.array(x))) == pytest.approx(math.erfc(x), rel=1.2e-7, abs=0)


# Scale and bias.


@pytest.mark.parametrize("bias_type", ["float32", "bfloat16", "float16", "int32"])
@pytest.mark.parametrize("space", ["sbuf", "psum"])
def test_scale_and_bias_of_each_partition(chip: Any, rng: Any, bias_type: str, space: str) -> None:
    x = rng.integers(-9, 9, (32, 3, 4)) / 2
    scale, bias = rng.integers(-4, 5, (32, 1)) / 4, rng.integers(-9, 9, (32, 1))
    where = getattr(nl, space)
    result = activate(
        chip,
        nl.relu,
        chip.put(x, "bfloat16"),
        scale=chip.put(scale, "float32", where),
        bias=chip.put(bias, bias_type, where),
    )
    np.testing.assert_array_equal(result, np.maximum(x * scale[..., None] + bias[..., None], 0))


def test_numbers_as_scale_and_bias(start: Any) -> None:
    x = np.arange(-6.0, 6).reshape(3, 4)
    with start("trn2") as chip:
        assert np.array_equal(activate(chip, nl.copy, chip.put(x), scale=0.5), x / 2)
        assert np.array_equal(activate(chip, nl.copy, chip.put(x), scale=3, bias=-1), 3 * x - 1)
        assert np.array_equal(activate(chip, nl.copy, chip.put(x), bias=2.5), x + 2.5)
        column = np.array([[1.0], [2], [4]])
        mixed = activate(chip, nl.square, chip.put(x), scale=chip.put(column), bias=1)
        assert np.array_equal(mixed, (x * column + 1) ** 2)
        assert np.array_equal(
            activate(chip, nl.copy, chip.put(x), scale=chip.put(column)), x * column
        )


def test_scale_comes_before_bias_and_both_in_float32(chip: Any) -> None:
    """The input is widened first: 300 * 300 fits float32, not bfloat16 or int16."""
    bias = chip.put([[0.5]])
    result = activate(chip, nl.copy, chip.put([[301]], "int16"), bias=bias, scale=300.0)
    np.testing.assert_array_equal(result, [[90300.5]])


def test_strided_views(chip: Any, rng: Any) -> None:
    x = rng.integers(-9, 9, (64, 6, 8))
    held, whole = chip.put(x), chip.new((128, 2, 3, 4), "int8")
    nisa.activation(dst=whole[64:128, 1], op=nl.abs, data=held[:, ::2, 1::2])
    np.testing.assert_array_equal(whole[64:128, 1]._array, abs(x[:, ::2, 1::2]))
    assert whole._storage.count_unwritten(whole, whole._element) == 128 * 24 - 64 * 12


def test_result_is_rounded_once_to_nearest_even(chip: Any) -> None:
    halves = chip.put([[0.5, 1.5, 2.5, -0.5, 300, np.nan, np.inf]])
    np.testing.assert_array_equal(
        activate(chip, nl.copy, halves, "int8"), [[0, 2, 2, 0, 127, 0, 127]]
    )
    np.testing.assert_array_equal(
        activate(chip, nl.copy, chip.put([[1 + 2.0**-8, 1 + 3 * 2.0**-8]]), "bfloat16"),
        [[1, 1 + 2.0**-6]],
    )


def test_operands_must_have_been_written(chip: Any) -> None:
    x = chip.put(np.ones((4, 5)))
    for name in ("bias", "scale"):
        with pytest.raises(UninitializedReadError, match=f"{name} reads 4 of 4 elements"):
            activate(chip, nl.copy, x, **{name: chip.new((4, 1))})


# Registers.


def test_registers_gather_over_several_calls(chip: Any, rng: Any) -> None:
    """The documented steps of reduce_cmd, one after another, read back by reduce_res."""
    x, total = rng.integers(-9, 9, (8, 3, 5)), np.zeros(8)
    held, sums = chip.put(x), chip.new((8, 1))
    one = np.maximum(x, 0).sum((1, 2))
    for command, after in (
        (IDLE, 0 * one), (REDUCE, one), (REDUCE, 2 * one), (IDLE, 2 * one), (BOTH, one),
        (RESET, 0 * one), (REDUCE, one), (BOTH, one),
    ):  # fmt: skip
        adds = nl.add if command in (REDUCE, BOTH) else None
        options = {"reduce_cmd": command, "reduce_op": adds, "reduce_res": sums}
        result = activate(chip, nl.relu, held, "bfloat16", **options)
        np.testing.assert_array_equal(result.astype(np.float64), np.maximum(x, 0))
        np.testing.assert_array_equal(sums._array[:, 0], after)
        total += one
    nisa.activation(dst=held, op=nl.copy, data=held, reduce_op=nl.add, reduce_cmd=REDUCE)
    nisa.activation(dst=held, op=nl.copy, data=held, reduce_res=sums)
    np.testing.assert_array_equal(sums._array[:, 0], one + x.sum((1, 2)))


def test_each_partition_has_its_own_register(chip: Any) -> None:
    held, sums = chip.put(np.ones((128, 4))), chip.new((128, 1))
    add = {"op": nl.copy, "reduce_op": nl.add}
    nisa.activation(dst=held[64:96], data=held[64:96], reduce_cmd=BOTH, **add)
    nisa.activation(dst=held, data=held, reduce_cmd=REDUCE, reduce_res=sums, **add)
    expected = np.where((np.arange(128) // 32) == 2, 8, 4)
    np.testing.assert_array_equal(sums._array[:, 0], expected)
    nisa.activation(dst=held[:32], op=nl.copy, data=held[:32], reduce_cmd=RESET)
    nisa.activation(dst=held, op=nl.copy, data=held, reduce_res=sums)
    np.testing.assert_array_equal(sums._array[:, 0], np.where(np.arange(128) < 32, 0, expected))


def test_sums_are_of_the_float32_results(chip: Any) -> None:
    """The sum is taken before dst's rounding, and reduce_res rounds once by itself."""
    third, sums = chip.put(np.full((1, 8), 1 / 3)), chip.new((1, 1))
    low, rounded = chip.new((1, 8), "int8"), chip.new((1, 1), "bfloat16")
    options: dict[str, Any] = {"op": nl.copy, "data": third, "reduce_op": nl.add}
    nisa.activation(dst=low, reduce_cmd=BOTH, reduce_res=sums, **options)
    assert np.all(low._array == 0)
    assert sums._array[0, 0] == pytest.approx(8 / 3, rel=1e-6)
    nisa.activation(dst=low, reduce_cmd=BOTH, reduce_res=rounded, **options)
    assert float(rounded._array[0, 0]) == 2.671875  # 8/3 in steps of 2**-6


def test_registers_belong_to_one_launch(start: Any) -> None:
    for _ in range(2):
        with start("trn1") as chip:
            held, sums = chip.put(np.ones((4, 4))), chip.new((4, 1))
            nisa.activation(held, nl.copy, held, None, 1.0, nl.add, sums, REDUCE)
            np.testing.assert_array_equal(sums._array, [[4]] * 4)


def test_activation_reduce_starts_from_zero_and_leaves_its_sum(chip: Any, rng: Any) -> None:
    """As activation with reset_reduce: what the registers held before is gone."""
    x, scale = rng.integers(-9, 9, (32, 3, 4)), rng.integers(-4, 5, (32, 1)) / 4
    held, sums, later = chip.put(x, "bfloat16"), chip.new((32, 1)), chip.new((32, 1))
    vectors = {"scale": chip.put(scale), "bias": chip.put(np.full((32, 1), 0.5))}
    expected = np.maximum(x * scale[..., None] + 0.5, 0)
    for _ in range(2):
        dst = chip.new((32, 3, 4), "int8")
        nisa.activation_reduce(dst, nl.relu, held, nl.add, sums, **vectors)
        np.testing.assert_array_equal(dst._array, np.rint(expected))
        np.testing.assert_array_equal(sums._array[:, 0], expected.sum((1, 2)))  # not rounded
    nisa.activation_reduce(dst, nl.copy, held, nl.add, None)
    nisa.activation(dst=held, op=nl.copy, data=held, reduce_res=later)
    np.testing.assert_array_equal(later._array[:, 0], x.sum((1, 2)))
    np.testing.assert_array_equal(sums._array[:, 0], expected.sum((1, 2)))
    words = r"nisa\.activation_reduce: nl\.log receives"
    with pytest.warns(ActivationRangeWarning, match=words) as caught:
        nisa.activation_reduce(dst, nl.log, chip.put(-np.ones((32, 12))), nl.add, sums)
    assert caught[0].filename == __file__


# Ranges.


@pytest.mark.parametrize("op", LIMITED)
def test_values_outside_the_documented_range_are_warned_of(chip: Any, op: str) -> None:
    low, high = LIMITED[op]
    words = rf"nisa\.activation: nl\.{op} receives values outside \[{low:g}, {high:g}\]; ScalarE"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        activate(chip, OPS[op], chip.put([[low, 1.0, high]]))
        if op == "reciprocal":
            activate(chip, OPS[op], chip.put([[-low, -high]]))
    signed = low < 0
    outside = [high * 2, np.nan, 2 * low if signed else low / 2]
    outside += [] if signed else [0.0] if op == "reciprocal" else [0.0, -1.0]
    for value in outside:
        with pytest.warns(ActivationRangeWarning, match=words.replace("+", r"\+")) as caught:
            activate(chip, OPS[op], chip.put([[1.0, value]]))
        assert caught[0].filename == __file__


def test_the_sine_outside_its_range_is_a_cubic(chip: Any) -> None:
    """The page's own figure: about 27.65 for 9.0, where the sine is 0.41; odd, and 0 at pi."""
    x = chip.put([[9.0, -9.0, 4.0, FLOAT32_PI]])
    with pytest.warns(ActivationRangeWarning, match="extrapolates a cubic there, and so does the"):
        result = activate(chip, nl.sin, x)[0]
    distance = 4.0 - math.pi
    expected = [27.65, -27.65, distance**3 / 6 - distance, 0]
    np.testing.assert_allclose(result, expected, atol=5e-3)
    np.testing.assert_allclose(result[2], math.sin(4.0), atol=5e-3)  # near pi it still resembles


def test_copies_need_no_activation_table(chip: Any) -> None:
    x = chip.put(np.ones((4, 8)))
    for op, needs in ((nl.exp, True), (nl.copy, False), (nl.square, True)):
        nisa.activation(dst=chip.new((4, 8)), op=op, data=x)
        assert (chip.last.table >= 0) is needs
