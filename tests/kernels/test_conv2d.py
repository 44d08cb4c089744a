"""conv2d's kernels against the float64 reference: exact on integers, within bounds on the rest."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nkiconv.kernels import conv2d, pack_weights
from nkiconv.kernels._activations import ACTIVATIONS, IN_ONE_STEP
from nkiconv.kernels._algorithm import Candidate
from nkiconv.kernels._choice import ALGORITHMS
from nkiconv.reference import bounds, conv2d_float64
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.reference.cases import CASES, Case, make_inputs
from nkiconv.reference.conv2d import magnitude

DTYPES = ("float32", "float16", "bfloat16")

# Larger ones take seconds each; `nkiconv check` runs them.
_MAX_MACS = 5e8


def _macs(case: Case) -> float:
    return case.N * case.C_out * case.H * case.W * case.terms


ROWS = [
    pytest.param(case, dtype, algorithm, id=f"{case.id}-{dtype}-{algorithm}")
    for case in CASES
    if _macs(case) < _MAX_MACS
    for dtype in case.dtypes
    for algorithm in case.algorithms
]


def _error_ratio(y: Any, inputs: Any, arguments: Any, dtype: Any = None) -> float:
    """Largest error over what the bound allows."""
    terms = int(np.prod(inputs["w"].shape[1:]))
    with np.errstate(invalid="ignore"):  # NaN and Inf are data in some of the tests
        return bounds.max_error_ratio(
            y,
            conv2d_float64(**inputs, **arguments),
            magnitude(**inputs, **arguments),
            terms,
            dtype or inputs["x"].dtype,
            activation=arguments.get("activation"),
        )


def _draw(dtype: str, *shape: int, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).integers(-3, 4, shape)
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


@pytest.mark.parametrize(("case", "dtype", "algorithm"), ROWS)
def test_cases(case: Case, dtype: str, algorithm: str) -> None:
    inputs = make_inputs(case, dtype)
    y = conv2d(**inputs, **case.arguments(), algorithm=algorithm)
    assert y.dtype == inputs["x"].dtype
    assert _error_ratio(y, inputs, case.arguments()) <= 1


@pytest.mark.parametrize(("case", "dtype", "algorithm"), ROWS)
def test_cases_exactly_on_integers(case: Case, dtype: str, algorithm: str) -> None:
    inputs, arguments = make_inputs(case, dtype, integers=True), case.exact_arguments()
    y = conv2d(**inputs, **arguments, algorithm=algorithm)
    np.testing.assert_array_equal(y, conv2d_ref(**inputs, **arguments))


def test_cases_reach_every_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, and by "auto": a row for each that it prefers to the others."""
    assert {name for case in CASES for name in case.algorithms} == {*ALGORITHMS, "naive"}
    chosen = []
    module = sys.modules["nkiconv.kernels.conv2d"]  # the name in the package is the function

    def run(launch: object, best: Candidate, operands: object) -> Any:
        chosen.append(best)
        return np.zeros((1, 1, 1, 1), np.float32)

    monkeypatch.setattr(module, "run", run)
    for case in CASES:
        if _macs(case) < _MAX_MACS:
            for dtype in case.dtypes:
                conv2d(**make_inputs(case, dtype), **case.arguments())
    assert {best.algorithm for best in chosen} == set(ALGORITHMS)
    assert {best.stages is None for best in chosen} == {True, False}


@pytest.mark.parametrize("target", ["trn1", "inf2", "trn2", "trn3"])
@pytest.mark.parametrize("algorithm", ["direct", "naive"])
def test_every_target(target: str, algorithm: str) -> None:
    x, w, bias = _draw("bfloat16", 2, 5, 9, 8), _draw("bfloat16", 7, 5, 3, 3), _draw("float32", 7)
    y = conv2d(x, w, bias, padding=1, activation="relu", algorithm=algorithm, target=target)
    np.testing.assert_array_equal(y, conv2d_ref(x, w, bias, padding=1, activation="relu"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, ("leaky_relu", 0.3), ("leaky_relu", -2)])
def test_activations(dtype: str, activation: Any) -> None:
    case = Case(id="", C_in=9, H=6, W=7, C_out=5, KH=3, KW=3, why="")
    inputs = make_inputs(case, dtype)
    inputs["x"] *= inputs["x"].dtype.type(3)  # into the saturated ends too
    arguments = {"activation": activation}
    assert _error_ratio(conv2d(**inputs, activation=activation), inputs, arguments) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_is_added_before_the_activation(dtype: str) -> None:
    x, w, bias = _draw(dtype, 2, 130, 5, 6), _draw(dtype, 131, 130, 3, 3), _draw(dtype, 131)
    residual = 8 * _draw(dtype, 2, 131, 5, 6, seed=1)
    arguments = {"padding": 1, "residual": residual, "activation": "relu"}
    y = conv2d(x, w, bias, **arguments)
    np.testing.assert_array_equal(y, conv2d_ref(x, w, bias, **arguments))
    assert np.any(y != conv2d(x, w, bias, padding=1, activation="relu"))


@pytest.mark.parametrize("algorithm", ["direct", "naive"])
@pytest.mark.parametrize("groups", [1, 3])
def test_packed_weights_give_the_same(algorithm: str, groups: int) -> None:
    x, w = _draw("float16", 1, 6, 8, 9), _draw("float16", 12, 6 // groups, 3, 2)
    packed = pack_weights(w, groups)
    y = conv2d(x, packed, groups=groups, stride=2, algorithm=algorithm)
    np.testing.assert_array_equal(y, conv2d_ref(x, w, groups=groups, stride=2))


@pytest.mark.parametrize("algorithm", ["direct", "naive"])
def test_arrays_in_any_memory_order(algorithm: str) -> None:
    x = _draw("float32", 5, 9, 8, 2).transpose(3, 0, 1, 2)[:, ::-1, ::2]
    w = _draw("float32", 3, 3, 5, 4).transpose(3, 2, 0, 1)
    bias = _draw("float32", 8)[::-2]
    assert not x.flags.c_contiguous
    x_before = x.copy()
    y = conv2d(x, w, bias, padding=1, algorithm=algorithm)
    np.testing.assert_array_equal(y, conv2d_ref(x, w, bias, padding=1))
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(conv2d(x, pack_weights(w), bias, padding=1), y)


def test_read_only_arrays_and_numpy_integers() -> None:
    x, w = _draw("float32", 1, 2, 6, 6), _draw("float32", 2, 1, 3, 3)
    x.setflags(write=False)
    w.setflags(write=False)
    two = np.int64(2)
    y = conv2d(x, w, stride=two, padding=(two, np.uint8(1)), dilation=[1, two], groups=two)
    np.testing.assert_array_equal(
        y, conv2d_ref(x, w, stride=2, padding=(2, 1), dilation=(1, 2), groups=2)
    )


def test_bias_in_another_float_type() -> None:
    x, w = _draw("bfloat16", 1, 2, 4, 4), _draw("bfloat16", 3, 2, 1, 1)
    bias = np.array([0.125, 1.0, -300.0], dtype=np.float32)
    np.testing.assert_array_equal(conv2d(x, w, bias), conv2d_ref(x, w, bias))


@pytest.mark.parametrize("where", ["x", "w", "bias"])
@pytest.mark.parametrize("algorithm", ["direct", "naive"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_inf_propagate(
    where: str, algorithm: str, dtype: str, activation: str | None
) -> None:
    if algorithm == "naive" and activation not in IN_ONE_STEP:
        pytest.skip("naive has none of the activations that take several instructions")
    case = Case(id="", C_in=3, H=6, W=6, C_out=4, KH=3, KW=3, padding=1, why="")
    inputs = make_inputs(case, dtype)
    array = np.asarray(inputs[where])  # type: ignore[literal-required]  # where is one of its keys
    array.reshape(-1)[:3] = [np.nan, np.inf, -np.inf]
    # What an infinite weight makes of the padding is nobody's promise: NaN in PyTorch's float32,
    # nothing in its bfloat16 and in the direct kernel, which computes no products with padding.
    padding = 0 if where == "w" else 1
    arguments: dict[str, Any] = {"padding": padding, "activation": activation}
    # trn1's tensor engine cannot transpose NaN, which the naive kernel does to weights
    y = conv2d(**inputs, **arguments, algorithm=algorithm, target="trn2")
    assert np.isnan(y.astype(np.float32)).any()
    assert _error_ratio(y, inputs, arguments) <= 1


def test_results_too_large_for_the_type_are_inf() -> None:
    x, w = np.full((1, 1, 2, 2), 6e4, np.float16), np.full((1, 1, 1, 1), -2, np.float16)
    np.testing.assert_array_equal(conv2d(x, w), np.full((1, 1, 2, 2), -np.inf))


def _size(largest: int, least: int = 1) -> st.SearchStrategy[int]:
    return st.integers(least, largest)


@st.composite
def _problems(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    groups = draw(_size(3))
    dtype = draw(st.sampled_from(DTYPES))
    N, C_in, C_out = draw(_size(2)), draw(_size(4)), draw(_size(4))
    H, W, KH, KW = draw(_size(9)), draw(_size(9)), draw(_size(4)), draw(_size(4))
    pad = st.tuples(_size(3, 0), _size(3, 0))
    seed = draw(_size(9))
    inputs = {
        "x": _draw(dtype, N, groups * C_in, H, W, seed=seed),
        "w": _draw(dtype, groups * C_out, C_in, KH, KW, seed=seed + 1),
        "bias": draw(st.sampled_from([None, _draw(dtype, groups * C_out, seed=seed)])),
    }
    arguments = {
        "stride": draw(st.tuples(_size(4), _size(4))),
        "dilation": draw(st.tuples(_size(3), _size(3))),
        "padding": draw(st.one_of(st.tuples(pad, pad), st.just("valid"))),
        "groups": groups,
        "activation": draw(st.sampled_from([None, "relu"])),
    }
    return inputs, arguments


def _compare_with_reference(problem: tuple[Any, dict[str, Any]], algorithm: str) -> None:
    inputs, arguments = problem
    try:
        expected = conv2d_ref(**inputs, **arguments)
    except ValueError:
        assume(False)  # the kernel does not fit on the image
    y = conv2d(**inputs, **arguments, algorithm=algorithm)
    np.testing.assert_array_equal(y, expected)


@settings(max_examples=150, deadline=None)
@given(_problems())
def test_random_problems(problem: tuple[Any, dict[str, Any]]) -> None:
    _compare_with_reference(problem, "direct")


@settings(max_examples=25, deadline=None)
@given(_problems())
def test_random_problems_naive(problem: tuple[Any, dict[str, Any]]) -> None:
    _compare_with_reference(problem, "naive")


POISONED: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "direct": ("direct", (2, 192, 26, 26), (16, 192, 3, 3), {"padding": 1}),
    "pointwise": ("pointwise", (1, 24, 56, 56), (144, 24, 1, 1), {}),
    "im2col": ("im2col", (2, 3, 32, 32), (16, 3, 3, 3), {"padding": 1}),
    "diagonal": ("depthwise", (2, 32, 12, 12), (32, 1, 3, 3), {"padding": 1, "groups": 32}),
    "banded": ("depthwise", (2, 32, 12, 12), (32, 1, 9, 9), {"padding": 4, "groups": 32}),
    "grouped": ("grouped", (2, 32, 12, 12), (32, 8, 3, 3), {"padding": 1, "groups": 4}),
    "patches": ("patches", (2, 3, 32, 32), (16, 3, 16, 16), {"stride": 16}),
}


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("name", POISONED)
def test_nan_is_never_lost(name: str, target: str) -> None:
    algorithm, x_shape, w_shape, more = POISONED[name]
    x, w = np.ones(x_shape, np.float32), np.ones(w_shape, np.float32)
    x[0, 1, x_shape[2] // 2, x_shape[3] // 2] = np.nan
    with np.errstate(all="ignore"):
        y = conv2d(x, w, algorithm=algorithm, target=target, **more)
        wanted = np.isnan(conv2d_ref(x, w, **more))
    assert np.isnan(y)[wanted].all()
    spreads = algorithm != "direct" and (algorithm, target) != ("patches", "trn2")
    assert np.isnan(y)[~wanted].any() == spreads
