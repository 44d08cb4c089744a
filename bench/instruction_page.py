"""The page docs/instructions.md: every instruction of nki.isa, as its sheet describes it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator

from nkiconv.bench.generated import MADE, engines, markdown_table
from nkiconv.simulate.hardware import HARDWARE, TARGETS
from nkiconv.simulate.sheet import SHEETS, Operand, Role, Sheet
from nkiconv.simulate.strictness import generations

__all__ = ["instruction_page"]


def instruction_page() -> str:
    """Return the page."""
    importlib.import_module("nkiconv.simulate.nki.isa")  # registers every sheet
    names = sorted(SHEETS)
    parts = [
        "# Instructions",
        MADE,
        f"{len(names)} instructions, as their sheets in simulate/engines/ have them: what each "
        "touches, what it refuses, what it does, and who says so. Parameters and defaults are the "
        "vendor's. `nkiconv explain CODE` says more about a rule; what an instruction costs is in "
        "its sheet, with chip numbers from `nkiconv facts`.",
    ]
    for name in names:
        parts += _instruction(SHEETS[name])
    return "\n\n".join(parts) + "\n"


def _instruction(sheet: Sheet) -> Iterator[str]:
    """Yield the paragraphs of one instruction."""
    yield f"## {sheet.name}"
    where = ", ".join(engines(sheet.lane))
    targets = " ".join(generations(sheet.name))
    yield f"Engine: {where}. Targets: {targets}."
    yield f"```text\n{_signature(sheet)}\n```"
    yield _description(sheet)
    operands = list(_operand_rows(sheet.operand_items))
    if operands:
        headings = ("operand", "role", "memory", "dtypes", "free elements, at most")
        yield markdown_table(headings, operands).rstrip()
    rules = [
        (f"`{code}`", rule.sentence, rule.source)
        for rule, code in zip(sheet.rules, sheet.codes, strict=True)
    ]
    if rules:
        yield markdown_table(("code", "what must hold", "source"), rules).rstrip()
    yield f"Sources: {'; '.join(sheet.sources)}."


def _signature(sheet: Sheet) -> str:
    """Return the call with one parameter on a line, without types."""
    lines = [
        f"    {p.name}," if p.default is p.empty else f"    {p.name}={_plain(p.default)},"
        for p in sheet.signature.parameters.values()
    ]
    return "\n".join((f"nisa.{sheet.name}(", *lines, ")"))


def _plain(value: object) -> str:
    """Return a default as one writes it: members of enumerations by their dotted name."""
    kind = type(value)
    member = getattr(value, "name", None)
    return f"{kind.__name__}.{member}" if isinstance(member, str) else repr(value)


def _description(sheet: Sheet) -> str:
    """Return the docstring, in Markdown."""
    lines = inspect.cleandoc(sheet.body.__doc__ or "").replace("``", "`").splitlines()
    text, block = [], False
    for at, line in enumerate(lines):
        underline = set(line) == {"-"} and len(line) > 3
        heading = at + 1 < len(lines) and set(lines[at + 1]) == {"-"} and len(lines[at + 1]) > 3
        if underline:
            text.append("```text")
            block = True
        elif heading:
            if block:
                text.append("```")
            text.append(f"{line}:")
            text.append("")
            block = False
        else:
            text.append(line)
    if block:
        text.append("```")
    return "\n".join(text)


def _operand_rows(operands: Iterable[tuple[str, Operand]]) -> Iterator[tuple[str, ...]]:
    for name, limits in operands:
        yield (
            f"`{name}`" + (" (optional)" if limits.optional else ""),
            {Role.READ: "read", Role.WRITE: "write"}.get(limits.role, limits.role.name.lower()),
            ", ".join(sorted(space.upper() for space in limits.spaces)),
            "any" if limits.dtypes is None else ", ".join(sorted(limits.dtypes)),
            _most_elems(limits),
        )


def _most_elems(limits: Operand) -> str:
    """Return the limit of each target, once where they agree."""
    if limits.max_free_elems is None:
        return "one per partition" if limits.per_partition else ""
    found = {target: limits.max_free_elems(HARDWARE[target]) for target in TARGETS}
    if len(set(found.values())) == 1:
        return f"{found['trn1']:,}"
    return ", ".join(f"{target} {most:,}" for target, most in found.items())
