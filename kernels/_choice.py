"""Which algorithm, and which of its plans: the one whose estimated time is the shortest."""

from __future__ import annotations

from dataclasses import dataclass

from nkiconv.kernels import conv2d_direct
from nkiconv.kernels._algorithm import Algorithm, Candidate, NotSuited, Problem
from nkiconv.simulate import ConstraintError

ALGORITHMS: dict[str, Algorithm] = {module.NAME: module for module in (conv2d_direct,)}
"""By name, those that "auto" chooses from."""


@dataclass(frozen=True)
class Choice:
    """Candidates, the best first, and why other algorithms have none."""

    candidates: tuple[Candidate, ...]
    refusals: dict[str, str]


def choose(problem: Problem, algorithm: str = "auto") -> Choice:
    """Return what can do a problem.

    Raises
    ------
    ConstraintError
        Nothing can; the message has each algorithm's reason.
    """
    names = tuple(ALGORITHMS) if algorithm == "auto" else (algorithm,)
    found: list[Candidate] = []
    refusals: dict[str, str] = {}
    for name in names:
        try:
            found += ALGORITHMS[name].plans(problem)
        except NotSuited as reason:
            refusals[name] = str(reason)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
        raise ConstraintError(f"conv2d: no algorithm can do this ({reasons})")
    return Choice(tuple(sorted(found, key=lambda c: c.price.estimate_us())), refusals)
