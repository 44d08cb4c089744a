"""The part of Python that the NKI compiler takes, as a check on a kernel's syntax tree.

The compiler parses a kernel and every function it calls; a simulator that runs them as Python would
accept far more, and the kernel would fail on the day it first meets a device.  What is not known to
compile is therefore refused here, by the tables of `subset_tables`: `ALLOWED` node types, `REFUSED`
node types with their cures, and `DETAILS` that no node type tells.

The vendor's own kernels that load without the vendor's NKI pass; a third of them read a list or
dict of a module, which is taken where nothing changes it (`constants`).

Not seen: methods of objects and functions that come in as arguments, and a dictionary key that is
not written as a literal.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import linecache
import warnings
import weakref
from collections.abc import Callable
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any, NoReturn

from nkiconv.simulate.constants import frozen, is_constant
from nkiconv.simulate.errors import UnsupportedPythonError
from nkiconv.simulate.slugs import python_code
from nkiconv.simulate.subset_tables import (
    ALLOWED,
    BUILTIN_CURES,
    BUILTINS,
    CLASSES,
    DETAILS,
    HOST,
    HOST_METHODS,
    HOST_ROOTS,
    MATH,
    NKI_ROOTS,
    OLD,
    OLD_ROOTS,
    ON_HOST,
    PURE,
    REFUSED,
    UNUSED,
)

__all__ = ["check_kernel"]

# Values by name and by where they were read: the module, or the function whose globals hold them.
# Weakly, since a cache must not keep a kernel alive.
_Constants = dict[tuple["weakref.ref[Any]", str], object]
_CHECKED: weakref.WeakKeyDictionary[FunctionType, _Constants] = weakref.WeakKeyDictionary()


def check_kernel(fn: Callable[..., object]) -> None:
    """Refuse a kernel that the NKI compiler is not known to take, it or any function it calls.

    The tree is read at the first call for a function; later calls only look whether the module
    constants that the kernel reads are still what they were.

    Parameters
    ----------
    fn : a function, or what ``nki.jit`` made of one (anything with the function as ``func``).

    Raises
    ------
    UnsupportedPythonError
        A construct, built-in, host function, class or module variable that is refused.

    Notes
    -----
    A function without source (typed into a plain interpreter, or made by ``exec``) cannot be
    checked: one warning names it.
    """
    func = _unwrap(fn)
    if not isinstance(func, FunctionType):
        raise UnsupportedPythonError(
            f"kernel: received a {type(fn).__name__}, not a function", code="python.no_function"
        )
    constants = _CHECKED.get(func)
    if constants is None:
        constants = {}
        _Reader(func, func, {func}, constants).read()
        _CHECKED[func] = constants
    for (ref, name), old in constants.items():
        holder = ref()
        new = getattr(holder, "__globals__", getattr(holder, "__dict__", {})).get(name, old)
        if new is not old and (
            frozen(new) != old
            if isinstance(new, (list, dict))
            else type(new) is not type(old) or new != old
        ):
            raise UnsupportedPythonError(
                f"kernel {func.__name__}: module constant {name} was {old!r} at the first launch, "
                f"is {new!r} now. Why refused: {PURE}. Write instead: an argument.",
                code="python.changed_constant",
            )


class _Reader:
    """Reads one function for one kernel; what the function refers to gets readers of its own."""

    def __init__(
        self,
        kernel: FunctionType,
        func: FunctionType,
        seen: set[object],
        constants: _Constants,
    ) -> None:
        self.kernel, self.func, self.seen, self.constants = kernel, func, seen, constants
        self.line = func.__code__.co_firstlineno
        self.closure = _closure(func)

    def read(self) -> None:
        """Check the function's signature and body."""
        code = self.func.__code__
        linecache.checkcache(code.co_filename)
        source = "".join(linecache.getlines(code.co_filename, self.func.__globals__))
        node = _functions(source).get((code.co_firstlineno, code.co_name))
        if node is None:
            warnings.warn(
                f"kernel {self.kernel.__name__}: no source for {self.func.__qualname__} "
                f"({code.co_filename}); it runs without the check of its Python",
                stacklevel=2,
            )
        elif self.func is self.kernel and isinstance(node, ast.FunctionDef):
            self.visit_all([node.args, *node.body], _bound_names(node))  # decorators: the host's
        else:
            self.visit(node, frozenset())

    def visit(self, node: ast.AST, local: frozenset[str]) -> None:
        """Check a node, what it names outside the function, and the nodes under it."""
        self.line = getattr(node, "lineno", self.line)
        if type(node) not in ALLOWED:
            refusal = REFUSED.get(type(node))
            if refusal is None:
                self.refuse(type(node).__name__, "simpler statements", code="python.other")
            self.refuse(*refusal)
        for kind, applies, refusal in DETAILS:
            if isinstance(node, kind) and applies(node):
                self.refuse(*refusal)
        if isinstance(node, ast.FunctionDef):
            local |= _bound_names(node)
        elif isinstance(node, (ast.Name, ast.Attribute)):
            outside = self.look_up(node, local)
            if outside is not None:
                if isinstance(node.ctx, ast.Store):
                    what, code = "assignment to a module's variable", "python.module_assignment"
                    self.refuse(what, "a return value", PURE, code=code)
                self.check_value(*outside)
                return
        self.visit_all(_compiled_children(node), local)

    def visit_all(self, nodes: list[ast.AST], local: frozenset[str]) -> None:
        """Check nodes in the order of the source."""
        for node in nodes:
            self.visit(node, local)

    def look_up(self, node: ast.AST, local: frozenset[str]) -> tuple[object, str, object] | None:
        """Holder, name and value of what a name, or an attribute of a module, stands for."""
        if isinstance(node, ast.Name) and node.id not in local:
            if node.id in self.closure:
                return None, node.id, self.closure[node.id]
            if node.id in self.func.__globals__:
                return self.func, node.id, self.func.__globals__[node.id]
            if hasattr(builtins, node.id) and node.id not in BUILTINS:
                cure = BUILTIN_CURES.get(node.id, ON_HOST)
                self.refuse(f"built-in {node.id}", cure, code="python.builtin")
        elif isinstance(node, ast.Attribute):
            outside = self.look_up(node.value, local)
            if outside is not None and isinstance(module := outside[2], ModuleType):
                if _is_from(module, OLD_ROOTS):
                    return None, module.__name__, module  # whatever it has is refused
                if _is_from(module, NKI_ROOTS):
                    return None, node.attr, None
                if hasattr(module, node.attr):
                    return module, node.attr, getattr(module, node.attr)
        return None

    def check_value(self, holder: object, name: str, value: object) -> None:
        """Follow a function or class, remember a constant, refuse the rest."""
        value = _unwrap(value)
        if _is_from(value, OLD_ROOTS):
            full_name = getattr(value, "__name__", name)
            if not isinstance(value, ModuleType):
                full_name = f"{getattr(value, '__module__', '')}.{full_name}"
            self.refuse(
                full_name,
                "the same name of nki, nki.isa or nki.language",
                OLD,
                code="python.old_namespace",
            )
        if isinstance(value, (ModuleType, Enum)) or _is_from(value, NKI_ROOTS):
            return
        if value is None or isinstance(value, (bool, int, float, str, tuple)):
            for item in value if isinstance(value, tuple) else ():
                self.check_value(None, name, item)
            if holder is not None:
                self.constants[weakref.ref(holder), name] = value
        elif isinstance(value, (list, dict)) and self.is_constant(holder, name):
            self.check_items(name, value)
            self.constants[weakref.ref(holder), name] = frozen(value)
        elif callable(value) and _is_from(value, HOST_ROOTS):
            full_name = f"{value.__module__}.{getattr(value, '__name__', type(value).__name__)}"
            if full_name not in MATH:
                self.refuse(full_name, ON_HOST, HOST, code="python.host_function")
        elif isinstance(value, FunctionType):
            if value not in self.seen:
                self.seen.add(value)
                _Reader(self.kernel, value, self.seen, self.constants).read()
        elif isinstance(value, type):
            self.check_class(value)
        elif _is_nki_class(type(value)):
            self.check_class(type(value))
        elif callable(value):
            what, code = f"{name}, a {type(value).__name__}", "python.host_object"
            self.refuse(what, "a plain Python function", HOST, code=code)
        else:
            what = f"outer variable {name}, a {type(value).__name__}"
            cure = "a tuple or a number, or an argument"
            self.refuse(what, cure, PURE, code="python.outer_variable")

    def check_items(self, name: str, value: object) -> None:
        """Check what a constant list or dict holds, at any depth."""
        if isinstance(value, (list, tuple, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                self.check_items(name, item)
        else:
            self.check_value(None, name, value)

    @staticmethod
    def is_constant(holder: object, name: str) -> bool:
        """Tell whether a list or dict is a constant of a module."""
        home = holder.__name__ if isinstance(holder, ModuleType) else None
        return is_constant(home or str(getattr(holder, "__module__", "")), name)

    def check_class(self, cls: type) -> None:
        """Check the methods of a class that the kernel makes objects of."""
        if cls in self.seen or issubclass(cls, Enum):
            return
        self.seen.add(cls)
        if not _is_nki_class(cls) or len(cls.__bases__) > 1:
            cure = "a class from nl.NKIObject alone"
            self.refuse(f"class {cls.__name__}", cure, CLASSES, code="python.class_bases")
        for name, member in vars(cls).items():
            if isinstance(member, (property, classmethod, functools.cached_property)):
                what = f"{type(member).__name__} {cls.__name__}.{name}"
                cure = "a method, or an attribute that __init__ sets"
                self.refuse(what, cure, code="python.property")
            method = member.__func__ if isinstance(member, staticmethod) else member
            if not isinstance(method, FunctionType) or name in HOST_METHODS:
                continue
            if method.__code__.co_filename != "<string>":  # where dataclass writes its methods
                self.check_value(None, name, method)

    def refuse(self, name: str, cure: str, rule: str = UNUSED, *, code: str = "") -> NoReturn:
        """Raise the error for the line that is being read."""
        place = f"{self.func.__code__.co_filename}:{self.line}"
        if self.func is not self.kernel:
            place += f" (in {self.func.__qualname__}, which it calls)"
        raise UnsupportedPythonError(
            f"kernel {self.kernel.__name__}: {name} at {place}. "
            f"Why refused: {rule}. Write instead: {cure}.",
            code=code or python_code(name),
        )


def _unwrap(fn: object) -> object:
    """Plain function inside what ``nki.jit`` returned, else the object itself."""
    func = getattr(fn, "func", None)
    partial = isinstance(fn, functools.partial)
    return func if isinstance(func, FunctionType) and not partial else fn


def _is_from(value: object, roots: frozenset[str]) -> bool:
    """Tell whether a module, or the module that defined an object, lies under one of the roots."""
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    parts = home.split(".") if isinstance(home, str) else []
    return any(".".join(parts[: i + 1]) in roots for i in range(len(parts)))


def _is_nki_class(cls: type) -> bool:
    return any(base.__name__ == "NKIObject" for base in cls.__mro__)


def _closure(func: FunctionType) -> dict[str, object]:
    """Variables of enclosing functions, those without a value yet left out."""
    values: dict[str, object] = {}
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            values[name] = cell.cell_contents
    return values


@functools.lru_cache(maxsize=64)
def _functions(source: str) -> dict[tuple[int, str], ast.AST]:
    """Every function of a file by first line (of its first decorator) and name."""
    found: dict[tuple[int, str], ast.AST] = {}
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a file that changed since it was imported
        return found
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[first, node.name] = node
        elif isinstance(node, ast.Lambda):
            found[node.lineno, "<lambda>"] = node
    return found


def _bound_names(func: ast.FunctionDef) -> frozenset[str]:
    """Parameters and assigned names of a function, without those of functions inside it."""
    names = {node.arg for node in ast.walk(func.args) if isinstance(node, ast.arg)}
    todo: list[ast.AST] = list(func.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        todo.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def _compiled_children(node: ast.AST) -> list[ast.AST]:
    """Child nodes without annotations and decorators, which are Python's business."""
    skipped = ("annotation", "returns", "decorator_list")
    parts = [part for name, part in ast.iter_fields(node) if name not in skipped]
    flat = [p for part in parts for p in (part if isinstance(part, list) else [part])]
    return [p for p in flat if isinstance(p, ast.AST)]
