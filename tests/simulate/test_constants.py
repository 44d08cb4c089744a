"""Lists and dicts that a kernel reads of a module: constants, or what the compiler cannot know."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nkiconv.simulate.constants import frozen, is_constant
from nkiconv.simulate.errors import UnsupportedPythonError
from nkiconv.simulate.subset import check_kernel

KERNEL = "\ndef kernel(x):\n    return x == TAPS[0]\n"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write modules to a folder that Python imports from, and import the last one."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(**sources: str) -> ModuleType:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.delitem(importlib.sys.modules, name, raising=False)  # type: ignore[attr-defined]
        return importlib.import_module(list(sources)[-1])

    return make


@pytest.mark.parametrize("value", ["[1, 2]", "{'a': [1]}", "[(1, 'a'), None]", "list((1, 2))"])
def test_a_value_that_nothing_changes(made: Any, value: str) -> None:
    module = made(taps_a=f"TAPS = {value}" + KERNEL)
    assert is_constant("taps_a", "TAPS")
    check_kernel(module.kernel)
    check_kernel(module.kernel)


CHANGES = [
    "TAPS.append(3)", "TAPS[0] = 3", "TAPS[0][1] = 3", "TAPS[0] += 3", "del TAPS[0]", "TAPS += [3]",
    "TAPS = [4]", "TAPS.sort()", "def change():\n    TAPS[0] = 3", "def change():\n    global TAPS",
    "TAPS[0].update(a=1)",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_code_that_changes_it(made: Any, change: str) -> None:
    module = made(taps_b="def never():\n    pass\nTAPS = [1, 2]" + KERNEL)
    check_kernel(module.kernel)
    source = (
        f"TAPS = [[1, 2], 2]\nif TAPS is None:\n    {change.replace(chr(10), chr(10) + '    ')}"
    )
    if change == "TAPS = [4]":
        source = "TAPS = [1]\nTAPS = [4]"
    module = made(taps_c=source + KERNEL)
    with pytest.raises(UnsupportedPythonError, match="outer variable TAPS, a list at"):
        check_kernel(module.kernel)


def test_one_of_several_that_a_call_returns(made: Any) -> None:
    source = "def make():\n    return 1, {'a': 2}\nONE, TAPS = make()\n" + KERNEL
    check_kernel(made(taps_k=source).kernel)


@pytest.mark.parametrize("value", ["{1, 2}", "bytearray(2)", "range(3)"])
def test_other_types_stay_refused(made: Any, value: str) -> None:
    with pytest.raises(UnsupportedPythonError, match="outer variable TAPS, a "):
        check_kernel(made(taps_d=f"TAPS = {value}" + KERNEL).kernel)


def test_a_change_from_elsewhere_is_seen_at_the_next_launch(made: Any) -> None:
    module = made(taps_e="TAPS = [1, [2]]" + KERNEL)
    check_kernel(module.kernel)
    module.TAPS[1][0] = 3
    with pytest.raises(UnsupportedPythonError, match="module constant TAPS was"):
        check_kernel(module.kernel)


def test_an_imported_constant(made: Any) -> None:
    module = made(taps_f="TAPS = [1]", taps_g="from taps_f import TAPS" + KERNEL)
    check_kernel(module.kernel)
    module = made(taps_h="TAPS = [1]\nTAPS.append(2)", taps_i="from taps_h import TAPS" + KERNEL)
    with pytest.raises(UnsupportedPythonError, match="outer variable TAPS, a list"):
        check_kernel(module.kernel)


def test_items_are_checked_too(made: Any) -> None:
    source = "import numpy\nTAPS = [numpy.add]" + KERNEL
    with pytest.raises(UnsupportedPythonError, match=r"numpy\.add"):
        check_kernel(made(taps_j=source).kernel)


def test_frozen_tells_types_apart() -> None:
    assert frozen([1, (2,)]) == frozen([1, (2,)])
    assert frozen([1]) != frozen((1,))
    assert frozen({"a": [1]}) != frozen({"a": [2]})
