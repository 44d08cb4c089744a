"""`nkiconv bench`: the simulator's own speed, and suites of convolutions beside PyTorch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, TypeVar

import typer

from nkiconv.bench.errors import UserError
from nkiconv.bench.layer_commands import dtype_name
from nkiconv.bench.output import (
    check_writable,
    counter,
    say,
    say_table,
    say_tables,
    spinner,
    width_for,
    write_bytes,
    write_json,
)

if TYPE_CHECKING:
    from nkiconv.bench.suites.compare import Comparison
    from nkiconv.bench.suites.report import Report

__all__ = ["OWN_SUITES", "bench"]

OWN_SUITES = ("simulator", "speed", "scheduler", "micro")
"""About the simulator itself; speed is another name of simulator."""

_OF_SUITES = ("baseline", "tolerance", "markdown", "html")

R = TypeVar("R")

_WIDE = 110
_INTERRUPTED = 130


def bench(
    context: typer.Context,
    suite: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="classic, grouped, small, filters, scaling, layers or all, may be repeated; or"
            " simulator (the default, also speed), scheduler, micro."
        ),
    ] = None,
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Convolutions with this in suite or name.")
    ] = "",
    target: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="trn1 (also inf2), trn2 or trn3; may be repeated."),
    ] = None,
    dtype: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="bf16, f32 or f16; may be repeated. Default: bf16 and f32."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where our kernels run: simulator; or neuron, for the suite layers on a NeuronCore"
            " (docs/run-on-trn1.md)."
        ),
    ] = "simulator",
    repeat: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Repeats; medians are compared. Default: 5, on a device 100."),
    ] = None,
    baseline: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="JSON of an earlier run; exit code 1 if a row became worse."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, metavar="PERCENT", help="What still counts as no worse.")
    ] = 0.5,
    hotspots: Annotated[
        bool, typer.Option("--profile", help="Suite simulator: show what takes the time, instead.")
    ] = False,
    json: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", metavar="FILE", help="Write the same numbers as JSON."),
    ] = None,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write the tables as Markdown."),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write one page with plots, which loads nothing."),
    ] = None,
) -> None:
    """Run suites of convolutions: modelled on the device, and by PyTorch on this machine.

    A result that is wrong has no times, and makes the exit code 1. After Ctrl-C what is done is
    still written, marked as not complete.

    Without a suite, and with simulator, scheduler or micro, it is about the simulator itself: its
    own speed against NumPy and torch, that of the timing model from 1,000 to 1,000,000
    instructions, or modelled against published times of single instructions.
    """
    from nkiconv.bench.suites.works import ALL, SUITES

    names = suite or ["simulator"]
    for name in names:
        if name not in (*OWN_SUITES, *SUITES, ALL):
            there = ", ".join((*OWN_SUITES, *SUITES, ALL))
            raise UserError(f"no suite {name!r}; there are: {there}")
    for path in (json, markdown, html):
        if path is not None:
            check_writable(path)
    if device not in ("simulator", "neuron"):
        raise UserError(f"no device {device!r}; there are: simulator, neuron")
    if device == "neuron":
        if suite not in (None, ["layers"]):
            raise UserError("--device neuron runs the suite layers only")
        _refuse(context, _OF_SUITES, "--device neuron")
        _bench_device(only, target or [], dtype or [], repeat or 100, json)
        return
    repeat = repeat or 5
    own = [name for name in names if name in OWN_SUITES]
    if not own:
        if hotspots:
            raise UserError("--profile goes with the suite simulator only")
        _bench_suites(
            names,
            only=only,
            targets=target or [],
            dtypes=dtype or [],
            repeats=repeat,
            baseline=baseline,
            tolerance=tolerance / 100,
            json=json,
            markdown=markdown,
            html=html,
        )
        return
    _refuse(context, ("only", "target", "dtype", *_OF_SUITES), f"the suite {own[0]}")
    if len(names) > 1:
        raise UserError(f"the suite {own[0]} runs alone")
    if hotspots and own[0] not in ("simulator", "speed"):
        raise UserError("--profile goes with the suite simulator only")
    content = _own_suite(own[0], repeat, hotspots)
    if json is not None:
        write_json(json, content)


def _refuse(context: typer.Context, options: tuple[str, ...], what: str) -> None:
    """Refuse options that would be ignored."""
    for name in options:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise UserError(f"--{name} goes with suites of convolutions, not with {what}")


def _own_suite(suite: str, repeat: int, hotspots: bool) -> dict[str, object]:
    """Run a suite about the simulator, print it, and return it for JSON."""
    if suite in ("simulator", "speed"):
        return _profile_simulator(repeat) if hotspots else _time_simulator(repeat)
    if suite == "scheduler":
        from nkiconv.bench.model_tables import scaling_table
        from nkiconv.bench.scaling import measure_scaling

        with spinner("scheduling up to a million instructions"):
            scaling = measure_scaling()
        say_table(*scaling_table(scaling))
        return scaling.to_dict()
    from nkiconv.bench.micro import measure_micro
    from nkiconv.bench.model_tables import micro_table

    rows = measure_micro()
    say_table(*micro_table(rows))
    return {"rows": [row.to_dict() for row in rows]}


def _time_simulator(repeats: int) -> dict[str, object]:
    from nkiconv.bench.speed import measure_simulator
    from nkiconv.bench.tables import speed_tables

    with spinner("checking results, then timing them in turns"):
        report = measure_simulator(repeats)
    say_tables(speed_tables(report))
    return report.to_dict()


def _profile_simulator(repeats: int) -> dict[str, object]:
    from nkiconv.bench.hotspots import measure_hotspots
    from nkiconv.bench.tables import hotspots_table

    with spinner("running the simulator under a profiler"):
        report = measure_hotspots(repeats)
    say_table(*hotspots_table(report))
    return report.to_dict()


def _bench_suites(
    names: list[str],
    *,
    only: str,
    targets: list[str],
    dtypes: list[str],
    repeats: int,
    baseline: Path | None,
    tolerance: float,
    json: Path | None,
    markdown: Path | None,
    html: Path | None,
) -> None:
    """Run suites of convolutions and write what was asked for."""
    from nkiconv.bench.suites.compare import check_overlap, compare
    from nkiconv.bench.suites.measure import run_trials, trials_of
    from nkiconv.bench.suites.report import Report, environment, load
    from nkiconv.bench.suites.works import select_works
    from nkiconv.simulate import current_target, resolve_target

    on = [resolve_target(name, op="--target") for name in targets] or [current_target()]
    types = [dtype_name(name) for name in dtypes or ("bf16", "f32")]
    works = select_works(names, only)
    trials = trials_of(works, dict.fromkeys(on), dict.fromkeys(types))
    earlier = None
    if baseline is not None:
        earlier = load(baseline)
        check_overlap(earlier, trials)
    if html is not None:
        from nkiconv.bench.suites.page import check_installed

        check_installed()
    where = environment()
    with counter(len(trials), "convolutions") as announce:
        rows, complete = _until_stopped(run_trials(trials, repeats, announce))
    report = Report(where, tuple(rows), complete)
    found = None if earlier is None else compare(earlier, rows, tolerance)
    _show(report, found)
    if json is not None:
        content = report.to_dict()
        write_json(json, content if found is None else content | {"baseline": found.to_dict()})
    if markdown is not None:
        from nkiconv.bench.suites.tables import markdown_page

        write_bytes(markdown, markdown_page(report, found, _command()).encode())
    if html is not None:
        from nkiconv.bench.suites.page import html_page

        write_bytes(html, html_page(report, found, _command()).encode())
    if not complete:
        raise typer.Exit(_INTERRUPTED)
    raise typer.Exit(0 if report.passed and not (found and found.regressions) else 1)


def _bench_device(
    only: str, targets: list[str], dtypes: list[str], runs: int, json: Path | None
) -> None:
    """Time layers on a NeuronCore; a result that is wrong has no times."""
    from nkiconv.bench.device.run import report, require_device, run_on_device
    from nkiconv.bench.layers import select_layers
    from nkiconv.bench.suites.tables import device_table
    from nkiconv.simulate import current_target, resolve_target

    if len(targets) > 1:
        raise UserError("--device neuron takes one --target: that of the device")
    on = resolve_target(targets[0], op="--target") if targets else current_target()
    trials = select_layers([on], [dtype_name(name) for name in dtypes or ("bf16",)], only=only)
    require_device()
    with counter(len(trials), "layers") as announce:
        rows, complete = _until_stopped(run_on_device(trials, runs, announce))
    say_table(*device_table(rows), width=width_for(_WIDE))
    wrong = [row for row in rows if row.wrong]
    say("")
    for row in wrong:
        say(f"{row.layer} {row.dtype}: {row.wrong}")
    say(f"{len(rows)} layers, {len(rows) - len(wrong)} right, {len(wrong)} wrong")
    if json is not None:
        write_json(json, report(rows) | {"complete": complete})
    if not complete:
        raise typer.Exit(_INTERRUPTED)
    raise typer.Exit(1 if wrong else 0)


def _until_stopped(rows: Iterator[R]) -> tuple[list[R], bool]:
    """Return the rows, and whether all came: Ctrl-C ends them early."""
    done: list[R] = []
    try:
        for row in rows:
            done.append(row)
    except KeyboardInterrupt:
        return done, False
    return done, True


def _show(report: Report, found: Comparison | None) -> None:
    from nkiconv.bench.suites.tables import (
        comparison_table,
        environment_line,
        report_tables,
        verdicts,
    )

    width = width_for(_WIDE)
    say_tables(report_tables(report), width=width)
    if found is not None:
        table, _ = comparison_table(found)
        if table.row_count:
            say("")
            say_table(table, width=width)
    say("")
    say(f"host: {environment_line(report.environment)}")
    for line in verdicts(report, found):
        say(line)


def _command() -> str:
    """Return what was typed, as far as Python knows it."""
    import sys

    return shlex.join(["nkiconv", *sys.argv[1:]])
