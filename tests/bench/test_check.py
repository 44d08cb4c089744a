"""`nkiconv check`: it passes on right kernels, and on wrong ones it fails and says where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nkiconv.bench import check
from nkiconv.bench.check import PHOTOGRAPH, run_trials, select_trials
from nkiconv.bench.cli import run
from nkiconv.reference.cases import CASES
from nkiconv.simulate import CapacityError

TINY = "3x3-s1-p1-c3-k4-1x1"
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Return a function that changes what conv2d returns to the check."""
    right = check.conv2d

    def install(change: Change) -> None:
        def wrong(*args: object, **kwargs: object) -> np.ndarray:
            return change(np.array(right(*args, **kwargs)))

        monkeypatch.setattr(check, "conv2d", wrong)

    return install


def test_one_case(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert run(["check", "--only", TINY, "--target", "trn2", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "6 passed, 0 failed"
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.startswith(TINY) and line.endswith(" ok") for line in lines) == 6
    written = json.loads(file.read_text())
    assert written["target"] == "trn2"
    assert len(written["rows"]) == 6
    for row in written["rows"]:
        assert row["passed"]
        assert 0 <= row["error_ratio"] <= 1
        assert row["hbm_ratio"] > 0
        assert row["modelled_us"] > 0
        assert 0 < row["mfu"] < 1


def test_selection() -> None:
    everything = select_trials()
    assert {trial.case for trial in everything} == {*CASES, PHOTOGRAPH}
    quick = select_trials(quick=True)
    assert all(trial.case.quick for trial in quick)
    assert PHOTOGRAPH in {trial.case for trial in quick}
    assert 0 < len(quick) < len(everything)
    assert {trial.algorithm for trial in select_trials(algorithm="naive")} == {"naive"}


def test_the_photograph() -> None:
    rows = list(run_trials(select_trials(only="photograph"), lambda name: None))
    assert [(row.dtype, row.algorithm) for row in rows] == [
        (dtype, name) for dtype in ("float32", "bfloat16") for name in ("direct", "im2col")
    ]
    assert all(row.passed for row in rows)


def one_element(y: np.ndarray) -> np.ndarray:
    y[0, -1, -1, -1] += y.dtype.type(0.25)
    return y


def not_a_number(y: np.ndarray) -> np.ndarray:
    y[0, 0, 0, 0] = np.nan
    return y


def a_little(y: np.ndarray) -> np.ndarray:
    """Within the allowance of random data in bfloat16, but no longer exact on integers."""
    whole = np.abs(np.rint(y.astype(np.float64)) - y.astype(np.float64)).max() == 0
    return np.nextafter(y, y.dtype.type(np.inf)) if whole else y


@pytest.mark.parametrize(
    ("change", "problem", "words"),
    [
        (one_element, "FAIL", "of its allowance, farthest at (0, 3, 0, 0)"),
        (not_a_number, "FAIL", "error inf of its allowance, farthest at (0, 0, 0, 0): nan where"),
        (a_little, "FAIL", "not exact on small integers"),
        (lambda y: y[:, :1], "shape", "(1, 1, 1, 1)"),
        (lambda y: y.astype(np.float64), "shape", "float64"),
    ],
)
def test_a_wrong_result_fails(
    change: Change,
    problem: str,
    words: str,
    broken: Callable[[Change], None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    broken(change)
    file = tmp_path / "rows.json"
    assert run(["check", "--only", TINY, "--algorithm", "direct", "--json", str(file)]) == 1
    out = capsys.readouterr().out
    assert out.endswith("\n0 passed, 3 failed\n")
    assert words in out
    assert [row["problem"] for row in json.loads(file.read_text())["rows"]] == [problem] * 3


def test_an_error_stops_only_its_own_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = check.conv2d

    def fail(x: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:
        if x.dtype == np.float16:
            raise CapacityError("no room")
        if x.dtype == np.float32:
            raise ZeroDivisionError("a bug")
        return np.asarray(right(x, *args, **kwargs))

    monkeypatch.setattr(check, "conv2d", fail)
    assert run(["check", "--only", TINY, "--algorithm", "direct"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{TINY} direct float16: CapacityError: no room" in lines
    assert f"{TINY} direct float32: ZeroDivisionError: a bug" in lines
    assert "  CapacityError" in [line.rstrip() for line in lines]  # in the table too
    assert lines[-1] == "1 passed, 2 failed"


@pytest.mark.parametrize(("ratio", "passed"), [(1.0, True), (1.0001, False), (np.nan, False)])
def test_where_passing_ends(ratio: float, passed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.bounds, "max_error_ratio", lambda *_, **__: ratio)
    (trial, *_) = select_trials(only=TINY, algorithm="direct")
    (row,) = run_trials([trial], lambda name: None)
    assert row.passed == passed
    json.dumps(row.to_dict(), allow_nan=False)


def test_a_damaged_reference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = check.conv2d_float64
    monkeypatch.setattr(check, "conv2d_float64", lambda *a, **k: right(*a, **k) * 1.01)
    (trial, *_) = select_trials(only=TINY, algorithm="direct")
    (row,) = run_trials([trial], lambda name: None)
    assert not row.passed
    assert row.error_ratio is not None
    assert row.error_ratio > 1
