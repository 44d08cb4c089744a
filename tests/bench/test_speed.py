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
from nkiconv.reference._dtypes import DTYPES

RATIOS = {
    "conv2d: ours float32 / torch float32": 3,
    "conv2d: ours float16 / ours float32": 2,
    "conv2d: ours bfloat16 / ours float32": 2,
    "matmul 512: ours float32 / numpy float32": 2,
    "matmul 512: ours float16 / ours float32": 1.5,
    "matmul 512: ours bfloat16 / ours float32": 1.5,
}


@pytest.fixture(autouse=True)
def small_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "CHANNELS", 4)
    monkeypatch.setattr(speed, "SIZE", 6)
    monkeypatch.setattr(speed, "MATMUL_SIZES", (512,))
    monkeypatch.setattr(speed, "TINY_COUNT", 40)


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "speed.json"
    assert run(["bench", "--repeat", "3", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    report = json.loads(file.read_text())
    medians = report["median_s"]
    assert list(medians) == [
        "conv2d: torch float32",
        "conv2d: ours float32",
        "conv2d: ours float16",
        "conv2d: ours bfloat16",
        "matmul 512: numpy float32",
        "matmul 512: ours float32",
        "matmul 512: ours float16",
        "matmul 512: ours bfloat16",
    ]
    figures = {figure["name"]: figure for figure in report["figures"]}
    for name, asked in RATIOS.items():
        problem, _, contestants = name.partition(": ")
        above, below = contestants.split(" / ")
        quotient = medians[f"{problem}: {above}"] / medians[f"{problem}: {below}"]
        assert math.isclose(figures[name]["median"], quotient)
        assert figures[name]["asked"] == asked
    for name in figures:
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    kinds = [name for name in figures if name.endswith("µs")]
    assert len(kinds) == 6
    assert all(figures[name]["median"] > 0 for name in kinds)
    assert report["threads"] >= 1


def test_bytes_of_an_instruction() -> None:
    """Three operands: 8 header fields and 3 x 6 others, its start in the array; four times of the
    timeline, whom it waited for: 32 numbers of 8 bytes; a byte for why; and up to an eighth more
    where arrays grow."""
    figure = speed._kept_bytes()
    assert figure.median is not None
    assert 32 * 8 <= figure.median <= 32 * 9 + 2
    assert figure.median < figure.asked


def test_without_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(["bench", "--repeat", "1"]) == 0
    out = capsys.readouterr().out
    assert "torch is not installed" in out
    assert "conv2d: ours float16 / ours float32" in out


@pytest.mark.parametrize("problem", ["conv2d", "matmul"])
def test_wrong_results_are_not_timed(
    problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = getattr(speed, problem)
    monkeypatch.setattr(speed, problem, lambda *a, **k: np.asarray(right(*a, **k)) * 1.5)
    assert run(["bench", "--repeat", "1"]) == 2
    error = capsys.readouterr().err
    assert f"{problem}" in error
    assert "ours float32: the result is wrong" in error


def test_threads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert speed.blas_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert speed.blas_threads() >= 1


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_allowance_of_a_product(dtype: np.dtype[np.generic]) -> None:
    """Right up to the rounding after every 1024 of K; a product without one row of K is wrong."""
    generator = np.random.default_rng(1)
    lhs_t, rhs = generator.standard_normal((2, 2048, 16)).astype(dtype)
    wide, tall = lhs_t.astype(np.float32), rhs.astype(np.float32)
    blocks = [slice(0, 1024), slice(1024, 2048)]
    result = np.zeros((16, 16), dtype)
    for block in blocks:
        result = (result.astype(np.float32) + wide[block].T @ tall[block]).astype(dtype)
    assert 0 < speed.matmul_error_ratio(result, lhs_t, rhs) <= 1
    short = (wide[1:].T @ tall[1:]).astype(dtype)
    assert speed.matmul_error_ratio(short, lhs_t, rhs) > 1
