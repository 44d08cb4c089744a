"""Each table row has an example that is refused, each allowed node type one that passes."""

from __future__ import annotations

import ast
import gc
import importlib.util
import itertools
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from nkiconv.simulate import subset
from nkiconv.simulate.errors import UnsupportedPythonError
from nkiconv.simulate.slugs import python_code
from nkiconv.simulate.subset import check_kernel
from nkiconv.simulate.subset_tables import ALLOWED, DETAILS, REFUSED

pytestmark = pytest.mark.filterwarnings("error")  # a check that was left out would warn

Load = Callable[..., ModuleType]

# One statement or more per refused node type, the body of a kernel with the arguments x and n.
REFUSED_BODIES = {
    ast.ListComp: "y = [i for i in n]",
    ast.SetComp: "y = {i for i in n}",
    ast.DictComp: "y = {i: 1 for i in n}",
    ast.GeneratorExp: "y = max(i for i in n)",
    ast.Lambda: "y = lambda i: i",
    ast.NamedExpr: "y = (z := n)",
    ast.Try: "try:\n    y = 1\nfinally:\n    y = 2",
    ast.Raise: "raise x",
    ast.Yield: "yield x",
    ast.YieldFrom: "yield from x",
    ast.Global: "global y\ny = 1",
    ast.Nonlocal: "y = 1\ndef inner(i):\n    nonlocal y",
    ast.Match: "match n:\n    case 1:\n        y = 1",
    ast.Set: "y = {1, 2}",
    ast.Delete: "del x",
    ast.Import: "import math",
    ast.ImportFrom: "from math import ceil",
    ast.ClassDef: "class Inner:\n    pass",
    ast.AsyncFunctionDef: "async def inner(i):\n    return i",
    ast.MatMult: "y = x @ x",
    ast.BitAnd: "y = n & 1",
    ast.BitOr: "y = n | 1",
    ast.BitXor: "y = n ^ 1",
    ast.RShift: "n >>= 1",
    ast.Invert: "y = ~n",
    ast.UAdd: "y = +n",
}

DETAIL_BODIES = {
    "is": "y = x is True",
    "dict key not a str": "y = {1: x}",
    "with": "with open_scope():\n    y = 1",
    "decorator": "@wrap\ndef inner(i):\n    return i",
    "else of a loop": "for i in range(n):\n    y = 1\nelse:\n    y = 2",
    "* in a tuple or list": "y, *z = x",
    "** in a call": "y = x(**n)",
    "format specification": "print(f'{n:5d}')",
    "bytes or complex": "y = b'12'",
    "*args or **kwargs": "def inner(*i):\n    return i",
    "parameter before /": "def inner(i, /):\n    return i",
    "parameter after *": "def inner(*, i):\n    return i",
    "list or dict default": "def inner(i=[]):\n    return i",
}

MORE_REFUSED_BODIES = [
    ("is", "y = x is not n"),
    ("dict key not a str", "y = {'a': 1, **x}"),
    ("else of a loop", "while n:\n    n -= 1\nelse:\n    n = 2"),
    ("* in a tuple or list", "y = [*x, 1]"),
    ("bytes or complex", "y = 2j"),
    ("*args or **kwargs", "def inner(**i):\n    return i"),
    ("list or dict default", "def inner(i={}):\n    return i"),
    ("built-in sum", "y = sum(x)"),
    ("built-in enumerate", "for i, item in enumerate(x):\n    y = i"),
    ("built-in open", "y = open(x)"),
    ("built-in getattr", "y = getattr(x, 'y')"),
    ("built-in eval", "y = eval"),
    ("itertools.product", "y = itertools.product(x)"),
    ("math.exp", "y = math.exp(1.0)"),
    ("numpy.zeros", "y = np.zeros(3)"),
    ("numpy.float32", "y = np.float32"),
    ("functools.partial", "y = partial_helper(n)"),
    ("cached_helper, a _lru_cache_wrapper", "y = cached_helper(n)"),
    ("assignment to a module's variable", "math.pi = 3"),
    ("TypeAlias", "type Y = int"),
]

ALLOWED_BODIES = [
    '"""Docstring."""\ntotal: int = 0\nfor i in range(n):\n    total += i\nreturn total',
    "while n > 0 and not n == 7 or n <= -2:\n    if n != 3:\n        continue\n    break",
    "breakpoint()\nreturn x[slice(0, min(n - 1, 2))]",
    "y = (n + 1, n * 2, n / 2, n // 2, n % 2, n**2, n << 1)\na, b = y[0], y[1:3:2]\npass",
    "d = {'a': 1}\nd['b'] = n if x is None else 2\nassert 'a' in d and 'c' not in d, f'{d=} {n!r}'",
    "items = [1, 2]\nitems.append(n)\nx.size = max(*items)\nreturn x[..., 0 : len(items)]",
    "def body(i):\n    x.load(dst=x, offset=i)\nx.fori_loop(0, n, body)",
    "with nl.no_reorder():\n    nl.relu(nl.psum) is not None\nfor k, v in x:\n    print(k)",
    "y = math.ceil(n / 2) + math.gcd(n, 2)\nz = 0 < n < -np.inf",
    "return isinstance(x, int) >= 1 or divmod(int(float(str(n))), 2), tuple(list(dict(a=1)))",
]

HEADER = """
from __future__ import annotations
import enum, functools, itertools, math
from dataclasses import dataclass
import numpy as np

class NKIObject: ...
def helper(i): return i
partial_helper = functools.partial(helper, 1)
cached_helper = functools.cache(helper)
nl = None
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write a module and import it: the check needs a file with the source."""
    number = itertools.count()

    def load_source(source: str, name: str = "", **variables: object) -> ModuleType:
        name = name or f"kernels_{next(number)}"
        path = tmp_path / f"{name}.py"
        path.write_text(HEADER + source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        vars(module).update(variables)  # decorators are needed while it runs
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, module)  # dataclass looks there
            spec.loader.exec_module(module)
        vars(module).update(variables)
        return module

    return load_source


def kernel_with(body: str) -> str:
    return "def kernel(x, n):\n" + textwrap.indent(body, "    ")


def refusal_of(kernel: Callable[..., object]) -> str:
    with pytest.raises(UnsupportedPythonError) as caught:
        check_kernel(kernel)
    return str(caught.value)


def test_every_row_of_the_tables_has_an_example() -> None:
    assert set(REFUSED_BODIES) == set(REFUSED)
    assert set(DETAIL_BODIES) == {refusal.name for _, _, refusal in DETAILS}
    assert not set(REFUSED) & ALLOWED
    trees = [ast.parse(kernel_with(body) + "\n    f(*x)") for body in ALLOWED_BODIES]
    used = {type(node) for tree in trees for node in ast.walk(tree)} - {ast.Module}
    assert used == ALLOWED


@pytest.mark.parametrize("kind", REFUSED_BODIES, ids=lambda kind: kind.__name__)
def test_refused_node_type(load: Load, kind: type[ast.AST]) -> None:
    message = refusal_of(load(kernel_with(REFUSED_BODIES[kind])).kernel)
    assert message.startswith(f"kernel kernel: {REFUSED[kind].name} at ")
    code = python_code(REFUSED[kind].name)
    assert message.endswith(f"Write instead: {REFUSED[kind].cure}. [{code}]")


@pytest.mark.parametrize(("name", "body"), [*DETAIL_BODIES.items(), *MORE_REFUSED_BODIES])
def test_refused_detail_or_name(load: Load, name: str, body: str) -> None:
    if name == "TypeAlias" and sys.version_info < (3, 12):
        pytest.skip("the type statement came with Python 3.12")
    assert refusal_of(load(kernel_with(body)).kernel).startswith(f"kernel kernel: {name} at ")


@pytest.mark.parametrize("body", ALLOWED_BODIES)
def test_allowed(load: Load, body: str) -> None:
    source = kernel_with(body)
    nl = load("psum = [8]\ndef relu(x): return [i for i in x]", name="nki.language")  # not followed
    check_kernel(load(source, nl=nl).kernel)


def test_message_names_construct_kernel_line_rule_and_cure(load: Load) -> None:
    module = load("\n\ndef conv(x):\n    y = 1\n    return [\n        i for i in x]")
    line = HEADER.count("\n") + 5
    assert refusal_of(module.conv) == (
        f"kernel conv: list comprehension at {module.__file__}:{line}. "
        "Why refused: it is not known to compile, and none of the 770 functions behind the "
        "vendor's own kernels uses it (nki-library, 2026-04-13). "
        "Write instead: a for loop with append. [python.list_comprehension]"
    )


def test_helper_in_another_module_is_read(load: Load) -> None:
    plan = load("def outer(i): return inner(i)\ndef inner(i):\n    return {i}\n")
    place = f"{plan.__file__}:{HEADER.count(chr(10)) + 3} (in inner, which it calls)"
    assert f": set at {place}." in refusal_of(
        load(kernel_with("_plan.outer(n)"), _plan=plan).kernel
    )
    assert place in refusal_of(load(kernel_with("x.each(outer)"), outer=plan.outer).kernel)


def test_names_of_the_function_hide_those_of_the_module(load: Load) -> None:
    names = {"x": [1], "i": [1], "y": [1], "z": [1], "body": [1], "sum": 1}
    body = "sum = 1\nfor i in range(sum):\n    y = x\ndef body(z):\n    return z, i, y\nbody(y)"
    check_kernel(load(kernel_with(body), **names).kernel)
    inner_only = "def body(i):\n    y = i\n    return y\nreturn y"
    assert "outer variable y, a list" in refusal_of(load(kernel_with(inner_only), **names).kernel)


def test_jit_objects_recursion_and_decorators(load: Load) -> None:
    source = "@keep\ndef again(x):\n    return again(x)\n@jit\ndef sub(x):\n    return x is n"
    module = load(source, keep=lambda f: f, jit=lambda f: SimpleNamespace(func=f))
    check_kernel(module.again)  # the launched function's own decorators are the host's
    assert "kernel sub: is at" in refusal_of(module.sub)
    assert "kernel kernel: is at" in refusal_of(load(kernel_with("sub(x)"), sub=module.sub).kernel)
    caller = load(kernel_with("again(x)"), again=module.again).kernel
    assert "kernel kernel: decorator at" in refusal_of(caller)


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ("def go(self): return {1}", "set"),
        ("@staticmethod\n    def go(): return {1}", "set"),
        ("@property\n    def go(self): return 1", "property Plan.go"),
        ("@classmethod\n    def go(cls): return 1", "classmethod Plan.go"),
    ],
)
def test_methods_of_a_class_are_read(load: Load, members: str, name: str) -> None:
    plan = f"@dataclass\nclass Plan(NKIObject):\n    a: int = 1\n    {members}\n"
    assert f": {name} at " in refusal_of(load(plan + kernel_with("Plan(a=1)")).kernel)
    assert f": {name} at " in refusal_of(load(plan + "P = Plan()\n" + kernel_with("P.a")).kernel)


def test_classes(load: Load) -> None:
    good = """
@dataclass(frozen=True)
class Plan(NKIObject):
    a: int
    def __repr__(self): return f"{self.a:d}"
    def go(self): return self.a
    @staticmethod
    def one(): return 1
class Kind(enum.Enum):
    A = 1
"""
    check_kernel(load(good + kernel_with("Plan(n).go() + Plan.one(), Kind.A == x")).kernel)
    for bases in ("", "(tuple)", "(NKIObject, Other)"):
        bad = f"class Other: ...\nclass Plan{bases}: ...\n" + kernel_with("Plan()")
        assert ": class Plan at " in refusal_of(load(bad).kernel)


@pytest.mark.parametrize("value", ["[1]", "{'a': 1}", "{1}", "np.ones(2)", "(1, [2])", "object()"])
def test_mutable_outer_variables(load: Load, value: str) -> None:
    message = refusal_of(load(f"TAPS = {value}\n" + kernel_with("y = TAPS")).kernel)
    assert ": outer variable TAPS, a " in message
    assert "caches a kernel by its arguments" in message
    factory = f"def make():\n    taps = {value}\n    def kernel(x): return taps\n    return kernel"
    assert ": outer variable taps, a " in refusal_of(load(factory).make())


@pytest.mark.parametrize("value", ["1", "2.5", "'a'", "None", "True", "(1, ('a', helper))"])
def test_constants_pass_until_they_change(load: Load, value: str) -> None:
    constants = load(f"K = {value}")
    module = load(f"K = {value}\n" + kernel_with("y = K + constants.K"), constants=constants)
    check_kernel(module.kernel)
    check_kernel(module.kernel)
    for owner, new in ((module, 7), (constants, "seven")):
        old = vars(owner)["K"]
        vars(owner)["K"] = new
        message = refusal_of(module.kernel)
        assert f"module constant K was {old!r} at the first launch, is {new!r} now" in message
        vars(owner)["K"] = old
    module.__dict__["K"] = eval(value, vars(module))
    check_kernel(module.kernel)


def test_second_launch_reads_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = load(kernel_with("y = helper(n)")).kernel
    check_kernel(kernel)
    monkeypatch.setattr(subset, "_Reader", None)
    check_kernel(kernel)
    check_kernel(SimpleNamespace(func=kernel))  # type: ignore[arg-type]  # what nki.jit makes


def test_cache_keeps_no_kernel_alive(load: Load) -> None:
    module = load("K = 1\n" + kernel_with("y = K"))
    check_kernel(module.kernel)
    alive = weakref.ref(module.kernel)
    del module
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("name", ["kernel", "helper"])
def test_without_source_one_warning(load: Load, name: str) -> None:
    scope: dict[str, Callable[..., object]] = {}
    exec(f"def {name}(x): return [i for i in x]", scope)
    kernel = scope.get("kernel") or load(kernel_with("helper(x)"), **scope).kernel
    with pytest.warns(UserWarning, match=rf"kernel kernel: no source for {name} \(<string>\)"):
        check_kernel(kernel)
    check_kernel(kernel)


def test_file_that_no_longer_parses_counts_as_no_source(load: Load) -> None:
    module = load(kernel_with("y = 1"))
    Path(str(module.__file__)).write_text("def kernel(:", encoding="utf-8")
    with pytest.warns(UserWarning, match="no source"):
        check_kernel(module.kernel)


def test_edited_and_imported_again(load: Load) -> None:
    check_kernel(load(kernel_with("y = 1"), name="edited").kernel)
    assert ": set at" in refusal_of(load(kernel_with("y = 1\ny = {1}"), name="edited").kernel)


def test_unknown_node_type(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(REFUSED, ast.Set)  # as a node type of a Python that is still to come
    assert refusal_of(load(kernel_with("y = {1}")).kernel).startswith("kernel kernel: Set at ")


def test_annotations_and_variables_without_a_value_are_left_alone(load: Load) -> None:
    inner = "def body(i: [1] | None) -> {1}:\n    z: sum = i"
    check_kernel(load(kernel_with(inner)).kernel)
    factory = "def make():\n    def kernel(x): return later\n    return kernel\n    later = 1"
    check_kernel(load(factory).make())


def test_what_is_no_function_is_no_kernel() -> None:
    words = "kernel: received a builtin_function_or_method, not a function [python.no_function]"
    assert refusal_of(len) == words
    assert ": lambda at " in refusal_of(lambda x: x)
