"""Results of the commands as tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from rich.table import Table

from nkiconv.bench.output import cell, new_table

if TYPE_CHECKING:
    from nkiconv.bench.check import Row
    from nkiconv.bench.doctor import Line
    from nkiconv.bench.findings import Findings
    from nkiconv.bench.speed import SpeedReport

__all__ = ["check_table", "doctor_table", "findings_tables", "speed_tables"]

_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

_BOUND = {"DMA bandwidth": "DMA bw", "DMA latency": "DMA lat", "dependency": "deps"}

_CHECK_CAPTION = (
    "err: largest error / its allowance, passes up to 1. µs: modelled latency on {}, launch"
    " included. MFU: share of TensorE's peak. HBM: bytes moved / bytes of x, w, bias and y once."
    " bound: what held it back (DMA bw: bandwidth, DMA iss: issuing transfers, deps: waiting for"
    " each other)."
)

Captioned: TypeAlias = tuple[Table, str]


def check_table(rows: Sequence[Row], target: str) -> Captioned:
    """One line per row of `nkiconv check`; a cell is empty where no number was reached."""
    table = new_table(
        "case", "algo", "type", "err", "µs", "MFU", "HBM", "bound", "",
        numbers=frozenset(("err", "µs", "MFU", "HBM")),
    )  # fmt: skip
    for row in rows:
        # the class of an error stands below the case: a column for it would take every row's width
        raised = "" if row.problem == "FAIL" else row.problem
        table.add_row(
            cell(row.case) + (cell(f"\n  {raised}", "bold red") if raised else ""),
            cell(row.algorithm),
            cell(_SHORT.get(row.dtype, row.dtype)),
            cell(_short(row.error_ratio)),
            cell("" if row.modelled_us is None else f"{row.modelled_us:.1f}"),
            cell("" if row.mfu is None else _percent(row.mfu)),
            cell(_short(row.hbm_ratio)),
            cell(_BOUND.get(row.bound, row.bound)),
            cell("ok", "green") if row.passed else cell("FAIL", "bold red"),
        )
    return table, _CHECK_CAPTION.format(target)


def _short(value: float | None) -> str:
    """Return three digits or so, in four characters if the value is below 10000."""
    if value is None:
        return ""
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 9999.5 else f"{value:.0e}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"


def findings_tables(report: Findings) -> list[Captioned]:
    """Return the table of standards, and the one of what they amount to."""
    standards = new_table(
        "counted", "naive", "direct", "standard", "meets",
        numbers=frozenset(("naive", "direct", "standard")),
    )  # fmt: skip
    for row in report.rows:
        standards.add_row(
            cell(row.counted),
            cell(f"{row.naive:,.2f}"),
            cell(f"{row.direct:,.2f}"),
            cell(row.standard),
            cell("yes", "green") if row.meets else cell("NO", "bold red"),
        )
    outcome = new_table(
        "", "naive", "direct", "ratio", numbers=frozenset(("naive", "direct", "ratio"))
    )
    outcome.add_row(
        cell("modelled µs, launch included"),
        cell(f"{report.naive_us:,.1f}"),
        cell(f"{report.direct_us:,.1f}"),
        cell(f"{report.naive_us / report.direct_us:,.0f}"),
    )
    outcome.add_row(
        cell("uses of each loaded input position"),
        cell(f"{report.naive_uses:,.3f}"),
        cell(f"{report.direct_uses:,.3f}"),
        cell(f"{report.direct_uses / report.naive_uses:,.0f}"),
    )
    caption = (
        f"{report.size}x{report.size} image, 3x3 taps, {report.channels} to {report.channels}"
        f" channels, {report.dtype}, modelled for {report.target}."
        " Both results are within their allowance of the float64 reference."
    )
    return [(standards, ""), (outcome, caption)]


def speed_tables(report: SpeedReport) -> list[Captioned]:
    """Return the table of medians, and the one of ratios."""
    medians = new_table(
        "one conv2d, 1x256x56x56, 3x3, 256 out",
        "median ms",
        "best ms",
        numbers=frozenset(("median ms", "best ms")),
    )
    for name, seconds in report.median_s.items():
        best = report.best_s[name]
        medians.add_row(cell(name), cell(f"{seconds * 1e3:.1f}"), cell(f"{best * 1e3:.1f}"))
    ratios = new_table(
        "ratio of medians", "found", "asked", "",
        numbers=frozenset(("found", "asked")),
    )  # fmt: skip
    for ratio in report.ratios:
        found = "-" if ratio.found is None else f"{ratio.found:.2f}"
        ratios.add_row(cell(ratio.name), cell(found), cell(f"≤ {ratio.asked:g}"), cell(ratio.note))
    caption = (
        f"{report.machine}; {report.threads} threads, load average {report.load:.1f}; medians of"
        f" {report.repeats}, in turns. An instruction on a tiny tile costs"
        f" {report.instruction_us:.1f} µs (measured, mean of {report.instructions})."
    )
    return [(medians, ""), (ratios, caption)]


def doctor_table(lines: Sequence[Line]) -> Table:
    """One entry per finding; long hints continue below it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        style = {"ok": "green", "info": "yellow"}.get(line.status, "bold red")
        value = cell(line.value, style)
        table.add_row(cell(line.topic), value + cell(f"; {line.hint}") if line.hint else value)
    return table
