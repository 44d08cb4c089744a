"""The kernel that pools in the same pass: results, counts against the profile, every way to cut."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.kernels import conv2d, pack_weights
from nkiconv.kernels._algorithm import NotSuited, Problem
from nkiconv.kernels._blocks import Pool, PoolAxis
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.kernels._pooled_plan import PooledPlan, plan_pooled
from nkiconv.kernels.conv2d_pooled import conv2d_pooled, plans
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import ConstraintError, profile, use_dma, use_target

DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
TARGETS = ("trn1", "trn2", "trn3")


def _draw(kind: Any, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(kind)


def _geometry(x: Any, w: Any, groups: int = 1, pad: int = 1, stride: int = 1) -> Geometry:
    N, C_in, H, W = x.shape
    C_out, _, KH, KW = w.shape
    rows = Axis(H, KH, (H + 2 * pad - KH) // stride + 1, stride, 1, pad)
    cols = Axis(W, KW, (W + 2 * pad - KW) // stride + 1, stride, 1, pad)
    return Geometry(N, groups, C_in // groups, C_out // groups, rows, cols, x.itemsize)


def _pool(kind: str, size: int, stride: int, g: Geometry) -> Pool:
    rows, cols = (
        PoolAxis(size, stride, (a.outputs - size) // stride + 1) for a in (g.rows, g.cols)
    )
    return Pool(kind, rows, cols)


def _run(plan: PooledPlan, x: Any, w: Any, vectors: Any, residual: Any) -> Any:
    scale, bias = (None if v is None else v.astype(np.float32)[:, None] for v in vectors)
    packed = pack_weights(w, plan.geometry.G).array
    return profile(conv2d_pooled, x, packed, scale, bias, residual, plan)


# name: x, w, groups, stride, pool's size and stride, SBUF, what the plan must show
WAYS: dict[str, tuple[Any, ...]] = {
    "images-together": ((7, 5, 6, 6), (4, 5, 3, 3), 1, 1, (2, 2), None,
                        lambda p: p.sections[0].images.size > 1),
    "whole-images": ((2, 5, 16, 40), (4, 5, 3, 3), 1, 1, (2, 2), None,
                     lambda p: p.sections[0].images.size == 1 and len(p.sections) > 1),
    "sections": ((1, 5, 40, 30), (4, 5, 3, 3), 1, 1, (3, 2), 5_000,
                 lambda p: len(p.sections) > 2 and p.sections[0].conv.size % 2),
    "channel-tiles": ((1, 130, 9, 9), (140, 130, 3, 3), 1, 1, (2, 1), None,
                      lambda p: len(p.c_in_tiles) == 2 and len(p.c_out_blocks[0]) == 2),
    "channel-blocks": ((1, 130, 9, 9), (300, 130, 3, 3), 1, 1, (2, 2), 10_000,
                       lambda p: len(p.c_out_blocks) > 1),
    "groups": ((2, 6, 12, 9), (9, 2, 3, 3), 3, 2, (2, 3), None, lambda p: p.geometry.G == 3),
    "wide": ((1, 3, 5, 1100), (4, 3, 3, 3), 1, 1, (2, 2), None,
             lambda p: {t.cols.start for t in p.sections[0].tiles} != {0}),
    "dropped-columns": ((1, 3, 9, 9), (4, 3, 3, 3), 1, 1, (2, 4), None, lambda p: p.conv_cols == 6),
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_cut(way: str, dtype: str, target: str) -> None:
    x_shape, w_shape, groups, stride, (size, step), sbuf_bytes, shows = WAYS[way]
    x, w = _draw(DTYPES[dtype], *x_shape), _draw(DTYPES[dtype], *w_shape, seed=1)
    g = _geometry(x, w, groups, stride=stride)
    bias = _draw(np.float32, w_shape[0])
    residual = _draw(DTYPES[dtype], g.N, w_shape[0], g.rows.outputs, g.cols.outputs, seed=2)
    epilogue = Epilogue("relu", has_bias=True, has_residual=True)
    if dtype == "float32" and sbuf_bytes is not None:
        sbuf_bytes *= 2
    with use_target(target), use_dma("late"):
        plan = plan_pooled(g, epilogue, _pool("max", size, step, g), sbuf_bytes=sbuf_bytes)
        y, seen = _run(plan, x, w, (None, bias), residual)
    assert shows(plan)
    expected = conv2d_ref(
        x, w, bias, padding=1, stride=stride, groups=groups, activation="relu", residual=residual,
        pool=("max", size, step),
    )  # fmt: skip
    np.testing.assert_array_equal(y, expected)
    assert seen.instructions["nc_matmul"] == plan.num_matmuls
    assert seen.moving_columns == plan.moving_columns
    assert seen.sbuf_peak_bytes <= plan.sbuf_bytes
    assert sbuf_bytes is None or plan.sbuf_bytes <= sbuf_bytes


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_without_a_copy_of_x(mode: str, kind: str) -> None:
    x, w = _draw(np.float32, 2, 5, 9, 8), _draw(np.float32, 4, 5, 3, 3)
    arguments: dict[str, Any] = {"padding": 1, "padding_mode": mode, "pool": (kind, 2)}
    y, seen = profile(conv2d, x, w, **arguments)
    np.testing.assert_array_equal(y, conv2d_ref(x, w, **arguments))
    assert seen.hbm_write_bytes == y.nbytes


def test_the_price_counts_what_the_profile_sees() -> None:
    x, w = _draw(np.float32, 2, 130, 20, 20), _draw(np.float32, 140, 130, 3, 3)
    g = _geometry(x, w)
    epilogue = Epilogue(pool=_pool("max", 2, 2, g))
    (best,) = plans(Problem(g, epilogue, "float32"))
    assert best.algorithm == "direct"
    assert "maximum taken in SBUF" in best.why
    _, seen = _run(best.plan, x, w, (None, None), None)
    assert best.price.matmuls == seen.instructions["nc_matmul"]
    assert best.price.moving_columns == seen.moving_columns
    assert best.price.num_transfers == seen.dma_transfers
    assert best.price.hbm_bytes == pytest.approx(
        seen.hbm_read_bytes + seen.hbm_write_bytes, rel=0.001
    )
    assert best.price.static_instructions == pytest.approx(seen.static_instructions, rel=0.1)


def test_what_does_not_fit_is_refused() -> None:
    x, w = _draw(np.float32, 1, 512, 20, 20), _draw(np.float32, 128, 512, 31, 31)
    g = _geometry(x, w, pad=15)
    with pytest.raises(NotSuited, match=r"weights and the smallest strip need \d+ B .* streamed"):
        plan_pooled(g, Epilogue(), _pool("max", 2, 2, g))


def test_rows_too_far_apart_are_pooled_afterwards_or_refused() -> None:
    x, w = _draw(np.float32, 1, 1, 3, 20_000), _draw(np.float32, 1, 1, 1, 1)
    arguments: dict[str, Any] = {"stride": 2, "pool": ("max", (2, 1))}
    y = conv2d(x, w, **arguments)  # by another kernel
    np.testing.assert_array_equal(y, conv2d_ref(x, w, **arguments))
    x, w = (v.astype(ml_dtypes.bfloat16) for v in (x, w))
    arguments["pool"] = ("avg", (2, 1))  # which would be rounded twice
    with pytest.raises(ConstraintError, match=r"direct: rows of 20000 pixels are too far apart"):
        conv2d(x, w, **arguments)
