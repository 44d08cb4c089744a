"""The functions of ``nki.language`` that work on tiles, made of instructions.

Each allocates its result and calls ``nki.isa`` sheets, so that what an instruction refuses and
costs holds here too.  Importing this package registers them; those that are operators as well
(``nl.add``) are called through the operator.
"""

from __future__ import annotations

from nkiconv.simulate.functions import (
    creation,
    elementwise,
    movement,
    normalisation,
    ordering,
    random,
    reductions,
    unary,
)

__all__ = [
    "creation",
    "elementwise",
    "movement",
    "normalisation",
    "ordering",
    "random",
    "reductions",
    "unary",
]
