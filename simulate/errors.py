"""Every error that nkiconv raises on purpose, one class per kind of mistake.

A message names the operation, the value that was received, the limit, and where the limit comes
from.  All classes derive from `NkiconvError`, which is a `ValueError`.
"""

from __future__ import annotations

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
    """Base of all errors of this package."""


class ShapeError(NkiconvError):
    """Sizes do not fit together, or a result would have no elements."""


class DtypeError(NkiconvError):
    """An element type that the operation does not take."""


class CapacityError(NkiconvError):
    """More SBUF, PSUM or instructions than the NeuronCore has room for."""


class ConstraintError(NkiconvError, AssertionError):
    """A rule of the instruction set that the call breaks.

    Also an `AssertionError`: the vendor documents its own constraint failures as such, and code
    written for either simulator should be able to catch both.
    """


class UninitializedReadError(NkiconvError):
    """An instruction reads elements that nothing has written."""


class OutOfBoundsError(NkiconvError, IndexError):
    """An index, slice or access pattern that leaves its tensor."""


class HazardError(NkiconvError):
    """An order of memory accesses whose result the hardware does not define."""


class UnsupportedPythonError(NkiconvError):
    """A Python construct in a kernel that the NKI compiler does not accept."""
