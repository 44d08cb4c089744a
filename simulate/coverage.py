"""What of NKI 0.6.0 the embedded one has, and a clear word about what it does not have yet."""

from __future__ import annotations

import functools
import importlib
import json
from importlib import resources
from typing import Any


@functools.cache
def vendor_api() -> dict[str, Any]:
    """Return the vendor's public names and signatures, as published for NKI 0.6.0."""
    # By way of the parent, which is imported already: nki/ itself is known under another name.
    text = resources.files("nkiconv.simulate").joinpath("nki", "api-0.6.0.json").read_text("utf-8")
    modules: dict[str, Any] = json.loads(text)["modules"]
    return modules


def names_of(module: str) -> dict[str, list[str]]:
    """Return a vendor module's functions, classes and values."""
    api = vendor_api().get(module, {"functions": {}, "classes": {}, "values": []})
    return {
        "functions": list(api["functions"]),
        "classes": list(api["classes"]),
        "values": list(api["values"]),
    }


def available(module: str) -> list[str]:
    """Return which of a vendor module's functions the embedded NKI has."""
    try:
        embedded = importlib.import_module(module.replace("nki", "nkiconv.simulate.nki", 1))
    except ModuleNotFoundError:
        return []
    return [name for name in names_of(module)["functions"] if name in vars(embedded)]


def missing(module: str, name: str) -> AttributeError:
    """Return the error for a name that the embedded module does not have."""
    known = [n for names in names_of(module).values() for n in names]
    if name in known:
        return AttributeError(
            f"{module}.{name} is part of NKI 0.6.0 but not of the embedded NKI yet "
            "(nkiconv doctor lists what there is)"
        )
    return AttributeError(f"module {module!r} has no attribute {name!r}, in NKI 0.6.0 either")
