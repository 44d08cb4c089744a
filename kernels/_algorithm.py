"""What conv2d's algorithms have in common: the problem, its operands, a plan with its price.

An algorithm is a module with

    NAME                        as in conv2d(algorithm=...)
    plans(problem)              plans worth a look; raises NotSuited, with a reason
    pack(w, plan)               weights in the order in which the plan's kernel loads them
    run(launch, operands, plan) y; `launch` is `simulate_kernel` or what runs a kernel on a device

and, where it pools in the same pass, ``POOLS = True``.

A plan is a frozen `nl.NKIObject` of whole numbers: all that the kernel does, decided beforehand.
`conv2d` takes the one that is estimated to be the fastest (_choice.py).  An algorithm without
padding modes raises NotSuited; it is then offered the problem with zeros around a copy of x that
has the border.  Layouts, and pools where it has none, are handled in the same way (_stages.py).
A program that would be too long is cut into parts, which the algorithm plans as any other problem
(_looped.py).

    conv2d_<name>.py        the module
    _<name>_plan.py         its plans; _groups.py of grouped, _banded_plan.py of depthwise,
                            _matmul_plan.py of pointwise
    _<name>_price.py        what they cost, if not in the same file, from the counts of _price.py
    _problem.py             the problem, and the refusal of one
    _plan.py, _strip.py     what plans share: axes, tiles, windows; pixels of a strip
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nkiconv.kernels._arguments import Array
from nkiconv.kernels._price import Price
from nkiconv.kernels._problem import NotSuited as NotSuited
from nkiconv.kernels._problem import Problem as Problem
from nkiconv.kernels._stages import Launch as Launch
from nkiconv.kernels._stages import Stages
from nkiconv.kernels._weights import PackedWeights


@dataclass(frozen=True)
class Operands:
    """Arrays that a kernel takes: of the host, or on a device.

    Shapes
    ------
    x         (N, C_in, H, W)     HBM
    w         what `pack` of the algorithm returned
    scale     (C_out, 1) float32, or None
    bias      (C_out, 1) float32, or None
    residual  (N, C_out, OH, OW) as x, or None
    """

    x: Array
    w: Array
    scale: Array | None = None
    bias: Array | None = None
    residual: Array | None = None


@dataclass(frozen=True)
class Candidate:
    """A plan, what it costs by the closed-form estimate, and what is particular about it."""

    algorithm: str
    plan: Any  # each algorithm has its own class
    price: Price
    why: str
    stages: Stages | None = None  # kernels before and after it

    @property
    def static_instructions(self) -> int:
        """Instructions of the longest of its programs: a stage is one of its own."""
        stages = () if self.stages is None else self.stages.all
        return max(p.static_instructions for p in (self.price, *(s.price for s in stages)))

    def estimate_us(self) -> float:
        """Return microseconds without launch, for the target in force."""
        before_and_after = 0.0 if self.stages is None else self.stages.estimate_us()
        return self.price.estimate_us() + before_and_after


class Algorithm(Protocol):
    """The functions of an algorithm's module."""

    NAME: str

    def plans(self, problem: Problem) -> Iterator[Candidate]:
        """Yield plans worth a look."""

    def pack(self, w: PackedWeights, plan: Any) -> Array:
        """Return the weights as the kernel of this plan loads them."""

    def run(self, launch: Launch, operands: Operands, plan: Any) -> Any:
        """Launch the kernel; return y."""
