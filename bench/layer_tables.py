"""The layers as tables: for the terminal, and for docs/performance.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from nkiconv.bench.errors import UserError
from nkiconv.bench.layers import (
    ALLOWED_FACTOR,
    ALLOWED_US,
    FIGURES,
    MAX_HBM,
    MAX_STATIC,
    LayerRow,
    known_layers,
)
from nkiconv.bench.output import cell, new_table
from nkiconv.bench.tables import SHORT_BOUND, SHORT_DTYPE, Captioned

if TYPE_CHECKING:
    from nkiconv.bench.findings import Findings
    from nkiconv.bench.layers_kept import KeptChange

__all__ = ["WIDE", "changes_table", "figure_rows", "layer_page", "layer_tables", "summary"]

WIDE = 140
"""Columns from which counts and times fit side by side."""

_COUNTS = ("columns", "/table", "HBM", "matmul", "turned", "DMA", "copy", "instr")
_TIMES = ("µs", "floor", "limit", "ratio", "strict", "bound")

_CAPTION = (
    "Counts need no model. columns: moving columns that TensorE multiplies; /table: over those of"
    f" layers.json, at most 1; HBM: bytes moved / x, w and y once, at most {MAX_HBM:g}; matmul,"
    " turned (transposes by TensorE, whose columns are not among those), DMA, copy (within SBUF),"
    f" instr: static instructions, at most {MAX_STATIC:,}. Model. µs:"
    " modelled, without launch; floor: of the table's columns and the least bytes, at sustained"
    f" rates; limit: {ALLOWED_FACTOR:.2f} floor + {ALLOWED_US:g} µs; ratio: µs / floor; strict:"
    " the same with the columns that were streamed, where fewer."
)


def _counts(row: LayerRow, number: Callable[[int], str]) -> tuple[str, ...]:
    return (
        number(row.columns),
        f"{row.columns_ratio:.2f}",
        f"{row.hbm_ratio:.2f}",
        number(row.matmuls),
        number(row.transposes),
        number(row.transfers),
        number(row.copies),
        number(row.static_instructions),
    )


def _exact(count: int) -> str:
    return f"{count:,}"


def _brief(count: int) -> str:
    """At most six characters; whole below 10,000."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.1f}k" if count < 999_950 else f"{count / 1e6:.2f}M"


def _times(row: LayerRow) -> tuple[str, ...]:
    return (
        f"{row.body_us:,.1f}",
        f"{row.floor_us:,.1f}",
        f"{row.limit_us:,.1f}",
        f"{row.ratio:.2f}",
        f"{row.strict_ratio:.2f}",
        SHORT_BOUND.get(row.bound, row.bound),
    )


def _met(row: LayerRow) -> str:
    return "yes" if not row.missed else "no: " + ", ".join(row.missed)


def _groups(rows: Iterable[LayerRow]) -> dict[tuple[str, str], list[LayerRow]]:
    """Rows by target and element type, in order of appearance."""
    groups: dict[tuple[str, str], list[LayerRow]] = {}
    for row in rows:
        groups.setdefault((row.target, row.dtype), []).append(row)
    return groups


def layer_tables(rows: Sequence[LayerRow], width: int) -> list[Captioned]:
    """One table per target and element type; counts and times in two where `width` is small."""
    made: list[Captioned] = []
    for (target, dtype), members in sorted(_groups(rows).items()):
        parts: tuple[tuple[str, ...], ...] = (
            (("counts", "times"),) if width >= WIDE else (("counts",), ("times",))
        )
        for part in parts:
            headings = [
                f"{target} {SHORT_DTYPE[dtype]}",
                "algo",
                *(_COUNTS if "counts" in part else ()),
                *(_TIMES if "times" in part else ()),
                *(("met",) if "times" in part else ()),
            ]
            table = new_table(
                *headings, numbers=frozenset((*_COUNTS, *_TIMES)) - frozenset(("bound",))
            )
            for row in members:
                cells = [row.algorithm]
                if row.passed:
                    cells += _counts(row, _brief) if "counts" in part else ()
                    cells += _times(row) if "times" in part else ()
                else:
                    cells += [""] * (len(headings) - 3)
                last = []
                if "times" in part:
                    last = [cell(_met(row), "green" if not row.missed else "bold red")]
                elif not row.passed:
                    cells.append("")
                table.add_row(cell(row.layer), *map(cell, cells), *last)
            made.append((table, ""))
    made += _figure_tables(rows)
    return [*made[:-1], (made[-1][0], " ".join(filter(None, (made[-1][1], _CAPTION))))]


def figure_rows(rows: Sequence[LayerRow]) -> Iterator[tuple[str, str, float, float, str]]:
    """Yield layer, target, µs, µs asked for, and what others measured."""
    names = {layer.id: layer.name for layer in known_layers()}
    found = {(row.layer, row.target): row for row in rows if row.dtype == "float16" and row.passed}
    for figure in FIGURES:
        for target, asked in figure.asked_us.items():
            row = found.get((names[figure.layer_id], target))
            if row is not None:
                yield row.layer, target, row.body_us, asked, figure.others


def _figure_tables(rows: Sequence[LayerRow]) -> list[Captioned]:
    figures = list(figure_rows(rows))
    if not figures:
        return []
    table = new_table(
        "float16, asked for", "on", "µs", "asked", "others, with launch", "",
        numbers=frozenset(("µs", "asked")),
    )  # fmt: skip
    for layer, target, us, asked, others in figures:
        met = us <= asked
        table.add_row(
            cell(layer),
            cell(target),
            cell(f"{us:,.1f}"),
            cell(f"≤ {asked:,.0f}"),
            cell(others),
            cell("yes", "green") if met else cell("NO", "bold red"),
        )
    return [(table, "")]


def summary(rows: Sequence[LayerRow]) -> str:
    """How many rows meet what, in one line."""
    met = sum(not row.missed for row in rows)
    misses: dict[str, int] = {}
    for row in rows:
        for what in row.missed:
            misses[what] = misses.get(what, 0) + 1
    text = f"{met} of {len(rows)} rows meet every figure"
    if misses:
        text += "; missed: " + ", ".join(f"{what} {count}" for what, count in misses.items())
    exact, wrong = (sum(row.exact is value for row in rows) for value in (True, False))
    text += f". {exact} results are exact, {wrong} are wrong"
    without = sum(not row.passed for row in rows) - wrong
    return f"{text}; rows without a result: {without}." if without else f"{text}."


def changes_table(found: Sequence[KeptChange]) -> Captioned:
    """One line per number that is not the one kept."""
    table = new_table(
        "layer", "on", "number", "kept", "now", "", numbers=frozenset(("kept", "now"))
    )
    for change in found:
        kept, now = change.kept, change.found
        numbers = isinstance(kept, int) and isinstance(now, int) and kept
        table.add_row(
            cell(change.name),
            cell(change.target),
            cell(change.what),
            cell(_plain(kept)),
            cell(_plain(now)),
            cell(f"{now / kept - 1:+.1%}" if numbers else "new" if kept is None else ""),  # type: ignore[operator]  # both are numbers
        )
    return table, "body_ps: modelled picoseconds without launch."


def _plain(value: int | str | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else value


# --- The page ------------------------------------------------------------------------------------


def layer_page(rows: Sequence[LayerRow], findings: Findings, command: str) -> str:
    """Return docs/performance.md."""
    parts = [
        "# Performance, layer by layer",
        f"Made by `{command}`; edits here are lost.",
        "Two-dimensional convolutions of published models, batch and sizes as in the table of "
        "`bench/layers.json`, each compared with PyTorch's result on whole numbers and equal to it "
        "bit for bit where nothing else is said. **Times are modelled, not measured**: nothing "
        "here has run on a device.",
        summary(rows),
        "## At a glance",
        glance(rows),
        _GLANCE_CAPTION,
        "## The columns of the tables below",
        _CAPTION,
    ]
    blank = ("",) * len((*_COUNTS, *_TIMES))
    for (target, dtype), members in sorted(_groups(rows).items()):
        parts.append(f"## {target}, {dtype}")
        parts.append(
            _markdown(
                ("layer", "algorithm", *_COUNTS, *_TIMES, "met"),
                (
                    (row.layer, row.algorithm, *_counts(row, _exact), *_times(row), _met(row))
                    if row.passed
                    else (row.layer, row.algorithm, *blank, row.problem)
                    for row in members
                ),
                left=frozenset(("layer", "algorithm", "bound", "met")),
            )
        )
    parts.append("## Asked for in float16")
    parts.append(
        _markdown(
            ("layer", "target", "modelled µs", "asked", "others, with launch", "met"),
            (
                (
                    layer,
                    target,
                    f"{us:,.1f}",
                    f"≤ {asked:,.0f}",
                    others,
                    "yes" if us <= asked else "NO",
                )
                for layer, target, us, asked, others in figure_rows(rows)
            ),
            left=frozenset(("layer", "target", "others, with launch", "met")),
        )
    )
    parts.append("## From naive to final")
    parts.append(
        f"{findings.size}x{findings.size} image, 3x3 taps, {findings.channels} to "
        f"{findings.channels} channels, {findings.dtype}, {findings.target}, in the same run: "
        f"naive takes {findings.naive_us:,.0f} µs, final {findings.direct_us:,.1f} µs, launch "
        f"included (modelled): {findings.naive_us / findings.direct_us:,.0f} times less."
    )
    parts.append(
        _markdown(
            ("counted", "naive", "final", "standard", "meets"),
            (
                (
                    row.counted,
                    f"{row.naive:,.2f}",
                    f"{row.direct:,.2f}",
                    row.standard,
                    "yes" if row.meets else "NO",
                )
                for row in findings.rows
            ),
            left=frozenset(("counted", "standard", "meets")),
        )
    )
    return "\n\n".join(parts) + "\n"


def glance(rows: Iterable[LayerRow]) -> str:
    """Return every layer's modelled time, and its ratio to the floor, in one Markdown table."""
    rows = [row for row in rows if (row.dtype, row.target) in _GLANCED]
    found = {(row.layer, row.dtype, row.target): row for row in rows}
    names = dict.fromkeys(row.layer for row in rows)
    headings = [f"{target} {SHORT_DTYPE[dtype]}" for dtype, target in _GLANCED]
    return _markdown(
        ("layer, modelled µs (over floor)", *headings),
        (
            (name, *(_glance_cell(found.get((name, *group))) for group in _GLANCED))
            for name in names
        ),
        left=frozenset(("layer, modelled µs (over floor)",)),
    )


_GLANCED = (
    ("bfloat16", "trn1"),
    ("bfloat16", "trn2"),
    ("float32", "trn1"),
    ("float32", "trn2"),
)


def _glance_cell(row: LayerRow | None) -> str:
    if row is None:
        return ""
    if not row.passed:
        return "wrong"
    return f"{row.body_us:,.1f} ({row.ratio:.2f}){' *' if row.missed else ''}"


_GLANCE_CAPTION = (
    "Modelled µs without launch; in brackets, over the floor (the least time of the table's"
    f" columns and bytes at sustained rates). *: misses a figure asked for: {ALLOWED_FACTOR:.2f}"
    f" floor + {ALLOWED_US:g} µs, the table's columns, {MAX_HBM:g} times the bytes,"
    f" {MAX_STATIC:,} instructions."
)
_README_BLOCK = re.compile(r"(<!-- rows: nkiconv layers -->\n).*?(<!-- end of rows -->)", re.DOTALL)


def in_readme(readme: str, rows: Iterable[LayerRow]) -> str:
    """Return the README with its table of layers renewed.

    Raises
    ------
    UserError
        It has no place for one.
    """
    made = f"{glance(rows)}\n\n{_GLANCE_CAPTION}\n"
    text, count = _README_BLOCK.subn(lambda match: match[1] + made + match[2], readme)
    if count != 1:
        raise UserError(
            "the README has no place for the table of layers: <!-- rows: nkiconv layers --> and"
            " <!-- end of rows -->"
        )
    return text


def _markdown(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: frozenset[str]
) -> str:
    lines = [
        f"| {' | '.join(headings)} |",
        "|" + "".join("---|" if heading in left else "---:|" for heading in headings),
    ]
    lines += [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in rows]
    return "\n".join(lines)
