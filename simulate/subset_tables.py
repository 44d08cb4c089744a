"""Which constructs of Python the NKI compiler takes, as tables; `subset` goes by them.

Evidence, counted in November 2026: the vendor's nki-library of 2026-04-13 (0.1.0+gd4920de) has 59
kernels; with those of its tests they reach 602 functions and 168 methods of 95 classes in 108
files.  Comments give counts in these 770, annotations left out.  "Documented" means the NKI 0.6.0
pages, read November 2026.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = [
    "ALLOWED",
    "BUILTINS",
    "BUILTIN_CURES",
    "CLASSES",
    "DETAILS",
    "HOST",
    "HOST_METHODS",
    "HOST_ROOTS",
    "MATH",
    "NKI_ROOTS",
    "OLD",
    "OLD_ROOTS",
    "ON_HOST",
    "PURE",
    "REFUSED",
    "UNUSED",
    "Refusal",
]

UNUSED = (
    "it is not known to compile, and none of the 770 functions behind the vendor's own kernels "
    "uses it (nki-library, 2026-04-13)"
)
PURE = (
    "the compiler caches a kernel by its arguments, so a kernel must depend on nothing else "
    "(NKI language guide, Kernel Caching)"
)
_VALUES = (
    "a dict has string keys, and a number is an integer or a float (NKI language guide, Values)"
)
_GUIDE_030 = "the compiler does not take it (NKI 0.3.0 update guide, Language restrictions)"
CLASSES = "a class derives from NKIObject and nothing else (NKI language guide, Class Support)"
HOST = "a kernel is compiled, and knows the NKI language alone; this is code for the host"
ON_HOST = "its result, worked out on the host and passed as an argument"
_PLAIN = "plain parameters, those with defaults last"
_NO_WITH = "the statements alone"
_BITS = "// and % by a power of two"


class Refusal(NamedTuple):
    """What is refused, what to write instead, and which rule says so."""

    name: str
    cure: str
    rule: str = UNUSED


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
    ast.Global: Refusal("global", "an argument and a returned value", PURE),
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
    (ast.arguments, _has_mutable, Refusal("list or dict default", "a tuple", PURE)),
)

# Calls: range 748, min 390, len 197, str 55, print 54, tuple 53, max 33, list 31, isinstance 19,
# float 19, divmod 18, int 8.  Documented: dict, slice, and breakpoint for the simulator alone.
BUILTINS = frozenset(
    {"breakpoint", "dict", "divmod", "float", "int", "isinstance", "len", "list", "max", "min"}
    | {"print", "range", "slice", "str", "tuple"}
)
BUILTIN_CURES = {
    "abs": "x if x >= 0 else -x",
    "bool": "x != 0",
    "enumerate": "for i in range(len(items))",
    "set": "a tuple or a list",
    "sum": "a for loop with +=",
    "zip": "one range that indexes both",
}
MATH = frozenset({"math.ceil", "math.floor", "math.gcd", "math.sqrt"})  # 28, 2, 3, 1
NKI_ROOTS = frozenset({"nki", "nkiconv.simulate"})
OLD_ROOTS = frozenset({"neuronxcc"})
OLD = "neuronxcc.nki is an error inside a kernel (NKI 0.4.0 release notes, Breaking Changes)"
HOST_ROOTS = frozenset({"jax", "ml_dtypes", "numpy", "scipy", "torch"}) | sys.stdlib_module_names
# Never compiled: equality is structural in NKI, messages and copies are the host's.
HOST_METHODS = frozenset({"__eq__", "__hash__", "__replace__", "__repr__", "__str__"})
