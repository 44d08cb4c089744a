"""precision="fast": float32 with operands rounded to bfloat16, inside the error that is stated."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.kernels import conv2d
from nkiconv.reference import bounds, conv2d_float64
from nkiconv.reference.conv2d import magnitude
from nkiconv.simulate import profile

ARGUMENTS: list[dict[str, Any]] = [
    {"padding": 1},
    {"padding": 1, "pool": ("max", 2)},
    {"padding": 1, "pool": ("avg", 3, 2), "activation": "silu"},
    {"padding": 1, "padding_mode": "reflect", "stride": 2},
]


def _inputs() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 136, 9, 10), dtype=np.float32)
    return x, rng.standard_normal((130, 136, 3, 3), dtype=np.float32)


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_error_is_what_is_stated_and_no_less(arguments: dict[str, Any], target: str) -> None:
    x, w = _inputs()
    y = conv2d(x, w, **arguments, precision="fast", target=target)
    assert y.dtype == np.float32
    r, m = conv2d_float64(x, w, **arguments), magnitude(x, w, **arguments)
    known: dict[str, Any] = {
        "terms": 136 * 9,
        "dtype": np.float32,
        "activation": arguments.get("activation"),
    }
    assert bounds.max_error_ratio(y, r, m, **known, precision="fast") <= 1
    assert bounds.max_error_ratio(y, r, m, **known) > 1  # it is not the exact kernel
    z = conv2d_float64(*(v.astype(ml_dtypes.bfloat16) for v in (x, w)), **arguments)
    assert bounds.max_error_ratio(y, z, m, **known) <= 1  # nothing else was rounded


GROUPED: dict[str, tuple[int, int, int, int, int]] = {
    "grouped": (8, 6, 10, 15, 3),
    "diagonal": (40, 1, 1, 15, 3),
    "banded": (20, 1, 1, 24, 21),
}
"""Groups, channels of a group in and out, size of the image, taps."""


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("name", GROUPED)
def test_groups_have_the_error_that_is_stated_and_no_less(name: str, target: str) -> None:
    groups, C_in, C_out, size, taps = GROUPED[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, groups * C_in, size, size), dtype=np.float32)
    w = rng.standard_normal((groups * C_out, C_in, taps, taps), dtype=np.float32)
    arguments: dict[str, Any] = {"padding": taps // 2, "groups": groups}
    algorithm = "grouped" if C_in > 1 else "depthwise"
    y = conv2d(x, w, **arguments, algorithm=algorithm, precision="fast", target=target)
    assert y.dtype == np.float32
    r, m = conv2d_float64(x, w, **arguments), magnitude(x, w, **arguments)
    known: dict[str, Any] = {"terms": C_in * taps * taps, "dtype": np.float32}
    assert bounds.max_error_ratio(y, r, m, **known, precision="fast") <= 1
    assert bounds.max_error_ratio(y, r, m, **known) > 1  # it is not the exact kernel
    z = conv2d_float64(*(v.astype(ml_dtypes.bfloat16) for v in (x, w)), **arguments)
    assert bounds.max_error_ratio(y, z, m, **known) <= 1  # nothing else was rounded


def test_the_worst_rounding_is_allowed_and_twice_it_is_not() -> None:
    # 1 + 2^-8 lies in the middle of bfloat16 numbers and goes to 1, in x and in w
    x = np.full((1, 1, 1, 1), 1 + 2.0**-8, np.float32)
    r = conv2d_float64(x, x)
    y = conv2d(x, x, precision="fast")
    assert y == 1
    assert 0.95 < bounds.max_error_ratio(y, r, r, 1, np.float32, precision="fast") <= 1
    far = (r - 2 * (r - 1)).astype(np.float32)
    assert bounds.max_error_ratio(far, r, r, 1, np.float32, precision="fast") > 1


def test_no_overflow_on_the_way() -> None:
    x, w = np.full((1, 1, 1, 1), 1e30, np.float32), np.full((1, 1, 1, 1), 1e-30, np.float32)
    assert abs(float(conv2d(x, w, precision="fast").item()) - 1) < 2.0**-7


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_a_quarter_of_the_time(target: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 256, 28, 28), dtype=np.float32)
    w = rng.standard_normal((256, 256, 3, 3), dtype=np.float32)
    _, exact = profile(conv2d, x, w, padding=1, target=target)
    _, fast = profile(conv2d, x, w, padding=1, precision="fast", target=target)
    assert fast.instructions["nc_matmul"] == exact.instructions["nc_matmul"]
    assert fast.engine_busy_us["TensorE"] < 0.3 * exact.engine_busy_us["TensorE"]
