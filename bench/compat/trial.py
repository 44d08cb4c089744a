"""Every case in a process of its own, with a limit on its time."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nkiconv.bench.compat.case import Case, Outcome

__all__ = ["run_all", "run_one"]


def run_all(
    cases: Iterable[Case],
    root: Path,
    announce: Callable[[str], None],
    *,
    seconds: float = 120.0,
    jobs: int = 1,
) -> Iterator[tuple[Case, Outcome]]:
    """Run the cases, `jobs` at a time, and yield what came of each, in order."""

    def run(case: Case) -> Outcome:
        announce(case.id)
        return run_one(case, root, seconds)

    listed = list(cases)
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        yield from zip(listed, pool.map(run, listed), strict=True)


def run_one(case: Case, root: Path, seconds: float) -> Outcome:
    """Run one case in a new process; no outcome within `seconds` is an outcome, too."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="nkiconv-compat-") as folder:
        result = Path(folder) / "outcome.json"
        command = [
            sys.executable, "-m", "nkiconv.bench.compat.worker", str(root.resolve()), str(result)
        ]  # fmt: skip
        # Matmuls are small: threads of BLAS and torch would wait for each other.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["TMPDIR"] = folder
        try:
            done = subprocess.run(
                command,
                input=pickle.dumps(case),
                capture_output=True,
                env=environment,
                cwd=folder,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(False, problem=f"not done after {seconds:g} s", seconds=seconds)
        if not result.is_file():
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            problem = f"the process ended with code {done.returncode}: {''.join(last)}"
            return Outcome(False, problem=problem, seconds=time.perf_counter() - began)
        values = json.loads(result.read_text("utf-8"))
    ratio = values["error_ratio"]
    values["error_ratio"] = None if ratio is None else float(ratio)
    return Outcome(**values)
