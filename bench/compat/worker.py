"""Run one case in this process: ``python -m nkiconv.bench.compat.worker SOURCES RESULT < case``.

The case comes pickled on standard input from `trial`; its `Outcome` goes to the file RESULT as
JSON, since strangers' code prints what it likes.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np

from nkiconv.bench.compat import stand_ins
from nkiconv.bench.compat.case import Array, Call, Case, Outcome, Script, VendorTest
from nkiconv.bench.compat.judge import Judge

__all__ = ["run_case"]

SEED = 0
_TARGET = "NEURON_PLATFORM_TARGET_OVERRIDE"


def main(arguments: list[str]) -> int:
    """Run the case on standard input and write its outcome."""
    began = time.perf_counter()
    root, result = Path(arguments[0]).resolve(), Path(arguments[1])
    case: Case = pickle.load(sys.stdin.buffer)
    outcome = run_case(case, root)
    values = outcome.to_dict() | {"seconds": time.perf_counter() - began}
    result.write_text(json.dumps(values), "utf-8")
    return 0


def run_case(case: Case, root: Path) -> Outcome:
    """Run one case on the embedded NKI of this process; what it raises becomes its problem."""
    os.environ["NKICONV_SIMULATOR"] = "embedded"
    os.environ[_TARGET] = case.target
    from nkiconv.simulate import embedded

    embedded.install()
    judge = Judge()
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - the vendor's tests draw from it
    try:
        with _launches(judge), contextlib.redirect_stdout(io.StringIO()) as printed:
            if isinstance(case.how, Script):
                _run_script(case.how, root / case.source / case.path)
            elif isinstance(case.how, VendorTest):
                _run_vendor_test(case.how, root / case.source, judge)
            else:
                _run_call(case.how, case, root / case.source, judge)
    except (Exception, SystemExit) as error:  # whatever a stranger's file raises is a finding
        return Outcome(
            runs=judge.complete,
            right=False if judge.complete else None,
            error_ratio=judge.ratio,
            problem=describe(error, root),
            launches=judge.launches,
        )
    right: bool | None = judge.right
    if isinstance(case.how, Script):
        text = printed.getvalue()
        if case.how.prints:
            right = case.how.prints in text and case.how.never not in text
    problem = "" if right is not False else judge.problem or "the script says that results differ"
    return Outcome(judge.complete, right, judge.ratio, problem, launches=judge.launches)


@contextlib.contextmanager
def _launches(judge: Judge) -> Iterator[None]:
    """Count kernel launches, from wherever they come."""
    from nkiconv.simulate import runtime

    original = runtime.run_kernel

    def counted(*args: Any, **kwargs: Any) -> Any:
        judge.launches += 1
        result = original(*args, **kwargs)
        judge.returned += 1
        return result

    runtime.run_kernel = counted
    try:
        yield
    finally:
        runtime.run_kernel = original


# --- The three ways of running ------------------------------------------------------------------


def _run_script(how: Script, path: Path) -> None:
    from nkiconv.simulate.__main__ import main as simulate_script

    stand_ins.install()
    # Scripts write beside themselves; nothing is left in a checkout.
    folder = Path(tempfile.mkdtemp(prefix="nkiconv-compat-")) / path.parent.name
    shutil.copytree(path.parent, folder)
    code = simulate_script([str(folder / path.name)])
    if code:
        raise SystemExit(code)


def _run_call(how: Call, case: Case, folder: Path, judge: Judge) -> None:
    import nki

    stand_ins.install()
    sys.path[:0] = [str(folder / name) for name in how.folders] + [str((folder / case.path).parent)]
    namespace: Any = (
        importlib.import_module(how.module)
        if how.module
        else load(folder / case.path, case.kernel.partition(".")[0], how.block)
    )
    for name in case.kernel.split("."):
        namespace = getattr(namespace, name)
    example = how.make(rng=np.random.default_rng(SEED))
    kernel = nki.jit(namespace)
    launched = kernel if how.grid == 1 else kernel[how.grid]
    result = launched(*example.args, **example.kwargs)
    results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if example.written:
        results = tuple(example.args[position] for position in example.written)
    _compare_all(judge, results, dict(enumerate(example.expected)), example.rtol, example.atol)


def _compare_all(
    judge: Judge, results: tuple[Any, ...], expected: dict[Any, Array], rtol: float, atol: float
) -> None:
    if not expected:
        return
    if len(results) != len(expected):
        judge.fail(f"{len(results)} results, the reference has {len(expected)}")
        return
    for (name, right), found in zip(expected.items(), results, strict=True):
        judge.compare(f"result {name}", found, right, rtol, atol)


def load(path: Path, kernel: str, block: int = 0) -> types.ModuleType:
    """Import a Python file, or a code block of a page (``.rst``) that defines `kernel`.

    A block keeps its line numbers; names that the page imports elsewhere are given to it.
    """
    if path.suffix == ".py":
        return _import_file(path, path.stem, {})
    text = block_with(path.read_text("utf-8"), kernel, block)
    made = Path(tempfile.mkdtemp(prefix="nkiconv-compat-")) / path.name
    made.write_text(text, "utf-8")
    import nki
    import nki.isa
    import nki.language

    known: dict[str, object] = {"nki": nki, "nl": nki.language, "nisa": nki.isa, "np": np}
    return _import_file(made, path.stem.replace("-", "_"), known)


def _import_file(path: Path, name: str, known: dict[str, object]) -> types.ModuleType:
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    vars(module).update(known)
    sys.dont_write_bytecode = True  # nothing is left in a checkout
    loader.exec_module(module)
    return module


def block_with(page: str, kernel: str, number: int = 0) -> str:
    """Return the page with every line emptied but those of a code block with ``def kernel(``.

    Raises
    ------
    ImportError
        There are not so many such blocks.
    """
    lines = page.splitlines()
    found = [i for i, line in enumerate(lines) if line.lstrip().startswith(f"def {kernel}(")]
    if number >= len(found):
        raise ImportError(f"the page has {len(found)} code blocks that define {kernel}")
    start = found[number]
    while start > 0 and ".. code" not in lines[start]:
        start -= 1
    margin = _indent(lines[start])
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > margin):
        end += 1
    body = range(start + 1, end)
    code = [i for i in body if lines[i].strip() and not lines[i].lstrip().startswith(":")]
    depth = _indent(lines[code[0]])
    kept = [lines[i][depth:] if i in code else "" for i in range(end)]
    return "\n".join(kept) + "\n"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _run_vendor_test(how: VendorTest, folder: Path, judge: Judge) -> None:
    sys.path[:0] = [str(folder), str(folder / "src")]
    for name in [n for n in sys.modules if n == "test" or n.startswith("test.")]:
        del sys.modules[name]  # Python's own package of that name
    stand_ins.install()
    sys.dont_write_bytecode = True
    module = importlib.import_module(f"test.integration.nkilib.{how.module}")
    from nkiconv.bench.compat.vendor_tests import Manager, call_test

    call_test(module, how.test, how.arguments, Manager(judge, how.target))


# --- What went wrong ----------------------------------------------------------------------------


def describe(error: BaseException, root: Path) -> str:
    """First line of an error, with the line of a stranger's file that it came from."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    place = getattr(error, "place", None)
    if place is None:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [
            f for f in frames if Path(f.filename).is_relative_to(root) or "compat-" in f.filename
        ]
        if theirs:
            place = f"{Path(theirs[-1].filename).name}:{theirs[-1].lineno}"
    kind = type(error).__name__
    if place and text.startswith(f"{place}: "):
        text = text.removeprefix(f"{place}: ")
    return f"{place}: {kind}: {text}" if place else f"{kind}: {text}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
