"""The error bound accepts right code and rejects faults.

The right code is written here a second time, the way a kernel computes: one float32 matrix product
over all taps and channels, float32 activation, one rounding at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.reference import bounds, conv2d, conv2d_float64
from nkiconv.reference._activations import ACTIVATIONS
from nkiconv.reference._dtypes import DTYPES
from nkiconv.reference.cases import CASES, Case, make_inputs
from nkiconv.reference.conv2d import magnitude

SEEDS = range(5)


def _case(C_in: int, activation: str | None = None) -> Case:
    return Case(
        id="trial",
        C_in=C_in,
        H=12,
        W=12,
        C_out=16,
        KH=3,
        KW=3,
        padding=1,
        activation=activation,
        why="the trial that chose LAMBDA",
    )


def _columns(x: Any) -> Any:
    """float32 pixels under each tap of a 3x3 kernel, padding 1: (N, KH*KW, C_in, H*W)."""
    N, C_in, H, W = x.shape
    padded = np.pad(x.astype(np.float32), ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = [padded[:, :, kh : kh + H, kw : kw + W] for kh in range(3) for kw in range(3)]
    return np.stack(taps, axis=1).reshape(N, 9, C_in, H * W)


def _float32_activation(z: Any, activation: str | None) -> Any:
    with np.errstate(over="ignore"):
        if activation == "relu":
            return np.maximum(z, np.float32(0))
        if activation == "gelu":  # the form that cancels
            erf = np.array([math.erf(v) for v in (z / np.float32(math.sqrt(2))).flat], np.float32)
            return np.float32(0.5) * z * (np.float32(1) + erf.reshape(z.shape))
        if activation == "relu6":
            return np.clip(z, np.float32(0), np.float32(6))
        if activation == "leaky_relu":
            return np.maximum(z, np.float32(0.01) * z)
        if activation == "hardswish":
            return z * np.clip(z + np.float32(3), np.float32(0), np.float32(6)) * np.float32(1 / 6)
        if activation == "gelu_tanh":
            inner = np.float32(math.sqrt(2 / math.pi)) * (z + np.float32(0.044715) * z * z * z)
            return np.float32(0.5) * z * (np.float32(1) + np.tanh(inner))
        sigmoid = np.float32(1) / (np.float32(1) + np.exp(-z))
        return {None: z, "silu": z * sigmoid, "sigmoid": sigmoid, "tanh": np.tanh(z)}[activation]


def _im2col(
    case: Case, x: Any, w: Any, bias: Any, spill: Callable[[Any], Any] | None = None
) -> Any:
    """Right code; with `spill`, the sum over the first half of the channels goes through it."""
    columns, weights = _columns(x), w.astype(np.float32).transpose(0, 2, 3, 1)
    weights = weights.reshape(case.C_out, 9, case.C_in)

    def product(channels: slice) -> Any:
        left = np.ascontiguousarray(weights[:, :, channels]).reshape(case.C_out, -1)
        right = columns[:, :, channels].reshape(case.N, left.shape[1], -1)
        return left @ right

    half = case.C_in // 2
    z = product(slice(None)) if spill is None else spill(product(slice(half)))
    if spill is not None:
        z = z.astype(np.float32) + product(slice(half, None))
    z = z.reshape(case.N, case.C_out, case.H, case.W)
    z += bias.astype(np.float32)[:, None, None]
    y = _float32_activation(z, case.activation)
    assert y.dtype == np.float32
    return y.astype(x.dtype)


def _ratio(case: Case, inputs: Any, y: Any) -> float:
    arguments = case.arguments()
    return bounds.max_error_ratio(
        y,
        conv2d_float64(**inputs, **arguments),
        magnitude(**inputs, **arguments),
        case.terms,
        inputs["x"].dtype,
        activation=case.activation,
    )


@pytest.mark.parametrize("C_in", [3, 64, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_right_code_is_accepted(dtype: str, C_in: int) -> None:
    case = _case(C_in)
    ratios = []
    for seed in SEEDS:
        inputs = make_inputs(case, dtype, seed)
        ratios.append(_ratio(case, inputs, _im2col(case, **inputs)))
    # far inside for float32; in the others the last rounding alone uses nearly all of it
    assert 0 < max(ratios) <= (0.25 if dtype == "float32" else 1)


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a is not None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_right_code_with_activation_is_accepted(dtype: str, activation: str) -> None:
    case = _case(64, activation)
    for seed in SEEDS:
        inputs = make_inputs(case, dtype, seed)
        inputs["x"] = (inputs["x"].astype(np.float32) * 4).astype(inputs["x"].dtype)  # reach tails
        assert _ratio(case, inputs, _im2col(case, **inputs)) <= 1


@pytest.mark.parametrize("C_in", [3, 64, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropped_tap_is_rejected(dtype: str, C_in: int) -> None:
    case = _case(C_in)
    for seed in SEEDS:
        inputs = make_inputs(case, dtype, seed)
        w = inputs["w"].copy()
        w[:, :, 2, 0] = 0
        assert _ratio(case, inputs, _im2col(case, inputs["x"], w, inputs["bias"])) > 5


@pytest.mark.parametrize(
    ("dtype", "spilled", "C_in"),
    [
        ("float32", "bfloat16", 256),
        ("float16", "bfloat16", 256),
        ("bfloat16", "bfloat16", 256),
        ("float16", "float16", 64),
    ],
)
def test_rounded_partial_sums_are_rejected(dtype: str, spilled: str, C_in: int) -> None:
    case = _case(C_in)
    for seed in range(20):
        inputs = make_inputs(case, dtype, seed)
        y = _im2col(case, **inputs, spill=lambda z: z.astype(DTYPES[spilled]))
        assert _ratio(case, inputs, y) > 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_integers_are_exact(dtype: str) -> None:
    case = _case(256, "relu")
    for seed in SEEDS:
        inputs = make_inputs(case, dtype, seed, integers=True)
        y = _im2col(case, **inputs)
        np.testing.assert_array_equal(y, conv2d(**inputs, **case.arguments()))
        inputs["x"][0, 7, 5, 5] += 1  # and one wrong pixel is seen
        assert not np.array_equal(y, conv2d(**inputs, **case.arguments()))


@pytest.mark.parametrize("case", [c for c in CASES if c.quick], ids=lambda c: c.id)
def test_reference_itself_is_within_its_bound(case: Case) -> None:
    for dtype in case.dtypes:
        inputs = make_inputs(case, dtype)
        y = conv2d(**inputs, **case.arguments())
        assert _ratio(case, inputs, y) <= 1
        assert _ratio(case, inputs, y.astype(np.float64) * 1.02 + 1e-3) > 1


def test_allowance_worked_by_hand() -> None:
    u32 = 2.0**-24
    r, m = [2.0, -1.0, 0.0], [4.0, 1.0, 0.0]
    np.testing.assert_allclose(
        bounds.allowance(r, m, 9, "float32"), [4 * 3 * u32 * 4, 4 * 3 * u32, 0], rtol=1e-15
    )
    for dtype, u_out in (("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        expected = [4 * 3 * u32 * 4 * (1 + u_out) + u_out * 2, 12 * u32 * (1 + u_out) + u_out, 0]
        np.testing.assert_allclose(bounds.allowance(r, m, 9, dtype), expected, rtol=1e-15)
    # sigmoid: a quarter of it, and 4 ulps of 2 u32 of the result
    np.testing.assert_allclose(
        bounds.allowance(r, m, 9, "float32", activation="sigmoid"),
        [12 * u32 + 16 * u32, 3 * u32 + 8 * u32, 0],
        rtol=1e-15,
    )
    # 2^-20 is subnormal in float16: the numbers there are 2^-24 apart
    assert bounds.allowance([2.0**-20], [0.0], 1, "float16") == 2.0**-25


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_limits_are_those_of_ml_dtypes(dtype: str) -> None:
    limits: Any = ml_dtypes.finfo(DTYPES[dtype])  # type: ignore[no-untyped-call]  # untyped
    u_out, half_step, overflow = bounds._FORMATS[dtype]
    if dtype != "float32":
        assert u_out == float(limits.eps) / 2
        assert half_step == float(limits.smallest_subnormal) / 2
    largest = float(limits.max)
    assert overflow == largest + float(limits.eps) * 2.0 ** (limits.maxexp - 1) / 2


def test_lipschitz_is_the_steepest_slope() -> None:
    z = np.linspace(-10, 10, 200_001)
    for name, function in ACTIVATIONS.items():
        slopes = np.abs(np.diff(function(z))) / np.diff(z)
        assert bounds.lipschitz(name) == pytest.approx(slopes.max(), rel=2e-5), name
        assert bounds.lipschitz(name) >= slopes.max() * (1 - 1e-9), name


def test_lipschitz_of_a_slope() -> None:
    assert bounds.lipschitz(("leaky_relu", 0.5)) == 1
    assert bounds.lipschitz(("leaky_relu", -1.5)) == 1.5


def test_ratio_worked_by_hand() -> None:
    step = 4 * 2.0**-24  # what one term of size 1 allows in float32
    y = np.array([1.0, 1 + step / 2, 1 - 3 * step, 0.0])
    m = [1.0, 1.0, 1.0, 0.0]
    assert bounds.max_error_ratio(y, [1, 1, 1, 0], m, 1, np.float32) == pytest.approx(3)
    assert bounds.max_error_ratio(y[:2], [1, 1], m[:2], 1, np.float32) == pytest.approx(0.5)
    assert bounds.max_error_ratio(y[:1], [1], m[:1], 1, np.float32) == 0
    assert bounds.max_error_ratio(y[3:], [1e-30], m[3:], 1, np.float32) == math.inf
    assert bounds.max_error_ratio(y[:0], [], [], 1, np.float32) == 0


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("y", "reference", "right"),
    [
        (NAN, NAN, True),
        (INF, INF, True),
        (-INF, -INF, True),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (INF, 1.0, False),
        (1.0, INF, False),
        (INF, -INF, False),
        (NAN, INF, False),
        (INF, NAN, False),
        # float16 ends at 65504; from 65520 on, values round to Inf
        (INF, 70000.0, True),
        (INF, 65519.0, True),
        (INF, 65000.0, False),
        (-INF, 70000.0, False),
        (65504.0, 65519.0, True),
        (65504.0, 70000.0, False),
    ],
)
def test_nan_and_inf_have_to_match(y: float, reference: float, right: bool) -> None:
    values = np.array([0.0, y]).astype(np.float16)
    magnitudes = [0.0, abs(reference)]
    ratio = bounds.max_error_ratio(values, [0.0, reference], magnitudes, 1, np.float16)
    assert (ratio <= 1) == right


def test_a_finite_activation_of_inf_has_to_be_met() -> None:
    for y, right in ((1.0, True), (0.5, False)):
        ratio = bounds.max_error_ratio(
            np.array([y]), [1.0], [np.inf], 9, np.float32, activation="tanh"
        )
        assert (ratio <= 1) == right


def test_refusals() -> None:
    with pytest.raises(ValueError, match="dtype is 'float64'; it must be one of 'float32', "):
        bounds.allowance([1], [1], 1, np.float64)
    with pytest.raises(ValueError, match="terms is 0; a convolution sums at least 1"):
        bounds.allowance([1], [1], 0, np.float32)
    with pytest.raises(ValueError, match=r"reference has shape \(1,\), magnitude has shape \(2,\)"):
        bounds.allowance([1], [1, 1], 1, np.float32)
    with pytest.raises(ValueError, match=r"y has shape \(1, 1\), the reference has \(1,\)"):
        bounds.max_error_ratio(np.ones((1, 1)), [1], [1], 1, np.float32)
    with pytest.raises(ValueError, match="activation is 'mish'; it must be one of None, 'relu'"):
        bounds.lipschitz("mish")
