"""The part of Python that the NKI compiler takes, as a check on a kernel's syntax tree.

The compiler parses a kernel and every function it calls; a simulator that runs them as Python would
accept far more, and the kernel would fail on the day it first meets a device.  What is not known to
compile is therefore refused here, by three tables: `ALLOWED` node types, `REFUSED` node types with
their cures, and `DETAILS` that no node type tells.

Evidence, counted in November 2026: the vendor's nki-library of 2026-04-13 (0.1.0+gd4920de) has 59
kernels; with those of its tests they reach 602 functions and 168 methods of 95 classes in 108
files.  Comments give counts in these 770, annotations left out.  "Documented" means the NKI 0.6.0
pages, read November 2026.  The kernels that load without the vendor's NKI pass; a third of them
read a list or dict of a module, which is taken where nothing changes it (`constants`).

Not seen: methods of objects and functions that come in as arguments, and a dictionary key that is
not written as a literal.  A third of the file is tables, hence its length.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import linecache
import sys
import warnings
import weakref
from collections.abc import Callable
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn

from nkiconv.simulate.constants import frozen, is_constant
from nkiconv.simulate.errors import UnsupportedPythonError
from nkiconv.simulate.slugs import python_code

__all__ = ["ALLOWED", "DETAILS", "REFUSED", "Refusal", "check_kernel"]

_UNUSED = (
    "it is not known to compile, and none of the 770 functions behind the vendor's own kernels "
    "uses it (nki-library, 2026-04-13)"
)
_PURE = (
    "the compiler caches a kernel by its arguments, so a kernel must depend on nothing else "
    "(NKI language guide, Kernel Caching)"
)
_VALUES = (
    "a dict has string keys, and a number is an integer or a float (NKI language guide, Values)"
)
_GUIDE_030 = "the compiler does not take it (NKI 0.3.0 update guide, Language restrictions)"
_CLASSES = "a class derives from NKIObject and nothing else (NKI language guide, Class Support)"
_HOST = "a kernel is compiled, and knows the NKI language alone; this is code for the host"
_ON_HOST = "its result, worked out on the host and passed as an argument"
_PLAIN = "plain parameters, those with defaults last"
_NO_WITH = "the statements alone"
_BITS = "// and % by a power of two"


class Refusal(NamedTuple):
    """What is refused, what to write instead, and which rule says so."""

    name: str
    cure: str
    rule: str = _UNUSED


REFUSED: dict[type[ast.AST], Refusal] = {
    ast.ListComp: Refusal("list comprehension", "a for loop with append"),
    ast.SetComp: Refusal("set comprehension", "a for loop that appends to a list"),
    ast.DictComp: Refusal("dict comprehension", "a for loop that fills a dict"),
    ast.GeneratorExp: Refusal("generator expression", "a for loop with append"),
    ast.Lambda: Refusal("lambda", "a named function"),
    ast.NamedExpr: Refusal("walrus (:=)", "an assignment on a line of its own"),
    ast.Try: Refusal("try", "an if that tests for the condition, or a check on the host"),
    ast.Raise: Refusal("raise", "assert condition, message"),
    ast.Yield: Refusal("yield", "append to a list and return it"),
    ast.YieldFrom: Refusal("yield from", "append to a list and return it"),
    ast.Global: Refusal("global", "an argument and a returned value", _PURE),
    ast.Nonlocal: Refusal("nonlocal", "an argument, or a tensor that the inner function writes"),
    ast.Match: Refusal("match", "if / elif / else"),
    ast.Set: Refusal("set", "a tuple or a list"),
    ast.Delete: Refusal("del", "leave the name alone; for a dict, pop"),
    ast.Import: Refusal("import inside a function", "an import at the top of the module"),
    ast.ImportFrom: Refusal("import inside a function", "an import at the top of the module"),
    ast.ClassDef: Refusal("class inside a function", "a class of the module, from nl.NKIObject"),
    ast.AsyncFunctionDef: Refusal("async def", "def; the compiler finds the parallelism itself"),
    ast.MatMult: Refusal("operator @", "nisa.nc_matmul"),
    ast.BitAnd: Refusal("operator &", _BITS),
    ast.BitOr: Refusal("operator |", _BITS),
    ast.BitXor: Refusal("operator ^", _BITS),
    ast.RShift: Refusal("operator >>", _BITS),
    ast.Invert: Refusal("operator ~", _BITS),
    ast.UAdd: Refusal("unary +", "the operand alone"),
}

ALLOWED: frozenset[type[ast.AST]] = frozenset(
    {
        # Functions 770, inner functions 0 (documented: the body of nl.fori_loop is one).
        *(ast.FunctionDef, ast.arguments, ast.arg, ast.Return),
        # Assign 7477, For 1021, If 1931, While 20, Break 44, Continue 12, Pass 2.  Assert 1, in a
        # helper that the whole library calls, and documented.  With: see DETAILS.
        *(ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.While, ast.If),
        *(ast.Break, ast.Continue, ast.Pass, ast.Assert, ast.With, ast.withitem),
        # Call 11311, Subscript 3888, List 2233, JoinedStr 927, IfExp 491, Dict 10.  Starred: two
        # calls f(*args) in a helper of the library that no kernel reaches today.
        *(ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Constant, ast.Starred),
        *(ast.Tuple, ast.List, ast.Dict, ast.Call, ast.keyword, ast.IfExp),
        *(ast.JoinedStr, ast.FormattedValue, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare),
        # Mult 2958, Add 1547, FloorDiv 690, Sub 656, Mod 301, Div 44, Pow 3, LShift 3.
        *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.LShift),
        # USub 150, Not 292, And 336, Or 200; comparisons 2647, 18 of them chained.
        *(ast.USub, ast.Not, ast.And, ast.Or, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt),
        *(ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot, ast.Load, ast.Store),
    }
)


def _tail(node: ast.AST) -> str:
    """Last part of a name, or of the name that is called: ``nki.jit(...)`` gives ``jit``."""
    func = node.func if isinstance(node, ast.Call) else node
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def _has_decorator(node: ast.FunctionDef) -> bool:
    return any(_tail(decorator) not in {"staticmethod", "jit"} for decorator in node.decorator_list)


def _is_other_value(node: ast.Constant) -> bool:
    return isinstance(node.value, (bytes, complex))


def _has_star(node: ast.Tuple | ast.List) -> bool:
    return any(isinstance(item, ast.Starred) for item in node.elts)


def _has_mutable(node: ast.arguments) -> bool:
    return any(isinstance(default, (ast.List, ast.Dict)) for default in node.defaults)


def _has_other_keys(node: ast.Dict) -> bool:
    literals = [k.value if isinstance(k, ast.Constant) else "" for k in node.keys]
    return None in node.keys or not all(isinstance(value, str) for value in literals)


def _compares_identity(node: ast.Compare) -> bool:
    pairs = zip(node.ops, node.comparators, strict=True)
    identity = [right for op, right in pairs if isinstance(op, (ast.Is, ast.IsNot))]
    return not all(isinstance(right, ast.Constant) and right.value is None for right in identity)


# Each 0 times unless a comment says more.  A predicate takes a node of the types to its left, which
# the type of the table cannot say; hence Any.
_Kinds = type[ast.AST] | tuple[type[ast.AST], ...]
DETAILS: tuple[tuple[_Kinds, Callable[[Any], object], Refusal], ...] = (
    # `is None` 310 times, as often as `== None` (312); `is` with anything else never.
    (ast.Compare, _compares_identity, Refusal("is", "== or !=", _GUIDE_030)),
    # 30 keys, all of them string literals; no `**`.
    (ast.Dict, _has_other_keys, Refusal("dict key not a str", "a string", _VALUES)),
    # Documented: `with nl.no_reorder():`, and nothing else after `with`.
    (ast.withitem, lambda n: _tail(n.context_expr) != "no_reorder", Refusal("with", _NO_WITH)),
    # 18 static methods; 39 kernels that another kernel calls.
    (ast.FunctionDef, _has_decorator, Refusal("decorator", "a plain function")),
    ((ast.For, ast.While), lambda n: n.orelse, Refusal("else of a loop", "a flag that it sets")),
    ((ast.Tuple, ast.List), _has_star, Refusal("* in a tuple or list", "every item")),
    (ast.keyword, lambda n: n.arg is None, Refusal("** in a call", "keywords by name")),
    (ast.FormattedValue, lambda n: n.format_spec, Refusal("format specification", "{value} alone")),
    (ast.Constant, _is_other_value, Refusal("bytes or complex", "str or float", _VALUES)),
    (ast.arguments, lambda n: n.vararg or n.kwarg, Refusal("*args or **kwargs", _PLAIN)),
    (ast.arguments, lambda n: n.posonlyargs, Refusal("parameter before /", _PLAIN)),
    (ast.arguments, lambda n: n.kwonlyargs, Refusal("parameter after *", _PLAIN, _GUIDE_030)),
    (ast.arguments, _has_mutable, Refusal("list or dict default", "a tuple", _PURE)),
)

# Calls: range 748, min 390, len 197, str 55, print 54, tuple 53, max 33, list 31, isinstance 19,
# float 19, divmod 18, int 8.  Documented: dict, slice, and breakpoint for the simulator alone.
_BUILTINS = frozenset(
    {"breakpoint", "dict", "divmod", "float", "int", "isinstance", "len", "list", "max", "min"}
    | {"print", "range", "slice", "str", "tuple"}
)
_BUILTIN_CURES = {
    "abs": "x if x >= 0 else -x",
    "bool": "x != 0",
    "enumerate": "for i in range(len(items))",
    "set": "a tuple or a list",
    "sum": "a for loop with +=",
    "zip": "one range that indexes both",
}
_MATH = frozenset({"math.ceil", "math.floor", "math.gcd", "math.sqrt"})  # 28, 2, 3, 1
_NKI_ROOTS = frozenset({"nki", "nkiconv.simulate"})
_OLD_ROOTS = frozenset({"neuronxcc"})
_OLD = "neuronxcc.nki is an error inside a kernel (NKI 0.4.0 release notes, Breaking Changes)"
_HOST_ROOTS = frozenset({"jax", "ml_dtypes", "numpy", "scipy", "torch"}) | sys.stdlib_module_names
# Never compiled: equality is structural in NKI, messages and copies are the host's.
_HOST_METHODS = frozenset({"__eq__", "__hash__", "__replace__", "__repr__", "__str__"})

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
                f"is {new!r} now. Why refused: {_PURE}. Write instead: an argument.",
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
                    self.refuse(what, "a return value", _PURE, code=code)
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
            if hasattr(builtins, node.id) and node.id not in _BUILTINS:
                cure = _BUILTIN_CURES.get(node.id, _ON_HOST)
                self.refuse(f"built-in {node.id}", cure, code="python.builtin")
        elif isinstance(node, ast.Attribute):
            outside = self.look_up(node.value, local)
            if outside is not None and isinstance(module := outside[2], ModuleType):
                if _is_from(module, _OLD_ROOTS):
                    return None, module.__name__, module  # whatever it has is refused
                if _is_from(module, _NKI_ROOTS):
                    return None, node.attr, None
                if hasattr(module, node.attr):
                    return module, node.attr, getattr(module, node.attr)
        return None

    def check_value(self, holder: object, name: str, value: object) -> None:
        """Follow a function or class, remember a constant, refuse the rest."""
        value = _unwrap(value)
        if _is_from(value, _OLD_ROOTS):
            full_name = getattr(value, "__name__", name)
            if not isinstance(value, ModuleType):
                full_name = f"{getattr(value, '__module__', '')}.{full_name}"
            self.refuse(full_name, "the same name of nki, nki.isa or nki.language", _OLD)
        if isinstance(value, (ModuleType, Enum)) or _is_from(value, _NKI_ROOTS):
            return
        if value is None or isinstance(value, (bool, int, float, str, tuple)):
            for item in value if isinstance(value, tuple) else ():
                self.check_value(None, name, item)
            if holder is not None:
                self.constants[weakref.ref(holder), name] = value
        elif isinstance(value, (list, dict)) and self.is_constant(holder, name):
            self.check_items(name, value)
            self.constants[weakref.ref(holder), name] = frozen(value)
        elif callable(value) and _is_from(value, _HOST_ROOTS):
            full_name = f"{value.__module__}.{getattr(value, '__name__', type(value).__name__)}"
            if full_name not in _MATH:
                self.refuse(full_name, _ON_HOST, _HOST, code="python.host_function")
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
            self.refuse(what, "a plain Python function", _HOST, code=code)
        else:
            what = f"outer variable {name}, a {type(value).__name__}"
            cure = "a tuple or a number, or an argument"
            self.refuse(what, cure, _PURE, code="python.outer_variable")

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
            self.refuse(f"class {cls.__name__}", cure, _CLASSES, code="python.class_bases")
        for name, member in vars(cls).items():
            if isinstance(member, (property, classmethod, functools.cached_property)):
                what = f"{type(member).__name__} {cls.__name__}.{name}"
                cure = "a method, or an attribute that __init__ sets"
                self.refuse(what, cure, code="python.property")
            method = member.__func__ if isinstance(member, staticmethod) else member
            if not isinstance(method, FunctionType) or name in _HOST_METHODS:
                continue
            if method.__code__.co_filename != "<string>":  # where dataclass writes its methods
                self.check_value(None, name, method)

    def refuse(self, name: str, cure: str, rule: str = _UNUSED, *, code: str = "") -> NoReturn:
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
