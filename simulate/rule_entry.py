"""What there is to know about one refusal; the tables of them are in `rules`, `rules_dynamic`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One refusal.

    Attributes
    ----------
    code
        ``group.slug``; never changes its meaning.
    error
        Name of the error class.
    sentence
        What must hold, in one sentence.
    source
        Who says so.
    cure
        What to do about it, short enough to end a message.
    why
        Why the hardware or the compiler has the limit, where that is known.
    limits
        Names of `Hardware` fields that hold the limit.
    """

    code: str
    error: str
    sentence: str
    source: str
    cure: str
    why: str = ""
    limits: tuple[str, ...] = ()
