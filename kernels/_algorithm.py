"""What conv2d's algorithms have in common: the problem, its operands, a plan with its price.

An algorithm is a module with

    NAME                        as in conv2d(algorithm=...)
    plans(problem)              plans worth a look; raises NotSuited, with a reason
    pack(w, plan)               weights in the order in which the plan's kernel loads them
    run(launch, operands, plan) y; `launch` is `simulate_kernel` or what runs a kernel on a device

A plan is a frozen `nl.NKIObject` of whole numbers: all that the kernel does, decided beforehand.
`conv2d` takes the plan whose price is the lowest (_choice.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nkiconv.kernels._arguments import Array
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Geometry
from nkiconv.kernels._price import Price
from nkiconv.kernels._weights import PackedWeights

Launch = Callable[..., Any]
"""Runs a kernel on arrays, as `nkiconv.simulate.simulate_kernel(kernel, *args)` does."""


class NotSuited(Exception):
    """An algorithm cannot do a problem; the message is the reason, without a full stop."""


@dataclass(frozen=True)
class Problem:
    """A checked convolution and what follows it.

    Parameters
    ----------
    padding_mode
        "zeros", "reflect", "replicate" or "circular": what lies outside the image.
    precision
        Of float32: "exact", or "fast" for fewer passes of TensorE.
    """

    geometry: Geometry
    epilogue: Epilogue
    dtype: str
    padding_mode: str = "zeros"
    precision: str = "exact"


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


class Algorithm(Protocol):
    """The functions of an algorithm's module."""

    NAME: str

    def plans(self, problem: Problem) -> Iterator[Candidate]:
        """Yield plans worth a look."""

    def pack(self, w: PackedWeights, plan: Any) -> Array:
        """Return the weights as the kernel of this plan loads them."""

    def run(self, launch: Launch, operands: Operands, plan: Any) -> Any:
        """Launch the kernel; return y."""
