"""Which NKI answers ``import nki``, each case in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REAL = {
    "nki/__init__.py": """
        MARK = "vendor"
        class Kernel:
            def __init__(self, fn):
                self.func = fn
        def jit(fn):
            return Kernel(fn)
    """,
    "nki/isa.py": "def __getattr__(name): return type(name, (), {})",
    "nki/language/__init__.py": "def __getattr__(name): return type(name, (), {})",
    "nki-9.8.7.dist-info/METADATA": "Metadata-Version: 2.1\nName: nki\nVersion: 9.8.7\n",
}
PLACEHOLDER = {"nki/__init__.py": "raise ImportError('install from the vendor')"}
NAMESPACE = {"nki/isa/notes.txt": "a directory of the user's", "nki/language/notes.txt": ""}

USER_KERNELS = {
    "mine/__init__.py": "",
    "mine/kernels.py": """
        import nki
        import nki.isa as nisa
        import nki.language as nl
        import nkiconv.kernels as parts
        from mine import tools

        @nki.jit
        def double(x_hbm):
            y_hbm = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
            x_sb = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=x_sb, src=x_hbm)
            nisa.tensor_tensor(dst=x_sb, data1=x_sb, data2=x_sb, op=nl.add)
            nisa.dma_copy(dst=y_hbm, src=x_sb)
            return y_hbm

        def which():
            return getattr(nki, "MARK", "embedded"), getattr(tools.nki, "MARK", "embedded")

        def nested():
            def inside(): pass
            return inside
    """,
    "mine/tools.py": """
        import nki
        try:
            import nki.typing  # the real one above has no such module
        except ModuleNotFoundError:
            pass
    """,
    "mine/later.py": """
        import nkiconv.kernels as parts
        def host(): pass
    """,
    "mine/broken.py": """
        import nki
        import sys
        sys.broken_imports = getattr(sys, "broken_imports", 0) + 1
        if sys.broken_imports == 2:
            raise RuntimeError("the second import fails")
        def host(): pass
    """,
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        lines = text.split("\n")
        indent = min((len(a) - len(a.lstrip()) for a in lines if a.strip()), default=0)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line[indent:] for line in lines))
    return folder


def run(code: str, folder: Path, wish: str | None = None) -> Any:
    """What `code` assigns to `answer`, in a fresh process with `folder` on the import path."""
    environment = {k: v for k, v in os.environ.items() if k != "NKICONV_SIMULATOR"}
    environment["PYTHONPATH"] = str(folder)
    if wish is not None:
        environment["NKICONV_SIMULATOR"] = wish
    script = f"import json, sys\n{code}\nprint(json.dumps(answer))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


INSPECT = """
from nkiconv.simulate import embedded
status = embedded.install()
assert status == embedded.install() == embedded.status()
import nki, nki.isa, nki.language
second_copy = "nkiconv.simulate.nki" in sys.modules
places = [i for i, f in enumerate(sys.meta_path) if type(f).__name__ == "_EmbeddedFinder"]
answer = {
    "which": status.which, "version": status.version, "path": str(status.path),
    "placeholder": status.placeholder and str(status.placeholder), "reason": status.reason,
    "mark": getattr(nki, "MARK", "embedded"), "file": nki.__file__,
    "isa": nki.isa.__name__, "second copy": second_copy,
    "places": ["first" if i == 0 else "last" if i + 1 == len(sys.meta_path) else i for i in places],
}
"""


WORLD = """
def world():
    # Parts of the simulator that the embedded nki needs may be loaded for good.
    modules = {n: m for n, m in sys.modules.items() if not n.startswith("nkiconv.simulate.")}
    return modules, list(sys.meta_path), sys.modules["nkiconv"].kernels

before = world()
"""


def is_embedded(answer: dict[str, Any]) -> bool:
    folder = Path(answer["file"]).parent
    # The folder `simulate` is installed as nkiconv/simulate, or used from the source tree.
    ours = folder.name == "nki" and folder.parent.name == "simulate"
    return ours and (answer["mark"], answer["which"]) == ("embedded", "embedded")


def test_without_any_nki_the_embedded_one_answers_last(tmp_path: Path) -> None:
    answer = run(INSPECT, tmp_path)
    assert is_embedded(answer)
    assert answer["path"] == str(Path(answer["file"]).parent)
    assert (answer["isa"], answer["second copy"]) == ("nki.isa", False)
    assert (answer["places"], answer["placeholder"]) == (["last"], None)
    assert answer["reason"] == "no NKI is installed"


@pytest.mark.parametrize("wish", [None, "", "auto", "vendor"])
def test_real_nki_wins(tmp_path: Path, wish: str | None) -> None:
    answer = run(INSPECT, write(tmp_path, REAL), wish=wish)
    assert (answer["which"], answer["mark"], answer["version"]) == ("vendor", "vendor", "9.8.7")
    assert answer["path"] == str(tmp_path / "nki")
    assert (answer["places"], answer["placeholder"]) == (["last"], None)


def test_embedded_on_request_beside_a_real_nki(tmp_path: Path) -> None:
    answer = run(INSPECT, write(tmp_path, REAL), wish="embedded")
    assert is_embedded(answer)
    assert (answer["places"], answer["placeholder"]) == (["first"], None)
    assert str(tmp_path / "nki") in answer["reason"]


@pytest.mark.parametrize("wish", [None, "embedded"])
@pytest.mark.parametrize(
    ("files", "word"), [(PLACEHOLDER, "placeholder"), (NAMESPACE, "plain directory")]
)
def test_other_things_called_nki_do_not_win(
    tmp_path: Path, files: dict[str, str], word: str, wish: str | None
) -> None:
    answer = run(INSPECT, write(tmp_path, files), wish=wish)
    assert is_embedded(answer)
    assert answer["placeholder"] == str(tmp_path / "nki")
    assert word in answer["reason"]
    assert answer["places"] == ["first"]


def test_nki_imported_earlier_is_replaced_on_request(tmp_path: Path) -> None:
    answer = run("import nki.isa\n" + INSPECT, write(tmp_path, REAL), wish="embedded")
    assert is_embedded(answer)


def test_current_directory_simulate_is_not_taken_for_a_real_nki(tmp_path: Path) -> None:
    found = run("import nkiconv.simulate as s; answer = s.__file__", tmp_path)
    assert is_embedded(run(INSPECT, Path(found).parent))


def test_modules_that_a_real_nki_lacks_are_not_mixed_in(tmp_path: Path) -> None:
    code = """
from nkiconv.simulate import embedded
embedded.install()
import nki
try:
    import nki.typing
    answer = "mixed"
except ModuleNotFoundError:
    answer = "refused"
"""
    assert run(code, write(tmp_path, REAL)) == "refused"


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("fast", ['NKICONV_SIMULATOR is "fast"', '"auto"', '"embedded"', '"vendor"']),
        ("Embedded", ['NKICONV_SIMULATOR is "Embedded"']),
        ("vendor", ["NKICONV_SIMULATOR=vendor", "no NKI is installed"]),
    ],
)
def test_refused_values_of_the_variable(tmp_path: Path, wish: str, words: list[str]) -> None:
    code = """
try:
    from nkiconv.simulate import embedded
    embedded.install()
    answer = "accepted"
except AssertionError as error:  # ConstraintError is one, and cannot be imported by its own name
    answer = f"{type(error).__name__}: {error}"
"""
    answer = run(code, tmp_path, wish)
    assert answer.startswith("ConstraintError")
    assert all(word in answer for word in words), answer


def test_twin_is_the_same_function_against_the_embedded_nki(tmp_path: Path) -> None:
    code = """
import functools
import numpy as np
from nkiconv.simulate import simulate_kernel
from nkiconv.simulate.embedded import embedded_twin, is_embedded_kernel
import nkiconv.kernels
import mine.kernels as mine
import mine.later as more

WORLD
host, kernel = embedded_twin(mine.which), embedded_twin(mine.double)
later = embedded_twin(more.host)
part = embedded_twin(functools.partial(nkiconv.kernels.conv2d, stride=2))
x = np.arange(12, dtype=np.float32).reshape(3, 4)
answer = {
    "restored": before == world(),
    "outside": mine.which(), "inside": host(),
    "kernels": [is_embedded_kernel(mine.double), is_embedded_kernel(kernel)],
    "same package": vars(sys.modules["mine.kernels"]) is not host.__globals__
        and host.__globals__["double"] is kernel
        and host.__globals__["parts"].conv2d is part.func
        and host.__globals__["parts"] is later.__globals__["parts"] is not nkiconv.kernels,
    "kept": embedded_twin(mine.which) is host and embedded_twin(mine.double) is kernel,
    "of itself": embedded_twin(host) is host and embedded_twin(kernel) is kernel,
    "without kernels": embedded_twin(np.sum) is np.sum,
    "partial": part.keywords,
    "result": (simulate_kernel(kernel, x) == 2 * x).all().item(),
    "conv2d": part(x.reshape(1, 1, 3, 4), np.ones((1, 1, 1, 1), np.float32)).tolist(),
}
"""
    answer = run(code.replace("WORLD", WORLD), write(tmp_path, REAL | USER_KERNELS))
    assert answer == {
        "restored": True,
        "outside": ["vendor", "vendor"],
        "inside": ["embedded", "embedded"],
        "kernels": [False, True],
        "same package": True,
        "kept": True,
        "of itself": True,
        "without kernels": True,
        "partial": {"stride": 2},
        "result": True,
        "conv2d": [[[[0.0, 2.0], [8.0, 10.0]]]],
    }


def test_twin_restores_everything_when_the_second_import_fails(tmp_path: Path) -> None:
    code = """
from nkiconv.simulate import embedded
import nkiconv.kernels
import mine.broken

WORLD
try:
    embedded.embedded_twin(mine.broken.host)
    answer = ["loaded"]
except RuntimeError as error:
    answer = [str(error), before == world()]
answer.append(embedded.embedded_twin(mine.broken.host).__name__)  # the third import works
answer.append(before == world())
"""
    answer = run(code.replace("WORLD", WORLD), write(tmp_path, REAL | USER_KERNELS))
    assert answer == ["the second import fails", True, "host", True]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("lambda: None", "main script"),
        ("mine.nested()", "local to a function"),
        ("object()", "has no name"),
        ("renamed", "mine.kernels has no other"),
    ],
)
def test_functions_without_a_twin(tmp_path: Path, function: str, words: str) -> None:
    code = f"""
from nkiconv.simulate import embedded
embedded.install()
import mine.kernels as mine
renamed = mine.which
renamed.__qualname__ = "other"
try:
    embedded.embedded_twin({function})
    answer = "loaded"
except embedded.ConstraintError as error:
    answer = str(error)
"""
    answer = run(code, write(tmp_path, REAL | USER_KERNELS))
    assert words in answer
    assert "NKICONV_SIMULATOR=embedded" in answer


def test_where_the_embedded_nki_is_in_use_a_function_is_its_own_twin(tmp_path: Path) -> None:
    code = """
from nkiconv.kernels import conv2d
from nkiconv.simulate.embedded import embedded_twin, is_embedded_kernel
import mine.kernels as mine
local = lambda: None
answer = [embedded_twin(f) is f for f in (conv2d, mine.double, mine.which, local)]
answer += [is_embedded_kernel(f) for f in (mine.double, mine.which, conv2d, local)]
"""
    answer = run(code, write(tmp_path, USER_KERNELS))
    assert answer == [True] * 4 + [True, False, False, False]
