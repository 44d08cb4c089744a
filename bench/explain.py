"""`nkiconv explain`: a rule of the simulator at length."""

from __future__ import annotations

import textwrap

from nkiconv.bench.errors import UserError
from nkiconv.simulate.strictness import Refused, all_codes, limits_of, near, operands_of

__all__ = ["explain", "list_codes"]

_WIDTH = 79


def explain(code: str) -> list[str]:
    """Return the lines that explain a code.

    Raises
    ------
    UserError
        There is no such code; names those that resemble it.
    """
    entry = all_codes().get(code)
    if entry is None:
        like = ", ".join(near(code))
        hint = f"did you mean {like}?" if like else "`nkiconv explain` lists all"
        raise UserError(f"no code {code!r}; {hint}")
    lines = [f"{entry.code} ({entry.error})", ""]
    lines += _paragraph(f"{_capital(entry.sentence)}.", "")
    if entry.sheet:
        lines += ["", f"Instruction nisa.{entry.sheet}, with the operands"]
        lines += [line for text in operands_of(entry.sheet) for line in _paragraph(text, "  ")]
    if entry.limits:
        lines += ["", "Limit"]
        lines += [line for text in limits_of(entry.limits) for line in _paragraph(text, "  ")]
    for heading, text in (("Why", entry.why), ("Cure", entry.cure), ("Source", entry.source)):
        if text:
            lines += ["", heading, *_paragraph(_capital(text), "  ")]
    return [*lines, "", "Looks like", *_paragraph(_example(entry), "  ")]


def list_codes() -> list[str]:
    """Return all codes, grouped by what stands before the point."""
    groups: dict[str, list[str]] = {}
    for code, entry in all_codes().items():
        groups.setdefault(entry.group, []).append(code.partition(".")[2])
    lines = []
    for group, slugs in groups.items():
        text = f"{group}.  {' '.join(slugs)}"
        lines += textwrap.wrap(
            text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
        )
    total = len(all_codes())
    return [*lines, "", f"{total} codes; `nkiconv explain nc_matmul.one_bank` says more about one."]


def _example(entry: Refused) -> str:
    if entry.construct:
        text = (
            f"kernel conv: {entry.construct} at conv.py:12. Why refused: {entry.source}. "
            f"{_capital(entry.cure)}."
        )
    elif entry.sheet:
        text = f"conv.py:12: nisa.{entry.sheet}: {entry.sentence}; got ... ({entry.source})"
    else:
        text = f"conv.py:12: ... ({entry.source})"
    return f"nkiconv.simulate.errors.{entry.error}: {text} [{entry.code}]"


def _paragraph(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _capital(text: str) -> str:
    return (
        text[:1].upper() + text[1:] if text[:2].islower() and "_" not in text.split()[0] else text
    )
