"""Fitting what is assumed: what may change, and that nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nkiconv.bench.calibration.fit import _changed, _errors, _may_change, fit
from nkiconv.bench.calibration.measure import choose, held_out, measure
from nkiconv.bench.cli import run
from nkiconv.bench.errors import UserError
from nkiconv.simulate.hardware import FACTS, HARDWARE, Status, altered_facts
from nkiconv.simulate.sheet import forget_costs

CASE = "conv-rows-32x16-pool2-fp16"


def test_only_assumed_times_may_change() -> None:
    free = [fact for fact in FACTS if _may_change(fact)]
    assert {fact.status for fact in free} == {Status.ASSUMED}
    names = {fact.name for fact in free}
    assert {"dma_shortest_ns", "throttle_busy_share", "loop_iteration_ns"} <= names
    assert not names & {"psum_align_bytes", "sbuf_align_bytes", "mx_products"}
    shortest = next(fact for fact in FACTS if fact.name == "dma_shortest_ns")
    assert _changed(shortest, np.log(1.23456)) == 12.3


def test_facts_change_inside_the_block_alone() -> None:
    (case,) = choose(CASE)
    kept = dict(HARDWARE)

    def time() -> float:
        forget_costs()
        return measure([case], lambda name: None).rows[0].modelled_us

    present = time()
    with altered_facts({("trn2", "dma_transfer_ns"): 400, ("trn2", "scalar_latency_ns"): 500}):
        assert HARDWARE["trn2"].dma_transfer_ns == 400
        assert HARDWARE["trn1"] is kept["trn1"]
        assert time() > present + 1
    assert dict(HARDWARE) == kept
    assert time() == present


def test_what_is_held_out_is_not_fitted_to() -> None:
    case = next(each for each in choose(quick=True) if each.id in held_out())
    with pytest.raises(UserError, match="every chosen kernel is held out"):
        fit([case], lambda name: None)


def test_errors_are_means_of_a_case() -> None:
    report = measure(choose("conv-tiles-32x16-fp32"), lambda name: None)
    found = [np.log(row.ratio) for row in report.rows if row.counts]
    assert len(found) == 2
    assert _errors(report) == pytest.approx([np.mean(found)])


@pytest.mark.slow
def test_the_command_fits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "fit.json"
    facts = FACTS
    assert run(["calibrate", "--fit", "--only", CASE, "--json", str(file)]) == 0
    assert "Nothing is changed" in capsys.readouterr().out
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["after"]["fit"] < found["before"]["fit"]
    assert [fact["name"] for fact in found["facts"]] == ["dma_shortest_ns"]
    assert facts is FACTS


def test_a_page_is_never_written_with_other_facts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["calibrate", "--fit", "--markdown", str(tmp_path / "page.md")]) == 2
    assert "--markdown excludes" in capsys.readouterr().err
