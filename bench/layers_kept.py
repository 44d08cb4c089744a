"""Counts and modelled times of the layers, kept in a file: the same on every machine.

    layers-kept.json    {target: {"layer dtype": {algorithm, counts, picoseconds without launch}}}

A change of a kernel or of the model shows here, layer by layer, and is accepted on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from nkiconv.bench.layers import TARGETS, LayerRow, empty_row, select_layers, with_columns
from nkiconv.bench.output import write_bytes

__all__ = ["FILE", "KeptChange", "accept", "changes", "gone", "kept_rows"]

FILE = Path(__file__).with_name("layers-kept.json")

_KEPT = (
    "algorithm",
    "columns",
    "hbm_bytes",
    "matmuls",
    "transposes",
    "transfers",
    "copies",
    "static_instructions",
    "body_ps",
)

Kept = dict[str, dict[str, dict[str, int | str]]]


@dataclass(frozen=True)
class KeptChange:
    """One number that is not the one kept; None where there is none."""

    target: str
    name: str
    what: str
    kept: int | str | None
    found: int | str | None


def _read() -> Kept:
    kept: Kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    return kept


def _values(row: LayerRow) -> dict[str, int | str]:
    return {what: getattr(row, what) for what in _KEPT}


def _standard() -> set[tuple[str, str]]:
    """Return target and name of the rows that are kept: those of a run without options."""
    return {(t.target, f"{t.layer.name} {t.dtype}") for t in select_layers(TARGETS, ())}


def _kept_rows(rows: Iterable[LayerRow]) -> list[LayerRow]:
    standard = _standard()
    return [row for row in rows if row.passed and (row.target, row.name) in standard]


def changes(rows: Iterable[LayerRow]) -> list[KeptChange]:
    """Return the numbers of rows with results that differ from the file's."""
    kept = _read()
    found = []
    for row in _kept_rows(rows):
        before = kept.get(row.target, {}).get(row.name, {})
        for what, value in _values(row).items():
            if before.get(what) != value:
                found.append(KeptChange(row.target, row.name, what, before.get(what), value))
    return found


def gone() -> list[tuple[str, str]]:
    """Return target and name of what the file holds of rows that there are no more."""
    standard = _standard()
    return [
        (target, name)
        for target, of in _read().items()
        for name in of
        if (target, name) not in standard
    ]


def kept_rows() -> list[LayerRow]:
    """Return the rows that the file holds, in the order of a run without options.

    What holds them back is not kept, and is empty.
    """
    kept = _read()
    found = []
    for trial in select_layers(TARGETS, ()):
        row = empty_row(trial)
        values = kept.get(row.target, {}).get(row.name)
        if values is not None:
            row = with_columns(replace(row, exact=True, **values))  # type: ignore[arg-type]  # as written
            found.append(row)
    return found


def accept(rows: Iterable[LayerRow]) -> None:
    """Write rows with results to the file, and drop what is gone."""
    kept = _read()
    for target, name in gone():
        del kept[target][name]
    for row in _kept_rows(rows):
        kept.setdefault(row.target, {})[row.name] = _values(row)
    write_bytes(FILE, _text(kept).encode())


def _text(kept: Kept) -> str:
    """Return JSON with one row a line, so that a change is one line of a diff."""
    targets = []
    for target in sorted(kept):
        rows = [
            f"  {json.dumps(name)}: {json.dumps(kept[target][name])}"
            for name in sorted(kept[target])
        ]
        targets.append(f" {json.dumps(target)}: {{\n" + ",\n".join(rows) + "\n }")
    return "{\n" + ",\n".join(targets) + "\n}\n"
