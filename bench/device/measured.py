"""Times that `nkiconv bench --device neuron` measured, beside what the model says today."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from nkiconv.bench.device.run import SCHEMA
from nkiconv.bench.errors import UserError
from nkiconv.bench.layers import profile_layer
from nkiconv.bench.output import cell, new_table
from nkiconv.bench.plans import find_layer
from nkiconv.simulate import resolve_target

__all__ = ["Comparison", "Measured", "compare", "comparison_table", "read_measured"]


@dataclass(frozen=True)
class Measured:
    """A layer's median time on a device, in microseconds, the launch included."""

    layer: str
    dtype: str
    target: str
    device_p50_us: float


@dataclass(frozen=True)
class Comparison:
    """A measured time, and the modelled one, the launch included."""

    measured: Measured
    modelled_us: float

    @property
    def ratio(self) -> float:
        """Modelled over measured."""
        return self.modelled_us / self.measured.device_p50_us


def read_measured(path: Path) -> list[Measured]:
    """Return the timed rows of a report.

    Raises
    ------
    UserError
        The file cannot be read, is no such report, or has no row with a time.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--measured: cannot read {path}: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise UserError(f"--measured: {path} has schema {found!r}; it must be {SCHEMA!r}")
    try:
        rows = [
            Measured(row["layer"], row["dtype"], row["target"], float(row["device_p50_us"]))
            for row in data["rows"]
            if not row["wrong"] and row["device_p50_us"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"--measured: {path} has a row that is not complete: {error!r}") from None
    if not rows:
        raise UserError(f"--measured: {path} has no row with a time")
    return rows


def compare(rows: Iterable[Measured], announce: Callable[[str], None]) -> Iterator[Comparison]:
    """Model each layer with today's kernels and facts."""
    for row in rows:
        announce(f"{row.layer} {row.dtype} {row.target}")
        target = resolve_target(row.target, op="--measured")
        _, seen = profile_layer(find_layer(row.layer), row.dtype, target)
        yield Comparison(row, seen.latency_us)


def comparison_table(rows: list[Comparison]) -> tuple[Table, str]:
    """Return one row for each layer, and the mean error."""
    made = new_table(
        "layer", "type", "target", "measured", "modelled", "ratio",
        numbers=frozenset(("measured", "modelled", "ratio")),
    )  # fmt: skip
    for row in rows:
        m = row.measured
        texts = (m.layer, m.dtype, m.target, f"{m.device_p50_us:,.1f}", f"{row.modelled_us:,.1f}")
        made.add_row(*map(cell, (*texts, f"{row.ratio:.2f}")))
    error = sum(abs(row.ratio - 1) for row in rows) / len(rows)
    return made, (
        f"µs, launch included: measured by whoever wrote the file, modelled by us. Mean error "
        f"{error:.1%} over {len(rows)} layers."
    )
