"""Which NKI answers ``import nki``: the vendor's, or the one embedded here.

Kernels say ``import nki`` as the vendor documents.  `install` puts a finder on ``sys.meta_path``
that answers this name, and the modules in `_FILES`, from ``simulate/nki/``.

=============================  ======================  ==========================================
found under the name ``nki``   NKICONV_SIMULATOR       used, and where the finder stands
=============================  ======================  ==========================================
nothing                        "", "auto", "embedded"  embedded; last
a real NKI                     "", "auto", "vendor"    the real one; last
a real NKI                     "embedded"              embedded; first
placeholder, plain directory   "", "auto", "embedded"  embedded; first
no real NKI                    "vendor"                refused
=============================  ======================  ==========================================

"Real" means a package that has the modules ``isa`` and ``language``; nothing is executed to find
this out.  PyPI's placeholder package of the same name has neither.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal, TypeVar, cast

from nkiconv.simulate.errors import ConstraintError

__all__ = ["NkiStatus", "embedded_twin", "install", "is_embedded_kernel", "status"]

NKI_VERSION = "0.6.0"
"""The vendor's release whose interface the embedded NKI follows (simulate/nki/api-0.6.0.json)."""

VARIABLE = "NKICONV_SIMULATOR"
_ALLOWED = ("", "auto", "embedded", "vendor")

_FOLDER = Path(__file__).resolve().parent / "nki"
_FILES = {
    "nki.language": "language.py",
    "nki.isa": "isa.py",
    "nki.isa.constants": "isa_constants.py",
    "nki.typing": "typing.py",
    "nki.collectives": "collectives.py",
}

_Function = TypeVar("_Function", bound=Callable[..., Any])  # any kernel or host function


@dataclass(frozen=True)
class NkiStatus:
    """Which NKI is in use, and why.

    Parameters
    ----------
    which
        "embedded" or "vendor".
    version
        Of the installed package, or the release that the embedded NKI follows.
    path
        Folder that ``import nki`` reads.
    placeholder
        Folder that has the name ``nki`` without being NKI (PyPI's placeholder package, or a plain
        directory on the import path), if there is one.
    reason
        One sentence.
    """

    which: Literal["embedded", "vendor"]
    version: str
    path: Path
    placeholder: Path | None
    reason: str


class _EmbeddedFinder(MetaPathFinder):
    """Answers ``nki`` and its modules from the folder ``simulate/nki``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "nki":
            return importlib.util.spec_from_file_location(
                "nki", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
            )
        # The path is the parent package's: a real nki that lacks one of the modules must not get
        # ours in its place.
        if fullname in _FILES and any(place.startswith(str(_FOLDER)) for place in path or ()):
            return importlib.util.spec_from_file_location(fullname, _FOLDER / _FILES[fullname])
        return None


_finder = _EmbeddedFinder()


def install() -> NkiStatus:
    """Make ``import nki`` work in this process; calling it again changes nothing.

    Returns
    -------
    The `NkiStatus` that holds from now on.

    Raises
    ------
    ConstraintError
        NKICONV_SIMULATOR has an unknown value, or is "vendor" and no real NKI is installed.
    """
    now = status()
    if now.which == "embedded":
        # An nki imported earlier stays with whoever holds it; the next import gets ours.
        loaded = sys.modules.get("nki")
        if loaded is not None and not _is_ours(getattr(loaded, "__spec__", None)):
            for name in _names_under(["nki"]):
                del sys.modules[name]
    first = now.which == "embedded" and _found_outside() is not None
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    sys.meta_path.insert(0 if first else len(sys.meta_path), _finder)
    return now


def status() -> NkiStatus:
    """Tell which NKI `install` chooses, without importing or changing anything.

    Raises
    ------
    ConstraintError
        NKICONV_SIMULATOR has an unknown value, or is "vendor" and no real NKI is installed.
    """
    wish = os.environ.get(VARIABLE, "")
    if wish not in _ALLOWED:
        names = ", ".join(f'"{value}"' for value in _ALLOWED[1:])
        raise ConstraintError(
            f'{VARIABLE} is "{wish}"; the values that nkiconv reads are {names} (or unset)',
            code="setup.variable",
        )
    found = _found_outside()
    folder = None if found is None else _folder_of(found)
    if found is not None and folder is not None and _is_real(found):
        if wish != "embedded":
            reason = "a real NKI is installed" + (f" and {VARIABLE} asks for it" if wish else "")
            return NkiStatus("vendor", _installed_version(), folder, None, reason)
        return NkiStatus(
            "embedded",
            NKI_VERSION,
            _FOLDER,
            None,
            f"{VARIABLE}=embedded, though a real NKI is installed in {folder}",
        )
    if found is None:
        reason = "no NKI is installed"
    elif found.origin is None:
        reason = f"no NKI is installed; {folder} is a plain directory"
    else:
        reason = f"no NKI is installed; {folder} is a placeholder without isa and language"
    if wish == "vendor":
        raise ConstraintError(
            f"{VARIABLE}=vendor asks for a real NKI (a package nki with isa and language), "
            f'but {reason}; unset the variable, or set it to "auto", for the embedded one',
            code="setup.vendor",
        )
    return NkiStatus("embedded", NKI_VERSION, _FOLDER, folder, reason)


def _found_outside() -> ModuleSpec | None:
    """Spec of what is imported as ``nki``, or would be, if the finder here did not exist."""
    loaded = sys.modules.get("nki")
    spec = getattr(loaded, "__spec__", None)
    if spec is None or _is_ours(spec):
        spec = _find("nki", None)
    # The current directory can be simulate/, which has the embedded NKI under its import name.
    return None if _is_ours(spec) else spec


def _find(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """First answer of the finders other than ours, as the import system asks them."""
    for finder in list(sys.meta_path):
        if not isinstance(finder, _EmbeddedFinder) and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, path, None)
            if spec is not None:
                return spec
    return None


def _folder_of(spec: ModuleSpec) -> Path | None:
    """Folder that a package's spec stands for; a lone ``nki.py`` has its file instead."""
    for place in (*(spec.submodule_search_locations or ()), spec.origin):
        if place is not None:
            return Path(place)
    return None


def _is_ours(spec: ModuleSpec | None) -> bool:
    if spec is None or spec.origin is None:
        return False
    return Path(spec.origin).resolve() == _FOLDER / "__init__.py"


def _is_real(spec: ModuleSpec) -> bool:
    """Whether a package has code of its own and the two modules that every kernel imports."""
    places = spec.submodule_search_locations
    if spec.origin is None or places is None:
        return False
    return all(_find(f"nki.{name}", list(places)) is not None for name in ("isa", "language"))


def _installed_version() -> str:
    try:
        return importlib.metadata.version("nki")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# --- Second copies of kernels, for a process that uses the vendor's NKI --------------------------

_copies: dict[str, ModuleType] = {}  # the embedded nki, and what was imported against it
_copies_lock = threading.RLock()

_MISSING = object()


def is_embedded_kernel(fn: object) -> bool:
    """Whether an object is a kernel made by the embedded ``nki.jit``."""
    from nkiconv.simulate.runtime import Kernel  # which imports this module

    return isinstance(fn, Kernel)


def embedded_twin(fn: _Function) -> _Function:
    """Return the same function, loaded a second time, against the embedded NKI.

    Where no real NKI is in use, and for what is bound to the embedded one already or comes from a
    package without kernels, this is ``fn`` itself.  Otherwise the package that ``fn`` comes from
    (its top-level package; of nkiconv, the part it belongs to) and ``nkiconv.kernels`` are
    imported as second copies, while ``sys.modules`` holds the embedded modules under ``nki``.
    Copies are kept for later calls.

    Raises
    ------
    ConstraintError
        ``fn`` has no name that a second import can find: it is local to a function, a lambda, or
        defined in the main script or at a prompt.

    Notes
    -----
    An import that stands inside a function and runs only when that is called sees the first copy.
    """
    if isinstance(fn, functools.partial):
        twin = functools.partial(embedded_twin(fn.func), *fn.args, **fn.keywords)
        return cast("_Function", twin)
    loaded = sys.modules.get("nki")
    if loaded is None or _is_ours(getattr(loaded, "__spec__", None)) or is_embedded_kernel(fn):
        return fn
    module, qualname = _origin_of(fn)
    part = _part_of(module)
    if not _uses_kernels(part):
        return fn
    with _embedded_modules(["nki", "nkiconv.kernels", part]):
        found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if found is None:
        raise _no_twin(fn, f"module {module} has no {qualname} when it is imported again")
    return cast("_Function", found)


def _origin_of(fn: object) -> tuple[str, str]:
    """Module and qualified name under which a function, or the one a kernel wraps, was defined."""
    inner: Any = fn
    while not hasattr(inner, "__qualname__"):
        inner = getattr(inner, "__wrapped__", None) or getattr(inner, "func", None)
        if inner is None:
            raise _no_twin(fn, "it has no name")
    module, qualname = str(inner.__module__), str(inner.__qualname__)
    if module == "__main__":
        raise _no_twin(fn, "it is defined in the main script or at a prompt")
    if "<" in qualname:  # <locals>, <lambda>
        raise _no_twin(fn, "it is local to a function, or a lambda")
    return module, qualname


def _uses_kernels(part: str) -> bool:
    """Whether a loaded module of a package holds anything of NKI or of our kernels.

    NumPy, say, does not, and must never be imported twice.
    """
    for name in _names_under([part]):
        for value in list(vars(sys.modules[name]).values()):
            if isinstance(value, ModuleType):
                home = value.__name__
            elif isinstance(value, FunctionType | type):
                home = value.__module__ or ""
            else:
                home = type(value).__module__
            if _part_of(home) in ("nki", "nkiconv.kernels"):
                return True
    return False


def _no_twin(fn: object, why: str) -> ConstraintError:
    return ConstraintError(
        f"{fn!r} cannot be loaded against the embedded NKI: {why}. Define it at the top level of "
        f"a module, or start Python with {VARIABLE}=embedded",
        code="setup.second_copy",
    )


def _part_of(module: str) -> str:
    """Top-level package of a module; within nkiconv, its part."""
    names = module.split(".")
    return ".".join(names[: 2 if names[0] == "nkiconv" else 1])


def _names_under(roots: Sequence[str]) -> list[str]:
    return [
        name
        for name in list(sys.modules)
        if any(name == root or name.startswith(root + ".") for root in roots)
    ]


@contextmanager
def _embedded_modules(roots: Sequence[str]) -> Iterator[None]:
    """Import the roots afresh and ``nki`` as the embedded one within; leave all as it was."""
    roots = [*dict.fromkeys([*roots, *(_part_of(name) for name in _copies)])]
    finder = _EmbeddedFinder()
    with _copies_lock:
        before = {name: sys.modules.pop(name) for name in _names_under(roots)}
        # `import a.b as c` reads the attribute b of a, not sys.modules.
        attributes = [
            (sys.modules[parent], child, vars(sys.modules[parent]).get(child, _MISSING))
            for parent, _, child in (root.rpartition(".") for root in roots)
            if parent
        ]
        for parent, child, _ in attributes:
            _set_attribute(parent, child, _copies.get(f"{parent.__name__}.{child}", _MISSING))
        sys.modules.update(_copies)
        sys.meta_path.insert(0, finder)
        try:
            yield
            _copies.update((name, sys.modules[name]) for name in _names_under(roots))
        finally:
            sys.meta_path.remove(finder)
            for name in _names_under(roots):
                del sys.modules[name]
            sys.modules.update(before)
            for parent, child, value in attributes:
                _set_attribute(parent, child, value)


def _set_attribute(module: ModuleType, name: str, value: object) -> None:
    if value is not _MISSING:
        setattr(module, name, value)
    elif hasattr(module, name):
        delattr(module, name)
