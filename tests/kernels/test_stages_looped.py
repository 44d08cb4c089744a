"""Stages whose programs would be too long: on-chip loops over planes and bands of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.kernels import _looped, conv2d
from nkiconv.kernels._algorithm import NotSuited
from nkiconv.kernels._blocks import Pool, PoolAxis
from nkiconv.kernels._looped import LoopedPlan
from nkiconv.kernels._price import Price
from nkiconv.kernels.pad_planes import pad_planes_looped, plan_pad
from nkiconv.kernels.pool_planes import plan_pool, pool_planes_looped
from nkiconv.kernels.transpose_planes import plan_transpose, transpose_planes_looped
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import profile, use_dma, use_target

TARGETS = ("trn1", "trn2", "trn3")


def _draw(kind: Any, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(kind)


def check(
    kernel: Any, x: Any, planned: Callable[[], tuple[Any, Price]], expected: Any, target: str,
    axes: int,
) -> None:  # fmt: skip
    """The result is exact, the program no longer than its price says; loops are over `axes`."""
    with use_target(target), use_dma("late"):
        plan, price = planned()
        assert isinstance(plan, LoopedPlan)
        assert max(len(piece.counts) for piece in plan.pieces) == axes
        y, seen = profile(kernel, x, plan)
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)
    assert seen.static_instructions <= price.static_instructions <= _looped.MAX_INSTRUCTIONS


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("shape", "limit", "axes"),
    [((260, 9, 6), 20, 1), ((2, 60, 3000), 60, 2), ((1, 60, 3000), 60, 1)],
    ids=["planes", "planes-and-rows", "rows"],
)
@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pad(
    shape: tuple[int, int, int], limit: int, axes: int, mode: str, target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(_looped, "MAX_INSTRUCTIONS", limit)
    rows, cols = (4, 1), (1, 2)
    x = _draw(np.float32, shape[0], 1, *shape[1:])
    name = "replicate" if mode == "edge" else mode
    expected = np.pad(x[:, 0], ((0, 0), rows, cols), mode=mode)  # type: ignore[call-overload]
    check(
        pad_planes_looped, x, lambda: plan_pad(shape, rows, cols, name, 4), expected, target, axes
    )


def test_the_other_end_of_a_circular_image_is_not_in_its_bands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_looped, "MAX_INSTRUCTIONS", 60)
    with pytest.raises(NotSuited, match="what lies above an image of circular padding"):
        plan_pad((1, 60, 3000), (4, 1), (1, 2), "circular", 4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("shape", "limit", "axes"),
    [((260, 12, 6), 9, 1), ((3, 50, 900), 14, 2), ((1, 50, 900), 14, 1)],
    ids=["planes", "planes-and-rows", "rows"],
)
@pytest.mark.parametrize(("kind", "size", "stride"), [("max", 3, 2), ("avg", 2, 2)])
def test_pool(
    kind: str, size: int, stride: int, shape: tuple[int, int, int], limit: int, axes: int,
    target: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(_looped, "MAX_INSTRUCTIONS", limit)
    x = _draw(np.float32, shape[0], 1, *shape[1:])
    rows, cols = (PoolAxis(size, stride, (n - size) // stride + 1) for n in shape[1:])
    expected = conv2d_ref(x, np.ones((1, 1, 1, 1), np.float32), pool=(kind, size, stride))
    pool = Pool(kind, rows, cols)
    check(pool_planes_looped, x, lambda: plan_pool(shape, pool, 4), expected, target, axes)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("shape", "limit", "axes"),
    [((7, 90, 5), 8, 1), ((2, 1700, 5), 16, 2), ((2, 5, 4500), 60, 2), ((1, 1700, 5), 16, 1)],
    ids=["images", "images-and-pixels", "images-and-pixels-last", "pixels"],
)
def test_transpose(
    shape: tuple[int, int, int], limit: int, axes: int, target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(_looped, "MAX_INSTRUCTIONS", limit)
    x = _draw(ml_dtypes.bfloat16, *shape)
    expected = x.transpose(0, 2, 1)
    check(transpose_planes_looped, x, lambda: plan_transpose(shape, 2), expected, target, axes)


def test_a_convolution_with_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_looped, "MAX_INSTRUCTIONS", 100)
    x, w = _draw(np.float32, 6, 30, 31, 4), _draw(np.float32, 8, 4, 3, 3)
    how: dict[str, Any] = {
        "padding": 1, "padding_mode": "circular", "layout": "NHWC", "pool": ("max", 2),
        "residual": _draw(np.float32, 6, 30, 31, 8, seed=2),
    }  # fmt: skip
    y, seen = profile(conv2d, x, w, algorithm="im2col", **how)
    np.testing.assert_array_equal(y, conv2d_ref(x, w, **how))
    assert seen.instructions["nc_transpose"] > 100
