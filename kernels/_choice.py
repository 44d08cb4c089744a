"""Which algorithm, and which of its plans: the one whose estimated time is the shortest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nkiconv.kernels import (
    conv2d_depthwise,
    conv2d_direct,
    conv2d_grouped,
    conv2d_im2col,
    conv2d_patches,
    conv2d_pointwise,
)
from nkiconv.kernels._algorithm import (
    Algorithm,
    Candidate,
    NotSuited,
    Operands,
    Problem,
)
from nkiconv.kernels._direct_plan import least_us
from nkiconv.kernels._stages import Launch, stages_for
from nkiconv.simulate import ConstraintError

ALGORITHMS: dict[str, Algorithm] = {
    module.NAME: module
    for module in (
        conv2d_direct,
        conv2d_pointwise,
        conv2d_depthwise,
        conv2d_grouped,
        conv2d_patches,
        conv2d_im2col,
    )
}
"""By name, those that "auto" chooses from."""

_LAST = (conv2d_direct.NAME, conv2d_im2col.NAME)  # asked when what others offer is known
_HOPELESS = 1.5  # times the best estimate: a plan whose products alone take as long is not made


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
    names: tuple[str, ...] = (algorithm,)
    if algorithm == "auto":
        names = (*(name for name in ALGORITHMS if name not in _LAST), *_LAST)
    found: list[Candidate] = []
    refusals: dict[str, str] = {}
    for name in names:
        idle = _idle(name, problem, found) if found else None
        if idle is not None:
            refusals[name] = idle
            continue
        try:
            found += _candidates(ALGORITHMS[name], problem)
        except NotSuited as reason:
            refusals[name] = str(reason)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
        raise ConstraintError(f"conv2d: no algorithm can do this ({reasons})")
    return Choice(tuple(sorted(found, key=Candidate.estimate_us)), refusals)


def _idle(name: str, problem: Problem, found: list[Candidate]) -> str | None:
    """Return why an algorithm need not be asked beside what is found, or None."""
    if name == conv2d_im2col.NAME:
        return conv2d_im2col.worth(problem)
    if name == conv2d_direct.NAME and problem.geometry.G > 1:
        best = min(candidate.estimate_us() for candidate in found)
        least = least_us(problem.geometry, fast=problem.precision == "fast")
        if least > _HOPELESS * best:
            return (
                f"group by group its products alone take {least:,.0f} µs, where another plan is "
                f"estimated at {best:,.0f}"
            )
    return None


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
    pool = problem.epilogue.pool
    found: list[Candidate] = []
    reasons = []
    if pool is None or getattr(module, "POOLS", False):
        try:
            found += _by_layout(module, problem, pool_after=False)
        except NotSuited as reason:
            reasons.append(str(reason))
    else:
        reasons.append("it has no fused pooling")
    if pool is not None and (pool.kind == "max" or problem.dtype == "float32"):
        try:
            found += _by_layout(module, problem, pool_after=True)
        except NotSuited as reason:
            reasons.append(str(reason))
    elif pool is not None:
        reasons.append(f"means of {problem.dtype} would be rounded twice if they were taken after")
    if not found:
        raise NotSuited("; ".join(dict.fromkeys(reasons)))
    return found


def _by_layout(module: Algorithm, problem: Problem, *, pool_after: bool) -> list[Candidate]:
    """Return what an algorithm does itself; without that, what it does with stages."""
    if problem.layout == "NCHW" and not pool_after:
        try:
            return list(module.plans(problem))
        except NotSuited:
            if problem.padding_mode == "zeros":
                raise
    if problem.padding_mode != "zeros":
        try:  # the border by the algorithm, the rest by stages
            return _staged(module, problem, padding=False, pool_after=pool_after)
        except NotSuited:
            pass
    return _staged(module, problem, padding=True, pool_after=pool_after)


def _staged(
    module: Algorithm, problem: Problem, *, padding: bool, pool_after: bool
) -> list[Candidate]:
    """Return an algorithm's candidates for what stages leave: with `padding`, zeros around x."""
    g, e = problem.geometry, problem.epilogue
    planes = (g.rows.outputs, g.cols.outputs)
    if e.pool is not None:
        planes = (e.pool.rows.outputs, e.pool.cols.outputs)
    geometry, stages = stages_for(
        g,
        planes,
        has_residual=e.has_residual,
        padding_mode=problem.padding_mode if padding else "zeros",
        layout=problem.layout,
        pool=e.pool if pool_after else None,
    )
    inner = replace(
        problem,
        geometry=geometry,
        epilogue=replace(e, pool=None) if pool_after else e,
        padding_mode="zeros" if padding else problem.padding_mode,
        layout="NCHW",
    )
    return [replace(c, stages=stages, why=f"{c.why}; {stages.why}") for c in module.plans(inner)]
