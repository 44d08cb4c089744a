"""`nkiconv compat`: what it finds in a made-up tree of sources, and what it makes of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nkiconv.bench.cli import run
from nkiconv.bench.compat import cases, report
from nkiconv.bench.compat.case import Call, Case, Outcome, Script, VendorTest
from nkiconv.bench.compat.documentation import matmul
from nkiconv.bench.compat.judge import Judge, error_ratio
from nkiconv.bench.compat.sources import SOURCES, version_of
from nkiconv.bench.compat.stand_ins import packed_name, static_cast
from nkiconv.bench.compat.trial import run_one
from nkiconv.bench.compat.worker import block_with

MATMUL = """\
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def product(left, right):
    a = nl.ndarray(left.shape, left.dtype, buffer=nl.sbuf)
    b = nl.ndarray(right.shape, right.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=a, src=left)
    nisa.dma_copy(dst=b, src=right)
    sums = nl.ndarray((left.shape[1], right.shape[1]), nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=sums, stationary=a, moving=b)
    c = nl.ndarray(sums.shape, nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=c, data=sums, op0=nl.multiply, operand0=FACTOR)
    y = nl.ndarray(sums.shape, nl.float32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=y, src=c)
    return y
"""

SCRIPT = (
    MATMUL.replace("FACTOR", "1.0")
    + """
import numpy as np
import torch_xla

x = np.eye(4, dtype=np.float32)
y = product(x, x)
"""
)

VENDOR_TEST = """\
from enum import Enum
from types import SimpleNamespace

import neuron_dtypes as dt
import numpy as np
import plotext
from kernels.double import double
from test.utils.common_dataclasses import Platforms
from test.utils.test_orchestrator import Orchestrator


class Size(Enum):
    SMALL = 4


class TestDouble:
    def test_double(self, test_manager: Orchestrator, collector, size, offset, platform_target):
        x = dt.static_cast(np.arange(size.value * 8).reshape(size.value, 8), np.float32)
        collector.record(x.shape)
        golden = SimpleNamespace(golden={"out": 2 * x + offset})
        test_manager.execute(SimpleNamespace(
            kernel_func=double,
            kernel_input={"x.must_alias_input": x},
            compiler_input=SimpleNamespace(platform_target=platform_target, logical_nc_config=2),
            inference_args=SimpleNamespace(collective_ranks=1),
            validation_args=SimpleNamespace(
                golden_output=golden, relative_accuracy=1e-5, absolute_accuracy=1e-5
            ),
        ))
"""

LIBRARY = {
    "src/nkilib_src/nkilib/version/__init__.py": "__version__ = '1.2+gabc'\n",
    "src/kernels/double.py": """\
import nki.isa as nisa
import nki.language as nl
from nki.isa.constants import dge_mode


def double(x):
    half = x[nl.ds(2 * nl.program_id(0), 2)]
    tile = nl.ndarray(half.shape, x.dtype)
    nisa.dma_copy(dst=tile, src=half)
    nisa.tensor_tensor(dst=tile, data1=tile, data2=tile, op=nl.add)
    nisa.dma_copy(dst=half, src=tile)
    return x
""",
    "test/__init__.py": "",
    "test/utils/__init__.py": "",
    "test/utils/common_dataclasses.py": (
        "from enum import Enum\nclass Platforms(Enum):\n    TRN2 = 'trn2'\n    TRN3 = 'trn3'\n"
    ),
    "test/integration/__init__.py": "",
    "test/integration/nkilib/__init__.py": "",
    "test/integration/nkilib/test_double.py": VENDOR_TEST,
}

PAGE = """\
Adding
======

.. code-block:: python

   @nki.jit
   def product(left, right):
       nisa.dma_copy(dst=left, src=nl.zeros((4, 3), nl.float32))
       return left

and again

.. code-block:: python
   :emphasize-lines: 2

   @nki.jit
   def product(left, right):
       return nl.ndarray((200, 4), nl.float32)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of two made-up checkouts."""
    files = {
        "aws-neuron-sdk/nki/right.py": MATMUL.replace("FACTOR", "1.0"),
        "aws-neuron-sdk/nki/wrong.py": MATMUL.replace("FACTOR", "1.5"),
        "aws-neuron-sdk/nki/refused.py": MATMUL.replace("left.shape, left", "(200, 4), left"),
        "aws-neuron-sdk/nki/script.py": SCRIPT + "print('they match' if y[0, 0] == 1 else '')\n",
        "aws-neuron-sdk/nki/differs.py": SCRIPT + "print('they match', 'they differ')\n",
        "aws-neuron-sdk/nki/ends.py": "import os\nos._exit(3)\n",
        "aws-neuron-sdk/nki/endless.py": "while True:\n    pass\n",
        "aws-neuron-sdk/nki/page.rst": PAGE,
        "aws-neuron-sdk/nki/test/old.py": "import neuronxcc.nki as nki\n",
        **{f"nki-library/{name}": text for name, text in LIBRARY.items()},
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def call(name: str, *, because: str = "", block: int = 0) -> Case:
    how = Call(partial(matmul, 4, 3, 5), block=block)
    return Case(name, "aws-neuron-sdk", f"nki/{name}", "product", how, because=because)


def script(name: str, prints: str = "") -> Case:
    return Case(name, "aws-neuron-sdk", f"nki/{name}", "product", Script(prints))


DOUBLE = Case(
    "double", "nki-library", "src/kernels/double.py", "double",
    VendorTest("test_double", "TestDouble.test_double", "Size.SMALL, offset=0"),
)  # fmt: skip


def test_a_kernel_that_is_right(root: Path) -> None:
    found = run_one(call("right.py"), root, 60)
    assert (found.runs, found.right, found.problem, found.launches) == (True, True, "", 1)
    assert found.error_ratio is not None
    assert 0 <= found.error_ratio < 1e-3
    assert found.seconds > 0
    assert found.good


def test_a_kernel_that_is_wrong(root: Path) -> None:
    found = run_one(call("wrong.py"), root, 60)
    assert (found.runs, found.right, found.good) == (True, False, False)
    assert found.problem.startswith("result 0: largest error is 4")  # half of 1 + 1e-4 in 0.01
    assert found.error_ratio == pytest.approx(50, rel=0.1)


def test_a_kernel_that_is_refused(root: Path) -> None:
    found = run_one(call("refused.py"), root, 60)
    assert (found.runs, found.right, found.error_ratio) == (False, None, None)
    assert found.problem.startswith("refused.py:8: ShapeError: nl.ndarray(buffer=nl.sbuf): 200 ")


def test_a_case_without_end(root: Path) -> None:
    found = run_one(script("endless.py"), root, 1.5)
    assert (found.runs, found.problem, found.seconds) == (False, "not done after 1.5 s", 1.5)


def test_a_process_that_ends(root: Path) -> None:
    assert run_one(script("ends.py"), root, 60).problem == "the process ended with code 3: "


@pytest.mark.parametrize(
    ("name", "prints", "right"),
    [("script.py", "they match", True), ("script.py", "", None), ("differs.py", "match", False),
     ("script.py", "they agree", False)],
)  # fmt: skip
def test_scripts_say_themselves(root: Path, name: str, prints: str, right: bool | None) -> None:
    """They find the stand-in of torch_xla too."""
    pytest.importorskip("torch")
    found = run_one(script(name, prints), root, 60)
    assert (found.runs, found.right) == (True, right)
    assert (found.problem != "") == (right is False)
    assert not list((root / "aws-neuron-sdk/nki").glob("__pycache__"))


def test_a_block_of_a_page(root: Path) -> None:
    """Errors name the page's own lines."""
    assert run_one(call("page.rst"), root, 60).problem == (
        "result 0: shape (4, 3), the reference has (3, 5)"
    )
    found = run_one(call("page.rst", block=1), root, 60)
    assert found.problem.startswith("page.rst:18: ShapeError: nl.ndarray")
    assert (
        "2 code blocks that define product" in run_one(call("page.rst", block=2), root, 9).problem
    )
    lines = block_with(PAGE, "product", 1).splitlines()
    assert lines[16] == "def product(left, right):"
    assert not any(lines[:15])


def test_a_test_of_the_vendors(root: Path) -> None:
    """On two cores, with stand-ins, its own reference, and inputs that the kernel overwrites."""
    found = run_one(DOUBLE, root, 60)
    assert (found.runs, found.right, found.error_ratio) == (True, True, 0.0)
    changed = VendorTest("test_double", "TestDouble.test_double", "Size.SMALL, offset=9")
    found = run_one(replace(DOUBLE, how=changed), root, 60)
    assert (found.runs, found.right) == (True, False)
    assert found.problem.startswith("out: largest error is ")


@pytest.mark.parametrize(
    ("found", "expected", "ratio"),
    [([1.0, 2.0], [1.0, 2.0], 0.0), ([1.0, 2.5], [1.0, 2.0], 0.5 / 1.2),
     ([1.0, np.inf], [1.0, 2.0], np.inf), ([1.0, np.inf], [1.0, np.inf], 0.0),
     ([1.0, -np.inf], [1.0, np.inf], np.inf), ([np.nan, 1.0], [np.nan, 1.0], 0.0),
     ([], [], 0.0)],
)  # fmt: skip
def test_the_vendors_rule(found: list[float], expected: list[float], ratio: float) -> None:
    """``|y - r| <= atol + rtol * max |r|``, here 1 + 0.1 * 2."""
    assert error_ratio(np.array(found), np.array(expected), 0.1, 1.0) == pytest.approx(ratio)


def test_the_worst_result_counts() -> None:
    judge = Judge()
    judge.compare("a", np.array([1.0]), np.array([2.0]), 0.0, 0.5)
    judge.compare("b", np.array([1.0]), np.array([1.0]), 0.0, 0.5)
    assert (judge.right, judge.ratio) == (False, 2.0)
    assert judge.problem == "a: largest error is 2 times its allowance"


def test_packed_elements_of_the_host() -> None:
    values = np.array([[0.5, -1, 2, 6, 4, 3, 1.5, 0]], np.float32)
    for name in ("float8_e4m3fn_x4", "float8_e5m2_x4", "float4_e2m1fn_x4"):
        held = static_cast(values, name)
        assert (held.shape, packed_name(held.dtype)) == ((1, 2), name)
        np.testing.assert_array_equal(static_cast(held, np.float32), values)
    assert held.view(np.uint16)[0, 0] == 0x74A1  # 0.5, -1, 2 and 6, the first in the lowest bits


# The command.


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts other cases in place of the real ones."""

    def choose(*listed: Case) -> None:
        monkeypatch.setattr(cases, "CASES", listed)

    return choose


def test_missing_checkouts_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compat", "--sources", str(tmp_path), "--only", "cumsum"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"nkiconv: error: no nki-library in '{tmp_path}'; in that folder: "
        "git clone --depth 1 https://github.com/aws-neuron/nki-library"
    )
    assert run(["compat", "--sources", str(tmp_path), "--only", "no such kernel"]) == 2


def test_the_command(
    root: Path, chosen: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen(call("right.py"), DOUBLE)
    page, file = root / "page.md", root / "rows.json"
    asked = ["compat", "--sources", str(root), "--jobs", "2"]
    assert run([*asked, "--markdown", str(page), "--json", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 run: 2 are right, 0 are wrong"
    rows = json.loads(file.read_text())["cases"]
    assert [(row["id"], row["runs"], row["right"]) for row in rows] == [
        ("right.py", True, True), ("double", True, True)
    ]  # fmt: skip
    text = page.read_text()
    assert "| right.py | `product` | `right.py` | yes | yes (" in text
    assert "| aws-neuron/nki-library | 1.2+gabc, no git history, newest file of 20" in text
    assert "| aws-neuron/aws-neuron-sdk | `nki/test` | 1: `old.py` |" in text
    assert run([*asked, "--markdown", str(page), "--only", "double"]) == 2


def test_what_fails_the_command(
    root: Path, chosen: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["compat", "--sources", str(root)]
    chosen(call("refused.py", because="200 partitions"))
    assert run(asked) == 0
    chosen(call("wrong.py"), call("refused.py"), call("right.py", because="no reason"))
    capsys.readouterr()
    assert run(asked) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 of 3 run: 1 are right, 1 are wrong"
    assert any(line.startswith("wrong.py: result 0: largest error") for line in lines)
    assert any(line.startswith("refused.py: refused.py:8: ShapeError") for line in lines)
    assert "right.py: runs, although: no reason" in lines


def test_the_page_counts() -> None:
    results = [
        (call("a"), Outcome(True, True, 0.25)),
        (call("b"), Outcome(True, None)),
        (call("c"), Outcome(True, False, 3.0, "result 0: wrong")),
        (call("d", because="a rule"), Outcome(False, problem="d:1: refused | why")),
        (call("e"), Outcome(False, problem="e:1: missing")),
    ]
    text = report.page(results, Path("nowhere"))
    assert "| 5 | 1 | 5 | 3 | 1 | 1 | 1 | 1 |" in text
    assert "| a | `product` | `a` | yes | yes (0.25) |  |" in text
    assert "| b | `product` | `b` | yes | - |  |" in text
    assert "| c | `product` | `c` | yes | no (3) | result 0: wrong |" in text
    assert "| d | `product` | `d` | no |  | a rule |" in text
    assert "| d | a rule | d:1: refused \\| why |" in text
    assert report.surprises(results) == ["c: result 0: wrong", "e: e:1: missing"]


def test_versions(tmp_path: Path, root: Path) -> None:
    source = next(s for s in SOURCES if s.folder == "nki-library")
    folder = root / source.folder
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    named = subprocess.run(
        ["git", "log", "-1", "--format=%h of %cs"], cwd=folder, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert version_of(root, source) == f"commit {named.stdout.strip()}"


def test_the_table_of_cases() -> None:
    ids = [case.id for case in cases.CASES]
    assert len(ids) == len(set(ids))
    assert {case.source for case in cases.CASES} == {source.folder for source in SOURCES}
    library = {(c.path, c.kernel) for c in cases.CASES if c.source == "nki-library"}
    assert len(library) >= 40
    assert [case.id for case in cases.select_cases("cumsum-f32")] == ["cumsum-f32"]
