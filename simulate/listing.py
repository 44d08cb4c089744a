"""The source text of the functions that a program's instructions come from."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Iterable
from dataclasses import dataclass
from tokenize import TokenError
from types import CodeType


@dataclass(frozen=True, slots=True)
class Listing:
    """Consecutive lines of one file.

    Attributes
    ----------
    file
        Its name without folders, as in ``file.py:line``.
    first
        Number of the first line.
    lines
        Text, without line ends.
    """

    file: str
    first: int
    lines: tuple[str, ...]


def listings(code: Iterable[tuple[str, CodeType]]) -> tuple[Listing, ...]:
    """Return the functions' text by file and line; those without text are left out."""
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for name, each in code:
        text = linecache.getlines(each.co_filename)
        first = each.co_firstlineno
        if each.co_name.startswith("<") or not 1 <= first <= len(text):
            continue
        try:
            block = inspect.getblock(text[first - 1 :])
        except (SyntaxError, TokenError):  # the file changed since it ran
            continue
        spans.setdefault((name, each.co_filename), []).append((first, first + len(block)))
    found = []
    for (name, path), ranges in sorted(spans.items()):
        text = linecache.getlines(path)
        reached = 0
        for first, end in sorted(ranges):
            if end > reached:  # else it lies within the function before it
                first = max(first, reached)
                lines = tuple(line.rstrip("\n") for line in text[first - 1 : end - 1])
                found.append(Listing(name, first, lines))
                reached = end
    return tuple(found)
