"""Grouped and depthwise convolutions: exact, and the counts that the plan says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv import reference
from nkiconv.kernels import conv2d, conv2d_depthwise, conv2d_grouped
from nkiconv.kernels._algorithm import Candidate, NotSuited, Operands, Problem
from nkiconv.kernels._banded_plan import BandedPlan
from nkiconv.kernels._blocks import Pool, PoolAxis
from nkiconv.kernels._choice import choose
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._groups import full_tap, sections
from nkiconv.kernels._plan import Axis, Geometry, Tile
from nkiconv.kernels._weights import pack_weights
from nkiconv.simulate import (
    ConstraintError,
    profile,
    simulate_kernel,
    use_dma,
    use_target,
)

TARGETS = ("trn1", "trn2", "trn3")


def axis(size: int, taps: int, stride: int = 1, dilation: int = 1, pad: int = 0) -> Axis:
    outputs = (size + 2 * pad - (taps - 1) * dilation - 1) // stride + 1
    return Axis(size, taps, outputs, stride, dilation, pad)


def geometry(
    N: int, G: int, C_in: int, C_out: int, rows: Axis, cols: Axis | None = None
) -> Geometry:
    return Geometry(N, G, C_in, C_out, rows, cols or rows, itemsize=4)


def arrays(g: Geometry, dtype: Any = np.float32) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (g.N, g.G * g.C_in, g.rows.size, g.cols.size)).astype(dtype)
    w = rng.integers(-2, 3, (g.G * g.C_out, g.C_in, g.rows.taps, g.cols.taps)).astype(dtype)
    return x, w


def keywords(g: Geometry) -> dict[str, Any]:
    return {
        "stride": (g.rows.stride, g.cols.stride),
        "dilation": (g.rows.dilation, g.cols.dilation),
        "padding": (g.rows.pad, g.cols.pad),
        "groups": g.G,
    }


def candidates(
    g: Geometry, epilogue: Epilogue | None = None, precision: str = "exact"
) -> list[Candidate]:
    module = conv2d_depthwise if g.C_in == 1 else conv2d_grouped
    problem = Problem(g, epilogue or Epilogue(), "float32", precision=precision)
    return list(module.plans(problem))


def launch(candidate: Candidate, x: Any, w: Any, groups: int) -> Any:
    module = conv2d_depthwise if candidate.algorithm == "depthwise" else conv2d_grouped
    packed = module.pack(pack_weights(w, groups), candidate.plan)
    return module.run(simulate_kernel, Operands(x, packed), candidate.plan)


def check_candidate(g: Geometry, candidate: Candidate) -> None:
    """A plan's result is exact, and its counts are those of what runs."""
    x, w = arrays(g)
    y, seen = profile(launch, candidate, x, w, g.G)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, **keywords(g)))
    price = candidate.price
    assert seen.instructions["nc_matmul"] == price.matmuls
    assert seen.moving_columns == price.moving_columns
    assert seen.hbm_read_bytes + seen.hbm_write_bytes == price.hbm_bytes
    assert seen.sbuf_peak_bytes <= candidate.plan.sbuf_bytes


CASES = {
    "one-lane": geometry(1, 100, 1, 1, axis(9, 3, pad=1)),
    "bands": geometry(1, 16, 1, 1, axis(13, 3, pad=1)),
    "bands-of-7": geometry(1, 8, 2, 2, axis(7, 3, pad=1)),
    "bands-dilated": geometry(1, 8, 1, 1, axis(12, 3, dilation=3, pad=3)),
    "bands-stride": geometry(1, 32, 1, 1, axis(14, 5, stride=2, pad=2)),
    "images": geometry(8, 32, 1, 1, axis(6, 3, pad=1)),
    "images-short-lane": geometry(7, 32, 1, 1, axis(6, 3, pad=1)),
    "images-packed": geometry(10, 64, 1, 1, axis(4, 3, pad=1)),
    "images-and-bands": geometry(3, 16, 1, 1, axis(9, 3, pad=1)),
    "blocks": geometry(2, 6, 40, 40, axis(5, 3, pad=1)),
    "ragged-blocks": geometry(1, 7, 50, 20, axis(5, 3, pad=1)),
    "planes": geometry(3, 240, 1, 1, axis(7, 3, pad=1)),
    "planes-large": geometry(1, 256, 1, 1, axis(40, 3, pad=1)),
    "multiplier": geometry(2, 20, 1, 3, axis(8, 3, pad=1)),
    "sections": geometry(1, 96, 1, 1, axis(10, 3, pad=1)),
    "sections-of-144": geometry(1, 144, 1, 1, axis(12, 5, stride=2, pad=2)),
    "images-of-two-counts": geometry(9, 64, 1, 1, axis(4, 3, pad=1)),
    "no-full-tap": geometry(1, 16, 1, 1, axis(5, 3, pad=4)),
    "more-padding-than-taps": geometry(1, 15, 9, 1, axis(1, 1, pad=2), axis(6, 1, 3)),
    "no-full-column": geometry(2, 70, 1, 1, axis(8, 3, pad=1), axis(5, 3, pad=4)),
    "wide": geometry(1, 64, 1, 1, axis(3, 3, pad=1), axis(1100, 3, pad=1)),
    "strips": geometry(1, 128, 1, 1, axis(260, 3, pad=1), axis(250, 3, pad=1)),
    "rebuilt": geometry(1, 128, 1, 2, axis(12, 15, pad=7)),
    "tall": geometry(1, 12, 1, 1, axis(40, 31, pad=15)),
    "tall-ragged": geometry(2, 133, 1, 1, axis(9, 7, pad=3)),
    "tall-one-block": geometry(1, 3, 1, 1, axis(100, 9, pad=2)),
    "tall-batch": geometry(30, 5, 1, 1, axis(7, 5, pad=2), axis(40, 3, 2, pad=1)),
    "tall-padded": geometry(1, 9, 1, 1, axis(5, 11, pad=6), axis(6, 3, dilation=2, pad=2)),
    "tall-full-sets": geometry(1, 10, 1, 1, axis(60, 9), axis(12, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_candidate_is_exact_and_as_priced(name: str) -> None:
    for candidate in candidates(CASES[name]):
        check_candidate(CASES[name], candidate)


FAST = ("bands", "images-packed", "planes", "ragged-blocks", "multiplier", "rebuilt", "tall-ragged")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FAST)
def test_every_fast_candidate_is_exact_and_as_priced(name: str, target: str) -> None:
    g = CASES[name]
    with use_target(target):
        exact = candidates(g)
        for candidate in candidates(g, precision="fast"):
            assert "rounded to bfloat16" in candidate.why
            check_candidate(g, candidate)
            others = [one.price for one in exact if type(one.plan) is type(candidate.plan)]
            assert candidate.price.hbm_bytes < max(price.hbm_bytes for price in others)
            assert candidate.price.tensor_cycles < max(price.tensor_cycles for price in others)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["bands-of-7", "planes", "tall-ragged"])
def test_fast_rounds_operands_and_nothing_else(name: str, late: bool) -> None:
    """Results and residuals need more digits than bfloat16 has."""
    g = CASES[name]
    x, w = arrays(g)
    shape = (g.N, g.G * g.C_out, g.rows.outputs, g.cols.outputs)
    residual = np.random.default_rng(1).integers(-(2**20), 2**20, shape).astype(np.float32)
    bias = np.arange(g.G * g.C_out, dtype=np.float32) + 1 / 3
    more = {"bias": bias, "residual": residual}
    wanted = reference.conv2d(x, w, **more, **keywords(g))
    algorithm = "depthwise" if g.C_in == 1 else "grouped"
    with use_dma("late" if late else "eager"):
        y = conv2d(x, w, **more, **keywords(g), algorithm=algorithm, precision="fast")
    np.testing.assert_array_equal(y, wanted)
    rounded = conv2d(x + 2.0**-9, w, **keywords(g), algorithm=algorithm, precision="fast")
    inexact = x + 2.0**-9 != x.astype(ml_dtypes.bfloat16)
    assert inexact.any()
    np.testing.assert_array_equal(
        rounded,
        reference.conv2d(
            (x + 2.0**-9).astype(ml_dtypes.bfloat16).astype(np.float32), w, **keywords(g)
        ),
    )


def banded_ways(plan: BandedPlan) -> set[str]:
    taken = {
        "tiles of channels": len(plan.channel_tiles) > 1,
        "sets that lack a block": any(
            some.blocks < plan.blocks for tile in plan.channel_tiles for some in tile.rounds
        ),
        "several images tiles": len(plan.image_tiles) > 1,
        "zeros before": plan.before > 0,
        "no zeros before": plan.before == 0,
        "one block": plan.blocks == 1,
        "narrow step": plan.step * plan.geometry.itemsize < 16,
        "buffers taken again": plan.channel_tiles[0].sets > plan.buffers,
    }
    return {way for way in taken if taken[way]}


def test_every_way_of_a_plan_is_reached() -> None:
    ways: set[str] = set()
    for g in CASES.values():
        for candidate in candidates(g):
            if isinstance(candidate.plan, BandedPlan):
                ways |= banded_ways(candidate.plan)
                continue
            for section in candidate.plan.sections:
                ways |= {
                    name
                    for name, taken in {
                        "bands": section.bands > 1,
                        "short last band": section.bands * section.band_rows > g.rows.outputs,
                        "images as lanes": section.lanes > section.bands,
                        "parts": len(section.parts) > 1,
                        "packed": any(b.size > 1 for p in section.parts for b in p.batches),
                        "planes": section.planes > 1,
                        "blocks": len(section.groups) > 1,
                        "strips": len(section.parts[0].strips) > 1,
                        "rebuilt": not section.resident,
                        "trimmed rows": section.trimmed_rows,
                        "bordered rows": not section.trimmed_rows,
                        "trimmed columns": section.trimmed_cols,
                        "bordered columns": not section.trimmed_cols,
                    }.items()
                    if taken
                }
                ways |= {"sections"} if len(candidate.plan.sections) > 1 else set()
    assert ways == {
        "bands", "short last band", "images as lanes", "parts", "packed", "planes", "blocks",
        "strips", "rebuilt", "trimmed rows", "bordered rows", "trimmed columns",
        "bordered columns", "sections", "tiles of channels", "sets that lack a block",
        "several images tiles", "zeros before", "no zeros before", "one block", "narrow step",
        "buffers taken again",
    }  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["bands-of-7", "images-packed", "planes", "tall-ragged"])
def test_epilogue_on_every_target(name: str, dtype: Any, late: bool, target: str) -> None:
    g = CASES[name]
    x, w = arrays(g, dtype)
    channels = g.G * g.C_out
    rng = np.random.default_rng(1)
    bias = rng.integers(-3, 4, channels).astype(np.float32)
    scale = rng.integers(1, 3, channels).astype(np.float32)
    shape = (g.N, channels, g.rows.outputs, g.cols.outputs)
    residual = rng.integers(-4, 5, shape).astype(dtype)
    more = {"bias": bias, "scale": scale, "residual": residual, "activation": "relu"}
    algorithm = "depthwise" if g.C_in == 1 else "grouped"
    expected = reference.conv2d(x, w, **more, **keywords(g)).astype(dtype)
    with use_dma("late" if late else "eager"):
        y = conv2d(x, w, **more, **keywords(g), algorithm=algorithm, target=target)
        np.testing.assert_array_equal(y, expected)
        module = conv2d_depthwise if g.C_in == 1 else conv2d_grouped
        epilogue = Epilogue("relu", has_scale=True, has_bias=True, has_residual=True)
        half = replace(g, itemsize=x.itemsize)
        columns = [bias.reshape(-1, 1), scale.reshape(-1, 1)]
        with use_target(target):
            for candidate in module.plans(Problem(half, epilogue, str(x.dtype))):
                packed = module.pack(pack_weights(w, g.G), candidate.plan)
                operands = Operands(x, packed, columns[1], columns[0], residual)
                y = module.run(simulate_kernel, operands, candidate.plan)
                np.testing.assert_array_equal(y, expected)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_random_problems(data: Any) -> None:
    def draw(least: int, most: int) -> int:
        return int(data.draw(st.integers(least, most)))

    def side() -> Axis:
        taps, dilation, pad = draw(1, 5), draw(1, 3), draw(0, 4)
        least = max(1, (taps - 1) * dilation + 1 - 2 * pad)
        return axis(draw(least, least + 12), taps, draw(1, 3), dilation, pad)

    one = data.draw(st.booleans())
    g = Geometry(
        draw(1, 6), draw(2, 40), 1 if one else draw(2, 9), draw(1, 9), side(), side(), itemsize=4
    )
    target = data.draw(st.sampled_from(TARGETS))
    with use_target(target), use_dma(data.draw(st.sampled_from(["eager", "late"]))):
        check_candidate(g, data.draw(st.sampled_from(candidates(g))))


def test_sections_leave_few_partitions_idle() -> None:
    def split(G: int, most: int) -> list[int]:
        return [part.size for part in sections(geometry(1, G, 1, 1, axis(8, 3)), most)]

    assert split(96, 1) == [96]
    assert split(96, 2) == [64, 32]
    assert split(144, 2) == [128, 16]
    assert split(72, 3) == [64, 8]
    assert split(112, 3) == [64, 32, 16]
    assert split(32, 3) == [32]
    assert split(300, 2) == [256, 44]
    assert sections(geometry(1, 96, 1, 1, axis(8, 3)), 2) == (Tile(0, 64), Tile(64, 32))


def test_full_tap() -> None:
    assert full_tap(axis(8, 3, pad=1)) == 1
    assert full_tap(axis(8, 31, pad=15)) == 15
    assert full_tap(axis(3, 2, stride=2, pad=1)) == 1
    assert full_tap(axis(8, 3, pad=4)) == -1


REFUSED = {
    "there is one group only": (geometry(1, 1, 8, 8, axis(8, 3)), {}),
    "a group has 130 channels": (geometry(1, 2, 130, 8, axis(8, 3)), {}),
    'no padding_mode "reflect"': (
        geometry(1, 4, 2, 2, axis(8, 3, pad=1)), {"padding_mode": "reflect"}
    ),
    '"depthwise" is for': (geometry(1, 4, 1, 2, axis(8, 3)), {}),
    "no fused pooling": (
        geometry(1, 4, 2, 2, axis(8, 3)),
        {"epilogue": Epilogue(pool=Pool("max", PoolAxis(2, 2, 3), PoolAxis(2, 2, 3)))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals(reason: str) -> None:
    g, more = REFUSED[reason]
    problem = Problem(g, more.pop("epilogue", Epilogue()), "float32", **more)
    with pytest.raises(NotSuited, match=reason):
        list(conv2d_grouped.plans(problem))


def test_depthwise_refuses_wider_groups() -> None:
    x, w = arrays(geometry(1, 4, 2, 2, axis(8, 3)))
    with pytest.raises(ConstraintError, match="a group has other channels than one"):
        conv2d(x, w, groups=4, algorithm="depthwise")


def test_auto_takes_them() -> None:
    for name in ("bands", "planes", "sections", "images"):
        g = CASES[name]
        best = choose(Problem(g, Epilogue(), "float32")).candidates[0]
        assert best.algorithm == ("depthwise" if g.C_in == 1 else "grouped"), name


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_estimates_rank_as_the_timeline_does(target: str) -> None:
    """The plan that is chosen takes at most 15% longer than the best one."""
    for name in ("bands", "sections", "planes", "images", "sections-of-144"):
        g = CASES[name]
        x, w = arrays(g)
        with use_target(target):
            found = candidates(g)
            times = []
            for candidate in found:
                _, seen = profile(launch, candidate, x, w, g.G)
                times.append(seen.body_us)
            chosen = min(range(len(found)), key=lambda i: found[i].estimate_us())
            assert times[chosen] <= 1.15 * min(times), (name, times)
