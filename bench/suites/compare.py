"""A run against an earlier one: before, after, change, and whether the gate stays shut.

The gate looks at what is the same on every machine: modelled time and counts.  Times of the host
are shown, and never judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from nkiconv.bench.errors import UserError
from nkiconv.bench.suites.measure import BenchRow, Trial
from nkiconv.bench.suites.report import Report

__all__ = ["Comparison", "RowChange", "check_overlap", "compare"]

_COUNTS = ("hbm_bytes", "dma_transfers", "moving_columns", "static_instructions", "sbuf_peak_bytes")


@dataclass(frozen=True)
class RowChange:
    """One row before and after; `counts` are those that changed, as (name, before, after).

    `after_us` is None where the row has no right result any more.
    """

    suite: str
    name: str
    target: str
    dtype: str
    before_us: float
    after_us: float | None
    counts: tuple[tuple[str, int, int], ...]
    host_before_s: float | None
    host_after_s: float | None

    @property
    def change(self) -> float | None:
        """Modelled time after over before, less 1."""
        return None if self.after_us is None else self.after_us / self.before_us - 1

    def regressed(self, tolerance: float) -> bool:
        """Whether it became slower than `tolerance`, a share, allows, or wrong."""
        return self.change is None or self.change > tolerance


@dataclass(frozen=True)
class Comparison:
    """All rows that both runs have; `new` and `missing` count the others."""

    changes: tuple[RowChange, ...]
    new: int
    missing: int
    tolerance: float
    baseline_made: str
    baseline_complete: bool

    @property
    def regressions(self) -> tuple[RowChange, ...]:
        """Rows that the gate stops."""
        return tuple(each for each in self.changes if each.regressed(self.tolerance))

    @property
    def improvements(self) -> tuple[RowChange, ...]:
        """Rows that became faster by more than the tolerance."""
        return tuple(
            each
            for each in self.changes
            if each.change is not None and each.change < -self.tolerance
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self) | {
            "changes": [asdict(each) | {"change": each.change} for each in self.changes],
            "regressions": len(self.regressions),
        }


def check_overlap(baseline: Report, trials: Iterable[Trial]) -> None:
    """Refuse, before anything runs, a baseline that has none of the rows to come.

    Raises
    ------
    UserError
        Nothing could be compared.
    """
    if not {row.key for row in baseline.rows if row.modelled} & {trial.key for trial in trials}:
        raise UserError(
            "the baseline has no row of this run: other suites, element types or targets"
        )


def compare(baseline: Report, rows: Iterable[BenchRow], tolerance: float) -> Comparison:
    """Return what changed; rows of the baseline without a right result are not compared."""
    before = {row.key: row for row in baseline.rows if row.modelled is not None}
    rows = list(rows)
    changes = [_change(before[row.key], row) for row in rows if row.key in before]
    return Comparison(
        changes=tuple(changes),
        new=len(rows) - len(changes),
        missing=len(before) - len(changes),
        tolerance=tolerance,
        baseline_made=baseline.environment.made,
        baseline_complete=baseline.complete,
    )


def _change(before: BenchRow, after: BenchRow) -> RowChange:
    old, new = before.modelled, after.modelled
    if old is None:
        raise ValueError(f"{before.key} has nothing to compare with")
    counts = [
        (name, getattr(old, name), getattr(new, name))
        for name in _COUNTS
        if new is not None and getattr(old, name) != getattr(new, name)
    ]
    return RowChange(
        *after.key,
        before_us=old.body_us,
        after_us=None if new is None else new.body_us,
        counts=tuple(counts),
        host_before_s=before.host.median_s if before.host else None,
        host_after_s=after.host.median_s if after.host else None,
    )
