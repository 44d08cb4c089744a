"""What a plan says of its program, against the program: length, SBUF, bytes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.kernels import _choice, conv2d
from nkiconv.kernels._algorithm import Candidate
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import Profile, profile

F32, F16, BF16 = np.float32, np.float16, ml_dtypes.bfloat16


@dataclass(frozen=True)
class Case:
    """A problem for an algorithm; each was once longer or larger than its plan said."""

    algorithm: str
    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    dtype: Any
    how: dict[str, Any] = field(default_factory=dict)
    vectors: bool = False
    residual: bool = False
    target: str = "trn1"


CASES = {
    "patches-one": Case("patches", (1, 1, 1, 2), (1, 1, 1, 2), F32, {"stride": (1, 2)}),
    "patches-rest-of-channels": Case(
        "patches", (4, 3, 9, 6), (131, 3, 3, 3), BF16, {"stride": 3, "activation": "hardswish"},
        vectors=True, residual=True,
    ),
    "pointwise-one-column": Case("pointwise", (17, 300, 4, 4), (128, 300, 1, 1), F32,
                                 {"stride": (3, 4)}, residual=True),
    "pointwise-many-groups": Case("pointwise", (40, 1, 11, 36), (64, 1, 1, 1), BF16,
                                  {"stride": (1, 2), "activation": ("leaky_relu", 0.25)},
                                  vectors=True, target="trn2"),
    "pointwise-stacked": Case("pointwise", (3, 1, 50, 41), (1, 1, 1, 1), F16, target="trn3"),
    "banded": Case("depthwise", (1, 29, 43, 1), (29, 1, 1, 1), BF16, {"groups": 29}),
    "banded-wide": Case("depthwise", (1, 32, 41, 4), (32, 1, 1, 8), F32,
                        {"groups": 32, "padding": ((1, 1), (11, 1)), "dilation": (1, 2)}),
    "pooled-fast": Case("direct", (2, 8, 12, 12), (16, 8, 3, 3), F32,
                        {"pool": ("max", 2), "precision": "fast"}),
}  # fmt: skip


def _draw(kind: Any, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(kind)


def _run(case: Case, rank: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Candidate, Profile]:
    """Run the candidate of that rank, of those without stages; its result is exact."""
    module = sys.modules["nkiconv.kernels.conv2d"]
    module._best.cache_clear()
    chosen: list[Candidate] = []

    def choose(problem: Any, algorithm: str) -> Any:
        found = _choice.choose(problem, algorithm)
        alone = [one for one in found.candidates if one.stages is None]
        best = alone[rank % len(alone)]
        chosen.append(best)
        return _choice.Choice((best,), {})

    monkeypatch.setattr(module, "choose", choose)
    x, w = _draw(case.dtype, *case.x), _draw(case.dtype, *case.w, seed=1)
    how = dict(case.how)
    if case.vectors:
        how |= {name: _draw(F32, case.w[0], seed=2) for name in ("bias", "scale")}
    if case.residual:
        how["residual"] = _draw(case.dtype, *conv2d_ref(x, w, **how).shape, seed=3)
    y, seen = profile(conv2d, x, w, algorithm=case.algorithm, target=case.target, **how)
    module._best.cache_clear()
    if case.how.get("activation") != "hardswish":  # which rounds
        np.testing.assert_array_equal(y, conv2d_ref(x, w, **how))
    return chosen[0], seen


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_program_is_no_longer_or_larger_than_planned(
    name: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, seen = _run(CASES[name], rank, monkeypatch)
    assert seen.static_instructions <= best.price.static_instructions
    assert best.price.static_instructions <= 1.1 * seen.static_instructions + 10
    if hasattr(best.plan, "sbuf_bytes"):
        assert seen.sbuf_peak_bytes <= best.plan.sbuf_bytes
    if CASES[name].algorithm == "direct":
        assert seen.hbm_read_bytes + seen.hbm_write_bytes == best.price.hbm_bytes


def test_one_column_of_many_channels_fits_sbuf() -> None:
    """Whole rows are loaded for it: once they were planned as one pixel each."""
    x, w = _draw(F32, 1, 2500, 150, 15), _draw(F32, 8, 2500, 1, 1)
    y = conv2d(x, w, stride=(2, 15), algorithm="pointwise")
    np.testing.assert_array_equal(y, conv2d_ref(x, w, stride=(2, 15)))


@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col", "naive"])
def test_strides_and_dilations_beyond_the_image(algorithm: str) -> None:
    x = _draw(F32, 2, 3, 9, 8)
    for taps, how in ((3, {"stride": 10**30}), (1, {"dilation": (10**30, 1)})):
        w = _draw(F32, 4, 3, taps, taps, seed=1)
        same = {name: 1 if name == "dilation" else 20 for name in how}
        y = conv2d(x, w, algorithm=algorithm, **how)
        np.testing.assert_array_equal(y, conv2d_ref(x, w, **same))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("groups", [1, 8])
def test_a_padding_mode_without_padding_costs_nothing(groups: int, mode: str) -> None:
    x, w = _draw(BF16, 2, 8, 12, 12), _draw(BF16, 8, 8 // groups, 3, 3, seed=1)
    usual, seen = profile(conv2d, x, w, groups=groups)
    y, same = profile(conv2d, x, w, groups=groups, padding_mode=mode)
    np.testing.assert_array_equal(y, usual)
    assert same.latency_us == seen.latency_us


def test_rows_of_one_pixel_are_loaded_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"padding": (1, 0), "padding_mode": "replicate"}
    case = Case("direct", (5, 40, 59, 1), (40, 40, 3, 1), F32, how)
    best, seen = _run(case, 0, monkeypatch)
    assert best.estimate_us() < 2 * (seen.latency_us - seen.launch_us)
