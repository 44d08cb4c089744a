"""`nkiconv layers`: the layers of real models through the kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from nkiconv.bench.errors import UserError
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

__all__ = ["dtype_name", "layers"]

_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_PAGE_COMMAND = "nkiconv layers --markdown docs/performance.md"


def layers(
    only: Annotated[str, typer.Option(metavar="TEXT", help="Layers with this in their name.")] = "",
    target: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="trn1 (also inf2), trn2 or trn3; may be repeated. Default: trn1, trn2."),
    ] = None,
    dtype: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="bf16, f32 or f16; may be repeated. Default: bf16, f32, and f16 where a time is"
            " asked for."
        ),
    ] = None,
    algorithm: Annotated[str, typer.Option(help="As conv2d's argument.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Only the smaller layers.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare each result with PyTorch's.")
    ] = True,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare with layers-kept.json; exit code 1 if it differs."),
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Keep the new numbers instead of the old ones.")
    ] = False,
    json: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", metavar="FILE", help="Write the same numbers as JSON."),
    ] = None,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Write the page docs/performance.md."),
    ] = None,
    readme: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Renew the table of layers in README.md."),
    ] = None,
) -> None:
    """Count and time the 2-D layers of real models, against what the hardware allows.

    Exit code 1 if a result is wrong, or differs from what is kept with --check. Figures that are
    missed are shown, and do not fail.
    """
    from nkiconv.bench import layers_kept as kept
    from nkiconv.bench.layer_tables import (
        WIDE,
        changes_table,
        in_readme,
        layer_page,
        layer_tables,
        summary,
    )
    from nkiconv.bench.layers import TARGETS, run_layers, select_layers
    from nkiconv.simulate import resolve_target

    targets = [resolve_target(name, op="--target") for name in target or TARGETS]
    dtypes = [dtype_name(name) for name in dtype or ()]
    _check_algorithm(algorithm)
    if algorithm != "auto" and (check or accept):
        raise UserError("--algorithm excludes --check and --accept: the kept numbers are of auto")
    chosen = only or target or dtype or quick or algorithm != "auto"
    for name, path in (("markdown", markdown), ("readme", readme)):
        if path is not None and chosen:
            raise UserError(f"--{name} excludes what selects layers: its table has every one")
    before = None if readme is None else _readme_text(readme)
    for path in (json, markdown):
        if path is not None:
            check_writable(path)
    trials = select_layers(list(dict.fromkeys(targets)), dtypes, only=only, quick=quick)
    with counter(len(trials), "layers") as announce:
        rows = list(run_layers(trials, announce, algorithm=algorithm, verify=verify))
    width = width_for(WIDE)
    say_tables(layer_tables(rows, width), width=width)
    say("")
    wrong = [row for row in rows if not row.passed]
    for row in wrong:
        say(f"{row.name} {row.target}: {row.problem}")
    say(summary(rows))
    if json is not None:
        write_json(json, {"rows": [row.to_dict() for row in rows]})
    if markdown is not None:
        from nkiconv.bench.findings import measure

        with spinner("simulating naive"):
            findings = measure(224, 128, "bfloat16")
        write_bytes(markdown, layer_page(rows, findings, _PAGE_COMMAND).encode())
    if readme is not None and before is not None:
        write_bytes(readme, in_readme(before, rows).encode())
    differs = False
    if check or accept:
        found, lost = kept.changes(rows), kept.gone()
        if found:
            say_table(*changes_table(found))
        for of_target, name in lost:
            say(f"kept, but no more there: {name} {of_target}")
        if accept:
            kept.accept(rows)
        say(f"{len(found)} numbers {'accepted' if accept else 'differ'}")
        differs = bool(found or lost) and not accept
    raise typer.Exit(1 if wrong or differs else 0)


def _readme_text(path: Path) -> str:
    """Return the README, refused before anything runs if it has no place for the table."""
    from nkiconv.bench.layer_tables import in_readme

    check_writable(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from error
    in_readme(text, [])
    return text


def dtype_name(name: str) -> str:
    """Return the full name of an element type."""
    full = _DTYPES.get(name, name)
    if full not in _DTYPES.values():
        raise UserError(f"--dtype {name!r} is none of {', '.join(_DTYPES)}")
    return full


def _check_algorithm(name: str) -> None:
    from nkiconv.kernels.conv2d import ALGORITHMS

    if name not in ALGORITHMS:
        raise UserError(f"--algorithm {name!r} is none of {', '.join(ALGORITHMS)}")
