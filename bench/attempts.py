"""What was tried to make the kernels faster, what came of it, and what the same layer takes today.

    attempts.json  [{kernel, tried, expected, layer, dtype, target, before_us, after_us, kept,
                     lesson}]

Times are modelled, in microseconds without launch: `before_us` and `after_us` as they were when it
was tried, `now_us` as the command finds them.  Failures stay in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from nkiconv.bench.errors import UserError
from nkiconv.bench.generated import markdown_table
from nkiconv.bench.layers import profile_layer
from nkiconv.bench.output import cell, new_table
from nkiconv.bench.plans import find_layer

__all__ = ["Attempt", "Refreshed", "attempts_page", "attempts_table", "known_attempts", "refresh"]

FILE = Path(__file__).with_name("attempts.json")
_COMMAND = "nkiconv attempts --markdown docs/kernels/attempts.md"


@dataclass(frozen=True)
class Attempt:
    """One thing that was tried on one layer, named or spelt out as `find_layer` takes it."""

    kernel: str
    tried: str
    expected: str
    layer: str
    dtype: str
    target: str
    before_us: float | None
    after_us: float | None
    kept: bool
    lesson: str


@dataclass(frozen=True)
class Refreshed:
    """An attempt, and the layer's modelled time today."""

    attempt: Attempt
    now_us: float


def known_attempts(only: str = "") -> list[Attempt]:
    """Return the attempts with `only` in kernel, layer or what was tried.

    Raises
    ------
    UserError
        None has.
    """
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    found = [Attempt(**row) for row in rows]
    found = [a for a in found if only.lower() in f"{a.kernel} {a.layer} {a.tried}".lower()]
    if not found:
        raise UserError(f"no attempt has {only!r} in kernel, layer or what was tried")
    return found


def refresh(attempts: Iterable[Attempt], announce: Callable[[str], None]) -> Iterator[Refreshed]:
    """Model each attempt's layer anew; a layer that several share once."""
    known: dict[tuple[str, str, str], float] = {}
    for attempt in attempts:
        key = attempt.layer, attempt.dtype, attempt.target
        if key not in known:
            announce(" ".join(key))
            known[key] = _body_us(*key)
        yield Refreshed(attempt, known[key])


def _body_us(name: str, dtype: str, target: str) -> float:
    return profile_layer(find_layer(name), dtype, target)[1].body_us


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def attempts_table(rows: Iterable[Refreshed]) -> tuple[Table, str]:
    """Return one row for each attempt, and the line below them."""
    made = new_table(
        "kernel", "layer", "tried", "before", "after", "kept", "now",
        numbers=frozenset(("before", "after", "now")),
    )  # fmt: skip
    for row in rows:
        a = row.attempt
        where = f"{a.layer} {a.dtype} {a.target}"
        texts = (a.kernel, where, a.tried, _us(a.before_us), _us(a.after_us))
        made.add_row(*map(cell, (*texts, "yes" if a.kept else "no", _us(row.now_us))))
    return made, "Modelled µs without launch; before and after as they were when it was tried."


def attempts_page(rows: Iterable[Refreshed]) -> str:
    """Return the page docs/kernels/attempts.md."""
    lines = [
        "# What was tried",
        "",
        "Each row is one idea for a faster kernel: what was expected of it, what the layer took",
        "before and after when it was tried, and whether it stayed. Ideas that failed stay in, so",
        "that nobody has to try them again. Times are modelled, in µs without launch; *now* is",
        "what the layer takes today, refreshed by",
        "",
        f"    {_COMMAND}",
        "",
    ]
    by_kernel: dict[str, list[Refreshed]] = {}
    for row in rows:
        by_kernel.setdefault(row.attempt.kernel, []).append(row)
    headings = ("layer", "tried", "expected", "before", "after", "kept", "now", "what it taught")
    for kernel, found in by_kernel.items():
        lines += [f"## {kernel}", ""]
        lines += markdown_table(headings, [_cells(row) for row in found]).splitlines()
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _cells(row: Refreshed) -> tuple[str, ...]:
    a = row.attempt
    return (
        f"{a.layer}, {a.dtype}, {a.target}",
        a.tried,
        a.expected,
        _us(a.before_us),
        _us(a.after_us),
        "yes" if a.kept else "no",
        _us(row.now_us),
        a.lesson,
    )
