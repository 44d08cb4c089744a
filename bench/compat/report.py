"""The trial's outcome as a table for a terminal, and as the page docs/compatibility.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from nkiconv.bench.compat.case import Call, Case, Outcome
from nkiconv.bench.compat.sources import SOURCES, Source, version_of
from nkiconv.bench.compat.stand_ins import EMPTY, STAND_INS
from nkiconv.bench.output import cell, new_table

__all__ = ["Result", "old_dialect", "page", "surprises", "table", "to_dict"]

Result = tuple[Case, Outcome]

_OLD = re.compile(r"^\s*(import neuronxcc\.nki|from neuronxcc|.*\bimport nki_jit\b)", re.MULTILINE)
_FOLDERS = {
    "aws-neuron-sdk": ("nki/examples", "nki/test", "nki/deep-dives"),
    "nki-samples": ("contributed", "src", "test"),
}


def surprises(results: Sequence[Result]) -> list[str]:
    """Return a line for each case that neither runs right nor has a reason not to, or has one."""
    lines = []
    for case, outcome in results:
        if outcome.good and case.because:
            lines.append(f"{case.id}: runs, although: {case.because}")
        elif not outcome.good and not case.because:
            lines.append(f"{case.id}: {outcome.problem}")
    return lines


def table(results: Sequence[Result]) -> tuple[Table, str]:
    """One line per case."""
    numbers = frozenset(("err", "s"))
    made = new_table("case", "kernel", "runs", "right", "err", "s", numbers=numbers)
    for case, outcome in results:
        wrong = outcome.right is False
        made.add_row(
            cell(case.id),
            cell(_short(case.kernel, 28)),
            cell("yes", "green") if outcome.runs else cell("no", "" if case.because else "red"),
            cell(_right(outcome), "bold red" if wrong else ""),
            cell("" if outcome.error_ratio is None else f"{outcome.error_ratio:.2g}"),
            cell(f"{outcome.seconds:.1f}"),
        )
    return made, (
        "err: largest error / its allowance. s: seconds of the process, imports included. right: -"
        " where there is nothing to compare with."
    )


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _right(outcome: Outcome) -> str:
    if outcome.right is None:
        return "-" if outcome.runs else ""
    return "yes" if outcome.right else "no"


def to_dict(results: Sequence[Result], root: Path) -> dict[str, object]:
    """Return everything as plain values for JSON."""
    return {
        "sources": {source.folder: version_of(root, source) for source in _used(results)},
        "cases": [
            {"id": case.id, "source": case.source, "path": case.path, "kernel": case.kernel}
            | {"because": case.because}
            | outcome.to_dict()
            for case, outcome in results
        ],
    }


def _used(results: Sequence[Result]) -> list[Source]:
    names = {case.source for case, _ in results}
    return [source for source in SOURCES if source.folder in names]


# --- The page ------------------------------------------------------------------------------------

_INTRODUCTION = """\
# Strangers' kernels

Kernels that others wrote, run unmodified by the embedded NKI. Their sources are not part of this
project. This page is what the following command writes, and so is every number in it:

    nkiconv compat --sources DIR --markdown docs/compatibility.md

`DIR` holds the checkouts; without them the command says how to get them. Each case runs in a
process of its own. *Right* means: no result is farther from the reference than
`atol + rtol * max |reference|`, which is how the vendor's own tests compare; the number is the
largest error over that allowance. Kernels of nki-library run through the library's own tests, which
bring inputs, references, tolerances, device and cores; only sizes are smaller in places. Kernels of
the documentation and of nki-samples are compared with NumPy, or check themselves (`script`).
"""


def page(results: Sequence[Result], root: Path) -> str:
    """Return the text of docs/compatibility.md."""
    parts = [_INTRODUCTION, _sources(results, root)]
    for source in _used(results):
        own = [(case, outcome) for case, outcome in results if case.source == source.folder]
        parts.append(_source_table(source, own))
    parts += [_refused(results), _old_section(root, results), _stand_ins()]
    return "\n".join(parts)


def _sources(results: Sequence[Result], root: Path) -> str:
    rows = [
        "| source | version | kernels | of them right | cases | run | right | wrong"
        " | not run, for a reason below | not run otherwise |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for source in _used(results):
        own = [(case, outcome) for case, outcome in results if case.source == source.folder]
        done = [outcome for _, outcome in own]
        reasons = sum(not o.good and bool(c.because) for c, o in own)
        numbers = (
            len({(case.path, case.kernel) for case, _ in own}),
            len({(case.path, case.kernel) for case, outcome in own if outcome.right}),
            len(own),
            sum(o.runs for o in done),
            sum(o.right is True for o in done),
            sum(o.right is False for o in done),
            reasons,
            sum(not o.runs for o in done) - sum(not o.runs and bool(c.because) for c, o in own),
        )
        counts = " | ".join(map(str, numbers))
        rows.append(f"| {source.repository} | {version_of(root, source)} | {counts} |")
    return "\n".join(["## Sources and counts", "", *rows, ""])


def _source_table(source: Source, results: Sequence[Result]) -> str:
    rows = [
        f"## {source.repository}",
        "",
        "| case | kernel | file | runs | right | what is missing, or which rule |",
        "|---|---|---|---|---|---|",
    ]
    for case, outcome in results:
        note = "" if outcome.good else (case.because or outcome.problem)
        ratio = "" if outcome.error_ratio is None else f" ({outcome.error_ratio:.2g})"
        path = case.path.removeprefix(source.holds + "/")
        kind = "" if isinstance(case.how, Call) or source.folder == "nki-library" else ", script"
        runs = "yes" if outcome.runs else "no"
        kernel = f"`{case.kernel}`{kind if 'script' not in case.id else ', script'}"
        cells = (case.id, kernel, f"`{path}`", runs, _right(outcome) + ratio, _escaped(note))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, ""])


def _escaped(text: str) -> str:
    return _short(text, 300).replace("|", "\\|").replace("<", "&lt;")


def _refused(results: Sequence[Result]) -> str:
    rows = [f"| {c.id} | {_escaped(c.because)} | {_escaped(o.problem)} |"
            for c, o in results if c.because]  # fmt: skip
    return "\n".join(
        [
            "## Not run, and why",
            "",
            "Where a stranger's kernel breaks a rule of the device, the embedded NKI refuses it on",
            "purpose. Files and tests that cannot run anywhere are listed here, too.",
            "",
            "| case | why | what the command prints |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def old_dialect(root: Path, source: str) -> dict[str, list[str]]:
    """Return, by folder, the files of a checkout that are written for the package neuronxcc."""
    found: dict[str, list[str]] = {}
    for name in _FOLDERS.get(source, ()):
        folder = root / source / name
        for path in sorted(folder.rglob("*.py")):
            if _OLD.search(path.read_text("utf-8", errors="replace")):
                found.setdefault(name, []).append(path.relative_to(folder).as_posix())
    return found


def _old_section(root: Path, results: Sequence[Result]) -> str:
    lines = [
        "## Not today's dialect",
        "",
        "These files import NKI from `neuronxcc`: the dialect before NKI became a package of its",
        "own (results returned instead of `dst=`, masks, `nl.mgrid`). NKI 0.6.0 refuses them.",
        "",
        "| source | folder | files |",
        "|---|---|---|",
    ]
    for source in _used(results):
        for folder, files in old_dialect(root, source.folder).items():
            names = ", ".join(f"`{name}`" for name in files)
            lines.append(f"| {source.repository} | `{folder}` | {len(files)}: {names} |")
    return "\n".join([*lines, ""])


def _stand_ins() -> str:
    simple = ", ".join(f"`{name}`" for name in STAND_INS if "." not in name or name == "nki.dtype")
    empty = ", ".join(f"`{name}`" for name in EMPTY)
    return "\n".join(
        [
            "## What is added to run them",
            "",
            "No file of theirs is changed. Host modules that are not public, or have nothing to do",
            "with a kernel's result, are stood in for where they are missing:",
            "",
            f"- {simple}: dtypes, conversions between them, the name of a device;",
            f"- {empty}: imported, and never used here.",
            "",
        ]
    )
