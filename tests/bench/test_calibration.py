"""`nkiconv calibrate`: rebuilt kernels are right, points are whole, errors are what they say."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from nkiconv.bench.calibration.case import Case
from nkiconv.bench.calibration.cases import cases
from nkiconv.bench.calibration.measure import (
    Comparison,
    Report,
    Row,
    choose,
    held_out,
    measure,
)
from nkiconv.bench.calibration.page import page, summary
from nkiconv.bench.calibration.point import COUNTERS, DOUBTS, KINDS, Point, left_out, points
from nkiconv.bench.calibration.scatter import scatter
from nkiconv.bench.cli import run
from nkiconv.bench.errors import UserError
from nkiconv.simulate import profile

TOLERANCES = {"fp32": 1e-5, "fp16": 4e-3, "bf16": 3e-2}
"""Of the largest result: a few roundings of each type, with sums of hundreds of terms."""


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_a_rebuilt_kernel_is_right(case: Case) -> None:
    arrays = case.inputs(case.small)
    y, _ = profile(case.kernel, *arrays, *case.options, target=case.target)
    wanted = case.reference(*arrays)
    assert y.shape == wanted.shape
    error = np.abs(np.asarray(y, np.float64) - wanted).max()
    assert error <= TOLERANCES[case.dtype] * np.abs(wanted).max()


def test_each_point_has_a_case_and_each_case_a_point() -> None:
    ids = [case.id for case in cases()]
    assert len(ids) == len(set(ids))
    assert {point.case for point in points()} == set(ids)


def test_points_are_whole() -> None:
    for point in points():
        assert point.kind in KINDS
        assert point.doubt in ("", *DOUBTS)
        assert point.counters.keys() <= COUNTERS.keys()
        assert point.measured_us > 0
        assert all((point.repository, point.commit, point.path, point.hardware, point.metric))
        target = next(case.target for case in cases() if case.id == point.case)
        assert point.hardware.startswith(target)
        assert next(case.dtype for case in cases() if case.id == point.case) == point.dtype


def test_no_point_is_both_compared_and_left_out() -> None:
    seen = Counter(point.id for point in points())
    seen.update(one for _, ids in left_out() for one in ids)
    assert len(seen) == 247  # all that were collected
    assert set(seen.values()) == {1}


def test_at_least_fifteen_families() -> None:
    assert len({case.family for case in cases()}) >= 15


def test_half_of_each_family_is_held_out() -> None:
    assert len(held_out()) == (len(cases()) + 1) // 2
    for family in {case.family for case in cases()}:
        own = [case.id for case in cases() if case.family == family]
        out = sum(one in held_out() for one in own)
        assert abs(2 * out - len(own)) <= 1


# --- Errors --------------------------------------------------------------------------------------


def _row(
    modelled: float, case: str = "a", family: str = "f", half: bool = False, **changes: object
) -> Row:
    base = points()[0]
    point = replace(
        base, measured_us=100.0, case=case, kind="total", confidence="high", counters={}, doubt=""
    )
    return Row(replace(point, **changes), family, modelled, "DMA", (), half)  # type: ignore[arg-type]


def test_errors_are_means_over_cases() -> None:
    rows = (
        _row(110.0),
        _row(130.0),  # of the same case: 20 % on average
        _row(60.0, case="b", half=True),
        _row(100.0, case="c", family="g"),
    )
    report = Report(rows)
    assert report.error() == pytest.approx((0.2 + 0.4 + 0) / 3)
    assert report.error(half=False) == pytest.approx(0.1)
    assert report.error(half=True) == pytest.approx(0.4)
    assert report.error(family="f") == pytest.approx(0.3)
    assert report.error(family="g", half=True) is None
    assert report.families == ("f", "g")


def test_what_enters_no_error() -> None:
    far = Comparison("copies", 100, 90)
    rows = (
        _row(500.0, kind="estimate"),
        _row(500.0, confidence="low"),
        replace(_row(500.0), compared=(far,)),
        _row(500.0, doubt="contradicted"),
    )
    report = Report(rows)
    assert [row.why_not for row in rows] == [
        "estimate", "low confidence", "other program", "contradicted",
    ]  # fmt: skip

    assert report.error() is None
    assert summary(report) == "No measured time can be compared with these kernels."
    assert "**copies 100 / 90**" in page(report, "p.svg")


@pytest.mark.parametrize(
    ("counter", "published", "ours", "near"),
    [
        ("copies", 10, 13, True),
        ("copies", 10, 14, False),
        ("copies", 1000, 1020, True),
        ("copies", 1000, 1021, False),
        ("hbm_read_bytes", 10_000_000, 10_200_000, True),
        ("hbm_read_bytes", 10_000_000, 10_200_001, False),
        ("hbm_read_bytes", 0, 131_072, True),
        ("hbm_read_bytes", 0, 131_073, False),
    ],
)
def test_near_counters(counter: str, published: int, ours: int, near: bool) -> None:
    assert Comparison(counter, published, ours).near is near


def _measured(case: str) -> list[Row]:
    return [row for row in measure(choose(case), lambda name: None).rows if row.point.case == case]


def test_counters_of_a_published_profile_are_ours_too() -> None:
    (row,) = (r for r in _measured("attention-phases-bf16-1024") if r.point.counters)
    found = {one.counter: one for one in row.compared}
    # 16 passes for q.T @ k, 8 + 64 transposes, 64 float32 products of two passes each
    assert found["matmul_passes"].ours == found["matmul_passes"].published == 216
    assert found["activations"].ours == found["activations"].published == 16
    assert found["hbm_write_bytes"].ours == found["hbm_write_bytes"].published == 8_650_752
    assert row.counts


def test_float32_matmuls_are_two_passes() -> None:
    for case, passes in (("conv-rows-32x16-pool2-fp32", 36 + 2 * 36), ("transpose-tiles", 64)):
        row = next(r for r in _measured(case) if "matmul_passes" in r.point.counters)
        found = {one.counter: one for one in row.compared}["matmul_passes"]
        assert found.ours == found.published == passes


def test_launch_is_counted_where_it_was_measured() -> None:
    (body,) = _measured("exponential-128x128")
    total = _measured("vector_add-1000")[0]
    case = choose("exponential-128x128")[0]
    _, seen = profile(case.kernel, *case.inputs(case.sizes), target=case.target)
    assert body.point.kind == "body"
    assert body.modelled_us == seen.body_us < seen.latency_us
    assert total.modelled_us > seen.launch_us


def test_a_benchmark_leaves_out_a_part_of_the_launch() -> None:
    rows = {row.point.kind: row for row in _measured("attention-phases-bf16-512")}
    assert rows["total"].modelled_us - rows["nc_latency"].modelled_us == pytest.approx(6.5)


# --- The command ---------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    assert run(["calibrate", "--only", "vector_add-1000", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.split("\n\n")[0].splitlines())) <= 80
    assert "published kernels" in printed
    numbers = json.loads(file.read_text())
    assert len(numbers["points"]) == 4
    assert all(0.5 < point["ratio"] < 2 for point in numbers["points"])


def test_only_finds_families_and_origins() -> None:
    assert {case.family for case in choose("transpose")} == {"transpose"}
    assert {case.id for case in choose("rishic3")} == {
        "vector_add-1000", "vector_add-2000", "transpose-tiles",
    }  # fmt: skip
    assert all(case.quick for case in choose(quick=True))
    with pytest.raises(UserError, match="no calibration case has 'nothing'"):
        choose("nothing")


def test_the_page_needs_every_point(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    assert run(["calibrate", "--quick", "--markdown", str(file)]) == 2
    assert "--markdown excludes" in capsys.readouterr().err
    assert not file.exists()


def test_the_picture_has_a_dot_for_each_point() -> None:
    report = Report((_row(100.0), _row(110.0, case="b", half=True), _row(1.0, confidence="low")))
    root = ElementTree.fromstring(scatter(report))
    dots = [one for one in root.iter() if one.tag.endswith("circle") and len(one)]
    # measured 100 each; from 1 to 1000 over 520 pixels: 173.3 a decade, log10(1.1) = 0.0414
    assert [dot.get("cy") for dot in dots] == ["203.3", "196.2", "550.0"]
    assert {dot.get("cx") for dot in dots} == {"406.7"}
    assert len({dot.get("fill") for dot in dots}) == 3


# --- docs/calibration.md -------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "calibration.md"


def _line(text: str, point: Point) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {point.id} |"))


@pytest.mark.skipif(not DOCUMENT.exists(), reason="docs/ is not installed")
def test_the_document_has_every_point() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for point in points():
        assert _line(text, point)
    for reason, ids in left_out():
        assert f"| {len(ids)}: {ids[0]}" in text
        assert reason in text


@pytest.mark.skipif(not DOCUMENT.exists(), reason="docs/ is not installed")
def test_readme_states_the_error_of_the_document() -> None:
    sentence = re.search(r"^\*\*(.*)\*\*$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sentence is not None
    readme = (DOCUMENT.parents[1] / "README.md").read_text(encoding="utf-8")
    assert sentence.group(1) in " ".join(readme.split())


@pytest.mark.slow
@pytest.mark.skipif(not DOCUMENT.exists(), reason="docs/ is not installed")
def test_the_document_is_what_the_command_writes() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    report = measure(choose(quick=True), lambda name: None)
    written = page(report, "p.svg")
    for row in report.rows:
        assert _line(text, row.point) == _line(written, row.point)
