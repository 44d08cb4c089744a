"""`nkiconv plan` and `nkiconv tune`: naming layers, what is printed, and what is kept."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nkiconv.bench import tune as tuning
from nkiconv.bench.cli import run
from nkiconv.bench.errors import UserError
from nkiconv.bench.layers import known_layers
from nkiconv.bench.plan_tables import gain_line
from nkiconv.bench.plans import chosen_plan, find_layer, numbers, problem_of, ranks
from nkiconv.bench.tune import Store, tune, tune_trials
from nkiconv.kernels import _choice
from nkiconv.kernels._algorithm import NotSuited
from nkiconv.kernels._choice import ALGORITHMS, Choice

TINY = "3x2-s2x1-p1x0-d1-g2-c4-k6-7x5-n2"


def test_layers_by_name_and_by_size() -> None:
    assert find_layer("vgg-16 CONV3_2").C_in == 256
    assert all(find_layer(layer.name) == layer for layer in known_layers())
    tiny = find_layer(TINY)
    assert (tiny.kernel, tiny.stride, tiny.padding) == ((3, 2), (2, 1), (1, 0))
    assert (tiny.N, tiny.C_in, tiny.C_out, tiny.groups, tiny.size) == (2, 4, 6, 2, (7, 5))
    assert tiny.out == (4, 4)


def test_a_stride_beyond_the_image_is_planned_as_one_that_ends_there() -> None:
    layer = find_layer("3x3-s99999999999-p1-c4-k4-8x8")
    problem = problem_of(layer, "bfloat16")
    assert (problem.geometry.rows.outputs, problem.geometry.rows.stride) == (1, 10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("VGG-16", "may be 'VGG-16 conv1_2 64', 'VGG-16 conv3_2 256'"),
        ("VGG-16 conv9", "did you mean"),
        (" ", "a layer has a name"),
        ("§", "nkiconv layers"),
        ("3x3-s1-c4-56x56", "lacks sizes"),
        ("3x3-s1-c4-k4", "lacks sizes"),
        ("3x3-c4-k4-z9-8x8", "'z9'"),
        ("3x3-c4-c4-k4-8x8", "'c' twice"),
        ("3x3-c4x2-k4-8x8", "C_in must be one number"),
        ("3x3-s0-c4-k4-8x8", "at least 1"),
        ("3x3-g3-c4-k4-8x8", "3 groups"),
        ("9x9-p0-c4-k4-8x8", "larger than the padded image"),
    ],
)
def test_what_is_no_layer_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_layer(text)


def test_plan_prints_numbers_reason_and_candidates(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    assert run(["plan", "course conv 256 32", TINY, "--target", "trn2", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "layer      course conv 256 32x16 valid, bfloat16, trn2" in printed
    assert "reason " in printed
    assert "est. µs" in printed
    first, second = json.loads(path.read_text("utf-8"))["plans"]
    assert first["plan"]["geometry"]["C_in"] == 256
    assert second["plan"]["geometry"]["G"] == 2
    assert first["candidates"][0]["estimate_us"] == min(
        candidate["estimate_us"] for candidate in first["candidates"]
    )
    assert first["seconds"] > 0


def test_plan_profiles_each_candidate_beside_its_estimate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    layer = "3x3-s1-p1-g48-c48-k48-14x14"
    command = ["plan", layer, "--profile", "--target", "trn2", "--json", str(path)]
    assert run(command) == 0
    printed = capsys.readouterr().out
    (plan,) = json.loads(path.read_text("utf-8"))["plans"]
    (found,) = tune([tune_trials(find_layer(layer), "bfloat16", "trn2")], Store(None))
    modelled = [round(each["modelled_us"] * 1e6) for each in plan["candidates"]]
    assert modelled == [outcome.body_ps for outcome in found.outcomes]
    assert len(modelled) > 2
    by_time = sorted(range(len(modelled)), key=lambda place: modelled[place])
    for rank, place in enumerate(by_time, 1):
        assert plan["candidates"][place]["rank"] <= rank
        assert f"{modelled[place] / 1e6:,.1f}" in printed
    assert plan["candidates"][by_time[0]]["rank"] == 1
    assert "est./mod." in printed


def test_profiled_plans_take_a_bias_and_an_activation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", TINY, "--profile", "--bias", "--activation", "relu"]) == 0
    assert "modelled: µs without launch" in capsys.readouterr().out


def test_equal_times_share_a_rank() -> None:
    assert ranks([2.0, 1.0, 2.0, 3.0]) == [2, 1, 2, 4]


def test_numbers_of_a_plan_are_all_there() -> None:
    shown = dict(numbers(chosen_plan(find_layer(TINY), "float32", "trn1").best.plan))
    assert shown["geometry.rows"] == "size 7, taps 3, outputs 4, stride 2, dilation 1, pad 1"
    assert shown["geometry.itemsize"] == "4"


def test_many_alike_are_counted_and_the_first_shown() -> None:
    @dataclass
    class Part:
        start: int
        steps: tuple[int, ...]

    @dataclass
    class Plan:
        rounds: tuple[tuple[Part, ...], ...]

    parts = (Part(0, (1, 2)), Part(4, ()))
    assert dict(numbers(Plan((parts, parts, parts)))) == {
        "rounds": "3, the first:",
        "rounds[0]": "2, the first:",
        "rounds[0][0].start": "0",
        "rounds[0][0].steps": "(1, 2)",
    }


def test_the_reason_names_what_is_not_suited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Never:
        NAME = "never"

        @staticmethod
        def plans(problem: object) -> Any:
            raise NotSuited("it does nothing")

    monkeypatch.setitem(_choice.ALGORITHMS, "never", Never)  # type: ignore[arg-type]
    assert run(["plan", TINY]) == 0
    assert "it does nothing" in capsys.readouterr().out


class _Sham:
    """An algorithm of three plans, priced so that the slowest comes first."""

    NAME = "direct"

    @staticmethod
    def plans(problem: Any) -> Any:
        from dataclasses import replace

        (real, *_) = ALGORITHMS["direct"].plans(problem)
        for cycles, why in ((0, "wrong"), (1, "slow"), (2, "quick")):
            price = replace(real.price, tensor_cycles=10**9 + 10**6 * cycles)
            yield replace(real, price=price, why=why)


@pytest.fixture
def three_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the search find three plans: a wrong one, a slow one, a quick one."""
    real = tuning._run

    def sham_choose(problem: Any, algorithm: str = "auto") -> Choice:
        found = sorted(_Sham.plans(problem), key=lambda each: each.price.tensor_cycles)
        return Choice(tuple(found), {})

    def sham_run(candidate: Any, trial: Any) -> Any:
        if candidate.why == "wrong":
            raise ArithmeticError("not today")
        outcome = real(candidate, trial)
        extra = 10**6 if candidate.why == "slow" else 0
        return tuning.Outcome(body_ps=outcome.body_ps + extra)

    monkeypatch.setattr("nkiconv.bench.plans.choose", sham_choose)
    monkeypatch.setattr(tuning, "_run", sham_run)


@pytest.mark.usefixtures("three_plans")
def test_tuning_finds_the_quick_one_and_keeps_what_it_found(tmp_path: Path) -> None:
    problem = tune_trials(find_layer(TINY), "bfloat16", "trn2")
    ran: list[str] = []
    (found,) = tune([problem], Store(tmp_path), announce=ran.append)
    assert [outcome.problem for outcome in found.outcomes] == ["ArithmeticError: not today", "", ""]
    assert found.best_place == 2
    assert found.gain is None  # the chosen plan fails
    assert len(ran) == 3
    kept = list(tmp_path.iterdir())
    assert len(kept) == 1  # all three are one plan here, and what failed is not kept


def test_an_executor_gives_the_same_as_none(tmp_path: Path) -> None:
    problem = tune_trials(find_layer(TINY), "float32", "trn1")
    with ThreadPoolExecutor(2) as executor:
        in_threads = tune([problem], Store(None), executor)
    (here,) = tune([problem], Store(tmp_path))
    assert in_threads == [here]
    assert here.gain is not None
    assert here.gain >= 0


def test_kept_results_are_used_and_broken_ones_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["tune", TINY, "--cache", str(tmp_path / "new" / "folder")]
    assert run(command) == 0
    first = capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(tuning, "run_trial", None)  # nothing may run
        assert run(command) == 0
    assert capsys.readouterr().out == first
    for path in (tmp_path / "new" / "folder").iterdir():
        path.write_text("{", "utf-8")
    assert run(command) == 0
    assert "could not be read and were replaced" in capsys.readouterr().out


def test_a_change_of_the_sources_is_another_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (trial, *_) = tune_trials(find_layer(TINY), "float32", "trn1")
    before = trial.key()
    monkeypatch.setattr(tuning, "sources", lambda: "others")
    assert trial.key() != before


@pytest.mark.usefixtures("three_plans")
def test_gain_is_told() -> None:
    chosen, _ = tune_trials(find_layer(TINY), "bfloat16", "trn2")

    def line(*times: int) -> str:
        outcomes = [tuning.Outcome(ps, "" if ps else "fails") for ps in times]
        return gain_line(tuning.Tuned(chosen, tuple(outcomes)))

    assert "(quick) takes 3.0 µs modelled, 25.0% less" in line(4_000_000, 5_000_000, 3_000_000)
    assert "nothing to gain: the chosen plan is the best of 3" in line(4_000_000, 5_000_000, 0)
    assert "the chosen plan fails" in line(0, 5_000_000, 4_000_000)


def test_a_search_without_a_right_plan_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "run_trial", lambda trial: tuning.Outcome(problem="ShapeError: no"))
    assert run(["tune", TINY, "--no-cache"]) == 1
    printed = capsys.readouterr().out
    assert "no plan gives a right result" in printed
    assert "ShapeError: no" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan"], "LAYER"),
        (["plan", "VGG"], "may be"),
        (["plan", TINY, "--activation", "magic"], "magic"),
        (["plan", TINY, "--algorithm", "naive"], "naive"),
        (["plan", TINY, "--dtype", "int8"], "int8"),
        (["plan", TINY, "--json", "no/such/folder/x"], "no directory"),
        (["tune", TINY, "--target", "trn9"], "trn9"),
        (["tune", TINY, "--jobs", "0"], "jobs"),
        (["tune", TINY, "--jobs", "2", "--dask", "local"], "--dask and --jobs"),
        (["tune", TINY, "--cache", "x", "--no-cache"], "--no-cache"),
        (["tune", TINY, "--cache", "/dev/null/x"], "cannot keep"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_without_dask_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert run(["tune", TINY, "--no-cache", "--dask", "local"]) == 2
    assert "pip install 'nkiconv[dask]'" in capsys.readouterr().err


@pytest.mark.slow
def test_dask_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    problem = tune_trials(find_layer(TINY), "float32", "trn1")
    with tuning.dask_executor("local") as executor:
        there = tune([problem], Store(None), executor)
    assert there == tune([problem], Store(None))
