"""Short names for rules and for constructs of Python, made from what they are called already."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["python_code", "rule_slugs"]

_MOST_WORDS = 4
_MOST_LETTERS = 40
_EMPTY = frozenset(
    {"a", "an", "and", "any", "are", "as", "at", "be", "by", "can", "cannot", "each", "for", "from"}
    | {"has", "have", "in", "is", "it", "its", "must", "no", "not", "of", "on", "one", "only"}
    | {"or", "per", "than", "that", "the", "their", "to", "unless", "where", "with"}
)

_PYTHON = {
    "walrus (:=)": "walrus",
    "operator @": "matmul operator",
    "operator &": "and operator",
    "operator |": "or operator",
    "operator ^": "xor operator",
    "operator >>": "right shift",
    "operator ~": "invert operator",
    "unary +": "unary plus",
    "* in a tuple or list": "star in tuple",
    "** in a call": "keywords in call",
    "*args or **kwargs": "variable parameters",
    "parameter before /": "positional only",
    "parameter after *": "keyword only",
    "else of a loop": "loop else",
}
"""Constructs whose names consist of signs."""


def python_code(name: str) -> str:
    """Return the code of a construct by its name: ``list comprehension`` is joined with _."""
    return "python." + "_".join(re.findall(r"[a-z0-9]+", _PYTHON.get(name, name).lower()))


def rule_slugs(sheet: str, rules: Sequence[tuple[str, Callable[..., Any], str]]) -> tuple[str, ...]:
    """Return one slug for each ``(slug or nothing, predicate, sentence)``, all different.

    A rule without a slug has the name of its predicate, or of the function that made the predicate;
    where that is not enough to tell two apart, the first words of its sentence.
    """
    slugs = [code or _of_predicate(sheet, holds, sentence) for code, holds, sentence in rules]
    alike = {slug for slug in slugs if slugs.count(slug) > 1}
    for at, (code, _, sentence) in enumerate(rules):
        if slugs[at] in alike and not code:
            slugs[at] = _of_sentence(sentence)
    seen: dict[str, int] = {}
    for at, slug in enumerate(slugs):
        seen[slug] = seen.get(slug, 0) + 1
        if seen[slug] > 1:
            slugs[at] = f"{slug}_{seen[slug]}"
    return tuple(slugs)


def _of_predicate(sheet: str, holds: Callable[..., Any], sentence: str) -> str:
    if sentence.startswith(f"{sheet} needs "):
        return "generation"
    name = getattr(holds, "__qualname__", "<lambda>")
    maker, _, inner = name.rpartition(".<locals>.")
    if maker and inner in ("<lambda>", "holds"):
        name = maker.rpartition(".")[2]
    else:
        name = name.rpartition(".")[2]
    return _of_sentence(sentence) if name in ("<lambda>", "holds") else name.strip("_").lower()


def _of_sentence(sentence: str) -> str:
    found = re.findall(r"[a-z0-9_]+", sentence.lower())
    words = [word for word in found if word not in _EMPTY and not word.isdigit()]
    words = words[:_MOST_WORDS]
    while len(words) > 1 and len("_".join(words)) > _MOST_LETTERS:
        words.pop()
    return "_".join(words).strip("_")
