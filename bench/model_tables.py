"""Tables about the timing model itself: its facts, its growth, and how it meets measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nkiconv.bench.output import cell, new_table
from nkiconv.bench.tables import Captioned

if TYPE_CHECKING:
    from nkiconv.bench.micro import MicroRow
    from nkiconv.bench.scaling import ScalingReport
    from nkiconv.bench.times import Change
    from nkiconv.simulate.hardware import Fact

__all__ = ["facts_table", "micro_table", "scaling_table", "times_table"]

_STYLE = {"assumed": "bold yellow", "measured": "cyan", "documented": ""}


def facts_table(facts: Sequence[Fact]) -> Captioned:
    """One line per fact, its source below."""
    table = new_table("fact", "value", "on", "status", numbers=frozenset(("value",)))
    for fact in facts:
        status = fact.status.value
        table.add_row(
            cell(fact.name) + cell(f"\n  {fact.source}"),
            cell(f"{fact.value:,g} {fact.unit}"),
            cell(fact.target),
            cell(status, _STYLE[status]),
        )
    assumed = sum(fact.status.value == "assumed" for fact in facts)
    return table, (
        f"{len(facts)} facts, {assumed} of them assumed: a guess that a measurement should replace."
        " trn1 is also inf2."
    )


def micro_table(rows: Sequence[MicroRow]) -> Captioned:
    """One line per published measurement; those that the model misses say why."""
    table = new_table(
        "measurement", "on", "published ns", "modelled", "", numbers=frozenset(
            ("published ns", "modelled")
        ),
    )  # fmt: skip
    for row in rows:
        span = _number(row.low_ns)
        if row.high_ns != row.low_ns:
            span += f" to {_number(row.high_ns)}"
        error = "" if row.error is None else f"{row.error:+.0%}"
        table.add_row(
            cell(row.id) + (cell(f"\n  {row.why}") if row.why else ""),
            cell(row.target),
            cell(span),
            cell("" if row.modelled_ns is None else _number(row.modelled_ns)),
            cell("ok", "green") if row.within else cell(error or "none", "yellow"),
        )
    within = sum(row.within for row in rows)
    none = sum(row.modelled_ns is None for row in rows)
    return table, (
        f"{within} of {len(rows)} published measurements are met within 5%, {none} are of what the"
        " model has no number for. Sources: microbench.json."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def scaling_table(report: ScalingReport) -> Captioned:
    """One line per size."""
    from nkiconv.bench.scaling import ASKED_INSTRUCTIONS, ASKED_S

    table = new_table(
        "instructions", "seconds", "µs each", "record MB", "scheduling MB", numbers=frozenset(
            ("instructions", "seconds", "µs each", "record MB", "scheduling MB")
        ),
    )  # fmt: skip
    for row in report.rows:
        table.add_row(
            cell(f"{row.instructions:,}"),
            cell(f"{row.seconds:.3f}"),
            cell(f"{row.each_us:.1f}"),
            cell(f"{row.trace_bytes / 1e6:.1f}"),
            cell("" if row.schedule_bytes is None else f"{row.schedule_bytes / 1e6:.1f}"),
        )
    return table, (
        f"{report.machine}. Asked for: {ASKED_INSTRUCTIONS:,} instructions within {ASKED_S:g} s,"
        " memory in proportion. The record is made by running the kernel; scheduling needs its"
        " memory beside that."
    )


def times_table(changes: Sequence[Change]) -> Captioned:
    """One line per time that is not the one kept."""
    table = new_table("case", "on", "kept µs", "now µs", "", numbers=frozenset(
        ("kept µs", "now µs")
    ))  # fmt: skip
    for change in changes:
        kept, now = change.kept_ps, change.found_ps
        table.add_row(
            cell(change.name),
            cell(change.target),
            cell("" if kept is None else f"{kept / 1e6:.3f}"),
            cell("" if now is None else f"{now / 1e6:.3f}"),
            cell(f"{now / kept - 1:+.1%}" if kept and now else "new" if now else "gone"),
        )
    return table, "Modelled, of the kernel's own instructions: launch comes on top."
