"""What conv2d chooses: nearly the fastest on the timeline, and decided quickly."""

from __future__ import annotations

import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.bench.plans import find_layer, problem_of
from nkiconv.kernels import pack_weights
from nkiconv.kernels._algorithm import Operands
from nkiconv.kernels._choice import ALGORITHMS, Choice, choose, run
from nkiconv.simulate import profile, simulate_kernel, use_target

# One layer for each regime, small enough to run every candidate.
LAYERS = (
    "1x1-s1-c64-k256-56x56",
    "1x1-s1-c24-k144-56x56",
    "1x1-s2-c256-k512-28x28",
    "3x3-s1-p1-c64-k64-28x28",
    "3x3-s1-p1-c256-k256-14x14",
    "3x3-s1-p1-c512-k512-7x7",
    "3x3-s1-p1-c32-k32-16x16-n4",
    "3x3-s2-p1-c3-k32-96x96",
    "7x7-s2-p3-c3-k64-96x96",
    "3x3-s1-p1-g96-c96-k96-28x28",
    "5x5-s2-p2-g144-c144-k144-28x28",
    "7x7-s1-p3-g96-c96-k96-28x28",
    "3x3-s1-p1-g32-c128-k128-28x28",
)

# How much slower than the best candidate the chosen one may be modelled.
SLOWER, LONGER_US = 1.10, 0.5


def body_us(name: str, choice: Choice) -> list[float]:
    """Modelled time of each candidate that is not out of the question by its estimate."""
    layer = find_layer(name)
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return rng.integers(-2, 3, shape).astype(ml_dtypes.bfloat16)

    x = draw(layer.N, layer.C_in, *layer.size)
    w = pack_weights(draw(layer.C_out, layer.C_in // layer.groups, *layer.kernel), layer.groups)
    found = []
    first = choice.candidates[0].estimate_us()
    for candidate in choice.candidates:
        if candidate.estimate_us() > 4 * first:
            continue  # a loop over groups: seconds in the simulator
        operands = Operands(x=x, w=ALGORITHMS[candidate.algorithm].pack(w, candidate.plan))
        _, seen = profile(run, simulate_kernel, candidate, operands)
        found.append(seen.body_us)
    return found


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_chosen_plan_is_nearly_the_fastest(name: str, target: str) -> None:
    with use_target(target):
        times = body_us(name, choose(problem_of(find_layer(name), "bfloat16")))
    assert times[0] <= SLOWER * min(times) + LONGER_US, times


def test_choosing_takes_less_than_running_the_smallest_layer() -> None:
    """A ratio within one run: machines differ, and are shared."""
    problems = [problem_of(find_layer(name), "bfloat16") for name in LAYERS]
    with use_target("trn2"):
        choose(problems[0])
        begin = time.process_time()
        for problem in problems:
            choose(problem)
        mean = (time.process_time() - begin) / len(problems)
        begin = time.process_time()
        body_us("3x3-s1-p1-c64-k64-28x28", choose(problems[3]))
        simulated = time.process_time() - begin
    assert mean < simulated


def test_an_algorithm_that_is_not_worth_asking_is_still_there_by_name() -> None:
    problem = problem_of(find_layer("3x3-s1-p1-c512-k512-7x7"), "bfloat16")
    chosen = choose(problem)
    assert "im2col" not in {candidate.algorithm for candidate in chosen.candidates}
    assert "nothing to pack" in chosen.refusals["im2col"]
    assert choose(problem, "im2col").candidates[0].algorithm == "im2col"


def test_each_regime_has_an_algorithm_of_its_own() -> None:
    with use_target("trn2"):
        chosen = {
            name: choose(problem_of(find_layer(name), "bfloat16")).candidates[0].algorithm
            for name in LAYERS
        }
    assert set(chosen.values()) >= {"direct", "pointwise", "im2col", "depthwise", "grouped"}
