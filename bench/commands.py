"""The commands of `nkiconv`: what they take, and the order of what they print.

Imports stand inside the commands, so that one that needs little starts at once.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nkiconv.bench import bench_commands, layer_commands, models, plan_commands
from nkiconv.bench.errors import UserError
from nkiconv.bench.output import (
    check_writable,
    counter,
    say,
    say_table,
    say_tables,
    spinner,
    write_bytes,
    write_json,
)

if TYPE_CHECKING:
    from nkiconv.bench.calibration.case import Case

app = typer.Typer(
    name="nkiconv",
    help="Convolution kernels for NeuronCores, checked and timed on a simulated one.",
    epilog="Times of kernels are modelled, not measured. No device is needed.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Dtype(str, Enum):
    """Element types of the kernels."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


# Optional and not "| None": typer reads these at run time, older releases on Python 3.10 as well
Target = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="NeuronCore to model: trn1 (also inf2), trn2 or trn3."),
]
Json = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--json", metavar="FILE", help="Write the same numbers as JSON."),
]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        say(f"nkiconv {_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise UserError("no command; `nkiconv --help` lists them")


def _version() -> str:
    try:
        return metadata.version("nkiconv")
    except metadata.PackageNotFoundError:  # run from its source
        return "of an unknown version"


@app.command()
def check(
    quick: Annotated[bool, typer.Option("--quick", help="Only the cases that are quick.")] = False,
    only: Annotated[str, typer.Option(metavar="TEXT", help="Cases with this in their name.")] = "",
    algorithm: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only this algorithm, as conv2d's argument."),
    ] = None,
    target: Target = None,
    json: Json = None,
) -> None:
    """Compare every kernel with its reference, through the simulator."""
    from nkiconv.bench.check import run_trials, select_trials
    from nkiconv.bench.tables import check_table
    from nkiconv.simulate import current_target, use_target

    if json is not None:
        check_writable(json)
    with use_target(target):
        trials = select_trials(quick=quick, only=only, algorithm=algorithm)
        with counter(len(trials), "checking") as announce:
            rows = list(run_trials(trials, announce))
        say_table(*check_table(rows, current_target()))
        if json is not None:
            write_json(json, {"target": current_target(), "rows": [row.to_dict() for row in rows]})
    for row in rows:
        if not row.passed:
            say(f"{row.case} {row.algorithm} {row.dtype}: {row.problem}: {row.message}")
    failed = sum(not row.passed for row in rows)
    say(f"{len(rows) - failed} passed, {failed} failed")
    raise typer.Exit(1 if failed else 0)


@app.command(name="filter")
def filter_(
    image: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="Image file; without one, matplotlib's sample photograph."),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            help="sobel, sharpen, gaussian, emboss, laplacian, box or identity.",
        ),
    ] = "sobel",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the picture goes.")
    ] = Path("filtered.png"),
    dtype: Annotated[Dtype, typer.Option(help="Element type on the NeuronCore.")] = Dtype.float32,
    target: Target = None,
    before_after: Annotated[
        bool, typer.Option("--before-after", help="Write original and result side by side.")
    ] = False,
) -> None:
    """Run an image through the NKI kernel and compare the picture with SciPy's.

    Filters act on each colour plane by itself, with zeros outside the picture; alpha stays as it
    is. sobel is the length of the gradient, laplacian the absolute response. Values outside the
    range of the image's samples saturate.
    """
    from nkiconv.bench.filters import find_filter
    from nkiconv.bench.images import (
        image_format,
        load_picture,
        render,
        save_picture,
        side_by_side,
    )
    from nkiconv.bench.photograph import photograph_path
    from nkiconv.simulate import current_target, use_target

    chosen = find_filter(name)
    image_format(output)
    check_writable(output)
    source = photograph_path() if image is None else image
    picture = load_picture(source)
    if output.exists() and output.samefile(source):
        raise UserError(f"the output {str(output)!r} is the input image; choose another -o")
    from nkiconv.bench.filter_picture import apply_filter
    from nkiconv.reference._dtypes import DTYPES

    with use_target(target), spinner(f"{name} on {source.name}"):
        done = apply_filter(picture, chosen, DTYPES[dtype.value])
        target_name = current_target()
    height, width = picture.planes.shape[1:]
    seen = done.profile
    say(f"image     {source.name}: {width} x {height} {picture.kind}")
    say(f"filter    {name}: {chosen.summary}; {dtype.value}")
    say(f"error     {done.error_ratio:.2f} of its allowance, against SciPy in float64")
    say(f"picture   {done.samples_off} of {done.num_samples} samples differ from SciPy's")
    say(
        f"modelled  {seen.latency_us:.1f} µs on {target_name}, launch included;"
        f" bound by {seen.bound}"
    )
    if not done.passed:
        say("FAILED    the error is larger than allowed; nothing is written")
        raise typer.Exit(1)
    if before_after:
        shown = side_by_side(picture, done.picture, ("original", f"{name}, by the NKI kernel"))
    else:
        shown = render(done.picture)
    save_picture(output, shown)
    say(f"written   {output}")


@app.command()
def findings(
    size: Annotated[int, typer.Option(min=3, help="Height and width of the image.")] = 224,
    channels: Annotated[int, typer.Option(min=1, help="Channels, in and out.")] = 128,
    dtype: Annotated[Dtype, typer.Option(help="Element type.")] = Dtype.bfloat16,
    target: Target = None,
    json: Json = None,
) -> None:
    """Count the six faults of an early conv2d kernel, in `naive` and in `direct`.

    One image, 3x3 taps, padding 1. Exit code 1 if `direct` misses a standard.
    """
    from nkiconv.bench.findings import measure
    from nkiconv.bench.tables import findings_tables
    from nkiconv.simulate import use_target

    if json is not None:
        check_writable(json)
    with use_target(target), spinner("simulating naive and direct, naive takes longer"):
        report = measure(size, channels, dtype.value)
    say_tables(findings_tables(report))
    if json is not None:
        write_json(json, report.to_dict())
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def profile(
    context: typer.Context,
    case: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="ID", help="A case of `nkiconv check`, instead of sizes."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Images.")] = 1,
    c_in: Annotated[int, typer.Option("--c-in", help="Input channels.")] = 64,
    h: Annotated[int, typer.Option("--h", help="Image height.")] = 56,
    w: Annotated[int, typer.Option("--w", help="Image width.")] = 56,
    c_out: Annotated[int, typer.Option("--c-out", help="Output channels.")] = 64,
    kernel: Annotated[int, typer.Option(help="Kernel height and width.")] = 3,
    stride: Annotated[int, typer.Option(help="Both ways.")] = 1,
    padding: Annotated[int, typer.Option(help="On all sides.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="Element type.")] = Dtype.float32,
    algorithm: Annotated[str, typer.Option(help="As conv2d's argument.")] = "auto",
    target: Target = None,
    trace: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write the timeline for chrome://tracing or Perfetto."),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write the timeline as one HTML page."),
    ] = None,
    json: Json = None,
) -> None:
    """Show the modelled timeline of one conv2d on made data, as numbers."""
    from nkiconv.bench.profiling import custom_case, find_case, profile_case
    from nkiconv.simulate import use_target

    for path in (trace, html, json):
        if path is not None:
            check_writable(path)
    if case is not None:
        _refuse_sizes(context)
        problem = find_case(case)
    else:
        problem = custom_case(
            N=n, C_in=c_in, H=h, W=w, C_out=c_out, K=kernel, stride=stride, padding=padding
        )
    with use_target(target), spinner(problem.id):
        seen = profile_case(problem, dtype.value, algorithm)
    say(f"conv2d {problem.id}, {dtype.value}, algorithm {algorithm}")
    say(seen.table())
    if trace is not None:
        seen.save_trace(trace)
    if html is not None:
        seen.save_html(html)
    if json is not None:
        write_json(json, {"case": problem.id, "dtype": dtype.value} | seen.to_dict())


def _refuse_sizes(context: typer.Context) -> None:
    """Refuse sizes beside --case, which has its own: they would be ignored."""
    for name in ("n", "c_in", "h", "w", "c_out", "kernel", "stride", "padding"):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise UserError(f"--{name.replace('_', '-')} and --case exclude each other")


app.command()(bench_commands.bench)


@app.command()
def facts(target: Target = None, json: Json = None) -> None:
    """Print every number about the chips that the model rests on, assumed ones first."""
    from nkiconv.bench.facts import fact_dict, facts_of
    from nkiconv.bench.model_tables import facts_table

    if json is not None:
        check_writable(json)
    chosen = facts_of(target)
    say_table(*facts_table(chosen))
    if json is not None:
        write_json(json, {"facts": [fact_dict(fact) for fact in chosen]})


@app.command()
def times(
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only cases with this in their name.")
    ] = "",
    accept: Annotated[
        bool, typer.Option("--accept", help="Keep the new times instead of the old ones.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only the cases that are quick.")] = False,
) -> None:
    """Compare the modelled times of the standard cases with those kept in times.json.

    Exit code 1 if one differs and is not accepted.
    """
    from nkiconv.bench import times as kept
    from nkiconv.bench.model_tables import times_table
    from nkiconv.simulate.hardware import TARGETS

    trials = kept.standard_trials(text, quick=quick)
    if not trials:
        raise UserError(f"no case has {text!r} in its name")
    with counter(len(trials) * len(TARGETS), "modelling") as announce:
        found = kept.changes(trials, TARGETS, announce) + kept.gone(text)
    if found:
        say_table(*times_table(found))
    if accept:
        kept.accept(found)
    say(f"{len(trials) * len(TARGETS)} times, {len(found)} {'accepted' if accept else 'differ'}")
    raise typer.Exit(1 if found and not accept else 0)


app.command()(layer_commands.layers)
app.command()(models.model)
app.command()(plan_commands.plan)
app.command()(plan_commands.tune)


@app.command()
def explain(
    code: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Code at the end of an error's message; without one, all are listed."),
    ] = None,
) -> None:
    """Say more about a rule that the simulator checks: why, limits, cure, source."""
    from nkiconv.bench import explain as explaining

    for line in explaining.list_codes() if code is None else explaining.explain(code.strip("[]")):
        say(line)


@app.command()
def tables(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a page is stale.")
    ] = False,
    root: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Checkout of nkiconv, with docs and tests.")
    ] = Path(),
) -> None:
    """Write docs/coverage.md and docs/strictness.md, which are made from the code."""
    from nkiconv.bench import generated

    found = generated.stale(root) if check else generated.write(root)
    for path in found:
        say(f"{'stale' if check else 'written'}: {path}")
    if not found:
        say("coverage.md and strictness.md are up to date")
    raise typer.Exit(1 if check and found else 0)


@app.command()
def compat(
    sources: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder that holds the checkouts.")
    ],
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Cases with this in name, source, path or kernel.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=1, help="Time limit of a case.")] = 120.0,
    jobs: Annotated[int, typer.Option(min=1, help="Cases that run at the same time.")] = 1,
    json: Json = None,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write the page docs/compatibility.md."),
    ] = None,
) -> None:
    """Run kernels that others wrote, from checkouts of the vendor's repositories.

    Exit code 1 if a result is wrong, or a kernel is refused for no reason that is known.
    """
    from nkiconv.bench.compat import report
    from nkiconv.bench.compat.cases import select_cases
    from nkiconv.bench.compat.sources import check_sources
    from nkiconv.bench.compat.trial import run_all

    if only and markdown is not None:
        raise UserError("--only and --markdown exclude each other: the page counts every case")
    cases = select_cases(only)
    for path in (json, markdown):
        if path is not None:
            check_writable(path)
    check_sources(sources, {case.source for case in cases})
    with counter(len(cases), "kernels") as announce:
        results = list(run_all(cases, sources, announce, seconds=seconds, jobs=jobs))
    say_tables([report.table(results)])
    say("")
    for line in report.surprises(results):
        say(line)
    done = [outcome for _, outcome in results]
    right, wrong = (sum(outcome.right is value for outcome in done) for value in (True, False))
    say(f"{sum(o.runs for o in done)} of {len(done)} run: {right} are right, {wrong} are wrong")
    if json is not None:
        write_json(json, report.to_dict(results, sources))
    if markdown is not None:
        write_bytes(markdown, report.page(results, sources).encode())
    raise typer.Exit(1 if report.surprises(results) else 0)


@app.command()
def ladder(
    json: Json = None,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.md", help="Write docs/kernels/conv2d.md and its pictures."),
    ] = None,
) -> None:
    """Show how a naive conv2d becomes a fast one, a fault at a time."""
    from nkiconv.bench.ladder.measure import LADDER, measure_ladder
    from nkiconv.bench.ladder.page import table, write
    from nkiconv.bench.ladder.small import SMALL, measure_small

    for path in (json, markdown):
        if path is not None:
            check_writable(path)
    with counter(len(LADDER), "steps") as announce:
        steps = measure_ladder(announce)
    say_table(*table(steps))
    if json is not None:
        write_json(json, {"steps": [step.to_dict() for step in steps]})
    if markdown is not None:
        with counter(2 * len(SMALL), "small images") as announce:
            small = list(measure_small(announce))
        for path in write(markdown, steps, small):
            say(f"wrote {path}")


@app.command()
def attempts(
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="With this in kernel, layer or what was tried.")
    ] = "",
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.md", help="Write docs/kernels/attempts.md."),
    ] = None,
) -> None:
    """Show what was tried to make the kernels faster, with today's times."""
    from nkiconv.bench.attempts import attempts_page, attempts_table, known_attempts, refresh

    if only and markdown is not None:
        raise UserError("--markdown excludes --only: the page has every attempt")
    if markdown is not None:
        check_writable(markdown)
    chosen = known_attempts(only)
    layers = {(a.layer, a.dtype, a.target) for a in chosen}
    with counter(len(layers), "layers") as announce:
        rows = list(refresh(chosen, announce))
    say_table(*attempts_table(rows))
    if markdown is not None:
        write_bytes(markdown, attempts_page(rows).encode())
        say(f"wrote {markdown}")


def _compare_measured(path: Path) -> None:
    """Print measured beside modelled times of a device's report."""
    from nkiconv.bench.device.measured import compare, comparison_table, read_measured

    rows = read_measured(path)
    with counter(len(rows), "layers") as announce:
        compared = list(compare(rows, announce))
    say_table(*comparison_table(compared))


@app.command()
def calibrate(
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Points with this in name, family or origin.")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the kernels that are quick.")
    ] = False,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit", help="Fit the assumed facts to the half that is not held out; changes nothing."
        ),
    ] = False,
    json: Json = None,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE.md",
            help="Write docs/calibration.md, .svg beside it, and keep the error bars of profiles.",
        ),
    ] = None,
    measured: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Instead: times of `bench --device neuron`, as JSON."),
    ] = None,
) -> None:
    """Compare modelled times with those that others measured on hardware.

    Rebuilds of published kernels run at their published sizes.
    """
    if measured is not None:
        _compare_measured(measured)
        return
    from nkiconv.bench.calibration.measure import choose, measure
    from nkiconv.bench.calibration.page import page, summary, tables
    from nkiconv.bench.calibration.scatter import scatter
    from nkiconv.simulate import error_bar

    if (only or quick or fit) and markdown is not None:
        raise UserError(
            "--markdown excludes --only, --quick and --fit: the page counts every point, with the "
            "facts as they are"
        )
    for path in (json, markdown):
        if path is not None:
            check_writable(path)
    chosen = choose(only, quick=quick)
    if fit:
        _fit(chosen, json)
        return
    with counter(len(chosen), "kernels") as announce:
        report = measure(chosen, announce)
    say_tables(tables(report))
    say("")
    say(summary(report))
    if json is not None:
        write_json(json, report.to_dict())
    if markdown is not None:
        picture = markdown.with_suffix(".svg")
        write_bytes(markdown, page(report, picture.name).encode())
        write_bytes(picture, scatter(report).encode())
        kept = {target: asdict(region) for target, region in sorted(report.regions().items())}
        write_json(error_bar.FILE, kept)


def _fit(chosen: tuple[Case, ...], json: Path | None) -> None:
    """Print what `fit` finds, and write it."""
    from nkiconv.bench.calibration.fit import fit as find
    from nkiconv.bench.calibration.page import fit_tables

    with counter(0, "runs") as announce:
        found = find(chosen, announce)
    say_tables(fit_tables(found))
    if json is not None:
        write_json(json, found.to_dict())


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is installed, which NKI is in use, and what is missing."""
    import json

    from nkiconv.bench.doctor import as_dict, examine
    from nkiconv.bench.tables import doctor_table

    lines, usable = examine()
    if as_json:
        print(json.dumps(as_dict(lines, usable), indent=2))
        raise typer.Exit(0 if usable else 1)
    say_table(doctor_table(lines))
    say("nkiconv is usable here." if usable else "nkiconv is not usable here: see above.")
    raise typer.Exit(0 if usable else 1)
