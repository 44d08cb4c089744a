"""Whether a module's list or dict is a constant: assigned once, and never changed.

The compiler caches a kernel by its arguments, so what a kernel reads of its module must stay what
it was.  A tuple does so by nature; a list or dict does if no code in the file that defines it
changes it.  What other files do to it is seen when its value differs at a later launch.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import linecache
import sys
from types import ModuleType

__all__ = ["frozen", "is_constant"]

_CHANGING_METHODS = frozenset(
    {"append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse"}
    | {"setdefault", "sort", "update"}
)


def frozen(value: object) -> object:
    """Return lists and dicts, at any depth, as tuples that later changes do not reach."""
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *[frozen(item) for item in value])
    if isinstance(value, dict):
        return ("dict", *[(key, frozen(item)) for key, item in value.items()])
    return value


def is_constant(module_name: str, name: str) -> bool:
    """Tell whether a module's variable is assigned once, and changed nowhere in its file.

    A name that the module imports is looked up where it comes from.
    """
    module = sys.modules.get(module_name)
    tree = None if module is None else _tree(module.__file__ or "")
    if module is None or tree is None:
        return False
    origin = _imported_from(module, tree, name)
    if origin is not None:
        return is_constant(*origin)
    if _assigned(tree).count(name) != 1:
        return False
    return not any(_changes(node, name) for node in ast.walk(tree))


@functools.lru_cache(maxsize=64)
def _tree(path: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:  # a file that changed since it was imported
        return None


def _imported_from(module: ModuleType, tree: ast.Module, name: str) -> tuple[str, str] | None:
    """Return module and name that an import statement of the module gives a name from."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    package = module.__package__ or ""
                    relative = "." * node.level + (node.module or "")
                    return importlib.util.resolve_name(relative, package), alias.name
    return None


def _assigned(tree: ast.Module) -> list[str]:
    """Return the names that the module's own statements assign, each as often as they do."""
    targets: list[ast.expr] = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets.append(node.target)
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _changes(node: ast.AST, name: str) -> bool:
    """Tell whether a node stores into the named list or dict, or binds its name again."""
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return name in node.names
    if isinstance(node, ast.AugAssign):
        return _is(node.target, name)
    if isinstance(node, ast.Subscript):
        return not isinstance(node.ctx, ast.Load) and _is(_root(node), name)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in _CHANGING_METHODS and _is(_root(node.func.value), name)
    return False


def _root(node: ast.AST) -> ast.AST:
    """Return what a chain of subscripts begins with: ``a`` of ``a[0]["b"]``."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node
