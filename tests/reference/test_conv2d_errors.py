"""Every refusal of the reference, by its message."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from nkiconv.reference import conv2d, conv2d_float64
from nkiconv.reference.conv2d import magnitude


def _zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


GOOD: dict[str, Any] = {"x": _zeros(2, 4, 5, 6), "w": _zeros(8, 4, 3, 3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": _zeros(4, 5, 6)}, r"x has shape \(4, 5, 6\) and w has shape"),
        ({"w": _zeros(8, 4, 3)}, r"w has shape \(8, 4, 3\); they must be \(N, C_in, H, W\)"),
        ({"x": _zeros(0, 4, 5, 6)}, "has no elements"),
        ({"w": _zeros(8, 4, 0, 3)}, "has no elements"),
        (
            {"w": _zeros(8, 3, 3, 3)},
            r"x has 4 channels, w has shape \(8, 3, 3, 3\) and groups",
        ),
        ({"groups": 2}, "groups is 2; groups must divide"),
        ({"groups": 3}, "groups is 3; groups must divide"),
        ({"groups": 4, "w": _zeros(6, 1, 3, 3)}, "groups is 4; groups must divide"),
        ({"groups": 0}, "groups is 0; it must be at least 1"),
        ({"groups": 1.0}, "groups is 1.0; it must be an integer"),
        ({"bias": _zeros(4)}, r"bias has shape \(4,\); w asks for \(8,\)"),
        ({"bias": _zeros(8, 1)}, r"bias has shape \(8, 1\)"),
        ({"residual": _zeros(2, 8, 5, 6)}, r"residual has shape .* result has \(2, 8, 3, 4\)"),
        ({"stride": 0}, "stride is 0; it must be at least 1"),
        ({"stride": (1, -2)}, "stride is -2; it must be at least 1"),
        ({"stride": (1, 1, 1)}, "it must be an int or a pair of ints"),
        ({"stride": 1.5}, "stride is 1.5; it must be an integer"),
        ({"stride": None}, "stride is None; it must be an integer"),
        ({"dilation": 0}, "dilation is 0; it must be at least 1"),
        ({"padding": -1}, "padding is -1; it must be at least 0"),
        ({"padding": ((0, 0), (0, -3))}, "padding is -3; it must be at least 0"),
        ({"padding": ((0, 0), (0, 0), (0, 0))}, r"it must be \(\(top, bottom\), \(left, right\)\)"),
        ({"padding": "full"}, "padding is 'full'; it must be one of 'same', 'valid'"),
        ({"padding": "same", "stride": 2}, r"stride is \(2, 2\); 'same' needs stride 1"),
        ({"dilation": (3, 1)}, "a window of 7 pixels along H does not fit on 5"),
        ({"w": _zeros(8, 4, 3, 9), "padding": 1}, "a window of 9 pixels along W does not fit on 8"),
        ({"activation": "mish"}, "activation is 'mish'; it must be one of None, 'relu', 'relu6'"),
        (
            {"activation": ("relu", 1)},
            r"activation is \('relu', 1\); the one that takes a number is",
        ),
        (
            {"activation": ("leaky_relu", "a")},
            r"the one that takes a number is \('leaky_relu', slo",
        ),
        ({"scale": _zeros(4)}, r"scale has shape \(4,\); w asks for \(8,\)"),
        ({"padding_mode": "edge"}, "padding_mode is 'edge'; it must be one of 'zeros', 'reflect'"),
        (
            {"padding_mode": "reflect", "padding": (5, 0)},
            r"padding is \(5, 5\) along H with padding_mode 'reflect'; for 5 pixels .* at most 4",
        ),
        (
            {"padding_mode": "circular", "padding": ((0, 0), (0, 7))},
            r"padding is \(0, 7\) along W with padding_mode 'circular'; for 6 pixels .* at most 6",
        ),
        ({"layout": "CHWN"}, "layout is 'CHWN'; it must be one of 'NCHW', 'NHWC'"),
        (
            {"layout": "NHWC", "w": _zeros(8, 6, 3, 3), "residual": _zeros(8, 2, 3)},
            r"residual has shape \(8, 2, 3\); it must be \(N, OH, OW, C_out\)",
        ),
        ({"pool": 2}, r"pool is 2; it must be None or \(kind, size\[, stride\]\)"),
        ({"pool": ("max",)}, r"it must be None or \(kind, size\[, stride\]\)"),
        ({"pool": ("min", 2)}, "pool kind is 'min'; it must be one of 'max', 'avg'"),
        ({"pool": ("max", 0)}, "pool size is 0"),
        ({"pool": ("max", 2, 0)}, "pool stride is 0"),
        ({"pool": ("max", 4)}, "a window of 4 pixels along the pool's H does not fit on 3"),
        ({"pool": ("avg", (1, 5))}, "a window of 5 pixels along the pool's W does not fit on 4"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    arguments = GOOD | changes
    for function in (conv2d, conv2d_float64, magnitude):
        with pytest.raises(ValueError, match=message):
            function(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((2, 4, 5, 6))}, "x has dtype float64; conv2d takes float32, float16, bf"),
        ({"w": np.zeros((8, 4, 3, 3), int)}, "w has dtype int64"),
        ({"bias": np.zeros(8)}, "bias has dtype float64"),
        ({"residual": np.zeros((2, 8, 3, 4))}, "residual has dtype float64"),
        ({"algorithm": "winograd"}, "algorithm is 'winograd'; it must be one of 'auto', 'direct'"),
        ({"precision": "tf32"}, "precision is 'tf32'; it must be one of 'exact', 'fast'"),
        ({"target": "gpu"}, "target is 'gpu'; it must be one of None, 'trn1', 'inf2', 'trn2'"),
    ],
)
def test_refusals_of_conv2d_alone(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv2d(**GOOD | changes)


def test_names_without_meaning_are_accepted() -> None:
    for algorithm in ("auto", "direct", "im2col", "pointwise", "depthwise", "naive"):
        for target in (None, "trn1", "inf2", "trn2", "trn3"):
            conv2d(**GOOD, algorithm=algorithm, target=target)


def test_signatures() -> None:
    parameters = list(inspect.signature(conv2d).parameters.values())
    kinds = [p.kind for p in parameters]
    assert [f"{p.name}={p.default}" for p in parameters[2:]] == [
        "bias=None",
        "stride=1",
        "padding=0",
        "dilation=1",
        "groups=1",
        "activation=None",
        "residual=None",
        "pool=None",
        "scale=None",
        "padding_mode=zeros",
        "layout=NCHW",
        "precision=exact",
        "algorithm=auto",
        "target=None",
    ]
    assert (
        kinds
        == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 3 + [inspect.Parameter.KEYWORD_ONLY] * 13
    )
    for other in (conv2d_float64, magnitude):
        assert [str(p) for p in inspect.signature(other).parameters.values()] == [
            str(p) for p in parameters[:-3]
        ]
