"""Facts, kept times, and the growth of the scheduler, as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nkiconv.bench import scaling, times
from nkiconv.bench.cli import run
from nkiconv.bench.facts import facts_of
from nkiconv.simulate.hardware import FACTS, HARDWARE, Status
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.schedule import schedule

TINY = "1x1-s1-p0-c1-k1-1x1"

# --- Facts ---------------------------------------------------------------------------------------


def test_all_facts_come_once_and_the_assumed_ones_first() -> None:
    facts = facts_of(None)
    assert sorted(facts, key=repr) == sorted(FACTS, key=repr)
    ranks = [[Status.ASSUMED, Status.MEASURED, Status.DOCUMENTED].index(f.status) for f in facts]
    assert ranks == sorted(ranks)
    assert {f.target for f in facts_of("inf2")} == {"trn1"}


def test_facts_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "facts.json"
    assert run(["facts", "--target", "trn2", "--json", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.index("throttle_busy_share") < text.index("dma_hardware_issue_ns")
    assert max(map(len, text.splitlines())) <= 80
    facts = json.loads(path.read_text())["facts"]
    assert {
        "name": "dma_static_issue_ns",
        "value": 90,
        "unit": "ns/transfer",
        "target": "trn2",
        "status": "measured",
        "source": "trn1 vector-add benchmarks; trn2 profiles: 82 to 98",
    } in facts
    assert run(["facts", "--target", "trn9"]) == 2


# --- Kept times ----------------------------------------------------------------------------------


def test_times_of_the_quick_cases_are_exactly_those_kept() -> None:
    found = times.changes(times.standard_trials(quick=True))
    assert found == [], "accept with: nkiconv times --accept"


@pytest.mark.slow
def test_times_of_all_cases_are_exactly_those_kept() -> None:
    assert times.changes(times.standard_trials()) + times.gone() == []


def test_every_standard_case_is_kept_on_every_target() -> None:
    names = {times.name_of(trial) for trial in times.standard_trials()}
    kept = times.kept_times()
    assert kept.keys() == HARDWARE.keys()
    assert all(of_target.keys() == names for of_target in kept.values())
    assert all(type(ps) is int and ps > 0 for t in kept.values() for ps in t.values())


def test_a_change_is_shown_and_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = times.kept_times()
    name = f"{TINY} direct float32"
    wrong = {t: {n: ps + (n == name and t == "trn1") for n, ps in kept[t].items()} for t in kept}
    wrong["trn2"]["9x9-no-more direct float32"] = 5
    file = tmp_path / "times.json"
    file.write_text(json.dumps(wrong))
    monkeypatch.setattr(times, "FILE", file)
    assert run(["times", TINY]) == 1
    assert "1 differ" in capsys.readouterr().out
    assert json.loads(file.read_text()) == wrong
    assert (
        run(["times", "9x9-no-more", "--accept"]) == 2
    )  # no such case; what is gone needs no name
    assert run(["times", TINY, "--accept"]) == 0
    del wrong["trn2"]["9x9-no-more direct float32"]
    assert run(["times", TINY]) == 0
    assert json.loads(file.read_text())["trn1"] == kept["trn1"]
    assert [change.name for change in times.gone()] == ["9x9-no-more direct float32"]
    times.accept(times.gone())
    assert json.loads(file.read_text()) == kept


# --- Growth --------------------------------------------------------------------------------------


def test_scheduling_a_longer_program_needs_memory_in_proportion() -> None:
    few, many = scaling.measure_scaling((2_000, 16_000)).rows
    assert many.trace_bytes == 8 * few.trace_bytes
    assert few.schedule_bytes is not None
    assert many.schedule_bytes is not None
    assert many.schedule_bytes < 9 * few.schedule_bytes


def test_the_program_in_steady_state_keeps_its_engines_in_turn() -> None:
    trace, tensors = scaling.steady_trace(1600)
    line = schedule(trace, tensors, Placement({}, {}, 0, 0), HARDWARE["trn2"])
    # Each turn of 16 instructions has 9 matmuls of 215.8 ns at full clock.
    assert line.body_ps > 100 * 9 * 215_833
    assert max(line.busy_ps) <= line.body_ps < sum(line.busy_ps)


def test_the_growth_as_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = scaling.measure_scaling((1_000,))
    monkeypatch.setattr(scaling, "measure_scaling", lambda: small)
    path = tmp_path / "scaling.json"
    assert run(["bench", "--suite", "scheduler", "--json", str(path)]) == 0
    assert "1,008" in capsys.readouterr().out
    assert json.loads(path.read_text())["rows"][0]["instructions"] == 1008


def test_single_instructions_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--suite", "micro"]) == 0
    text = capsys.readouterr().out
    assert "of 123 published measurements are met within 5%" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
