"""A run as tables: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from nkiconv.bench.output import cell, new_table
from nkiconv.bench.suites.compare import Comparison, RowChange
from nkiconv.bench.suites.measure import BenchRow
from nkiconv.bench.suites.report import Environment, Report
from nkiconv.bench.tables import SHORT_BOUND, SHORT_DTYPE, Captioned

if TYPE_CHECKING:
    from nkiconv.bench.device.run import DeviceRow

__all__ = ["device_table", "environment_line", "markdown_page", "report_tables", "verdicts"]

_TIMES = ("GFLOP", "µs", "floor", "GFLOP/s", "GB/s", "MFU", "torch ms")
_COUNTERS = ("HBM MB", "SBUF KiB", "banks", "matmul", "other", "DMA", "columns")

_CAPTION = (
    "µs, GFLOP/s, GB/s, MFU, bound: modelled for the device, without launch; floor: the least time"
    " of these columns and bytes; MFU: useful FLOP over TensorE's documented peak; torch ms:"
    " measured on this machine, in the same element type. Modelled and measured times are of"
    " different machines: they stand side by side, and are no speed-up."
)
_COUNTER_CAPTION = (
    "SBUF KiB: peak per partition; banks: peak of PSUM's; other: instructions of the engines"
    " but matmuls; columns: moving columns of TensorE."
)


def environment_line(where: Environment) -> str:
    """Where the host's times were measured, in one line."""
    torch = (
        f"torch {where.torch}, {where.torch_threads} threads" if where.torch else "torch missing"
    )
    load = "" if where.load_average is None else f", load average {where.load_average:.1f}"
    return f"{where.machine}, {where.cpus} CPUs{load}; {torch}; Python {where.python}"


def _groups(rows: Iterable[BenchRow]) -> dict[tuple[str, str], list[BenchRow]]:
    """Rows by target and suite, in order of appearance."""
    groups: dict[tuple[str, str], list[BenchRow]] = {}
    for row in rows:
        groups.setdefault((row.target, row.suite), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))


def _times(row: BenchRow) -> tuple[str, ...]:
    m = row.modelled
    if m is None:
        return ("",) * (len(_TIMES) + 1)
    return (
        f"{row.flop / 1e9:.3g}",
        f"{m.body_us:,.1f}",
        f"{m.floor_us:,.1f}",
        _rate(m.gflop_per_s),
        _rate(m.gb_per_s),
        f"{m.mfu:.1%}" if m.mfu < 0.0995 else f"{m.mfu:.0%}",
        f"{row.host.median_s * 1e3:,.2f}" if row.host else "",
        SHORT_BOUND.get(m.bound, m.bound),
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def _counters(row: BenchRow) -> tuple[str, ...]:
    m = row.modelled
    if m is None:
        return ("",) * len(_COUNTERS)
    matmuls = sum(m.instructions.get(name, 0) for name in ("nc_matmul", "nc_matmul_mx"))
    others = sum(m.instructions.values()) - matmuls - m.dma_transfers
    return (
        f"{m.hbm_bytes / 1e6:.2f}",
        f"{m.sbuf_peak_bytes / 1024:.1f}",
        str(m.psum_peak_banks),
        f"{matmuls:,}",
        f"{others:,}",
        f"{m.dma_transfers:,}",
        f"{m.moving_columns:,}",
    )


def report_tables(report: Report) -> list[Captioned]:
    """Return for each suite and target the times and the counters."""
    made: list[Captioned] = []
    groups = _groups(report.rows)
    for (target, suite), rows in groups.items():
        heading = f"{suite}, {target}"
        table = new_table(heading, "type", *_TIMES, "bound", "", numbers=frozenset(_TIMES))
        for row in rows:
            table.add_row(
                cell(row.name),
                cell(SHORT_DTYPE[row.dtype]),
                *map(cell, _times(row)),
                cell("ok", "green") if not row.problem else cell("WRONG", "bold red"),
            )
        made.append((table, ""))
    made = [*made[:-1], (made[-1][0], _CAPTION)] if made else made
    for (target, suite), rows in groups.items():
        table = new_table(
            f"{suite}, {target}", "type", "algorithm", *_COUNTERS, numbers=frozenset(_COUNTERS)
        )
        for row in rows:
            table.add_row(
                cell(row.name),
                cell(SHORT_DTYPE[row.dtype]),
                cell(row.modelled.algorithm if row.modelled else ""),
                *map(cell, _counters(row)),
            )
        made.append((table, ""))
    return [*made[:-1], (made[-1][0], _COUNTER_CAPTION)] if made else made


def comparison_table(found: Comparison) -> Captioned:
    """One line per row whose modelled time or counts changed."""
    table = new_table(
        "changed", "type", "on", "before µs", "after µs", "change", "",
        numbers=frozenset(("before µs", "after µs", "change")),
    )  # fmt: skip
    for each in found.changes:
        if each.change == 0 and not each.counts:
            continue
        counts = "".join(f"\n  {name} {old:,} to {new:,}" for name, old, new in each.counts)
        worse = each.regressed(found.tolerance)
        table.add_row(
            cell(f"{each.suite}: {each.name}") + cell(counts),
            cell(SHORT_DTYPE[each.dtype]),
            cell(each.target),
            cell(f"{each.before_us:,.2f}"),
            cell("wrong" if each.after_us is None else f"{each.after_us:,.2f}"),
            cell(_percent(each)),
            cell("WORSE", "bold red")
            if worse
            else cell("better", "green")
            if each in found.improvements
            else cell(""),
        )
    return table, ""


def _percent(change: RowChange) -> str:
    return "" if change.change is None else f"{change.change:+.1%}"


def verdicts(report: Report, found: Comparison | None) -> Iterator[str]:
    """Yield what a reader has to know, a line each."""
    for row in report.rows:
        if row.problem:
            yield f"{row.suite}: {row.name} {row.dtype} {row.target}: {row.problem}"
    for why in dict.fromkeys(row.host_problem for row in report.rows if not row.problem):
        if why:
            count = sum(row.host_problem == why for row in report.rows)
            yield f"{count} rows have no time of PyTorch: {why}"
    load, cpus = report.environment.load_average, report.environment.cpus
    if load is not None and load > cpus and any(row.host for row in report.rows):
        yield (
            f"the machine was busy (load average {load:.1f}, {cpus} CPUs): PyTorch's times are too"
            " long"
        )
    wrong = sum(bool(row.problem) for row in report.rows)
    state = "" if report.complete else ", stopped before the end"
    yield f"{len(report.rows)} rows, {len(report.rows) - wrong} right, {wrong} wrong{state}"
    if found is not None:
        partial = "" if found.baseline_complete else " (stopped before its end)"
        yield (
            f"against the baseline of {found.baseline_made}{partial}: {len(found.regressions)} of"
            f" {len(found.changes)} rows are worse by more than {found.tolerance:.1%},"
            f" {len(found.improvements)} better; {found.new} new, {found.missing} not run"
        )


def device_table(rows: Sequence[DeviceRow]) -> Captioned:
    """One line per layer that ran on a device."""
    numbers = ("p50 µs", "p99 µs", "host p50", "host p99", "MFU", "model/meas.")
    table = new_table("layer", "type", "algorithm", *numbers, "", numbers=frozenset(numbers))
    for row in rows:
        ratio = row.modelled_over_measured
        cells = [""] * len(numbers)
        if not row.wrong:
            times = (row.device_p50_us, row.device_p99_us, row.host_p50_us, row.host_p99_us)
            cells = [f"{us:,.1f}" for us in times]
            cells += [f"{row.mfu:.1%}", "" if ratio is None else f"{ratio:.2f}"]
        table.add_row(
            cell(row.layer),
            cell(SHORT_DTYPE[row.dtype]),
            cell(row.algorithm),
            *map(cell, cells),
            cell("WRONG", "bold red") if row.wrong else cell("ok", "green"),
        )
    return table, (
        "Measured on the device, by the vendor's profiler, and from the host that calls it;"
        " model/meas.: modelled time, launch included, over p50."
    )


# --- Markdown -------------------------------------------------------------------------------------


def markdown_page(report: Report, found: Comparison | None, command: str) -> str:
    """Return the run as a page."""
    parts = [
        "# Benchmark",
        f"Made by `{command}`, {report.environment.made}.",
        f"Host: {environment_line(report.environment)}.",
        "\n".join(f"- {line}" for line in verdicts(report, found)),
        _CAPTION,
    ]
    for (target, suite), rows in _groups(report.rows).items():
        parts.append(f"## {suite}, {target}")
        headings = ("", "type", "algorithm", *_TIMES, "bound", *_COUNTERS, "result")
        left = frozenset(("", "type", "algorithm", "bound", "result"))
        lines = [
            f"| {' | '.join(headings)} |",
            "|" + "".join("---|" if each in left else "---:|" for each in headings),
        ]
        lines += [f"| {' | '.join(_markdown_cells(row))} |".replace("\n", " ") for row in rows]
        parts.append("\n".join(lines))
    parts.append(_COUNTER_CAPTION)
    if found is not None:
        parts += ["## Against the baseline", _markdown_changes(found)]
    return "\n\n".join(parts) + "\n"


def _markdown_cells(row: BenchRow) -> Sequence[str]:
    cells = (
        row.name,
        SHORT_DTYPE[row.dtype],
        row.modelled.algorithm if row.modelled else "",
        *_times(row),
        *_counters(row),
        row.problem or "ok",
    )
    return [text.replace("|", "\\|") for text in cells]


def _markdown_changes(found: Comparison) -> str:
    lines = [
        "| row | type | target | before µs | after µs | change | counts |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for each in found.changes:
        if each.change != 0 or each.counts:
            after = "wrong" if each.after_us is None else f"{each.after_us:,.2f}"
            counts = "; ".join(f"{name} {old:,} to {new:,}" for name, old, new in each.counts)
            lines.append(
                f"| {each.suite}: {each.name} | {SHORT_DTYPE[each.dtype]} | {each.target} |"
                f" {each.before_us:,.2f} | {after} | {_percent(each)} | {counts} |"
            )
    return "\n".join(lines) if len(lines) > 2 else "Nothing changed."
