"""conv2d's reference against PyTorch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nkiconv.reference import conv2d_float64

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F: Any = torch.nn.functional

# float64 sums of a few hundred terms of size 1, added in another order
TOLERANCE = 1e-12


def _inputs(
    N: int, C_in: int, H: int, W: int, C_out: int, KH: int, KW: int, groups: int = 1
) -> Any:
    rng = np.random.default_rng(7)
    x, w = (
        rng.standard_normal((N, C_in, H, W)),
        rng.standard_normal((C_out, C_in // groups, KH, KW)),
    )
    return x, w, rng.standard_normal(C_out)


def _torch_conv2d(x: Any, w: Any, bias: Any = None, **arguments: Any) -> Any:
    bias = None if bias is None else torch.from_numpy(bias)
    return F.conv2d(torch.from_numpy(x), torch.from_numpy(w), bias, **arguments)


def _same(y: Any, expected: Any) -> None:
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(y, expected.numpy(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # PyTorch on its speed
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": 2},
        {"stride": (3, 1)},
        {"stride": (1, 2), "padding": (2, 0)},
        {"padding": 1},
        {"padding": 7},
        {"padding": "valid"},
        {"padding": "same"},
        {"dilation": 2},
        {"dilation": (1, 3), "padding": (0, 4)},
        {"dilation": (3, 2), "padding": "same"},
        {"groups": 2},
        {"groups": 6, "stride": 2, "padding": 1, "dilation": (2, 1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 5), (4, 1)], ids=str)
def test_equals_torch(kernel: tuple[int, int], arguments: dict[str, Any]) -> None:
    x, w, bias = _inputs(2, 6, 13, 17, 12, *kernel, groups=arguments.get("groups", 1))
    _same(conv2d_float64(x, w, bias, **arguments), _torch_conv2d(x, w, bias, **arguments))
    _same(conv2d_float64(x, w, **arguments), _torch_conv2d(x, w, **arguments))


def test_asymmetric_padding_equals_torch() -> None:
    x, w, bias = _inputs(1, 3, 5, 6, 4, 3, 2)
    padded = F.pad(torch.from_numpy(x), (3, 0, 1, 2)).numpy()  # left, right, top, bottom
    expected = _torch_conv2d(padded, w, bias, stride=(1, 2))
    _same(conv2d_float64(x, w, bias, padding=((1, 2), (3, 0)), stride=(1, 2)), expected)


FUNCTIONS: dict[Any, Any] = {
    None: torch.clone,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    ("leaky_relu", -1.5): lambda z: F.leaky_relu(z, -1.5),
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
}


@pytest.mark.parametrize("activation", FUNCTIONS, ids=str)
def test_scale_residual_then_activation_equals_torch(activation: Any) -> None:
    x, w, bias = _inputs(2, 4, 7, 8, 5, 3, 3)
    residual = np.random.default_rng(8).standard_normal((2, 5, 7, 8))
    scale = residual[0, :, 0, 0]
    scaled = _torch_conv2d(x, w, padding=1) * torch.from_numpy(scale[:, None, None])
    z = scaled + torch.from_numpy(bias[:, None, None]) + torch.from_numpy(residual)
    # all doubled, so that both ends of relu6 and hardswish are reached
    arguments: dict[str, Any] = {"scale": scale, "residual": 2 * residual}
    y = conv2d_float64(4 * x, w / 2, 2 * bias, padding=1, activation=activation, **arguments)
    _same(y, FUNCTIONS[activation](2 * z))


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, (3, 2), (0, 4), "same"], ids=str)
def test_padding_modes_equal_torch(padding_mode: str, padding: Any) -> None:
    x, w, bias = _inputs(2, 4, 5, 6, 5, 3, 4)
    layer = torch.nn.Conv2d(
        4, 5, (3, 4), padding=padding, padding_mode=padding_mode, dtype=torch.float64
    )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(w))
        layer.bias.copy_(torch.from_numpy(bias))
        expected = layer(torch.from_numpy(x))
    _same(conv2d_float64(x, w, bias, padding=padding, padding_mode=padding_mode), expected)


def test_channels_last_equals_torch() -> None:
    x, w, bias = _inputs(2, 4, 7, 8, 5, 3, 3)
    residual = np.random.default_rng(8).standard_normal((2, 5, 7, 8))
    expected = F.max_pool2d(
        F.relu(_torch_conv2d(x, w, bias, padding=1) + torch.from_numpy(residual)), 2
    )
    arguments: dict[str, Any] = {"activation": "relu", "pool": ("max", 2), "padding": 1}
    nhwc = (0, 2, 3, 1)
    y = conv2d_float64(
        x.transpose(nhwc), w, bias, residual=residual.transpose(nhwc), layout="NHWC", **arguments
    )
    _same(y.transpose(0, 3, 1, 2), expected)


@pytest.mark.parametrize(
    ("size", "stride"), [(2, None), (3, 1), (3, 2), ((2, 3), None), ((1, 4), (3, 2))], ids=str
)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pool_after_activation_equals_torch(kind: str, size: Any, stride: Any) -> None:
    x, w, bias = _inputs(2, 4, 9, 11, 5, 2, 2)
    function = {"max": F.max_pool2d, "avg": F.avg_pool2d}[kind]
    expected = function(torch.tanh(_torch_conv2d(x, w, bias)), size, stride)
    pool = (kind, size) if stride is None else (kind, size, stride)
    _same(conv2d_float64(x, w, bias, activation="tanh", pool=pool), expected)


@st.composite
def _problems(draw: st.DrawFn) -> dict[str, Any]:
    def sizes(least: int, most: int, count: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(count))

    (groups,) = sizes(1, 3, 1)
    N, C_in, C_out = sizes(1, 3, 3)
    H, W = sizes(1, 9, 2)
    KH, KW = sizes(1, 4, 2)
    problem: dict[str, Any] = {
        "shapes": (N, C_in * groups, H, W, C_out * groups, KH, KW, groups),
        "stride": sizes(1, 3, 2),
        "dilation": sizes(1, 3, 2),
        "padding": (sizes(0, 3, 2), sizes(0, 3, 2)),
        "groups": groups,
    }
    (d_h, d_w), (p_h, p_w) = problem["dilation"], problem["padding"]
    assume(d_h * (KH - 1) < H + sum(p_h))
    assume(d_w * (KW - 1) < W + sum(p_w))
    return problem


@settings(deadline=None, max_examples=100)
@given(_problems())
def test_any_small_problem_equals_torch(problem: dict[str, Any]) -> None:
    x, w, bias = _inputs(*problem.pop("shapes"))
    y = conv2d_float64(x, w, bias, **problem)
    (top, bottom), (left, right) = problem.pop("padding")
    padded = F.pad(torch.from_numpy(x), (left, right, top, bottom)).numpy()
    _same(y, _torch_conv2d(padded, w, bias, **problem))
