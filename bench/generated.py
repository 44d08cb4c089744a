"""`nkiconv tables`: the pages of docs/ that are made from the code, docs/coverage.md and others."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from nkiconv.bench.errors import UserError
from nkiconv.simulate.coverage import vendor_api
from nkiconv.simulate.hardware import TARGETS
from nkiconv.simulate.ops import Op
from nkiconv.simulate.sheet import SHEETS
from nkiconv.simulate.strictness import Refused, all_codes, generations
from nkiconv.simulate.trace import Lane

__all__ = [
    "MADE",
    "coverage_rows",
    "engines",
    "markdown_table",
    "pages",
    "stale",
    "write",
]

MADE = "Made by `nkiconv tables`; edits here are lost."
_MODULES = ("nki", "nki.isa", "nki.language", "nki.collectives")
_PREFIX = {"nki": "nki", "nki.isa": "nisa", "nki.language": "nl"}


def pages(root: Path) -> dict[Path, str]:
    """Return the text of each generated page below a checkout.

    Raises
    ------
    UserError
        `root` is not a checkout of nkiconv.
    """
    from nkiconv.bench.instruction_page import instruction_page  # which imports this module

    if not (root / "docs").is_dir() or not (root / "tests").is_dir():
        raise UserError(f"{str(root)!r} has no docs and tests: run this in a checkout of nkiconv")
    return {
        root / "docs" / "coverage.md": _coverage(root),
        root / "docs" / "instructions.md": instruction_page(),
        root / "docs" / "strictness.md": _strictness(),
    }


def stale(root: Path) -> list[Path]:
    """Return the pages whose files differ from what the code says."""
    return [
        path
        for path, text in pages(root).items()
        if not path.exists() or path.read_text("utf-8") != text
    ]


def write(root: Path) -> list[Path]:
    """Write the pages that are stale, and return them."""
    changed = stale(root)
    made = pages(root)
    for path in changed:
        path.write_text(made[path], "utf-8")
    return changed


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for row in rows:
        cells = [_escaped(cell) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    """Return a cell's text without what Markdown would take for a column, a tag or a link."""
    return cell.replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


# --- Coverage: every name of the vendor's release ------------------------------------------------


def coverage_rows(module: str, tests: dict[str, str]) -> Iterator[tuple[str, ...]]:
    """Yield ``(name, kind, embedded, engines, targets, tests)`` for the names of a module."""
    api = vendor_api()[module]
    try:
        here = vars(importlib.import_module(module.replace("nki", "nkiconv.simulate.nki", 1)))
    except ModuleNotFoundError:
        here = {}
    for kind in ("functions", "classes", "values"):
        for name in api[kind]:
            value = here.get(name)
            have = name in here
            sheet = have and module == "nki.isa" and name in SHEETS
            yield (
                name,
                kind[:-1] if kind != "classes" else "class",
                _embedded(module, have, value, kind),
                ", ".join(engines(SHEETS[name].lane)) if sheet else "",
                " ".join(generations(name) if sheet else TARGETS) if have else "",
                _tested(tests, name, _PREFIX.get(module, "")) if have else "",
            )
            if kind == "classes" and have:
                yield from _method_rows(name, value, api[kind][name]["methods"], tests)


def _method_rows(
    owner: str, cls: object, methods: Iterable[str], tests: dict[str, str]
) -> Iterator[tuple[str, ...]]:
    for method in methods:
        have = hasattr(cls, method)
        tested = _tested(tests, method, "") if have else ""
        yield f"{owner}.{method}", "method", "yes" if have else "no", "", "", tested


def _embedded(module: str, have: bool, value: object, kind: str) -> str:
    if not have:
        return "no"
    if module == "nki.collectives" and kind == "functions":
        return "refused"  # one device is simulated
    only_names = isinstance(value, Op) and Op.__call__.__annotations__.get("return") == "NoReturn"
    return "for op= alone" if only_names and kind == "functions" else "yes"


def engines(lane: Any) -> list[str]:
    """Return the engines that a sheet's lane, or the function that chooses it, mentions."""
    if isinstance(lane, Lane):
        return ["DMA" if lane.is_dma else lane.label]
    names = _mentioned(lane.__code__)
    lists = [
        lane.__globals__[name] for name in names if isinstance(lane.__globals__.get(name), tuple)
    ]
    names |= {one.name for each in lists for one in each if isinstance(one, Lane)}
    return [*dict.fromkeys("DMA" if one.is_dma else one.label for one in Lane if one.name in names)]


def _mentioned(code: CodeType) -> set[str]:
    inner = [_mentioned(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _tested(tests: dict[str, str], name: str, prefix: str) -> str:
    """Return the test file that uses a name most.

    What no file uses by name is compared with the vendor's by test_api.py, which goes over all of
    signatures, members and values.
    """
    word = re.escape(name)
    sought = re.compile(rf"\b{prefix}\.{word}\b" if prefix else rf"\.{word}\b")
    counts = {file: len(sought.findall(text)) for file, text in tests.items()}
    best = max(counts, key=lambda file: (counts[file], file), default="")
    return best if best and counts[best] else "test_api.py"


def _test_sources(root: Path) -> dict[str, str]:
    """Return the text of the simulator's tests by name, without those that go over all names."""
    return {
        path.name: path.read_text("utf-8")
        for path in sorted((root / "tests" / "simulate").glob("test_*.py"))
        if path.stem not in ("test_api", "test_costs", "test_sheets", "test_strictness")
    }


def _coverage(root: Path) -> str:
    tests = _test_sources(root)
    parts = [
        "# Coverage of NKI 0.6.0",
        f"{MADE}",
        "Every public name of the vendor's release, and whether the embedded NKI has it. Names, "
        "parameters and defaults are compared with the vendor's in tests/simulate/test_api.py, "
        "limits of instructions broken in test_sheets.py, costs worked out by hand in "
        "test_costs.py; the last column is the other test file that uses a name most.",
    ]
    for module in _MODULES:
        rows = list(coverage_rows(module, tests))
        functions = [row for row in rows if row[1] == "function"]
        parts.append(f"## {module}")
        kinds = Counter(row[2] for row in functions)
        others = "".join(f"; {n} {kind}" for kind, n in kinds.items() if kind not in ("yes", "no"))
        parts.append(f"{kinds['yes']} of {len(functions)} functions{others}.")
        parts.append(
            markdown_table(
                ("name", "kind", "embedded", "engine", "targets", "tested most in"), rows
            ).rstrip()
        )
    return "\n\n".join(parts) + "\n"


# --- Strictness: every code ----------------------------------------------------------------------


def _breaking_test(entry: Refused) -> str:
    if entry.sheet:
        return "test_sheets.py"
    return "test_subset.py" if entry.construct else "test_strictness.py"


def _strictness() -> str:
    codes = all_codes()
    groups: dict[str, list[Refused]] = {}
    for entry in codes.values():
        groups.setdefault(entry.group, []).append(entry)
    generic = [name for name in groups if name not in SHEETS]
    parts = [
        "# What the simulator refuses",
        f"{MADE}",
        f"{len(codes)} rules. Each has a code, which ends the message of the error; `nkiconv "
        "explain CODE` says more. Each has an example in tests/simulate that breaks it and is "
        "refused with this code.",
    ]
    for group in [*generic, *(name for name in groups if name in SHEETS)]:
        parts.append(f"## {group}")
        rows = [
            (f"`{e.code}`", e.sentence, e.source, e.error, _breaking_test(e)) for e in groups[group]
        ]
        parts.append(
            markdown_table(
                ("code", "what must hold", "source", "error", "broken in"), rows
            ).rstrip()
        )
    return "\n\n".join(parts) + "\n"
