"""Scalar registers of the engines' sequencers: loop bounds, loop counters and run-time offsets.

A register holds 32 bits.  While the compiler reads a kernel, its value is not known; so Python must
not ask for it, and everything here that would need it is refused.
"""

from __future__ import annotations

from typing import NoReturn

from nkiconv.simulate.errors import ConstraintError, UninitializedReadError
from nkiconv.simulate.tensor import NKIObject

_LIMITS = (-(2**31), 2**32 - 1)


class VirtualRegister(NKIObject):
    """A register of 32 bits, made by ``nisa.register_alloc`` or by an on-chip loop.

    Parameters
    ----------
    state
        Its value, or None where nothing has been loaded yet.
    frozen
        An instruction may not write it: the counter of a loop.
    """

    __slots__ = ("_frozen", "_state")

    def __init__(self, state: int | None = None, frozen: bool = False) -> None:
        self._state = state
        self._frozen = frozen

    def __repr__(self) -> str:
        return f"<VirtualRegister {'not loaded' if self._state is None else self._state}>"

    def _read(self, op: str) -> int:
        """Return the value, for an instruction.

        Raises
        ------
        UninitializedReadError
            Nothing has been loaded.
        """
        if self._state is None:
            raise UninitializedReadError(
                f"{op}: the register holds nothing yet; give nisa.register_alloc a number, or "
                "load one with nisa.register_move or nisa.register_load (nki.isa.register_alloc)",
                code="register.empty",
            )
        return self._state

    def _write(self, value: int, op: str) -> None:
        """Set the value, for an instruction.

        Raises
        ------
        ConstraintError
            The register is a loop's counter, or the value has more than 32 bits.
        """
        if self._frozen:
            raise ConstraintError(
                f"{op}: the counter of a loop cannot be written; the loop alone moves it "
                "(nki.language.fori_loop)",
                code="register.counter",
            )
        if not _LIMITS[0] <= value <= _LIMITS[1]:
            raise ConstraintError(
                f"{op}: {value} does not fit a register of 32 bits (nki.isa.register_alloc)",
                code="register.range",
            )
        self._state = value

    def _unknown(self, *_: object) -> NoReturn:
        raise TypeError(
            "a VirtualRegister has no value while the kernel is compiled: not in if or while, not "
            "as int or range, not in arithmetic or comparisons; loop with nl.fori_loop or "
            "nl.while_loop, compute in SBUF and load with nisa.register_load "
            "(nki.isa.VirtualRegister)"
        )

    def __eq__(self, other: object) -> bool:
        return False if other is None else self._unknown()

    __hash__ = None  # type: ignore[assignment]  # equality is not known, so neither is this
    __bool__ = __int__ = __index__ = __float__ = _unknown
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _unknown
    __floordiv__ = __mod__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = _unknown
