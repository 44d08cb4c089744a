"""``python -m nkiconv.simulate SCRIPT.py``, each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import numpy as np
import nki
import nki.isa as nisa
import nki.language as nl
import beside

@nki.jit
def negate(x_hbm):
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    x_sb = nl.ndarray(x_hbm.shape, x_hbm.dtype)
    nisa.dma_copy(dst=x_sb, src=x_hbm)
    nisa.tensor_scalar(dst=x_sb, data=x_sb, op0=nl.multiply, operand0=-1.0)
    nisa.dma_copy(dst=y_hbm, src=x_sb)
    return y_hbm

if __name__ == "__main__":
    print(nki.__version__, sys.argv[1:], beside.WORD, nki.simulate(negate)(np.ones((1, 2), "f4")))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("WORD = 'found'")
    return tmp_path


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nkiconv.simulate", *arguments],
        cwd=folder.parent,  # the script's own folder has to be found by other means
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_runs_a_script_with_its_arguments_and_its_neighbours(folder: Path) -> None:
    done = run(folder, f"{folder.name}/script.py", "-x", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0.6.0+nkiconv ['-x', '1'] found [[-1. -1.]]\n"


def test_a_missing_script_is_one_line_and_code_2(folder: Path) -> None:
    for name in ("nothing.py", str(folder)):
        done = run(folder, name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"nkiconv: error: there is no script {name!r}\n"


def test_usage(folder: Path) -> None:
    usage = "usage: python -m nkiconv.simulate SCRIPT.py [ARGUMENT ...]\n"
    for arguments, code in (([], 2), (["-h"], 0), (["--help"], 0)):
        done = run(folder, *arguments)
        assert (done.returncode, done.stderr) == (code, usage)


def test_what_the_script_raises_comes_through(folder: Path) -> None:
    (folder / "script.py").write_text("import nki\n\nraise RuntimeError('from the script')\n")
    done = run(folder, str(folder / "script.py"))
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: from the script\n")
    assert 'script.py", line 3, in <module>' in done.stderr
    (folder / "script.py").write_text("raise SystemExit(7)")
    assert run(folder, str(folder / "script.py")).returncode == 7


def test_what_a_kernel_breaks_names_its_line(folder: Path) -> None:
    script = SCRIPT.replace("dst=y_hbm, src=x_sb", "dst=y_hbm, src=x_sb[:, 0:1]")
    (folder / "script.py").write_text(script)
    done = run(folder, str(folder / "script.py"))
    line = 1 + script[: script.index("src=x_sb[")].count("\n")
    assert done.returncode == 1
    *_, last, cure = done.stderr.strip().splitlines()
    assert last.startswith(f"nkiconv.simulate.errors.ShapeError: script.py:{line}: nisa.dma_copy: ")
    assert cure == "  Cure: slice all of them alike, or reshape [dma_copy.same_size]"


def test_the_target_comes_from_the_environment(folder: Path) -> None:
    (folder / "script.py").write_text("import nki.isa as nisa\nprint(nisa.get_nc_version().name)")
    for wish, name in (("", "gen2"), ("trn2", "gen3")):
        done = run(folder, str(folder / "script.py"), NEURON_PLATFORM_TARGET_OVERRIDE=wish)
        assert done.stdout == f"{name}\n"
