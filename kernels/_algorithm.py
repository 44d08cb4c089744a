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
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nkiconv.kernels._arguments import Array
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Geometry
from nkiconv.kernels._price import Price
from nkiconv.kernels._stages import Launch as Launch
from nkiconv.kernels._stages import Stages
from nkiconv.kernels._weights import PackedWeights


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
        Of float32: "exact", or "fast": x and w rounded to bfloat16 on their way to SBUF (a transfer
        casts), products summed in float32, so one pass of TensorE instead of four.  Not by
        ``.view(nl.tfloat32)``: nki 0.6.0 with neuronx-cc 2.27 is reported not to compile matmuls
        of tfloat32 operands, although the vendor's page lists them.
    layout
        "NCHW", or "NHWC" of x, residual and y.
    """

    geometry: Geometry
    epilogue: Epilogue
    dtype: str
    padding_mode: str = "zeros"
    precision: str = "exact"
    layout: str = "NCHW"


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
