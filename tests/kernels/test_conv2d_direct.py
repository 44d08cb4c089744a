"""The direct kernel: every way its plans can take, exact on integers, counted as planned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nkiconv.kernels import conv2d, pack_weights
from nkiconv.kernels._algorithm import Operands, Problem
from nkiconv.kernels._direct_plan import DirectPlan, plan_direct
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.kernels._streamed_plan import StreamedPlan
from nkiconv.kernels.conv2d_direct import pack, plans, run
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import CapacityError, Profile, profile, simulate_kernel, use_dma, use_target

TARGETS = ("trn1", "trn2", "trn3")


def axis(
    size: int, taps: int, stride: int = 1, pads: tuple[int, int] = (0, 0), dilation: int = 1
) -> Axis:
    outputs = (size + sum(pads) - dilation * (taps - 1) - 1) // stride + 1
    return Axis(size, taps, outputs, stride, dilation, pads[0])


def square(
    C_in: int, size: int, C_out: int, taps: int, *, N: int = 1, G: int = 1, pad: int = 0,
    stride: int = 1, dilation: int = 1, itemsize: int = 4,
) -> Geometry:  # fmt: skip
    both = axis(size, taps, stride, (pad, pad), dilation)
    return Geometry(N, G, C_in, C_out, both, both, itemsize)


def _behind(a: Axis) -> int:
    return (a.outputs - 1) * a.stride + (a.taps - 1) * a.dilation + 1 - a.size - a.pad


def check(plan: DirectPlan, mode: str = "zeros", seed: int = 0) -> Profile:
    """Run a plan on small whole numbers: exact, and counted as planned."""
    g, e = plan.geometry, plan.epilogue
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return rng.integers(-3, 4, shape).astype(np.float32)

    x = draw(g.N, g.G * g.C_in, g.rows.size, g.cols.size)
    w = draw(g.G * g.C_out, g.C_in, g.rows.taps, g.cols.taps)
    bias = draw(g.G * g.C_out, 1) if e.has_bias else None
    scale = draw(g.G * g.C_out, 1) if e.has_scale else None
    residual = draw(*plan.y_shape) if e.has_residual else None
    operands = Operands(x, pack(pack_weights(w, g.G), plan), scale, bias, residual)
    y, seen = profile(run, simulate_kernel, operands, plan)
    # The reference's padding is symmetric about what is needed: cut what no output reaches.
    ends = [_behind(a) for a in (g.rows, g.cols)]
    cut = x[:, :, : min(0, ends[0]) or None, : min(0, ends[1]) or None]
    if mode != "zeros":  # what is cut could be border
        assert min(ends) >= 0
    wanted = conv2d_ref(
        cut, w, None if bias is None else bias[:, 0],
        stride=(g.rows.stride, g.cols.stride), dilation=(g.rows.dilation, g.cols.dilation),
        padding=tuple((a.pad, max(0, end)) for a, end in zip((g.rows, g.cols), ends, strict=True)),
        groups=g.G, residual=residual, activation=e.activation, padding_mode=mode,
        scale=None if scale is None else scale[:, 0],
    )  # fmt: skip
    np.testing.assert_array_equal(y, wanted)
    assert seen.hbm_read_bytes == plan.hbm_read_bytes
    assert seen.hbm_write_bytes == y.nbytes
    assert seen.instructions["nc_matmul"] == plan.num_matmuls
    assert seen.moving_columns == plan.moving_columns
    assert seen.lane_instructions["DMA store"] == plan.num_output_tiles
    assert seen.sbuf_peak_bytes <= plan.sbuf_bytes
    return seen


FULL = Epilogue(activation="relu", has_bias=True, has_scale=True, has_residual=True)

# Geometry, bytes of SBUF or None, and what the plan should be like
WAYS: dict[str, tuple[Geometry, int | None, dict[str, Any]]] = {
    "weights-resident": (
        square(130, 20, 140, 3, pad=1), None, {"order": "weights resident", "num_sections": 1},
    ),
    "strips-with-carried-rows": (
        square(20, 60, 24, 3, pad=1), 34_000, {"order": "weights resident", "carry": 2},
    ),
    "image-resident": (
        square(40, 12, 300, 5, pad=2, N=2), 30_000, {"order": "image resident", "num_blocks": 3},
    ),
    "strips-first": (
        square(20, 60, 520, 3, N=2), 42_000, {"order": "strips first", "num_blocks": 5},
    ),
    "channels-first": (
        square(20, 60, 520, 3, N=2), 49_000, {"order": "channels first", "num_blocks": 3},
    ),
    "images-side-by-side": (
        square(96, 7, 64, 3, pad=1, N=23), None, {"images": 8, "interleaved_x": False},
    ),
    "channels-interleaved": (
        square(256, 7, 256, 3, pad=1, N=3), None, {"interleaved_x": True, "interleaved_y": True},
    ),
    "channels-interleaved-by-blocks": (
        square(256, 7, 512, 3, pad=1, N=3), 46_000,
        {"order": "image resident", "interleaved_y": True, "num_blocks": 2},
    ),
    "taps-packed-by-engines": (
        square(192, 26, 20, 3, pad=1, N=2), None, {"packs": 5, "by_engines": True},
    ),
    "taps-packed-stride": (
        square(160, 27, 20, 3, pad=1, stride=2), None, {"packs": 3, "by_engines": True},
    ),
    "taps-packed-by-dma": (
        square(148, 24, 20, 3, pad=2, dilation=2), None, {"packs": 2, "by_engines": False},
    ),
    "taps-packed-side-by-side": (
        square(140, 6, 20, 3, pad=1, N=5), None, {"packs": 1, "by_engines": False},
    ),
    "one-tile-halved": (square(30, 18, 200, 3, N=1), None, {"tiles": 2}),
    "wide-rows": (
        Geometry(1, 1, 20, 24, axis(9, 3, 1, (1, 1)), axis(1300, 3, 1, (1, 1)), 4), None,
        {"cols": (434, 432)},
    ),
    "groups": (square(5, 20, 9, 3, pad=1, G=3), None, {"order": "weights resident"}),
    "nothing-but-padding": (square(3, 2, 4, 2, pad=9, stride=3), None, {"starts_with_zeros": True}),
    "rows-between-not-loaded": (square(20, 70, 24, 1, stride=2), None, {"row_step": 2}),
    "short-rows-between-loaded": (
        square(256, 10, 24, 1, stride=2, N=3), None, {"row_step": 1, "interleaved_x": True},
    ),
    "short-rows-between-loaded-in-strips": (
        Geometry(1, 1, 20, 24, axis(601, 1, 2), axis(8, 1, 2), 4), None, {"row_step": 1},
    ),
    "half-a-batch": (square(200, 8, 24, 3, pad=1, N=7), None, {"images": 4}),
    "float32-halves": (square(160, 5, 260, 5, pad=2), None, {"halves": True}),
    "asymmetric": (
        Geometry(2, 1, 20, 24, axis(12, 4, 1, (3, 0)), axis(25, 3, 2, (0, 2)), 4), None, {},
    ),
}  # fmt: skip


def facts(plan: DirectPlan) -> dict[str, Any]:
    blocks = [block for section in plan.sections for block in section.blocks]
    return {
        "order": plan.order,
        "num_sections": len(plan.sections),
        "num_blocks": len(plan.c_out_blocks),
        "carry": max(section.carry for section in plan.sections),
        "images": max(section.images.size for section in plan.sections),
        "interleaved_x": plan.interleaved_x,
        "interleaved_y": plan.interleaved_y,
        "packs": len(plan.packs),
        "by_engines": bool(plan.packs) and plan.packs[0].channels % 32 == 0,
        "tiles": sum(len(block.tiles) for block in blocks),
        "cols": tuple(dict.fromkeys(tile.cols.size for b in blocks for tile in b.tiles)),
        "row_step": plan.sections[0].rows.step,
        "halves": plan.halves,
    }


@pytest.mark.parametrize("epilogue", [Epilogue(), FULL], ids=["plain", "all"])
@pytest.mark.parametrize("name", WAYS)
def test_ways(name: str, epilogue: Epilogue) -> None:
    geometry, sbuf_bytes, wanted = WAYS[name]
    more = 0 if sbuf_bytes is None or epilogue == Epilogue() else 30_000  # residuals
    target = "trn2" if name == "float32-halves" else "trn1"
    with use_target(target):
        limit = None if sbuf_bytes is None else sbuf_bytes + more
        plan = plan_direct(geometry, epilogue, sbuf_bytes=limit)
        seen = check(plan)
    expected = dict(wanted)
    if expected.pop("starts_with_zeros", False):
        assert seen.instructions["memset"] > 0
    if epilogue == Epilogue():
        found = facts(plan)
        assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode: str, target: str) -> None:
    with use_target(target):
        for g in (
            square(20, 40, 24, 5, pad=2),
            square(130, 9, 24, 3, pad=2, N=3),
            square(160, 9, 24, 3, pad=1, N=2),
        ):
            for limit in (None, 40_000):
                check(plan_direct(g, sbuf_bytes=limit, padding_mode=mode), mode)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_random_plans(data: st.DataObject) -> None:
    def number(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    axes = []
    for _ in range(2):
        taps, dilation, stride, size = number(1, 4), number(1, 3), number(1, 3), number(1, 30)
        pads = number(0, 4), number(0, 4)
        short = dilation * (taps - 1) + 1 - size - sum(pads)
        axes.append(axis(size, taps, stride, (pads[0] + max(0, short), pads[1]), dilation))
    channels = st.sampled_from((1, 5, 32, 128, 144, 160, 192, 256))
    g = Geometry(
        number(1, 5), data.draw(st.sampled_from((1, 1, 2))), data.draw(channels),
        data.draw(channels), axes[0], axes[1], 4,
    )  # fmt: skip
    assume(all(_behind(a) > -a.size for a in axes))  # the reference wants some of x
    epilogue = data.draw(st.sampled_from((Epilogue(), Epilogue(has_bias=True), FULL)))
    limit = number(20, 120) * 1000
    with (
        use_target(data.draw(st.sampled_from(TARGETS))),
        use_dma(data.draw(st.sampled_from(("eager", "late")))),
    ):
        try:
            plan = plan_direct(g, epilogue, sbuf_bytes=limit, pack_taps=data.draw(st.booleans()))
        except CapacityError:
            return
        check(plan, seed=number(0, 99))


def test_what_fits_in_no_order_is_streamed() -> None:
    g = square(8192, 28, 640, 3, pad=1)
    with pytest.raises(CapacityError, match=r"conv2d: neither the weights of 128 of 640 .* fit"):
        plan_direct(g)
    (candidate,) = plans(Problem(g, Epilogue(), "float32"))
    assert isinstance(candidate.plan, StreamedPlan)


def test_rows_too_far_apart_are_streamed() -> None:
    g = Geometry(1, 1, 2, 2, axis(4000, 3, 700), axis(300, 3, 60), 4)
    with pytest.raises(CapacityError, match=r"rows of 300 pixels are too far apart .* int16"):
        plan_direct(g)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_large_layers_are_read_once(target: str, itemsize: int) -> None:
    with use_target(target):
        for g in (
            square(256, 512, 128, 3, pad=1, itemsize=itemsize),
            square(1280, 16, 1280, 3, pad=1, N=2, itemsize=itemsize),
            square(512, 128, 512, 3, pad=1, itemsize=itemsize),
        ):
            plan = plan_direct(g)
            x = g.N * g.C_in * g.rows.size * g.cols.size
            assert plan.hbm_read_bytes == itemsize * (x + 9 * g.C_in * g.C_out)


def test_packing_is_left_where_the_price_is_lower() -> None:
    g = square(192, 52, 256, 3, pad=1, itemsize=2)
    found = list(plans(Problem(g, Epilogue(), "bfloat16")))
    assert [len(c.plan.packs) for c in found] == [5, 0]
    assert min(found, key=lambda c: c.price.estimate_us()).plan.packs


def test_the_price_counts_what_runs() -> None:
    g = square(192, 26, 140, 3, pad=1)
    candidate = next(plans(Problem(g, Epilogue(), "float32")))
    seen = check(candidate.plan)
    price = candidate.price
    assert price.hbm_bytes == seen.hbm_read_bytes + seen.hbm_write_bytes
    assert price.num_transfers == seen.instructions["dma_copy"]
    assert price.moving_columns == seen.moving_columns
    assert 0.8 < price.estimate_us() / seen.body_us < 1.25


def test_a_residual_does_not_queue_behind_the_image() -> None:
    x, w = np.ones((1, 128, 160, 160), np.float16), np.ones((128, 128, 3, 3), np.float16)
    times = []
    for residual in (None, np.ones_like(x)):
        with use_target("trn1"):
            _, seen = profile(conv2d, x, w, padding=1, residual=residual, algorithm="direct")
        times.append(seen.body_us)
    assert times[1] < 1.06 * times[0]  # 1.14 if all of x is loaded before
