"""The Neuron SDK as far as a timing needs it: the one file that touches it.

Each call names the page of the vendor's documentation that it rests on (Neuron SDK 2.32, read
2026-11).  Nothing here has been run on a device by this project; the tests put recorded output in
the place of the tools.

    trace       torch_neuronx.trace: PyTorch NeuronX Tracing API for Inference
    compiled    graph.neff in compiler_workdir: NKI guide, Profile a NKI kernel, step 2
    capture     neuron-explorer capture: Capture profiles with Neuron Explorer, CLI profiling
    summary     neuron-explorer view --output-format summary-json: Neuron Explorer troubleshooting
    total_time  seconds on the device, host excluded: Neuron Explorer profile schema, Summary
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nkiconv.bench.errors import UserError
from nkiconv.simulate import embedded

__all__ = ["Compiled", "device_times_us", "missing", "trace", "versions"]

_EXPLORER = "neuron-explorer"
_PACKAGES = ("torch", "torch_xla", "torch_neuronx")

Compiled = Callable[..., Any]
"""What `trace` returns: runs on the device, CPU tensors in and out."""


def missing() -> str | None:
    """Return in one line what a run on a device lacks here, or None."""
    lacks = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if embedded.install().which != "vendor":
        lacks.append("nki")
    if shutil.which(_EXPLORER) is None:
        lacks.append(f"{_EXPLORER} (package aws-neuronx-tools)")
    if not list(Path("/dev").glob("neuron*")):
        lacks.append("a Neuron device (/dev/neuron0)")
    return ", ".join(lacks) or None


def versions() -> dict[str, str]:
    """Return the versions that a time depends on."""
    from importlib import metadata

    found = {}
    for name in ("neuronx-cc", "nki", "torch", "torch-neuronx", "torch-xla"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def trace(function: Callable[..., Any], inputs: tuple[Any, ...], folder: Path) -> Compiled:
    """Compile a function of tensors for one NeuronCore; graph.neff lies in `folder` afterwards.

    NKI kernels inside are called with XLA tensors, as the guide for custom operators shows.
    """
    import torch_neuronx  # type: ignore[import-not-found]  # the vendor's, on Neuron machines

    compiled: Compiled = torch_neuronx.trace(
        function, inputs, compiler_workdir=str(folder), compiler_args=["--lnc=1"]
    )
    return compiled


def device_times_us(folder: Path, inputs: dict[str, Path], runs: int) -> list[float]:
    """Run graph.neff `runs` times under the profiler; return each run's time on the device.

    Parameters
    ----------
    inputs
        .npy files by the names that the compiled graph has; none: the profiler fills in zeros.
    """
    neff = folder / "graph.neff"
    if not neff.is_file():
        raise UserError(f"the compiler left no graph.neff in {folder}")
    session = folder / "profile.ntff"
    command = [_EXPLORER, "capture", "-n", neff, "-s", session, "--num-exec", runs + 1]
    for name, path in inputs.items():
        command += [name, path]
    _run(command)
    found = sorted(folder.glob("profile_exec_*.ntff"), key=_execution)[1:]  # the first warms up
    if not found:
        raise UserError(f"{_EXPLORER} capture wrote no profile_exec_*.ntff in {folder}")
    return [_total_time_us(neff, path) for path in found]


def _execution(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _total_time_us(neff: Path, profile: Path) -> float:
    """Return `total_time` of one profile: the summary has one entry, named by a hash."""
    text = _run([_EXPLORER, "view", "-n", neff, "-s", profile, "--output-format", "summary-json"])
    try:
        (summary,) = json.loads(text).values()
        return float(summary["total_time"]) * 1e6
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{_EXPLORER} view: no total_time in what it printed for {profile.name} ({error})"
        ) from None


def _run(command: list[Any]) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise UserError(f"{' '.join(words[:2])} failed: {last[0] if last else 'no message'}")
    return done.stdout
