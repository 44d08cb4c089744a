"""conv2d with a channel per group (depthwise, also with a multiplier): diagonal operands.

The kernel is that of conv2d_grouped.py; a group's block is one weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nkiconv.kernels import conv2d_grouped
from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import Array
from nkiconv.kernels._weights import PackedWeights

NAME = "depthwise"


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield plans.

    Raises
    ------
    NotSuited
        One group, or several channels in a group; and as conv2d_grouped.py.
    """
    if problem.geometry.G == 1 or problem.geometry.C_in > 1:
        raise NotSuited("a group has other channels than one, or is alone")
    yield from conv2d_grouped.block_diagonal_plans(problem, NAME)


def pack(w: PackedWeights, plan: Any) -> Array:
    """Return the weights as the kernel of this plan loads them."""
    return conv2d_grouped.pack(w, plan)


def run(launch: Launch, operands: Operands, plan: Any) -> Any:
    """Launch the kernel; return y."""
    return conv2d_grouped.run(launch, operands, plan)
