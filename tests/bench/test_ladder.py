"""The ladder: every step right, each rung better than the one below, and the page as it is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from nkiconv.bench.errors import UserError
from nkiconv.bench.ladder import measure
from nkiconv.bench.ladder.measure import CASE, LADDER, Measured, measure_ladder
from nkiconv.bench.ladder.page import page, table
from nkiconv.bench.ladder.pictures import picture
from nkiconv.bench.ladder.small import measure_small

pytest.importorskip("rich", reason="the ladder prints tables")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kernels" / "conv2d.md"


@pytest.fixture(scope="module")
def ladder() -> list[Measured]:
    return measure_ladder()


def test_every_fault_is_removed_once() -> None:
    assert sorted(step.fault for step in LADDER) == [0, 0, 1, 2, 3, 4, 5, 6]


def test_each_step_is_faster_than_the_one_before(ladder: list[Measured]) -> None:
    times = [m.body_us for m in ladder]
    assert times == sorted(times, reverse=True)
    assert times[0] > 100 * times[-1]


def test_each_fault_shows_until_its_step(ladder: list[Measured]) -> None:
    of = {m.step.name: m for m in ladder}
    assert [m.count("nc_transpose") for m in ladder[:2]] == [72, 0]
    assert of["packed_weights"].stores_per_tile == 28 * 28 / 2  # two tiles of rows
    assert of["stored_at_once"].stores_per_tile == 1
    assert of["stored_at_once"].copies_per_tile > 1000
    assert of["read_in_place"].copies_per_tile == 0
    assert of["read_in_place"].read_ratio > 1.5 * of["needed_rows"].read_ratio
    assert of["needed_rows"].read_ratio > 5
    assert of["loaded_once"].read_ratio == 1
    assert of["loaded_once"].columns < 128 < of["full_banks"].columns


def test_drawn_loads_are_the_bytes_read(ladder: list[Measured]) -> None:
    for m in ladder:
        row_bytes = CASE.C_in * CASE.W * 2
        assert sum(m.reads_of_x) * row_bytes <= m.seen.hbm_read_bytes
        if m.step.kernel is not None:
            assert sum(m.reads_of_x) * row_bytes == m.seen.hbm_read_bytes_by_tensor["x_hbm"]


def test_a_wrong_step_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "conv2d_ref", lambda x, w: x)
    with pytest.raises(UserError, match="step naive of the ladder is wrong"):
        measure_ladder()


def test_table_and_picture(ladder: list[Measured]) -> None:
    made, legend = table(ladder)
    assert made.row_count == len(LADDER)
    assert "Modelled" in legend
    assert "a copy for each" in picture(ladder[0])
    assert "a view of x in SBUF" in picture(ladder[-1])


@pytest.mark.slow
def test_page_is_what_the_command_writes(ladder: list[Measured]) -> None:
    assert PAGE.read_text("utf-8") == page(ladder, list(measure_small()))
