"""Every number about the chips that the model rests on, the least certain first."""

from __future__ import annotations

from nkiconv.simulate.hardware import FACTS, Fact, Status, resolve_target

__all__ = ["fact_dict", "facts_of"]

_ORDER = (Status.ASSUMED, Status.MEASURED, Status.DOCUMENTED)


def facts_of(target: str | None) -> list[Fact]:
    """Return the facts of one target, or of all; assumed ones first, else as in hardware.py.

    Raises
    ------
    ConstraintError
        There is no such target.
    """
    wish = None if target is None else resolve_target(target, op="--target")
    chosen = [fact for fact in FACTS if wish in (None, fact.target)]
    return sorted(chosen, key=lambda fact: _ORDER.index(fact.status))  # a stable sort


def fact_dict(fact: Fact) -> dict[str, object]:
    """Return a fact as plain values for JSON."""
    return {
        "name": fact.name,
        "value": fact.value,
        "unit": fact.unit,
        "target": fact.target,
        "status": fact.status.value,
        "source": fact.source,
    }
