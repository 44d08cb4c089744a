"""`nkiconv bench`: what it reports. No times are judged: they depend on the machine."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from nkiconv.bench import speed
from nkiconv.bench.cli import run


@pytest.fixture(autouse=True)
def small_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "CHANNELS", 4)
    monkeypatch.setattr(speed, "SIZE", 6)


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "speed.json"
    assert run(["bench", "--repeat", "3", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    report = json.loads(file.read_text())
    medians = report["median_s"]
    assert list(medians) == ["torch float32", "ours float32", "ours float16", "ours bfloat16"]
    found = {ratio["name"]: ratio["found"] for ratio in report["ratios"]}
    assert len(found) == 3
    for name, ratio in found.items():
        above, below = name.split(" / ")
        assert math.isclose(ratio, medians[above] / medians[below])
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    assert report["instructions"] > 500
    assert report["threads"] >= 1


def test_without_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(["bench", "--repeat", "1"]) == 0
    out = capsys.readouterr().out
    assert "torch is not installed" in out
    assert "ours float16 / ours float32" in out


def test_wrong_results_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = speed.conv2d
    monkeypatch.setattr(speed, "conv2d", lambda *a, **k: np.asarray(right(*a, **k)) * 1.5)
    assert run(["bench", "--repeat", "1"]) == 2
    assert "ours float32: the result is wrong" in capsys.readouterr().err


def test_threads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert speed.blas_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert speed.blas_threads() >= 1
