"""Programs that would be too long: on-chip loops over parts of a convolution."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.kernels import _looped, conv2d, conv2d_direct
from nkiconv.kernels._algorithm import Candidate, Problem
from nkiconv.kernels._choice import choose
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._looped import LoopedPlan
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.kernels._stages import Stage, Stages
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import CapacityError, ConstraintError, Profile, profile, use_dma, use_target

BF16 = ml_dtypes.bfloat16


@dataclass(frozen=True)
class Case:
    """A problem, the limit that makes it too long, and the axes that are to be looped over."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    limit: int
    over: str
    kind: str = "direct"
    pieces: int = 1
    dtype: Any = np.float32
    how: dict[str, Any] = field(default_factory=dict)


SAME = {"padding": 1}
CASES = {
    "images": Case((6, 5, 30, 30), (140, 5, 3, 3), 120, "images", how=SAME),
    "images-and-a-rest": Case((7, 5, 12, 12), (70, 5, 3, 3), 40, "images", pieces=2, how=SAME),
    "small-images": Case((53, 40, 7, 7), (70, 40, 2, 2), 24, "images", pieces=2, dtype=BF16),
    "rows": Case((1, 40, 90, 40), (70, 40, 3, 3), 90, "rows", pieces=3, how=SAME),
    "rows-without-padding": Case((1, 40, 90, 40), (70, 40, 3, 3), 60, "rows", pieces=2),
    "images-and-rows": Case((3, 40, 90, 40), (70, 40, 3, 3), 90, "images rows", pieces=3, how=SAME),
    "rows-strided": Case(
        (2, 40, 181, 60), (70, 40, 3, 3), 60, "images rows", pieces=3, dtype=BF16,
        how={"padding": (2, 1), "stride": (3, 1), "dilation": (2, 1)},
    ),
    "rows-in-a-wide-border": Case(
        (1, 40, 90, 60), (70, 40, 3, 3), 60, "rows", pieces=3, dtype=BF16, how={"padding": 5}
    ),
    "rows-reflected": Case(
        (2, 40, 61, 40), (70, 40, 3, 3), 76, "images rows", pieces=3,
        how={"padding": 1, "padding_mode": "reflect"},
    ),
    "rows-replicated": Case(
        (1, 40, 121, 40), (70, 40, 5, 3), 122, "rows", pieces=4,
        how={"padding": (2, 1), "padding_mode": "replicate"},
    ),
    "rows-bordered-before": Case(
        (1, 40, 90, 40), (70, 40, 9, 1), 50, "rows", pieces=2, how={"padding": (8, 0)}
    ),
    "rows-and-a-short-rest": Case(
        (1, 256, 156, 16), (40, 256, 3, 3), 60, "rows", pieces=2, dtype=BF16
    ),
    "rows-reflected-beyond-the-taps": Case(
        (1, 8, 40, 600), (8, 8, 3, 3), 330, "rows", pieces=11,
        how={"padding": (5, 0), "padding_mode": "reflect"},
    ),
    "rows-fast": Case(
        (3, 40, 90, 40), (70, 40, 3, 3), 70, "images rows", pieces=3,
        how={"padding": 1, "precision": "fast"},
    ),
    "groups": Case((1, 600, 6, 6), (600, 150, 3, 3), 100, "groups", how=SAME | {"groups": 4}),
    "images-and-groups": Case(
        (2, 600, 8, 20), (600, 150, 3, 3), 90, "images groups", how=SAME | {"groups": 4}
    ),
    "channels": Case((1, 40, 12, 12), (600, 40, 3, 3), 40, "output channels", how=SAME),
    "channels-and-rows": Case(
        (2, 150, 61, 40), (300, 150, 3, 3), 142, "images output channels rows", pieces=3, how=SAME
    ),
    "pooled-images": Case((6, 40, 40, 40), (70, 40, 3, 3), 110, "images", "pooled",
                          dtype=BF16, how=SAME | {"pool": ("avg", 2)}),
    "pooled-rows": Case((1, 40, 160, 40), (70, 40, 3, 3), 100, "rows", "pooled", pieces=3,
                        dtype=BF16, how=SAME | {"pool": ("avg", 2, 3), "padding_mode": "reflect"}),
    "pooled-groups": Case((2, 300, 31, 40), (300, 100, 3, 3), 70, "images groups", "pooled",
                          dtype=BF16, how={"groups": 3, "dilation": 2, "pool": ("avg", 2)}),
    "pooled-images-and-rows": Case((2, 40, 61, 40), (256, 40, 3, 3), 90, "images rows", "pooled",
                                   pieces=2, dtype=BF16, how=SAME | {"pool": ("avg", 2)}),
    "pooled-channels": Case((2, 40, 61, 40), (256, 40, 3, 3), 115, "images output channels",
                            "pooled", dtype=BF16, how=SAME | {"pool": ("avg", 2)}),
    "streamed-images": Case((3, 40, 40, 40), (70, 40, 3, 3), 90, "images", "streamed", how=SAME),
    "streamed-rows": Case((1, 40, 81, 40), (70, 40, 3, 3), 62, "rows", "streamed", pieces=3,
                          dtype=BF16, how=SAME),
    "streamed-groups": Case((2, 300, 41, 40), (300, 100, 3, 3), 80, "images groups", "streamed",
                            how={"groups": 3, "dilation": 2, "padding": 1}),
    "streamed-channels": Case((3, 40, 41, 40), (300, 40, 3, 3), 35, "images output channels",
                              "streamed", pieces=2, dtype=BF16, how={"stride": 2}),
    "grouped-images": Case((3, 64, 80, 40), (64, 4, 3, 3), 80, "images", "grouped",
                           how=SAME | {"groups": 16}),
    "grouped-groups": Case((1, 600, 20, 20), (600, 4, 3, 3), 70, "groups", "grouped", pieces=2,
                           dtype=BF16, how=SAME | {"groups": 150}),
    "grouped-rows": Case((2, 64, 200, 40), (64, 4, 5, 5), 200, "images rows", "grouped", pieces=3,
                         how={"padding": 2, "groups": 16}),
    "depthwise-images": Case((5, 300, 14, 14), (300, 1, 7, 7), 250, "images", "depthwise",
                             how={"padding": 3, "groups": 300}),
    "banded-groups": Case((5, 300, 14, 14), (300, 1, 13, 13), 1000, "images groups", "depthwise",
                          pieces=2, how={"padding": 6, "groups": 300}),
    "pointwise-images": Case((6, 200, 20, 20), (300, 200, 1, 1), 60, "images", "pointwise"),
    "im2col-images": Case((7, 3, 40, 40), (64, 3, 7, 7), 130, "images", "im2col", pieces=2,
                          dtype=BF16, how={"stride": 2, "padding": 3}),
    "im2col-rows": Case((1, 3, 600, 40), (64, 3, 7, 7), 110, "rows", "im2col", pieces=3,
                        dtype=BF16, how={"stride": 2, "padding": 3}),
    "im2col-images-and-rows": Case((2, 64, 240, 40), (64, 64, 3, 3), 130, "images rows", "im2col",
                                   pieces=3, how=SAME),
    "pointwise-strided": Case((8, 200, 40, 40), (300, 200, 1, 1), 40, "images", "pointwise",
                              dtype=BF16, how={"stride": 2}),
}  # fmt: skip


PARTS = {
    "direct": ("DirectPlan",),
    "pooled": ("PooledPlan",),
    "streamed": ("StreamedPlan",),
    "grouped": ("GroupedPlans",),
    "depthwise": ("GroupedPlans", "BandedPlan"),
    "pointwise": ("MatmulPlan",),
    "im2col": ("Im2colPlan",),
}


def _draw(kind: Any, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(kind)


def _run(
    case: Case, monkeypatch: pytest.MonkeyPatch, target: str, how: dict[str, Any]
) -> tuple[Profile, Candidate]:
    """Run a case; the result is exact.  Return what the timing model saw, and what was chosen."""
    monkeypatch.setattr(_looped, "MAX_INSTRUCTIONS", case.limit)
    module = sys.modules["nkiconv.kernels.conv2d"]
    module._best.cache_clear()
    chosen: list[Candidate] = []

    def choose(problem: Any, algorithm: str) -> Any:
        found = original(problem, algorithm)
        chosen.append(found.candidates[0])
        return found

    original = module.choose
    monkeypatch.setattr(module, "choose", choose)
    if case.kind == "streamed":

        def too_large(*_: Any, **__: Any) -> None:
            raise CapacityError("too large")

        monkeypatch.setattr(conv2d_direct, "plan_direct", too_large)
    x, w = _draw(case.dtype, *case.x), _draw(case.dtype, *case.w, seed=1)
    algorithm = "direct" if case.kind in ("pooled", "streamed") else case.kind
    with use_target(target), use_dma("late"):
        y, seen = profile(conv2d, x, w, algorithm=algorithm, **how)
    module._best.cache_clear()
    np.testing.assert_array_equal(y, conv2d_ref(x, w, **how))
    return seen, chosen[0]


@pytest.mark.parametrize("name", CASES)
def test_loops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the axes that were to be looped over, by a program as long as its price says."""
    case = CASES[name]
    seen, best = _run(case, monkeypatch, "trn1", case.how)
    plan = best.plan
    assert isinstance(plan, LoopedPlan)
    over = re.findall(r"\d+ (images|groups|output channels|rows)(?:,| at)", best.why)
    assert " ".join(over) == case.over
    assert len(plan.pieces) == case.pieces
    assert type(plan.pieces[0].part).__name__ in PARTS[case.kind]
    if best.stages is None:
        assert seen.static_instructions <= best.price.static_instructions <= case.limit
        if case.kind != "im2col":  # which counts the border with the pixels
            assert seen.hbm_read_bytes + seen.hbm_write_bytes == best.price.hbm_bytes
        assert seen.instructions["nc_matmul"] == best.price.matmuls
        assert seen.moving_columns == best.price.moving_columns


FULL = {  # and the limit that makes them too long
    "images-and-a-rest": 50, "images-and-rows": 100, "rows-strided": 85, "images-and-groups": 150,
    "channels-and-rows": 160, "pooled-images-and-rows": 130, "streamed-rows": 90,
    "grouped-rows": 280, "grouped-groups": 112, "banded-groups": 1400, "pointwise-images": 100,
}  # fmt: skip


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("name", FULL)
def test_loops_with_an_epilogue(name: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    x, w = np.zeros(case.x, np.float32), np.zeros(case.w, np.float32)
    plain = {key: value for key, value in case.how.items() if key != "pool"}
    shape = conv2d_ref(x, w, **plain).shape
    how = case.how | {
        "bias": _draw(np.float32, case.w[0], seed=2),
        "scale": _draw(np.float32, case.w[0], seed=3),
        "residual": _draw(case.dtype, *shape, seed=4),
        "activation": "relu6",
    }
    case = replace(case, limit=FULL[name])
    seen, best = _run(case, monkeypatch, target, how)
    assert isinstance(best.plan, LoopedPlan)
    assert seen.static_instructions <= best.price.static_instructions <= case.limit


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_random_problems(data: Any) -> None:
    def draw(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    groups, c_in, c_out = draw((1, 3, 33), (1, 40, 130), (1, 130, 260), (2, 130, 3), (16, 4, 2))
    taps, pads = (draw(1, 2, 3, 5), draw(1, 3)), (draw(0, 1, 2, 4), draw(0, 1))
    x = _draw(np.float32, draw(1, 2, 5), groups * c_in, draw(13, 47, 90), draw(16, 33))
    w = _draw(np.float32, groups * c_out, c_in, *taps, seed=1)
    how: dict[str, Any] = {
        "padding": pads,
        "padding_mode": draw("zeros", "zeros", "reflect", "replicate", "circular"),
        "stride": (draw(1, 2, 3), draw(1, 2)),
        "dilation": (draw(1, 2), 1),
        "groups": groups,
        "pool": draw(None, None, ("max", 2, 1), ("max", 2, 3)),
    }
    module = sys.modules["nkiconv.kernels.conv2d"]
    with pytest.MonkeyPatch.context() as patch, use_target(draw("trn1", "trn2")), use_dma("late"):
        patch.setattr(_looped, "MAX_INSTRUCTIONS", draw(60, 90, 140))
        module._best.cache_clear()
        try:
            y = conv2d(x, w, algorithm=draw("auto", "direct"), **how)
        except ConstraintError as refusal:
            assert "a program may write out" in str(refusal)  # noqa: PT017  # the only reason
            return
        finally:
            module._best.cache_clear()
    np.testing.assert_array_equal(y, conv2d_ref(x, w, **how))


def test_weights_that_all_parts_read_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["images-and-rows"]
    seen, best = _run(case, monkeypatch, "trn1", case.how)
    assert best.plan.kept
    w_bytes = 4 * np.prod(case.w)
    assert seen.hbm_read_bytes_by_tensor["w_hbm"] == w_bytes
    case = CASES["channels-and-rows"]  # where not all parts read the same
    _, best = _run(case, monkeypatch, "trn1", case.how)
    assert not best.plan.kept


def test_iterations_are_priced_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("images", "small-images", "rows", "images-and-rows", "channels-and-rows"):
        with monkeypatch.context() as patch:
            case = CASES[name]
            seen, best = _run(case, patch, "trn1", case.how)
            ratio = best.estimate_us() / (seen.latency_us - seen.launch_us)
            assert 0.9 < ratio < 1.12, name


def test_a_plan_that_is_too_long_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an algorithm offers: its own program, or that of a stage."""
    g = Geometry(1, 1, 8, 8, Axis(9, 3, 7, 1, 1, 0), Axis(9, 3, 7, 1, 1, 0), 4)
    problem = Problem(g, Epilogue(), "float32")
    offered = next(iter(conv2d_direct.plans(problem)))
    long = replace(offered.price, static_instructions=30_000)
    for one in (
        replace(offered, price=long),
        replace(offered, stages=_with(Stage(None, None, long))),
    ):
        monkeypatch.setattr(conv2d_direct, "plans", lambda _, one=one: iter([one]))
        with pytest.raises(ConstraintError, match="its program has 30,000 instructions, more than"):
            choose(problem, "direct")


def _with(pool: Stage) -> Stages:
    g = Geometry(1, 1, 8, 8, Axis(9, 3, 7, 1, 1, 0), Axis(9, 3, 7, 1, 1, 0), 4)
    return Stages(g, (1, 8, 9, 9), (1, 8, 7, 7), None, None, None, pool, None, "")


def test_what_no_loop_makes_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_looped, "MAX_INSTRUCTIONS", 20)
    sys.modules["nkiconv.kernels.conv2d"]._best.cache_clear()
    x, w = _draw(np.float32, 1, 4, 9, 9), _draw(np.float32, 4, 4, 5, 5)
    words = (
        r"direct: the least that it loops over takes \d\d instructions; a program may write out 20"
    )
    with pytest.raises(ConstraintError, match=words):
        conv2d(x, w, algorithm="direct")


@pytest.mark.slow
@pytest.mark.parametrize(("N", "H"), [(128, 112), (1, 1024)], ids=["images", "rows"])
def test_a_real_layer(N: int, H: int) -> None:
    x, w = _draw(BF16, N, 64, H, H), _draw(BF16, 64, 64, 3, 3, seed=1)
    problem_us = []
    module = sys.modules["nkiconv.kernels.conv2d"]
    original = module.choose
    with pytest.MonkeyPatch.context() as patch:

        def choose(problem: Any, algorithm: str) -> Any:
            found = original(problem, algorithm)
            assert isinstance(found.candidates[0].plan, LoopedPlan)
            problem_us.append(found.candidates[0].estimate_us())
            return found

        patch.setattr(module, "choose", choose)
        module._best.cache_clear()
        y, seen = profile(conv2d, x, w, padding=1, algorithm="direct")
    assert seen.static_instructions <= _looped.MAX_INSTRUCTIONS
    assert problem_us[0] == pytest.approx(seen.latency_us - seen.launch_us, rel=0.1)
    rows = slice(0, 2)
    np.testing.assert_array_equal(y[rows], conv2d_ref(x[rows], w, padding=1))
