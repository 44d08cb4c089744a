"""Which algorithm, and which of its plans: the one whose estimated time is the shortest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nkiconv.kernels import (
    _looped,
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
from nkiconv.kernels._problem import TooLong
from nkiconv.kernels._stages import Launch, stages_for
from nkiconv.simulate import CapacityError, ConstraintError

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

_LAST = (conv2d_patches.NAME, conv2d_direct.NAME, conv2d_im2col.NAME)
"""Asked when what others offer is known, in this order."""

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
    too_long: list[str] = []
    for name in names:
        idle = _idle(name, problem, found) if found else None
        if idle is not None:
            refusals[name] = idle
            continue
        try:
            found += _short_enough(_candidates(ALGORITHMS[name], problem))
        except NotSuited as reason:
            refusals[name] = str(reason)
            if isinstance(reason, TooLong):
                too_long.append(name)
    if not found and problem.geometry.rows.pad:
        for name in too_long:  # of an image with its border, all bands of rows are alike
            try:
                found += _short_enough(_candidates(ALGORITHMS[name], problem, bordered=True))
            except (NotSuited, CapacityError):
                continue
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
        raise ConstraintError(f"conv2d: no algorithm can do this ({reasons})")
    return Choice(tuple(sorted(found, key=Candidate.estimate_us)), refusals)


def _idle(name: str, problem: Problem, found: list[Candidate]) -> str | None:
    """Return why an algorithm need not be asked beside what is found, or None."""
    if name == conv2d_im2col.NAME:
        return conv2d_im2col.worth(problem)
    taps = problem.geometry.rows.taps * problem.geometry.cols.taps
    if name == conv2d_patches.NAME and taps == 1:
        return "1x1 taps leave nothing to turn"
    if name == conv2d_direct.NAME:
        best = min(candidate.estimate_us() for candidate in found)
        least = least_us(problem.geometry, fast=problem.precision == "fast")
        if least > _HOPELESS * best:
            return (
                f"its products alone take {least:,.0f} µs, where another plan is "
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


def _short_enough(found: list[Candidate]) -> list[Candidate]:
    """Return those whose programs a compiler takes, each stage's too.

    Raises
    ------
    NotSuited
        None is.
    """
    limit = _looped.MAX_INSTRUCTIONS
    fits = [one for one in found if one.static_instructions <= limit]
    if found and not fits:
        least = min(one.static_instructions for one in found)
        raise TooLong(
            f"its program has {least:,} instructions, more than the {limit:,} that it "
            "may write out; it would need on-chip loops"
        )
    return fits


def _candidates(module: Algorithm, problem: Problem, *, bordered: bool = False) -> list[Candidate]:
    """Return an algorithm's candidates, by way of stages for what it does not do itself.

    Parameters
    ----------
    bordered
        The border by a stage in any case, zeros too.

    Raises
    ------
    NotSuited
    """
    pool = problem.epilogue.pool
    found: list[Candidate] = []
    reasons: list[NotSuited] = []
    if pool is None or getattr(module, "POOLS", False):
        try:
            found += _by_layout(module, problem, bordered, pool_after=False)
        except NotSuited as reason:
            reasons.append(reason)
    else:
        reasons.append(NotSuited("it has no fused pooling"))
    if pool is not None and (pool.kind == "max" or problem.dtype == "float32"):
        try:
            found += _by_layout(module, problem, bordered, pool_after=True)
        except NotSuited as reason:
            reasons.append(reason)
    elif pool is not None:
        reasons.append(
            NotSuited(f"means of {problem.dtype} would be rounded twice if they were taken after")
        )
    if not found:
        kind = TooLong if any(isinstance(reason, TooLong) for reason in reasons) else NotSuited
        raise kind("; ".join(dict.fromkeys(map(str, reasons))))
    return found


def _by_layout(
    module: Algorithm, problem: Problem, bordered: bool, *, pool_after: bool
) -> list[Candidate]:
    """Return what an algorithm does itself; without that, what it does with stages."""
    zeros = problem.padding_mode == "zeros"
    if problem.layout == "NCHW" and not pool_after and not bordered:
        try:
            return list(module.plans(problem))
        except NotSuited:
            if zeros:
                raise
    if not zeros and not bordered:
        try:  # the border by the algorithm, the rest by stages
            return _staged(module, problem, border=None, pool_after=pool_after)
        except NotSuited:
            pass
    border = problem.padding_mode if bordered or not zeros else None
    return _staged(module, problem, border=border, pool_after=pool_after)


def _staged(
    module: Algorithm, problem: Problem, *, border: str | None, pool_after: bool
) -> list[Candidate]:
    """Return an algorithm's candidates for what stages leave: with a `border`, zeros around x."""
    g, e = problem.geometry, problem.epilogue
    planes = (g.rows.outputs, g.cols.outputs)
    if e.pool is not None:
        planes = (e.pool.rows.outputs, e.pool.cols.outputs)
    geometry, stages = stages_for(
        g,
        planes,
        has_residual=e.has_residual,
        border=border,
        layout=problem.layout,
        pool=e.pool if pool_after else None,
    )
    inner = replace(
        problem,
        geometry=geometry,
        epilogue=replace(e, pool=None) if pool_after else e,
        padding_mode=problem.padding_mode if border is None else "zeros",
        layout="NCHW",
    )
    return [replace(c, stages=stages, why=f"{c.why}; {stages.why}") for c in module.plans(inner)]
