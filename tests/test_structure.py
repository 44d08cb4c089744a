"""What holds for every file: the language of kernels, docstrings, no assert, no print."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nkiconv.kernels
from nkiconv.simulate.embedded import is_embedded_kernel
from nkiconv.simulate.subset import check_kernel

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("bench", "kernels", "pytorch", "reference", "simulate")
FILES = [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# A command's output is what it is for; kernels and the simulator report through what they return.
QUIET_FILES = [
    path
    for path in FILES
    if name_of(path).startswith(("kernels/", "pytorch/", "simulate/"))
    and path.name != "__main__.py"
]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


def kernels() -> list[tuple[str, Any]]:
    """Every jitted kernel of nkiconv.kernels, by module and name."""
    found = {}
    for info in pkgutil.walk_packages(nkiconv.kernels.__path__, "nkiconv.kernels."):
        module = importlib.import_module(info.name)
        found.update(
            {
                f"{info.name}.{name}": value
                for name, value in vars(module).items()
                if is_embedded_kernel(value)
            }
        )
    return sorted(found.items())


KERNELS = kernels()


def jitted_in_source() -> set[str]:
    """Names of the functions below kernels/ that carry ``@nki.jit``, read from the source."""
    return {
        node.name
        for path in FILES
        if path.is_relative_to(ROOT / "kernels")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef)
        and any("nki.jit" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def test_every_jitted_function_is_checked() -> None:
    assert {name.rpartition(".")[2] for name, _ in KERNELS} == jitted_in_source()
    assert KERNELS


@pytest.mark.parametrize(("name", "kernel"), KERNELS, ids=[name for name, _ in KERNELS])
def test_kernel_stays_within_the_nki_language(name: str, kernel: Any) -> None:
    check_kernel(kernel)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_assert(path: Path) -> None:
    lines = [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Assert)]
    assert not lines, f"{name_of(path)}: assert vanishes under python -O; lines {lines}"


@pytest.mark.parametrize("path", QUIET_FILES, ids=name_of)
def test_no_print(path: Path) -> None:
    lines = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert not lines


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes of a module, and public methods of public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{name_of(path)} does not say what it holds"
    bare = [
        name
        for name, node in public_definitions(tree)
        if not ast.get_docstring(node)  # type: ignore[arg-type]  # functions and classes alone
        and not any("overload" in ast.unparse(d) for d in getattr(node, "decorator_list", ()))
    ]
    assert not bare
