"""Fit what the model assumes to the published kernels of one half, and look at the other half.

    minimise over f   sum of (log modelled(f) - log measured)^2, over n cases
                      + sum of (log f / f0)^2 / (n w)^2, over facts

f are the facts marked *assumed* that the chosen kernels depend on, f0 their present values, w how
far a guess may be off (`_TRUST`).  Nothing that is documented or measured is touched, no case of
the half that is held out is looked at, and no kernel has a factor of its own.  The same kernels
give the same numbers in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt

from nkiconv.bench.calibration.case import Case
from nkiconv.bench.calibration.measure import Report, held_out, measure
from nkiconv.bench.errors import UserError
from nkiconv.simulate.hardware import FACTS, Fact, Status, altered_facts
from nkiconv.simulate.sheet import forget_costs

__all__ = ["Fit", "Fitted", "fit"]

Vector = npt.NDArray[np.float64]

_UNITS = ("ns", "us", "cycles", "share")
"""Beginnings of the units of what is a time or a rate of one; the others are sizes and limits."""

_TRUST = 0.5
"""Natural logarithm of the factor that a guess may well be off by."""

_FACTOR = 2.0
"""By which a fact may change at most."""

_STEP = 0.1
"""Relative change for the derivative, and for finding what the kernels depend on."""

_DEPENDS = 1e-3
"""Relative change of a time that is a dependence."""

_ROUNDS = 4
"""Steps of the fit."""


_HALVES = {"fit": False, "held_out": True, "all": None}


@dataclass(frozen=True)
class Fitted:
    """A fact before and after."""

    fact: Fact
    value: float


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    Attributes
    ----------
    facts
        What the kernels depend on, with the values that fit best.
    before, after
        All chosen kernels with the present facts, and with those.
    """

    facts: tuple[Fitted, ...]
    before: Report
    after: Report

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "facts": [
                {
                    "target": one.fact.target,
                    "name": one.fact.name,
                    "unit": one.fact.unit,
                    "present": one.fact.value,
                    "fitted": one.value,
                }
                for one in self.facts
            ],
            "before": {name: self.before.error(half=half) for name, half in _HALVES.items()},
            "after": {name: self.after.error(half=half) for name, half in _HALVES.items()},
        }


def _may_change(fact: Fact) -> bool:
    """Whether a fact is assumed, and a time."""
    timed = fact.unit.startswith(_UNITS) or "/ns" in fact.unit
    return fact.status is Status.ASSUMED and timed


def _run(
    chosen: Sequence[Case], changes: Mapping[Fact, float], step: Callable[[str], None]
) -> Report:
    forget_costs()
    try:
        with altered_facts({(f.target, f.name): value for f, value in changes.items()}):
            return measure(chosen, step)
    finally:
        forget_costs()


def _errors(report: Report) -> Vector:
    """Return log(modelled / measured) by case: the mean over its points that count."""
    by_case: dict[str, list[float]] = {}
    for row in report.rows:
        if row.counts:
            by_case.setdefault(row.point.case, []).append(log(row.ratio))
    return np.array([sum(own) / len(own) for own in by_case.values()])


def fit(chosen: Sequence[Case], step: Callable[[str], None]) -> Fit:
    """Fit the assumed facts to the cases that are not held out; `step` is told what is run.

    Raises
    ------
    UserError
        None of the cases belongs to the half that may be fitted, or they depend on no such fact.
    """
    from scipy.optimize import least_squares

    own = [case for case in chosen if case.id not in held_out()]
    if not own:
        raise UserError("every chosen kernel is held out: there is nothing to fit to")
    before = measure(chosen, step)
    start = _errors(measure(own, step))
    targets = {case.target for case in own}
    facts = []
    for fact in FACTS:
        if fact.target in targets and _may_change(fact):
            step(f"{fact.target} {fact.name}")
            moved = _errors(_run(own, {fact: _changed(fact, log(1 + _STEP))}, _quiet))
            if np.abs(moved - start).max() > _DEPENDS:
                facts.append(fact)
    if not facts:
        raise UserError("these kernels depend on no fact that is assumed: there is nothing to fit")

    def residuals(x: Vector) -> Vector:
        step("fit")
        values = {fact: _changed(fact, float(at)) for fact, at in zip(facts, x, strict=True)}
        return np.concatenate([_errors(_run(own, values, _quiet)), x / _TRUST / len(own)])

    def slopes(x: Vector) -> npt.NDArray[np.float64]:
        # Times are piecewise smooth: steps as small as scipy's would only see the rounding.
        here = residuals(x)
        moves = _STEP * np.eye(len(x))
        return np.stack([(residuals(x + move) - here) / _STEP for move in moves], axis=1)

    found = least_squares(
        residuals,
        np.zeros(len(facts)),
        slopes,
        bounds=(-log(_FACTOR), log(_FACTOR)),
        max_nfev=_ROUNDS,
    )
    values = {f: _changed(f, float(at)) for f, at in zip(facts, found.x, strict=True)}
    after = _run(chosen, values, step)
    return Fit(tuple(Fitted(f, value) for f, value in values.items()), before, after)


def _changed(fact: Fact, by: float) -> float:
    """Return a fact's value times e to the power of `by`, to three digits."""
    return float(f"{fact.value * np.exp(by):.3g}")


def _quiet(name: str) -> None:
    """Say nothing."""
