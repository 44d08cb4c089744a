"""Every Python block in README.md and docs/ runs, and every relative link leads somewhere."""

from __future__ import annotations

import io
import linecache
import re
from pathlib import Path

import pytest

from nkiconv.simulate import use_target

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOGETHER = "<!-- blocks: together -->"  # such a page's blocks see what the earlier ones defined
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)[^)]*\)")


def blocks() -> list[tuple[str, int, str]]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            found.append((str(page.relative_to(ROOT)), line, match.group(1)))
    return found


def runs() -> list[tuple[str, list[tuple[int, str]]]]:
    """Return what to run in one namespace: single blocks, or all of a page that asks for it."""
    found: list[tuple[str, list[tuple[int, str]]]] = []
    for page, line, code in blocks():
        together = (ROOT / page).read_text("utf-8").startswith(TOGETHER)
        if together and found and found[-1][0] == page:
            found[-1][1].append((line, code))
        else:
            found.append((page, [(line, code)]))
    return found


@pytest.mark.parametrize(
    ("page", "parts"), [pytest.param(*run, id=f"{run[0]}:{run[1][0][0]}") for run in runs()]
)
def test_code_blocks_run(
    page: str, parts: list[tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for library in ("torch", "transformers", "monai"):
        if any(re.search(rf"^(import|from) {library}\b", code, re.MULTILINE) for _, code in parts):
            pytest.importorskip(library)
    if any("nkiconv.pytorch.models" in code for _, code in parts):
        pytest.importorskip("monai")
    namespace = {"__name__": "docs"}
    for line, code in parts:
        name = f"{page}:{line}"
        # The simulator reads the source of kernels: show it the block as a file.
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        exec(compile(code, name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [
        target
        for target in LINK.findall(page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_the_architecture_names_every_kernel_file() -> None:
    named = set(
        re.findall(r"`(?:kernels/)?(\w+\.py)`", (ROOT / "docs/architecture.md").read_text("utf-8"))
    )
    files = {path.name for path in (ROOT / "kernels").glob("*.py")} - {"__init__.py"}
    assert files - named == set()
    gone = {name for name in named if name.startswith("_") and name not in files}
    assert gone == set()


def test_there_are_code_blocks() -> None:
    assert len(blocks()) >= 3


def rows_in_readme() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"<!-- rows: nkiconv check -->\n```text\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block.group(1).splitlines()[2:]


@pytest.mark.slow
def test_readme_rows_are_what_check_prints() -> None:
    """Modelled numbers are the same everywhere; the error depends on the machine's BLAS."""
    from rich.console import Console

    from nkiconv.bench.check import run_trials, select_trials
    from nkiconv.bench.tables import check_table

    shown = [row.split() for row in rows_in_readme()]
    names = {row[0] for row in shown}
    trials = [trial for trial in select_trials() if trial.case.id in names]
    with use_target("trn1"):
        table, _ = check_table(list(run_trials(trials, lambda _: None)), "trn1")
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(table)
    printed = [row.split() for row in capture.get().splitlines()]
    without_error = [row[:3] + row[4:] for row in printed]
    assert len(shown) >= 10
    for row in shown:
        assert row[:3] + row[4:] in without_error
