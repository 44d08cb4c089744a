"""conv2d's reference against numbers worked by hand and against SciPy."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal

from nkiconv.reference import conv2d, conv2d_float64
from nkiconv.reference._dtypes import DTYPES, round_once
from nkiconv.reference.conv2d import magnitude

X = np.array([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]], dtype=np.float32)
W = np.array([[[[1, 0], [2, -1]]]], dtype=np.float32)


def test_worked_by_hand() -> None:
    # top left: 1*1 + 0*2 + 2*4 - 1*5 = 4; one step right 2 + 2*5 - 6 = 6; below 4 + 2*7 - 8 = 10
    np.testing.assert_array_equal(conv2d(X, W), [[[[4, 6], [10, 12]]]])


def test_worked_by_hand_with_all_arguments() -> None:
    # "same" for 2x2 pads one pixel at the bottom and right, so the last row sees 1*x alone
    # and the last column misses the right taps: 3 + 2*6 = 15, 6 + 2*9 = 24, 9.
    same = [[4, 6, 15], [10, 12, 24], [7, 8, 9]]
    np.testing.assert_array_equal(conv2d(X, W, padding="same"), [[same]])
    # bias -20, residual +1 everywhere, then relu: only 24 - 19 = 5 is left; its 2x2 maximum and
    # mean with step 1
    bias, residual = np.array([-20], np.float32), np.ones((1, 1, 3, 3), np.float32)
    arguments: dict[str, Any] = {"bias": bias, "residual": residual}
    y = conv2d(X, W, padding="same", activation="relu", **arguments)
    np.testing.assert_array_equal(y, [[[[0, 0, 0], [0, 0, 5], [0, 0, 0]]]])
    y = conv2d(X, W, padding="same", activation="relu", pool=("max", 2, 1), **arguments)
    np.testing.assert_array_equal(y, [[[[0, 5], [0, 5]]]])
    y = conv2d(X, W, padding="same", activation="relu", pool=("avg", 2, 1), **arguments)
    np.testing.assert_array_equal(y, [[[[0, 1.25], [0, 1.25]]]])


def test_scale_worked_by_hand() -> None:
    # 4 6 10 12 times -1, plus 8: 4 2 -2 -4; a tenth of the negative ones; half of what hardswish's
    # ramp leaves of 2: 2 * 5/6
    arguments: dict[str, Any] = {
        "scale": np.array([-1], np.float32),
        "bias": np.array([8], np.float32),
    }
    y = conv2d_float64(X, W, **arguments, activation=("leaky_relu", 0.1))
    np.testing.assert_allclose(y, [[[[4, 2], [-0.2, -0.4]]]], rtol=1e-15)
    y = conv2d_float64(X, W, **arguments, activation="hardswish")
    np.testing.assert_allclose(y, [[[[4, 10 / 6], [-2 / 6, 0]]]], rtol=1e-15)
    arguments["bias"] += 3
    np.testing.assert_array_equal(
        conv2d(X, W, **arguments, activation="relu6"), [[[[6, 5], [1, 0]]]]
    )


def test_padding_modes_worked_by_hand() -> None:
    # one row 1 2 3, taps 1 and 10, two pixels on the left
    x, w = X[:, :, :1], np.array([1, 10], np.float32).reshape(1, 1, 1, 2)
    padded = {
        "zeros": [0, 0, 1, 2, 3],
        "reflect": [3, 2, 1, 2, 3],
        "replicate": [1, 1, 1, 2, 3],
        "circular": [2, 3, 1, 2, 3],
    }
    for mode, pixels in padded.items():
        expected = [a + 10 * b for a, b in itertools.pairwise(pixels)]
        y = conv2d(x, w, padding=((0, 0), (2, 0)), padding_mode=mode)
        np.testing.assert_array_equal(y, [[[expected]]], err_msg=mode)


def test_channels_last_worked_by_hand() -> None:
    x = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 3, 2)  # pixels (1, 2), (3, 4), (5, 6)
    w = np.array([1, 10, 0, 1], dtype=np.float32).reshape(2, 2, 1, 1)
    residual = np.array([[[[0, 0], [0, 0], [0, 100]]]], np.float32)
    y = conv2d(x, w, residual=residual, layout="NHWC")
    np.testing.assert_array_equal(y, [[[[21, 2], [43, 4], [65, 106]]]])


def test_worked_by_hand_groups_stride_dilation() -> None:
    # two groups: channel 0 times 1, channel 1 times 10; taps two apart, steps of one and two
    x = np.arange(1, 13, dtype=np.float32).reshape(1, 2, 1, 6)  # 1..6 and 7..12
    w = np.array([1, 1, 10, 10], dtype=np.float32).reshape(2, 1, 1, 2)
    y = conv2d(x, w, groups=2, dilation=(1, 2), stride=(1, 2))
    np.testing.assert_array_equal(y, [[[[1 + 3, 3 + 5]], [[70 + 90, 90 + 110]]]])


def test_magnitude_worked_by_hand() -> None:
    # no cancellation: 1 + 2*4 + 5 = 14 and so on, plus |-20| and |-1|
    bias, residual = np.array([-20]), -np.ones((1, 1, 2, 2))
    m = magnitude(-X, W, bias, residual=residual, activation="relu")
    np.testing.assert_array_equal(m, np.array([[[[14, 18], [26, 30]]]]) + 21)


def test_equals_scipy() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 3, 11, 7)), rng.standard_normal((4, 3, 3, 5))
    for mode in ("valid", "same"):
        expected = [
            [
                sum(scipy.signal.correlate2d(p, k, mode=mode) for p, k in zip(n, o, strict=True))
                for o in w
            ]
            for n in x
        ]
        np.testing.assert_allclose(conv2d_float64(x, w, padding=mode), expected, atol=1e-13)
    # all channels at once: a 3-D correlation, whose valid part has one channel left
    expected = [[scipy.signal.correlate(n, o, mode="valid")[0] for o in w] for n in x]
    np.testing.assert_allclose(conv2d_float64(x, w), expected, atol=1e-13)


@pytest.mark.parametrize("z", [-30.0, -5.0, -1.0, -1e-9, 0.0, 0.5, 3.0, 40.0, 800.0, -800.0])
def test_activations_equal_scalar_formulas(z: float) -> None:
    formulas = {
        "relu": max(z, 0.0),
        "relu6": min(max(z, 0.0), 6.0),
        "leaky_relu": max(z, 0.01 * z),
        "hardswish": z * min(max(z + 3, 0.0), 6.0) / 6,
        "gelu_tanh": z * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
        "gelu": z * math.erfc(-z / math.sqrt(2)) / 2,
        "silu": z / (1 + math.exp(-z)) if z > -700 else 0.0,
        "sigmoid": 1 / (1 + math.exp(-z)) if z > -700 else 0.0,
        "tanh": math.tanh(z),
    }
    x, w = np.full((1, 1, 1, 1), z), np.ones((1, 1, 1, 1))
    for name, expected in formulas.items():
        y = conv2d_float64(x, w, activation=name)
        np.testing.assert_allclose(y, expected, rtol=1e-14, atol=1e-300, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_result_has_the_dtype_of_x(dtype: np.dtype[np.generic]) -> None:
    y = conv2d(X.astype(dtype), W.astype(dtype))
    assert y.dtype == dtype
    assert conv2d(X.astype(dtype), W).dtype == dtype
    assert conv2d_float64(X.astype(dtype), W.astype(dtype)).dtype == np.float64


def test_rounds_once() -> None:
    # 1 + 2^-8 + 2^-30 is just above the middle of the bfloat16 numbers 1 and 1 + 2^-7; by way of
    # float32 it would become the middle, and then 1
    x = np.array([1, 2**-8, 2**-30]).astype(ml_dtypes.bfloat16).reshape(1, 3, 1, 1)
    y = conv2d(x, np.ones((1, 3, 1, 1), ml_dtypes.bfloat16))
    assert float(y[0, 0, 0, 0]) == 1 + 2**-7


def test_rounding_is_to_nearest_even_for_every_bfloat16() -> None:
    # Python's fractions decide, next to the middle of neighbours over the whole range
    bits = np.arange(0x0000, 0x7F80, 37, dtype=np.uint16)
    low, high = (b.view(ml_dtypes.bfloat16).astype(np.float64) for b in (bits, bits + np.uint16(1)))
    high = np.where(np.isinf(high), 2.0**128, high)  # the next number if there were one
    middle = (low + high) / 2
    for values in (np.nextafter(middle, 0), middle, np.nextafter(middle, np.inf)):
        for sign in (1, -1):
            got = np.abs(round_once(sign * values, DTYPES["bfloat16"]).astype(np.float64))
            got = np.where(np.isinf(got), 2.0**128, got)
            for v, a, b, g, even in zip(values, low, high, got, bits % 2 == 0, strict=True):
                down, up = Fraction(v) - Fraction(a), Fraction(b) - Fraction(v)
                assert g == (a if down < up or (down == up and even) else b), (v, g)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_rounding_passes_nan_inf_and_overflow(dtype: np.dtype[np.generic]) -> None:
    y = round_once([np.nan, np.inf, -np.inf, 1e39, -1e39, 1e-60, -1e-60], dtype).astype(np.float64)
    np.testing.assert_array_equal(y, [np.nan, np.inf, -np.inf, np.inf, -np.inf, 0, -0.0])
    assert np.signbit(y[-1])


def _spots(y: npt.NDArray[np.generic], kind: str) -> set[tuple[int, int]]:
    found = getattr(np, kind)(y[0, 0].astype(np.float64))
    return {(int(i), int(j)) for i, j in np.argwhere(found)}


def test_nan_and_inf_propagate() -> None:
    x, w = np.zeros((1, 1, 4, 4), np.float32), np.ones((1, 1, 2, 2), np.float32)
    x[0, 0, 1, 1] = np.nan
    assert _spots(conv2d(x, w), "isnan") == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert _spots(conv2d(x, w, activation="relu"), "isnan") == {(0, 0), (0, 1), (1, 0), (1, 1)}
    x[0, 0, 1, 1] = np.inf
    y = conv2d(x, w)
    assert _spots(y, "isinf") == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert not np.isnan(y).any()
    w[0, 0, 0, 0] = 0  # Inf times 0
    assert _spots(conv2d(x, w), "isnan") == {(1, 1)}
    x[0, 0, 1, 1], x[0, 0, 1, 2] = np.inf, -np.inf  # Inf minus Inf
    assert (0, 1) in _spots(conv2d(x, np.ones_like(w)), "isnan")
    # padding is a zero like any other
    w = np.full((1, 1, 2, 2), np.inf, np.float32)
    assert np.isnan(conv2d(np.ones((1, 1, 1, 1), np.float32), w, padding=1)).all()


def test_activations_of_inf() -> None:
    x, w = np.array([np.inf, -np.inf]).reshape(1, 1, 1, 2), np.ones((1, 1, 1, 1))
    limits = {
        "relu": [np.inf, 0],
        "relu6": [6, 0],
        "leaky_relu": [np.inf, -np.inf],
        "hardswish": [np.inf, np.nan],
        "gelu_tanh": [np.inf, np.nan],
        "gelu": [np.inf, np.nan],  # -Inf times 0
        "silu": [np.inf, np.nan],
        "sigmoid": [1, 0],
        "tanh": [1, -1],
    }
    for name, expected in limits.items():
        np.testing.assert_array_equal(conv2d_float64(x, w, activation=name)[0, 0, 0], expected)


def test_arguments_stay_as_they_were() -> None:
    x, w = X.copy(), W.copy()
    y = conv2d(x[:, :, ::-1, ::2], w[..., :1], np.ones(1, np.float32), activation="relu")
    np.testing.assert_array_equal(y, [[[[7 + 8 + 1, 9 + 12 + 1], [4 + 2 + 1, 6 + 6 + 1]]]])
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(w, W)
