"""Every case of the trial, in the order of the table."""

from __future__ import annotations

from nkiconv.bench.compat import documentation, library, samples
from nkiconv.bench.compat.case import Case
from nkiconv.bench.errors import UserError

__all__ = ["CASES", "select_cases"]

CASES: tuple[Case, ...] = (*documentation.CASES, *samples.CASES, *library.CASES)


def select_cases(only: str = "") -> list[Case]:
    """Return the cases with a text in their name, or in the name of their source or kernel.

    Raises
    ------
    UserError
        There is none.
    """
    found = [c for c in CASES if any(only in text for text in (c.id, c.source, c.kernel, c.path))]
    if not found:
        raise UserError(f"no case has {only!r} in its name, source, path or kernel")
    return found
