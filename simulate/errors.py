"""Every error that nkiconv raises on purpose, one class per kind of mistake.

A message names the operation, the value that was received, the limit, and where the limit comes
from.  All classes derive from `NkiconvError`, which is a `ValueError`.

Those that stand for limits of an instruction are an `AssertionError` as well: the vendor's
simulator documents its own failures as such (NKI CPU simulator, Hardware Constraint Validation),
and code written for either should be able to catch both.
"""

from __future__ import annotations

from nkiconv.simulate.rules import cure_of

__all__ = [
    "CapacityError",
    "ConstraintError",
    "DtypeError",
    "HazardError",
    "NkiconvError",
    "OutOfBoundsError",
    "ShapeError",
    "UninitializedReadError",
    "UnsupportedPythonError",
]


class NkiconvError(ValueError):
    """Base of all errors of this package.

    Attributes
    ----------
    code
        ``group.slug`` of the rule, ends the message behind the usual cure; ``nkiconv explain``
        says more about it.  Everything that the simulator refuses has one.
    place
        ``file.py:line`` of the kernel, where the error belongs to one; begins the message.
    """

    place: str | None = None

    def __init__(self, *args: object, code: str = "") -> None:
        self.code = code
        if code and args:
            cure = cure_of(code)
            ending = f"\n  Cure: {cure} [{code}]" if cure else f" [{code}]"
            args = (f"{args[0]}{ending}", *args[1:])
        super().__init__(*args)

    def locate(self, place: str) -> None:
        """Begin the message with a place, unless it has one or there is none."""
        if self.place is None and place:
            self.place = place
            self.args = (f"{place}: {self}",)

    def add_route(self, route: str) -> None:
        """End the message with the calls that lead from the kernel to its place."""
        self.args = (f"{self}\n  Called: {route}",)


class ShapeError(NkiconvError, AssertionError):
    """Sizes do not fit together, or a result would have no elements."""


class DtypeError(NkiconvError, AssertionError):
    """An element type that the operation does not take."""


class CapacityError(NkiconvError):
    """More SBUF, PSUM or instructions than the NeuronCore has room for."""


class ConstraintError(NkiconvError, AssertionError):
    """A rule of the instruction set that the call breaks."""


class UninitializedReadError(NkiconvError):
    """An instruction reads elements that nothing has written."""


class OutOfBoundsError(NkiconvError, IndexError):
    """An index, slice or access pattern that leaves its tensor."""


class HazardError(NkiconvError):
    """An order of memory accesses whose result the hardware does not define."""


class UnsupportedPythonError(NkiconvError):
    """A Python construct in a kernel that the NKI compiler does not accept."""
