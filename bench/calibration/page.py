"""The comparison as a table for a terminal, and as the page docs/calibration.md."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from nkiconv.bench.calibration.fit import Fit
from nkiconv.bench.calibration.measure import Comparison, Report, Row
from nkiconv.bench.calibration.point import COUNTERS, DOUBTS, KINDS, left_out
from nkiconv.bench.output import cell, new_table

__all__ = ["fit_tables", "page", "summary", "tables"]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def tables(report: Report) -> list[tuple[Table, str]]:
    """Return the points, and the errors by family."""
    numbers = frozenset(("measured", "modelled", "ratio"))
    made = new_table("point", "measured", "modelled", "ratio", "half", "note", numbers=numbers)
    for row in report.rows:
        made.add_row(
            cell(row.point.id),
            cell(f"{row.point.measured_us:,.1f}"),
            cell(f"{row.modelled_us:,.1f}"),
            cell(f"{row.ratio:.2f}"),
            cell(_half(row)),
            cell(row.why_not),
        )
    errors = new_table("family", "fit", "held out", numbers=frozenset(("fit", "held out")))
    for family in report.families:
        errors.add_row(
            cell(family),
            cell(_percent(report.error(family=family, half=False))),
            cell(_percent(report.error(family=family, half=True))),
        )
    errors.add_row(
        cell("all"),
        cell(_percent(report.error(half=False))),
        cell(_percent(report.error(half=True))),
    )
    return [
        (made, "Times in µs, measured by others, modelled by us. A note: enters no error."),
        (errors, "Mean of |modelled - measured| / measured; each case counts once."),
    ]


def fit_tables(found: Fit) -> list[tuple[Table, str]]:
    """Return the fitted facts, and the errors before and after."""
    numbers = frozenset(("present", "fitted"))
    facts = new_table("fact", "target", "unit", "present", "fitted", numbers=numbers)
    for one in found.facts:
        fact = one.fact
        facts.add_row(
            cell(fact.name), cell(fact.target), cell(fact.unit), cell(f"{fact.value:g}"),
            cell(f"{one.value:g}"),
        )  # fmt: skip
    halves = ("fit", "held out", "all")
    errors = new_table("facts", *halves, numbers=frozenset(halves))
    for name, report in (("present", found.before), ("fitted", found.after)):
        own = [report.error(half=half) for half in (False, True, None)]
        errors.add_row(cell(name), *(cell(_percent(one)) for one in own))
    return [
        (facts, "Assumed facts that the kernels depend on. Nothing is changed by this command."),
        (errors, "Mean of |modelled - measured| / measured; each case counts once."),
    ]


def _half(row: Row) -> str:
    return "held out" if row.held_out else "fit"


def summary(report: Report) -> str:
    """Return the error bar in one sentence."""
    counted = {row.point.case: row for row in report.rows if row.counts}
    worst = max(counted.values(), key=lambda row: row.error, default=None)
    if worst is None:
        return "No measured time can be compared with these kernels."
    return (
        f"Modelled times differ from measured ones by {_percent(report.error())} on average over"
        f" {len(counted)} published kernels ({_percent(report.error(half=True))} over the held-out"
        f" half); the worst, {worst.point.case}, is modelled at {worst.ratio:.2f} times its"
        " measured time."
    )


# --- The page ------------------------------------------------------------------------------------

_INTRODUCTION = """\
# Modelled against measured times

Kernels that others wrote and timed on real hardware, rebuilt in today's NKI, and what the timing
model says about them. This project has measured nothing itself. The page and its picture are
what this command writes, and so is every number in them:

    nkiconv calibrate --markdown docs/calibration.md

The kernels (`bench/calibration/`) are our own writing with the loop order, tiling and instruction
mix of the published ones; where a published profile shows that the compiler had merged or reordered
instructions, or which engines and rings it chose, the profile was followed, in both halves. So the
error is that of the costs and of the timeline, not of guessing what a compiler does: a kernel whose
instructions the compiler puts in another order may be further off. Each kernel is compared with
NumPy in the tests. The measured points, with repository, commit, path and hardware, are in
`bench/calibration/points.json`.

Half of the cases of each family, drawn with a fixed seed, is held out: no number of the model may
be fitted to them, and to the other half only facts marked *assumed* (`simulate/hardware.py`). There
is no factor for a kernel. The error is the mean of |modelled − measured| / measured, in which each
case counts once however often it was measured.  Profiles state this error beside their latency,
and say where no published kernel is like the one at hand (`simulate/error_bar.py`).
"""


def page(report: Report, picture: str) -> str:
    """Return the text of docs/calibration.md; `picture` is the name of the scatter plot's file."""
    parts = [
        _INTRODUCTION,
        f"**{summary(report)}**\n",
        f"![Modelled against measured times]({picture})\n",
    ]
    parts += [*_families(report), *_kinds(report)]
    parts += [*_points(report), *_counters(report), *_left_out()]
    return "\n".join(parts)


def _families(report: Report) -> Iterator[str]:
    yield "## Error by family\n"
    yield "| family | cases that count | fit | held out | ratios |"
    yield "|---|---|---|---|---|"
    for family in report.families:
        own = [row for row in report.rows if row.family == family]
        counted = [row for row in own if row.counts]
        ratios = [row.ratio for row in counted or own]
        yield (
            f"| {family} | {len({row.point.case for row in counted})} "
            f"| {_percent(report.error(family=family, half=False))} "
            f"| {_percent(report.error(family=family, half=True))} "
            f"| {_span(ratios)}{'' if counted else ' (no error)'} |"
        )
    yield (
        f"| **all** | {len({row.point.case for row in report.rows if row.counts})} "
        f"| **{_percent(report.error(half=False))}** | **{_percent(report.error(half=True))}** | |"
    )
    yield ""


def _span(ratios: list[float]) -> str:
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} – {high}"


def _kinds(report: Report) -> Iterator[str]:
    yield "## What a measured time includes\n"
    yield "| measured as | points | launch counted | what that is |"
    yield "|---|---|---|---|"
    for kind, (launch, words) in KINDS.items():
        count = sum(row.point.kind == kind for row in report.rows)
        yield f"| {kind} | {count} | {launch} | {words} |"
    yield ""


def _points(report: Report) -> Iterator[str]:
    yield "## Points\n"
    yield (
        "Times in µs. *Bound* is what the model says holds the kernel back. *Not in the error*: the"
        " measured time is an estimate, is of low confidence, or belongs to another program (its"
        " counters follow below)."
    )
    for word, reason in DOUBTS.items():
        yield f"*{word.capitalize()}*: {reason}."
    yield ""
    yield (
        "| point | origin | as | measured | modelled | ratio | half | bound | not in the error |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in report.rows:
        p = row.point
        yield (
            f"| {p.id} | {p.repository} `{p.commit[:7]}` | {p.kind} | {p.measured_us:,.1f} "
            f"| {row.modelled_us:,.1f} | {row.ratio:.2f} | {_half(row)} | {row.bound} "
            f"| {row.why_not} |"
        )
    yield ""


def _counters(report: Report) -> Iterator[str]:
    yield "## Bytes and instructions\n"
    yield (
        "Published counters beside ours, where there are any. Profiles also count loads of"
        " instructions and constants. Bold: too far apart for the same program.\n"
    )
    yield "| point | counter: published / ours |"
    yield "|---|---|"
    for row in report.rows:
        if row.compared:
            yield f"| {row.point.id} | {', '.join(_compared(one) for one in row.compared)} |"
    yield ""


def _compared(one: Comparison) -> str:
    text = f"{COUNTERS[one.counter]} {one.published:,} / {one.ours:,}"
    return text if one.near else f"**{text}**"


def _left_out() -> Iterator[str]:
    yield "## Published points that are not compared\n"
    yield "| points | reason |"
    yield "|---|---|"
    for reason, ids in left_out():
        shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        yield f"| {len(ids)}: {shown} | {reason} |"
    yield ""
