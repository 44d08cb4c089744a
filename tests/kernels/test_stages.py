"""What runs around a convolution: borders of the image's own pixels, and layouts."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.kernels import conv2d, pack_weights
from nkiconv.kernels._blocks import Pool, PoolAxis
from nkiconv.kernels.pad_planes import pad_planes, plan_pad
from nkiconv.kernels.pool_planes import bytes_moved, plan_pool, pool_planes
from nkiconv.kernels.transpose_planes import plan_transpose, transpose_planes
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import ConstraintError, profile, simulate_kernel, use_dma, use_target

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
TARGETS = ("trn1", "trn2", "trn3")


def _draw(dtype: str, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(DTYPES[dtype])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_pad_planes(target: str, dtype: str, mode: str) -> None:
    with use_target(target), use_dma("late"):
        # two tiles of planes, several strips (a row of 12,000 B), every side different
        for shape, rows, cols in (
            ((130, 5, 6), (4, 0), (1, 5)),
            ((3, 4, 3000), (1, 3), (0, 2)),
            ((1, 1, 1), (0, 1) if mode != "reflect" else (0, 0), (0, 0)),
        ):
            x = _draw(dtype, *shape)
            plan, _ = plan_pad(shape, rows, cols, mode, x.itemsize)
            y = simulate_kernel(pad_planes, x[:, None], plan)[:, 0]
            expected = np.pad(x, ((0, 0), rows, cols), mode=MODES[mode])  # type: ignore[call-overload]
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(2, 130, 3), (1, 3, 2100), (1, 600, 129), (3, 1, 1)], ids=str)
def test_transpose_planes(target: str, dtype: str, shape: tuple[int, int, int]) -> None:
    x = _draw(dtype, *shape)
    with use_target(target), use_dma("late"):
        plan, price = plan_transpose(shape, x.itemsize)
        y, seen = profile(transpose_planes, x, plan)
    np.testing.assert_array_equal(y, x.transpose(0, 2, 1))
    assert seen.hbm_read_bytes == seen.hbm_write_bytes == x.nbytes
    assert seen.static_instructions == price.static_instructions


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_modes(dtype: str, mode: str, target: str) -> None:
    x, w, bias = _draw(dtype, 2, 6, 7, 8), _draw(dtype, 8, 3, 3, 4), _draw(dtype, 8)
    arguments: dict[str, Any] = {"groups": 2, "padding_mode": mode, "activation": "relu"}
    for padding, stride, dilation in (
        (1, 1, 1),
        (((0, 3), (2, 0)), (2, 1), 1),
        ("same", 1, 2),
        (0, (1, 3), (2, 1)),
    ):
        arguments |= {"padding": padding, "stride": stride, "dilation": dilation}
        y = conv2d(x, w, bias, **arguments, target=target)
        np.testing.assert_array_equal(y, conv2d_ref(x, w, bias, **arguments))


def test_padding_that_no_window_reaches_is_not_copied() -> None:
    # stride 3 over 1 + 7 + 1 pixels: the last window ends at place 6
    x, w = _draw("float32", 1, 2, 7, 7), _draw("float32", 3, 2, 3, 3)
    arguments: dict[str, Any] = {"padding": 1, "stride": (4, 4), "padding_mode": "circular"}
    np.testing.assert_array_equal(conv2d(x, w, **arguments), conv2d_ref(x, w, **arguments))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_last(dtype: str, target: str) -> None:
    x, w, bias = _draw(dtype, 2, 7, 8, 6), _draw(dtype, 8, 3, 3, 3), _draw("float32", 8)
    residual = _draw(dtype, 2, 7, 8, 8, seed=1)
    arguments: dict[str, Any] = {
        "groups": 2,
        "padding": 1,
        "residual": residual,
        "scale": _draw("float32", 8, seed=2),
        "activation": "relu",
        "layout": "NHWC",
    }
    expected = conv2d_ref(x, w, bias, **arguments)
    assert expected.shape == (2, 7, 8, 8)
    for weights in (w, pack_weights(w, 2)):
        np.testing.assert_array_equal(
            conv2d(x, weights, bias, **arguments, target=target), expected
        )
    arguments["padding_mode"] = "reflect"
    expected = conv2d_ref(x, w, bias, **arguments)
    np.testing.assert_array_equal(conv2d(x, w, bias, **arguments, target=target), expected)


def test_torch_tensors_are_taken_as_they_lie() -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(_draw("float32", 2, 4, 5, 6))
    w, residual = torch.from_numpy(_draw("float32", 3, 4, 3, 3)), torch.ones(2, 3, 3, 4)
    last = x.contiguous(memory_format=torch.channels_last)
    expected, usual = profile(conv2d, x, w, residual=residual)
    y, seen = profile(conv2d, last, w, residual=residual)
    assert torch.equal(y, expected)
    assert torch.equal(y, torch.nn.functional.conv2d(x, w) + residual)
    assert expected.is_contiguous()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()
    # x and the residual one way, y the other; one image each, one tile
    assert usual.instructions.get("nc_transpose", 0) == 0
    assert seen.instructions["nc_transpose"] == 6
    naive = conv2d(last, w, algorithm="naive")
    assert torch.equal(naive, torch.nn.functional.conv2d(x, w))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("kind", "size", "stride"),
    [("max", 2, 2), ("max", 3, 1), ("avg", 2, 3), ("max", 1, 2)],
    ids=str,
)
def test_pool_planes(kind: str, size: int, stride: int, target: str) -> None:
    # two tiles of planes, and several strips of rows of 3,600 B
    x = _draw("float32", 130, 1, 20, 900)
    rows, cols = (PoolAxis(size, stride, (n - size) // stride + 1) for n in x.shape[2:])
    with use_target(target), use_dma("late"):
        plan, _ = plan_pool((130, 20, 900), Pool(kind, rows, cols), 4)
        y, seen = profile(pool_planes, x, plan)
    one = np.ones((1, 1, 1, 1), np.float32)
    np.testing.assert_array_equal(y, conv2d_ref(x, one, pool=(kind, size, stride)))
    assert len(plan.strips) > 1
    if size > 1 or stride == 1:
        assert seen.hbm_read_bytes + seen.hbm_write_bytes == bytes_moved(plan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_rows_wider_than_sbuf_are_padded_in_parts(mode: str, dtype: str) -> None:
    x = _draw(dtype, 3, 2, 100_001)
    rows, cols = (1, 0), (2, 3)
    with use_dma("late"):
        plan, price = plan_pad(x.shape, rows, cols, mode, x.itemsize)
        y, seen = profile(pad_planes, x[:, None], plan)
    expected = np.pad(x, ((0, 0), rows, cols), mode=MODES[mode])  # type: ignore[call-overload]
    np.testing.assert_array_equal(y[:, 0], expected)
    assert seen.static_instructions <= price.static_instructions


@pytest.mark.parametrize(
    ("kind", "size", "stride"),
    [("max", (1, 2), (1, 2)), ("max", (3, 1), (1, 1)), ("avg", (2, 4), (1, 3))],
    ids=str,
)
def test_rows_wider_than_sbuf_are_pooled_in_parts(
    kind: str, size: tuple[int, int], stride: tuple[int, int]
) -> None:
    x = _draw("float32", 3, 1, 4, 100_001)
    rows, cols = (
        PoolAxis(n, step, (all_ - n) // step + 1)
        for n, step, all_ in zip(size, stride, x.shape[2:], strict=True)
    )
    with use_dma("late"):
        plan, price = plan_pool((3, 4, 100_001), Pool(kind, rows, cols), 4)
        y, seen = profile(pool_planes, x, plan)
    one = np.ones((1, 1, 1, 1), np.float32)
    expected = conv2d_ref(x.reshape(3, 1, 4, -1), one, pool=(kind, size, stride))
    np.testing.assert_array_equal(y, expected)
    assert seen.static_instructions <= price.static_instructions


def test_a_window_too_large_for_sbuf_is_refused_before_any_work() -> None:
    x, w = _draw("float32", 1, 1, 400, 400), _draw("float32", 1, 1, 1, 1)
    words = r"the pool's windows of 400x400 take more than the 32768 B of SBUF per partition"
    with pytest.raises(ConstraintError, match=words):
        conv2d(x, w, pool=("max", 400))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_algorithm_that_does_not_pool(dtype: str, mode: str, layout: str) -> None:
    x, w = _draw(dtype, 2, 6, 7, 8), _draw(dtype, 8, 6, 1, 1)
    arguments: dict[str, Any] = {"pool": ("max", 2), "padding_mode": mode, "layout": layout}
    arguments |= {"padding": 0 if mode == "zeros" else 1, "activation": "relu"}
    if layout == "NHWC":
        x = x.transpose(0, 2, 3, 1)
    expected = conv2d_ref(x, w, **arguments)
    for algorithm in ("pointwise", "direct"):
        y = conv2d(x, w, **arguments, algorithm=algorithm)
        np.testing.assert_array_equal(y, expected)
