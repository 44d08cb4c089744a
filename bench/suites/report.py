"""A run of `nkiconv bench` as JSON: what is written, and how an earlier one is read.

schema.json beside this file describes the form.  `version` grows when a reader of the old form
would misread the new one.
"""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np

from nkiconv.bench.errors import UserError
from nkiconv.bench.speed import machine
from nkiconv.bench.suites.measure import BenchRow, Host, Modelled

__all__ = ["SCHEMA", "VERSION", "Environment", "Report", "environment", "load"]

SCHEMA = "nkiconv-bench"
VERSION = 1


@dataclass(frozen=True)
class Environment:
    """Where and with what a run was made; `load_average` above `cpus`: host times are too long."""

    made: str
    machine: str
    cpus: int
    load_average: float | None
    python: str
    numpy: str
    torch: str | None
    torch_threads: int | None
    nkiconv: str


def environment() -> Environment:
    """Return what is true here and now."""
    torch_version, threads = None, None
    try:
        import torch
    except ImportError:
        pass
    else:
        torch_version, threads = str(torch.__version__), int(torch.get_num_threads())
    try:
        ours = metadata.version("nkiconv")
    except metadata.PackageNotFoundError:  # run from its source
        ours = "unknown"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    return Environment(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine(),
        cpus=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        load_average=round(load, 2) if math.isfinite(load) else None,
        python=platform.python_version(),
        numpy=np.__version__,
        torch=torch_version,
        torch_threads=threads,
        nkiconv=ours,
    )


@dataclass(frozen=True)
class Report:
    """A run; `complete` is False where it was stopped before its last row."""

    environment: Environment
    rows: tuple[BenchRow, ...]
    complete: bool = True

    @property
    def passed(self) -> bool:
        """Whether every result is right."""
        return not any(row.problem for row in self.rows)

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "complete": self.complete,
            "environment": asdict(self.environment),
            "rows": [_row_dict(row) for row in self.rows],
        }


def _row_dict(row: BenchRow) -> dict[str, object]:
    values = asdict(row)
    if row.error_ratio is not None and not math.isfinite(row.error_ratio):
        values["error_ratio"] = None  # JSON has no infinity; `problem` tells it
    return values


def load(path: Path) -> Report:
    """Read a run that was written earlier.

    Raises
    ------
    UserError
        The file cannot be read, holds something else, or is of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:  # also what is not UTF-8
        raise UserError(f"baseline {str(path)!r} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(
            f"baseline {str(path)!r} is no report of `nkiconv bench --suite`: it does not say"
            f' "schema": "{SCHEMA}"'
        )
    version = content.get("version")
    if version != VERSION:
        age = "an older" if isinstance(version, int) and version < VERSION else "another"
        raise UserError(
            f"baseline {str(path)!r} is of {age} form, version {version!r}; this nkiconv reads"
            f" version {VERSION}: make it again"
        )
    try:
        return Report(
            environment=Environment(**content["environment"]),
            rows=tuple(_row(values) for values in content["rows"]),
            complete=bool(content["complete"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"baseline {str(path)!r} is damaged: {error}") from error


def _row(values: dict[str, object]) -> BenchRow:
    fields = dict(values)
    for name, kind in (("modelled", Modelled), ("host", Host)):
        inner = fields[name]
        if inner is not None:
            if not isinstance(inner, dict):
                raise ValueError(f"{name} is {inner!r}")
            fields[name] = kind(**inner)
    row = BenchRow(**fields)  # type: ignore[arg-type]  # checked below as far as it is used
    ps = row.modelled.body_ps if row.modelled else 1
    if not isinstance(ps, int) or ps <= 0 or not all(isinstance(part, str) for part in row.key):
        raise ValueError(f"the row {row.key} has body_ps {ps!r}")
    return row
