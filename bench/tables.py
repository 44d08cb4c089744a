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
    from nkiconv.bench.hotspots import HotspotReport
    from nkiconv.bench.speed import SpeedReport

__all__ = [
    "SHORT_BOUND",
    "SHORT_DTYPE",
    "check_table",
    "doctor_table",
    "findings_tables",
    "hotspots_table",
    "speed_tables",
]

SHORT_DTYPE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

SHORT_BOUND = {"DMA bandwidth": "DMA bw", "DMA latency": "DMA lat", "dependency": "deps"}

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
            cell(SHORT_DTYPE.get(row.dtype, row.dtype)),
            cell(_short(row.error_ratio)),
            cell("" if row.modelled_us is None else f"{row.modelled_us:.1f}"),
            cell("" if row.mfu is None else _percent(row.mfu)),
            cell(_short(row.hbm_ratio)),
            cell(SHORT_BOUND.get(row.bound, row.bound)),
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
    """Return the table of times, and the one of what was asked for."""
    times = new_table("timed", "median ms", "best ms", numbers=frozenset(("median ms", "best ms")))
    for name, seconds in report.median_s.items():
        best = report.best_s[name]
        times.add_row(cell(name), cell(f"{seconds * 1e3:.1f}"), cell(f"{best * 1e3:.1f}"))
    figures = new_table(
        "asked for", "median", "best", "asked", "",
        numbers=frozenset(("median", "best", "asked")),
    )  # fmt: skip
    for figure in report.figures:
        figures.add_row(
            cell(figure.name),
            cell(_short(figure.median) or "-"),
            cell(_short(figure.best) or "-"),
            cell("-" if figure.asked is None else f"≤ {figure.asked:g}"),
            cell(figure.note),
        )
    caption = (
        f"{report.machine}; {report.threads} threads, load average {report.load:.1f};"
        f" {report.repeats} repeats, in turns. conv2d: 1x256x56x56, 3x3, 256 out. matmul: square,"
        " in the blocks of the vendor's tutorial. Ratios are of wall-clock times, µs are CPU time,"
        " with a slice for each operand; all checks and the trace are on."
    )
    return [(times, ""), (figures, caption)]


def hotspots_table(report: HotspotReport) -> Captioned:
    """One line per function; what is not shown is in the last line."""
    table = new_table("own time of", *report.seconds, numbers=frozenset(report.seconds))
    rest = dict.fromkeys(report.seconds, 1.0)
    for hotspot in report.hotspots:
        table.add_row(
            cell(hotspot.where), *(cell(_percent(share)) for share in hotspot.shares.values())
        )
        for workload, share in hotspot.shares.items():
            rest[workload] -= share
    table.add_row(cell("all others"), *(cell(_percent(share)) for share in rest.values()))
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.seconds.items())
    return table, (
        f"Under cProfile: {times}. tiny: instructions of several kinds on 8x8 tiles."
        " matmul: 1024 x 1024 x 1024, float32. NumPy's work counts for the function that asked"
        " for it."
    )


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
