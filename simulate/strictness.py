"""All that the simulator refuses, by code: rules of sheets, the catalogue, constructs of Python."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass

from nkiconv.simulate import engines as _engines  # noqa: F401 - registers the sheets
from nkiconv.simulate.advice import advice_on
from nkiconv.simulate.hardware import FACTS, TARGETS
from nkiconv.simulate.rules import CATALOGUE
from nkiconv.simulate.sheet import SHEETS, Operand, Role
from nkiconv.simulate.slugs import python_code
from nkiconv.simulate.subset_tables import DETAILS, REFUSED

__all__ = ["Refused", "all_codes", "generations", "limits_of", "near", "operands_of"]


@dataclass(frozen=True, slots=True)
class Refused:
    """What one code stands for.

    Attributes
    ----------
    code, sentence, source, error, cure, why, limits
        As in `rules.Entry`.
    sheet
        Name of the instruction whose rule it is; "" for all others.
    construct
        Name of the construct of Python that is refused; "" for all others.
    """

    code: str
    sentence: str
    source: str
    error: str
    cure: str
    why: str = ""
    limits: tuple[str, ...] = ()
    sheet: str = ""
    construct: str = ""

    @property
    def group(self) -> str:
        """First part of the code."""
        return self.code.partition(".")[0]


@functools.cache
def all_codes() -> dict[str, Refused]:
    """Return every code with what it stands for, sorted by code."""
    found = [
        Refused(e.code, e.sentence, e.source, e.error, e.cure, e.why, e.limits)
        for e in CATALOGUE.values()
    ]
    for sheet in SHEETS.values():
        for code, rule in zip(sheet.codes, sheet.rules, strict=True):
            advice = advice_on(code)
            found.append(
                Refused(code, rule.sentence, rule.source, rule.error.__name__, *advice, sheet.name)
            )
    constructs = {r.name: r for r in [*REFUSED.values(), *(detail[2] for detail in DETAILS)]}
    for name, refusal in constructs.items():
        sentence = f"a kernel does not use: {name}"
        error = "UnsupportedPythonError"
        cure = f"write instead: {refusal.cure}"
        code = python_code(name)
        found.append(Refused(code, sentence, refusal.rule, error, cure, construct=name))
    return {entry.code: entry for entry in sorted(found, key=lambda entry: entry.code)}


def near(code: str) -> list[str]:
    """Return the codes that resemble a word: those of a group, or of nearly this spelling."""
    known = list(all_codes())
    within = [name for name in known if code and code in name.split(".")]
    return within[:5] or difflib.get_close_matches(code, known, n=5, cutoff=0.5)


def limits_of(fields: tuple[str, ...]) -> list[str]:
    """Return one line for each fact: name, value for each target, unit, source."""
    lines = []
    for field in fields:
        facts = [fact for fact in FACTS if fact.name == field]
        values = {fact.target: f"{fact.value:,g}" if fact.value < 1e4 else f"{fact.value:,.0f}"
                  for fact in facts}  # fmt: skip
        if len(set(values.values())) == 1:
            shown = f"{values[TARGETS[0]]} on all targets"
        else:
            shown = ", ".join(f"{values[target]} on {target}" for target in TARGETS)
        lines.append(f"{field}: {shown} ({facts[0].unit}; {facts[0].source})")
    return lines


def operands_of(sheet: str) -> list[str]:
    """Return one line for each operand of an instruction: what it is and where it may lie."""
    return [f"{name}: {_words(operand)}" for name, operand in SHEETS[sheet].operands.items()]


def _words(operand: Operand) -> str:
    spaces = " or ".join(sorted(space.upper() for space in operand.spaces))
    words = ["written" if operand.role is Role.WRITE else "read", f"in {spaces}"]
    if operand.dtypes is not None:
        words.append(", ".join(sorted(operand.dtypes)))
    if operand.per_partition:
        words.append("one element per partition")
    if operand.number:
        words.append("or a number")
    if operand.optional:
        words.append("or None")
    return "; ".join(words)


def generations(sheet: str) -> tuple[str, ...]:
    """Return the targets that have an instruction, from its rule ``generation`` if it has one."""
    from types import SimpleNamespace

    from nkiconv.simulate.hardware import HARDWARE

    made = SHEETS[sheet]
    rules = [
        rule
        for rule, code in zip(made.rules, made.codes, strict=True)
        if code == f"{sheet}.generation"
    ]
    return tuple(
        target
        for target in TARGETS
        if all(rule.holds(SimpleNamespace(hw=HARDWARE[target])) for rule in rules)  # type: ignore[arg-type]  # it looks at hw alone
    )
