"""Which algorithm, and which of its plans: the one whose estimated time is the shortest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nkiconv.kernels import (
    conv2d_depthwise,
    conv2d_direct,
    conv2d_grouped,
    conv2d_im2col,
    conv2d_pointwise,
)
from nkiconv.kernels._algorithm import (
    Algorithm,
    Candidate,
    NotSuited,
    Operands,
    Problem,
)
from nkiconv.kernels._stages import Launch, stages_for
from nkiconv.simulate import ConstraintError

ALGORITHMS: dict[str, Algorithm] = {
    module.NAME: module
    for module in (conv2d_direct, conv2d_pointwise, conv2d_depthwise, conv2d_grouped, conv2d_im2col)
}
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
            found += _candidates(ALGORITHMS[name], problem)
        except NotSuited as reason:
            refusals[name] = str(reason)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
        raise ConstraintError(f"conv2d: no algorithm can do this ({reasons})")
    return Choice(tuple(sorted(found, key=Candidate.estimate_us)), refusals)


def run(launch: Launch, best: Candidate, operands: Operands) -> Any:
    """Run a candidate with what comes before and after it; return y.

    `operands` are in the problem's layout; w is what `pack` of the algorithm returned.
    """
    module = ALGORITHMS[best.algorithm]
    if best.stages is None:
        return module.run(launch, operands, best.plan)
    x, residual = best.stages.before(launch, operands.x, operands.residual)
    y = module.run(launch, replace(operands, x=x, residual=residual), best.plan)
    return best.stages.after(launch, y)


def _candidates(module: Algorithm, problem: Problem) -> list[Candidate]:
    """Return an algorithm's candidates, by way of stages for what it does not do itself.

    Raises
    ------
    NotSuited
    """
    if problem.epilogue.pool is not None and not getattr(module, "POOLS", False):
        raise NotSuited("it has no fused pooling")
    if problem.layout == "NCHW":
        try:
            return list(module.plans(problem))
        except NotSuited:
            if problem.padding_mode == "zeros":
                raise
    return _staged(module, problem)


def _staged(module: Algorithm, problem: Problem) -> list[Candidate]:
    g, pool = problem.geometry, problem.epilogue.pool
    planes = (g.rows.outputs, g.cols.outputs)
    if pool is not None:
        planes = (pool.rows.outputs, pool.cols.outputs)
    geometry, stages = stages_for(
        g,
        planes,
        has_residual=problem.epilogue.has_residual,
        padding_mode=problem.padding_mode,
        layout=problem.layout,
    )
    inner = replace(problem, geometry=geometry, padding_mode="zeros", layout="NCHW")
    return [replace(c, stages=stages, why=f"{c.why}; {stages.why}") for c in module.plans(inner)]
