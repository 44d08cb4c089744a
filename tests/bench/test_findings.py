"""`nkiconv findings`: direct meets the six standards, naive none, and a fault is seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nkiconv.bench import findings
from nkiconv.bench.cli import run
from nkiconv.bench.findings import Findings, measure

SMALL = ["findings", "--size", "32", "--channels", "16"]


@pytest.fixture(scope="module")
def report() -> Findings:
    return measure(32, 16, "bfloat16")


def test_direct_meets_every_standard_and_naive_none(report: Findings) -> None:
    assert len(report.rows) == 6
    assert report.passed
    naive = [row.naive for row in report.rows]
    read, copies, times, stores, transposes, columns = naive
    assert read > 1.05
    assert copies > 500
    assert times == 9 * 2  # taps x tiles of 512 positions
    assert stores == 512
    assert transposes == 9 * 2
    assert columns < 512
    assert report.naive_us > report.direct_us
    assert report.naive_uses == pytest.approx(0.5)  # 512 of 1024 positions
    assert report.direct_uses == pytest.approx((3 * 32 - 2) ** 2 / 32**2)  # but for the padding


def test_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "findings.json"
    assert run([*SMALL, "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith(" yes") for line in lines) == 6
    assert len(json.loads(file.read_text())["rows"]) == 6


# Each count that is a little off, and the row that has to see it
FAULTS = {
    "HBM bytes read / bytes needed": lambda p: replace(p, hbm_read_bytes=p.hbm_read_bytes * 2),
    "copy instructions per output tile": lambda p: replace(
        p, instructions=p.instructions | {"tensor_copy": 1}
    ),
    "times each input byte is read": lambda p: replace(
        p, hbm_read_bytes_by_tensor={n: 2 * b for n, b in p.hbm_read_bytes_by_tensor.items()}
    ),
    "store DMAs per output tile": lambda p: replace(
        p, lane_instructions={lane: n + 1 for lane, n in p.lane_instructions.items()}
    ),
    "transposes": lambda p: replace(p, instructions=p.instructions | {"dma_transpose": 1}),
    "moving columns per matmul": lambda p: replace(p, moving_columns=p.moving_columns - 1),
}


@pytest.mark.parametrize("counted", FAULTS)
def test_a_fault_in_direct_is_seen(
    counted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = findings.profile

    def faulty(*args: object, algorithm: str, **kwargs: object) -> tuple[np.ndarray, object]:
        y, seen = right(*args, algorithm=algorithm, **kwargs)
        return y, FAULTS[counted](seen) if algorithm == "direct" else seen

    monkeypatch.setattr(findings, "profile", faulty)
    assert run(["findings", "--size", "8", "--channels", "8"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" NO")]
    assert any(line.startswith(counted) for line in failed)


def test_wrong_results_are_not_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = findings.profile

    def wrong(*args: object, **kwargs: object) -> tuple[np.ndarray, object]:
        y, seen = right(*args, **kwargs)
        y[0, 0, 0, 0] += 1
        return y, seen

    monkeypatch.setattr(findings, "profile", wrong)
    assert run(["findings", "--size", "8", "--channels", "8"]) == 2
    assert "naive is wrong" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("OH", "OW", "columns"),
    [(224, 224, 448), (32, 32, 512), (28, 28, 392), (4, 5, 20), (3, 600, 300), (7, 512, 512)],
)
def test_most_columns_by_hand(OH: int, OW: int, columns: int) -> None:
    assert findings._most_columns(OH, OW) == columns
