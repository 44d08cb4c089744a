"""Run rebuilt kernels, and put their modelled times beside the measured ones.

    relative error of a point   |modelled - measured| / measured

Counters come before times: where a published one is far from ours, another program ran than the one
that is rebuilt here, and the point enters no error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache

from nkiconv.bench.calibration.case import Case
from nkiconv.bench.calibration.cases import cases
from nkiconv.bench.calibration.point import KINDS, Point, points
from nkiconv.bench.errors import UserError
from nkiconv.simulate import profile
from nkiconv.simulate.error_bar import Region
from nkiconv.simulate.hardware import HARDWARE

__all__ = ["Comparison", "Report", "Row", "choose", "held_out", "measure"]

_SEED = 4
"""Of the split into halves."""

_NEAR = 0.02
"""Counters may differ by this share: profiles also count loads of instructions and constants."""

_NEAR_COUNT, _NEAR_BYTES = 3, 131_072
"""Or by this much, in small kernels."""


@dataclass(frozen=True)
class Comparison:
    """One counter: as published, and ours."""

    counter: str
    published: int
    ours: int

    @property
    def near(self) -> bool:
        """Whether the two can stand for the same program."""
        least = _NEAR_BYTES if self.counter.endswith("bytes") else _NEAR_COUNT
        return abs(self.ours - self.published) <= max(_NEAR * self.published, least)


@dataclass(frozen=True)
class Row:
    """One measured point with our time for it."""

    point: Point
    family: str
    modelled_us: float
    bound: str
    compared: tuple[Comparison, ...]
    held_out: bool
    target: str = "trn2"
    opcodes: tuple[str, ...] = ()
    """Instructions that the kernel executed."""

    @property
    def ratio(self) -> float:
        """Modelled over measured."""
        return self.modelled_us / self.point.measured_us

    @property
    def error(self) -> float:
        """Relative error."""
        return abs(self.ratio - 1)

    @property
    def same_program(self) -> bool:
        """Whether all published counters are near ours."""
        return all(one.near for one in self.compared)

    @property
    def counts(self) -> bool:
        """Whether the row enters an error."""
        return self.point.counts and self.same_program

    @property
    def why_not(self) -> str:
        """Why the row enters no error, or nothing."""
        if self.point.kind == "estimate":
            return "estimate"
        if self.point.confidence == "low":
            return "low confidence"
        if self.point.doubt:
            return self.point.doubt
        return "" if self.same_program else "other program"


@dataclass(frozen=True)
class Report:
    """All rows, in the order of the table of cases."""

    rows: tuple[Row, ...]

    def error(self, *, family: str | None = None, half: bool | None = None) -> float | None:
        """Mean relative error of the rows that count; None where there are none.

        Several measurements of one case count as one, so that what was measured often does not
        outweigh the rest.
        """
        by_case: dict[str, list[float]] = {}
        for row in self.rows:
            fits = (family is None or row.family == family) and half in (None, row.held_out)
            if fits and row.counts:
                by_case.setdefault(row.point.case, []).append(row.error)
        if not by_case:
            return None
        return sum(sum(errors) / len(errors) for errors in by_case.values()) / len(by_case)

    def regions(self) -> dict[str, Region]:
        """Return by target what the rows that count speak for."""
        found = {}
        for target in dict.fromkeys(row.target for row in self.rows if row.counts):
            own = Report(tuple(row for row in self.rows if row.target == target and row.counts))
            found[target] = Region(
                kernels=len({row.point.case for row in own.rows}),
                mean=round(own.error() or 0.0, 4),
                worst=round(max(row.error for row in own.rows), 4),
                shortest_us=round(min(row.modelled_us for row in own.rows), 1),
                longest_us=round(max(row.modelled_us for row in own.rows), 1),
                bounds=tuple(sorted({row.bound for row in own.rows})),
                opcodes=tuple(sorted({name for row in own.rows for name in row.opcodes})),
            )
        return found

    @property
    def families(self) -> tuple[str, ...]:
        """Families in order."""
        return tuple(dict.fromkeys(row.family for row in self.rows))

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "error": self.error(),
            "error_fit": self.error(half=False),
            "error_held_out": self.error(half=True),
            "families": {family: self.error(family=family) for family in self.families},
            "points": [
                asdict(row.point)
                | {
                    "family": row.family,
                    "modelled_us": row.modelled_us,
                    "ratio": row.ratio,
                    "held_out": row.held_out,
                    "counts": row.counts,
                    "bound": row.bound,
                    "compared": [asdict(one) | {"near": one.near} for one in row.compared],
                }
                for row in self.rows
            ],
        }


@cache
def held_out() -> frozenset[str]:
    """Return the ids of the cases whose points no fact may be fitted to: every second one.

    Drawn within each family, so that both halves have matmuls, convolutions and the rest.  Whole
    cases are held out: several people measured some of them, and a time that was fitted to one
    measurement would pass for a prediction of the other.
    """
    drawn: list[str] = []
    for family in dict.fromkeys(case.family for case in cases()):
        own = sorted(case.id for case in cases() if case.family == family)
        random.Random(f"{_SEED} {family}").shuffle(own)
        drawn += own
    return frozenset(drawn[::2])


def choose(only: str = "", *, quick: bool = False) -> tuple[Case, ...]:
    """Return the cases with a text in their id, family, or the id or repository of a point.

    Raises
    ------
    UserError
        There are none.
    """
    found = []
    for case in cases():
        own = [point for point in points() if point.case == case.id]
        words = [case.id, case.family, *(p.id for p in own), *(p.repository for p in own)]
        if (case.quick or not quick) and any(only.lower() in word.lower() for word in words):
            found.append(case)
    if not found:
        raise UserError(f"no calibration case has {only!r} in its name, family or origin")
    return tuple(found)


def measure(chosen: Sequence[Case], step: Callable[[str], None]) -> Report:
    """Run cases; `step` is called with the name of each before it starts."""
    rows: list[Row] = []
    for case in chosen:
        step(case.id)
        rows += _rows(case)
    return Report(tuple(rows))


def _rows(case: Case) -> Iterable[Row]:
    _, seen = profile(case.kernel, *case.inputs(case.sizes), *case.options, target=case.target)
    counted = case.counted(seen)
    facts = HARDWARE[case.target]
    times = {
        "whole": seen.latency_us,
        "benchmarked": seen.latency_us - facts.launch_unbenchmarked_us,
        "none": seen.body_us,
    }
    for point in points():
        if point.case == case.id:
            launch, _ = KINDS[point.kind]
            yield Row(
                point,
                case.family,
                times[launch],
                seen.bound,
                tuple(Comparison(n, value, counted[n]) for n, value in point.counters.items()),
                case.id in held_out(),
                case.target,
                tuple(seen.instructions),
            )
