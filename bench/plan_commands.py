"""`nkiconv plan` and `nkiconv tune`: what conv2d chooses, and whether another plan is quicker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer

from nkiconv.bench.errors import UserError
from nkiconv.bench.layer_commands import dtype_name
from nkiconv.bench.output import check_writable, counter, say, say_tables, write_json

__all__ = ["plan", "tune"]

Layers = Annotated[
    list[str],
    typer.Argument(
        metavar="LAYER...",
        help="Part of a name of `nkiconv layers`, or sizes: 3x3-s1-p1-c64-k128-56x56.",
    ),
]
Dtype = Annotated[str, typer.Option(help="bf16, f32 or f16.")]
Target = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="NeuronCore to model: trn1 (also inf2), trn2 or trn3."),
]
Algorithm = Annotated[str, typer.Option(help="Only this one's plans; auto: of all of them.")]
Json = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--json", metavar="FILE", help="Write the same, and whole plans, as JSON."),
]


def plan(
    layers: Layers,
    dtype: Dtype = "bf16",
    target: Target = None,
    algorithm: Algorithm = "auto",
    activation: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="As conv2d's argument."),
    ] = None,
    bias: Annotated[bool, typer.Option("--bias", help="With a bias.")] = False,
    profiled: Annotated[
        bool,
        typer.Option("--profile", help="Model every candidate's time beside its estimate."),
    ] = False,
    json: Json = None,
) -> None:
    """Print what conv2d chooses for a layer: the plan in whole numbers, the reason, the others."""
    from nkiconv.bench.plan_tables import plan_lines, plan_tables, rank_tables
    from nkiconv.bench.plans import chosen_plan, find_layer, modelled_us
    from nkiconv.kernels._activations import ACTIVATIONS
    from nkiconv.simulate import current_target, resolve_target

    if activation is not None and activation not in ACTIVATIONS:
        names = ", ".join(name for name in ACTIVATIONS if name)
        raise UserError(f"--activation {activation!r} is none of {names}")
    if json is not None:
        check_writable(json)
    on = current_target() if target is None else resolve_target(target, op="--target")
    _check_algorithm(algorithm)
    found = [find_layer(text) for text in layers]
    chosen = [
        chosen_plan(
            layer, dtype_name(dtype), on, algorithm=algorithm, bias=bias, activation=activation
        )
        for layer in found
    ]
    modelled: list[tuple[float, ...]] = [() for _ in chosen]
    if profiled:
        with counter(sum(len(each.choice.candidates) for each in chosen), "plans") as announce:
            modelled = [modelled_us(each, announce) for each in chosen]
    for position, (each, times) in enumerate(zip(chosen, modelled, strict=True)):
        if position:
            say("")
        for line in plan_lines(each):
            say(line)
        say("")
        say_tables(plan_tables(each))
        if times:
            say("")
            say_tables(rank_tables(each, times))
    if json is not None:
        plans = [each.to_dict(times) for each, times in zip(chosen, modelled, strict=True)]
        write_json(json, {"plans": plans})


def tune(
    layers: Layers,
    dtype: Dtype = "bf16",
    target: Target = None,
    algorithm: Algorithm = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Processes to run trials in.")] = 1,
    dask: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="ADDRESS", help="Run on this Dask scheduler instead; local: start one here."
        ),
    ] = None,
    cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Folder that keeps results; default: the user's cache."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep nothing.")] = False,
    json: Json = None,
) -> None:
    """Model the time of every plan of a layer, and say what the best one would gain.

    conv2d itself searches nothing: it takes the plan with the lowest estimate.
    """
    from nkiconv.bench.plan_tables import gain_line, tune_tables
    from nkiconv.bench.plans import find_layer
    from nkiconv.bench.tune import Store, default_folder, tune_trials
    from nkiconv.bench.tune import tune as search
    from nkiconv.simulate import current_target, resolve_target

    if json is not None:
        check_writable(json)
    if cache is not None and no_cache:
        raise UserError("--cache and --no-cache exclude each other")
    if dask is not None and jobs > 1:
        raise UserError("--dask and --jobs exclude each other")
    on = current_target() if target is None else resolve_target(target, op="--target")
    _check_algorithm(algorithm)
    full = dtype_name(dtype)
    problems = [tune_trials(find_layer(text), full, on, algorithm) for text in layers]
    store = Store(None if no_cache else cache or default_folder())
    with _executor(jobs, dask) as executor:
        total = sum(len(trials) for _, trials in problems)
        with counter(total, "plans") as announce:
            tuned = search(problems, store, executor, announce)
    say_tables([table for each in tuned for table in tune_tables(each)])
    say("")
    for each in tuned:
        say(gain_line(each))
    if store.replaced:
        say(f"{store.replaced} files of the cache could not be read and were replaced")
    if json is not None:
        write_json(json, {"layers": [each.to_dict() for each in tuned]})
    raise typer.Exit(0 if all(each.best_place is not None for each in tuned) else 1)


@contextmanager
def _executor(jobs: int, dask: str | None) -> Iterator[Executor | None]:
    """Yield where trials run; None for here."""
    if dask is not None:
        from nkiconv.bench.tune import dask_executor

        with dask_executor(dask) as executor:
            yield executor
    elif jobs > 1:
        with ProcessPoolExecutor(jobs) as executor:
            yield executor
    else:
        yield None


def _check_algorithm(name: str) -> None:
    from nkiconv.kernels._choice import ALGORITHMS

    if name != "auto" and name not in ALGORITHMS:
        raise UserError(f"--algorithm {name!r} is none of auto, {', '.join(ALGORITHMS)}")
