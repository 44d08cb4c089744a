"""`nkiconv explain` and `nkiconv tables`: what they print; the pages in docs/ are current."""

from __future__ import annotations

from pathlib import Path

import pytest

from nkiconv.bench import generated
from nkiconv.bench.cli import run
from nkiconv.bench.explain import explain, list_codes
from nkiconv.simulate.strictness import all_codes

ROOT = Path(__file__).resolve().parents[2]


def test_a_rule_of_an_instruction(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "nc_matmul.one_bank"]) == 0
    text = capsys.readouterr().out
    for words in (
        "nc_matmul.one_bank (ConstraintError)",
        "Dst must lie in one PSUM bank of 2 KiB.",
        "Instruction nisa.nc_matmul",
        "  dst: written; in PSUM",
        "  psum_bank_bytes: 2,048 on all targets",
        "Why\n  A matmul adds into one bank",
        "Cure\n  Split the moving columns",
        "Source\n  NeuronCore architecture guides",
        "Looks like\n  nkiconv.simulate.errors.ConstraintError: conv.py:12: nisa.nc_matmul:",
    ):
        assert words in text, words
    assert all(len(line) < 80 for line in text.splitlines())


def test_brackets_of_the_message_may_be_copied_along(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "[python.lambda]"]) == 0
    assert "a named function" in capsys.readouterr().out


@pytest.mark.parametrize("code", all_codes())
def test_every_code_is_explained(code: str) -> None:
    lines = explain(code)
    assert lines[0].startswith(f"{code} (")
    assert "Source" in lines
    assert lines[-1].endswith(f"[{code}]")


def test_all_codes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain"]) == 0
    assert capsys.readouterr().out.splitlines() == list_codes()
    words = " ".join(list_codes()).split()
    for code in all_codes():
        assert code.partition(".")[2] in words
    assert list_codes()[-1].startswith(f"{len(all_codes())} codes; ")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("nc_matmul.onebank", "no code 'nc_matmul.onebank'; did you mean nc_matmul.one_bank"),
        ("zzz", "`nkiconv explain` lists all"),
    ],
)
def test_an_unknown_code_is_one_line(
    code: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", code]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


# --- Generated pages -----------------------------------------------------------------------------


def test_the_pages_in_docs_are_current() -> None:
    assert generated.stale(ROOT) == [], "run `nkiconv tables` in the checkout"


def test_pages_are_written_and_found_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("docs", "tests"):
        (tmp_path / name).mkdir()
    here = ["--root", str(tmp_path)]
    assert run(["tables", "--check", *here]) == 1
    assert "stale: " in capsys.readouterr().out
    assert not list((tmp_path / "docs").iterdir())
    assert run(["tables", *here]) == 0
    assert run(["tables", "--check", *here]) == 0
    (tmp_path / "docs" / "coverage.md").write_text("old")
    assert generated.stale(tmp_path) == [tmp_path / "docs" / "coverage.md"]
    assert generated.write(tmp_path) == [tmp_path / "docs" / "coverage.md"]


def test_tables_need_a_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tables", "--root", str(tmp_path)]) == 2
    assert "in a checkout of nkiconv" in capsys.readouterr().err


def test_rows_of_the_coverage_table() -> None:
    tests = generated._test_sources(ROOT)
    rows = {row[0]: row for row in generated.coverage_rows("nki.isa", tests)}
    assert rows["activate2"] == (
        "activate2", "function", "yes", "ScalarE", "trn3", "test_activate2.py",
    )  # fmt: skip
    assert rows["nc_transpose"][3] == "TensorE, VectorE"
    assert rows["dma_copy"][3:5] == ("DMA", "trn1 trn2 trn3")
    assert rows["range_select"][4] == "trn2 trn3"
    assert rows["NkiInstruction.depends_on"][:3] == ("NkiInstruction.depends_on", "method", "yes")
    embedded = [row for row in rows.values() if row[2] != "no"]
    assert all(row[5] for row in embedded)
    collectives = list(generated.coverage_rows("nki.collectives", tests))
    assert [row[2] for row in collectives] == ["refused"] * 11 + ["yes"]  # ReplicaGroup


def test_rows_of_the_strictness_table() -> None:
    text = (ROOT / "docs" / "strictness.md").read_text("utf-8")
    for code in all_codes():
        assert text.count(f"| `{code}` |") == 1
    assert "| ShapeError | test_sheets.py |" in text
