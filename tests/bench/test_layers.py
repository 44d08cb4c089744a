"""The layer table: its sizes, what it compares with what, and the numbers that are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nkiconv.bench import layers, layers_kept
from nkiconv.bench.cli import run
from nkiconv.bench.layer_tables import figure_rows, glance, in_readme, layer_page, layer_tables
from nkiconv.bench.layers import Layer, LayerRow, known_layers, run_layers, select_layers
from nkiconv.simulate import profile
from nkiconv.simulate.hardware import HARDWARE

# isort: split
import nki
import nki.isa as nisa
import nki.language as nl

SMALL = "course conv 256 32x16"


@pytest.mark.parametrize(
    "row", json.loads(layers.FILE.read_text("utf-8"))["layers"], ids=lambda row: str(row["name"])
)
def test_sizes_agree_with_the_published_counts(row: dict[str, Any]) -> None:
    (layer,) = (layer for layer in known_layers() if layer.id == row["id"])
    assert list(layer.out) == row["out"]
    assert 2 * layer.macs == row["flop"]
    assert 2 * layer.least_elems == row["compulsory_bytes_16bit"]
    assert layer.columns_packed == row["moving_columns_packed"]


def test_floors_by_hand() -> None:
    # trn1: 2.45 GHz and 272 B/ns; trn2: 2.4 GHz and 375 B/ns
    assert layers.floor_us(HARDWARE["trn1"], "bfloat16", 2_450_000, 1) == pytest.approx(1000)
    assert layers.floor_us(HARDWARE["trn1"], "float32", 2_450_000, 1) == pytest.approx(4000)
    assert layers.floor_us(HARDWARE["trn1"], "float16", 1, 272_000) == pytest.approx(1)
    assert layers.floor_us(HARDWARE["trn2"], "bfloat16", 1, 375_000) == pytest.approx(1)


def _row(**changed: Any) -> LayerRow:
    row = LayerRow(
        layer="a layer",
        target="trn1",
        dtype="bfloat16",
        columns_table=1000,
        least_bytes=100,
        floor_us=10.0,
        strict_floor_us=8.0,
        algorithm="direct",
        columns=1000,
        hbm_bytes=105,
        static_instructions=20_000,
        body_ps=17_000_000,
        bound="TensorE",
        exact=True,
    )
    return replace(row, **changed)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, ()),
        ({"body_ps": 17_000_001}, ("time",)),
        ({"columns": 1001}, ("cols",)),
        ({"hbm_bytes": 106}, ("HBM",)),
        ({"static_instructions": 20_001}, ("instr",)),
        ({"problem": "wrong"}, ("result",)),
    ],
)
def test_each_figure_can_be_missed(changed: dict[str, Any], missed: tuple[str, ...]) -> None:
    assert _row(**changed).missed == missed


def test_a_wrong_result_and_an_error_do_not_stop_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = layers.conv2d

    def wrong(x: Any, w: Any, **options: Any) -> Any:
        if x.dtype == np.float32:
            raise RuntimeError("out of silicon")
        y = np.array(right(x, w, **options))
        y[0, 0, 0, 0] += 1
        return y

    monkeypatch.setattr(layers, "conv2d", wrong)
    assert run(["layers", "--only", SMALL, "--target", "trn1"]) == 1
    printed = capsys.readouterr().out
    assert "1 of 107520 results are wrong" in printed
    assert "RuntimeError: out of silicon" in printed
    assert "0 of 3 rows meet every figure" in printed
    assert "0 results are exact, 2 are wrong; rows without a result: 1." in printed


def test_without_torch_the_reference_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(
        id=0, name="strided groups", N=2, C_in=6, size=(9, 8), C_out=4, kernel=(3, 2),
        stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2,
    )  # fmt: skip
    trial = layers.LayerTrial(layer, "trn2", "float16")
    (with_torch,) = run_layers([trial], lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (without,) = run_layers([trial], lambda name: None)
    assert with_torch.exact
    assert without == with_torch


def test_copies_within_sbuf_count_and_emptying_psum_does_not() -> None:
    @nki.jit
    def copies(x_hbm: nl.NkiTensor) -> nl.NkiTensor:
        x_sb = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=x_sb, src=x_hbm)
        twin_sb = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=twin_sb, src=x_sb)
        acc_ps = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=acc_ps, stationary=twin_sb, moving=x_sb)
        y_sb = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=y_sb, src=acc_ps)
        y_hbm = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=y_hbm, src=y_sb)
        return y_hbm

    _, seen = profile(copies, np.ones((64, 64), np.float32))
    assert seen.instructions["tensor_copy"] == 2
    assert layers.copies_within_sbuf(seen) == 1


def test_selection() -> None:
    names = [trial.name for trial in select_layers(("trn1",), (), only="COURSE")]
    assert names == [
        f"{layer} {dtype} trn1"
        for layer in ("course conv 256 224x224 valid", "course conv 256 32x16 valid")
        for dtype in ("bfloat16", "float32", "float16")
    ]
    whole = select_layers(("trn1", "trn2"), ())
    assert len(whole) == 25 * 2 * 2 + 2 * 2
    quick = select_layers(("trn1",), ("float32",), quick=True)
    assert 0 < len(quick) < 25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "no such layer"], "no such layer"),
        (["--dtype", "int8"], "int8"),
        (["--target", "trn9"], "trn9"),
        (["--algorithm", "magic"], "magic"),
        (["--algorithm", "naive", "--check"], "--check"),
        (["--only", "VGG", "--markdown", "page.md"], "--markdown"),
        (["--json", "no/such/folder/x.json"], "no directory"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["layers", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_table_at_both_widths(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ["layers", "--only", SMALL, "--target", "inf2", "--dtype", "f16", "--no-verify"]
    assert run([*command, "--json", str(tmp_path / "rows.json")]) == 0
    wide = capsys.readouterr().out.splitlines()
    assert {"columns", "HBM", "floor", "limit", "met"} <= set(wide[0].split())
    monkeypatch.setenv("COLUMNS", "80")
    assert run(command) == 0
    assert all(len(line) <= 110 for line in capsys.readouterr().out.splitlines())
    (row,) = json.loads((tmp_path / "rows.json").read_text("utf-8"))["rows"]
    assert row["target"] == "trn1"
    assert row["exact"] is None
    assert row["columns"] == row["columns_table"] == 15120


def test_figures_in_float16_are_shown_as_asked() -> None:
    rows = [_row(layer="course conv 256 32x16 valid", dtype="float16", body_ps=25_100_000)]
    assert [(us, asked) for _, _, us, asked, _ in figure_rows(rows)] == [(25.1, 25.0)]
    assert len(layer_tables(rows, 200)) == 2
    assert not list(figure_rows([_row()]))


def test_kept_numbers_are_compared_and_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layers_kept, "FILE", tmp_path / "kept.json")
    command = ["layers", "--only", SMALL, "--target", "trn2", "--dtype", "bf16", "--no-verify"]
    assert run([*command, "--check"]) == 1
    assert run([*command, "--accept"]) == 0
    assert run([*command, "--check"]) == 0
    kept = json.loads(layers_kept.FILE.read_text("utf-8"))
    kept["trn2"][f"{SMALL} valid bfloat16"]["body_ps"] += 1
    layers_kept.FILE.write_text(json.dumps(kept), "utf-8")
    capsys.readouterr()
    assert run([*command, "--check"]) == 1
    assert "1 numbers differ" in capsys.readouterr().out
    kept["trn2"]["a layer of old bfloat16"] = {}
    layers_kept.FILE.write_text(json.dumps(kept), "utf-8")
    assert run([*command, "--check"]) == 1
    assert "no more there: a layer of old" in capsys.readouterr().out
    assert run([*command, "--accept"]) == 0
    assert run([*command, "--check"]) == 0


def test_page_has_every_row_and_says_what_made_it() -> None:
    from nkiconv.bench.findings import Finding, Findings

    findings = Findings(
        8,
        8,
        "bfloat16",
        "trn1",
        (Finding("transposes", 9.0, 0.0, "0", True),),
        600.0,
        2.0,
        0.1,
        9.0,
    )
    page = layer_page(
        [_row(), _row(target="trn2", problem="ShapeError: no")], findings, "nkiconv layers"
    )
    assert "Made by `nkiconv layers`" in page
    assert "## trn1, bfloat16" in page
    assert "| a layer | direct | 1,000 | 1.00 | 1.05 |" in page
    assert "ShapeError: no" in page
    of_tables = [line for line in page.splitlines() if line.startswith("| a layer | ")]
    refused = next(line for line in of_tables if "ShapeError" in line)
    assert refused.count("|") == max(line.count("|") for line in of_tables)
    assert "300 times less" in page


def test_readme_and_page_show_what_is_kept() -> None:
    root = Path(__file__).resolve().parents[2]
    rows = layers_kept.kept_rows()
    assert len(rows) == len(select_layers(layers.TARGETS, ()))
    readme = (root / "README.md").read_text("utf-8")
    assert in_readme(readme, rows) == readme
    assert glance(rows) in (root / "docs" / "performance.md").read_text("utf-8")


def test_a_readme_without_a_place_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# nothing", "utf-8")
    assert run(["layers", "--readme", str(readme)]) == 2
    assert "no place for the table" in capsys.readouterr().err
    assert readme.read_text("utf-8") == "# nothing"


def test_kept_rows_are_what_was_measured() -> None:
    trials = select_layers(("trn2",), ("bfloat16",), only=SMALL)
    (kept,) = (
        row
        for row in layers_kept.kept_rows()
        if (row.name, row.target) == (f"{SMALL} valid bfloat16", "trn2")
    )
    (measured,) = run_layers(trials, lambda name: None)
    assert kept == replace(measured, bound="")


def test_quick_layers_are_as_kept() -> None:
    command = ["layers", "--quick", "--check", "--no-verify"]
    assert run([*command, "--target", "trn2", "--dtype", "bf16"]) == 0


@pytest.mark.slow
def test_all_layers_are_right_and_as_kept() -> None:
    assert run(["layers", "--check"]) == 0
