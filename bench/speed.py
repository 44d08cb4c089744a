"""How fast the simulator itself is: ratios of times taken side by side in one run.

    ours, float32 / torch, float32       simulation, checks and trace on, against plain arithmetic
    ours, float16 / ours, float32        low precision must not fall off the BLAS path
    ours, bfloat16 / ours, float32

One problem for all: N=1, C_in=C_out=256, 56x56, 3x3, padding 1.  Contestants take turns within
each repeat, so that a busy machine slows all of them; medians are compared.  Seconds depend on the
machine, so nothing here passes or fails: the ratios asked for are printed beside those found.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nkiconv.bench.errors import UserError
from nkiconv.kernels import conv2d
from nkiconv.reference import bounds
from nkiconv.reference._dtypes import DTYPES, Array
from nkiconv.reference.conv2d import conv2d_float64, magnitude
from nkiconv.simulate import profile

__all__ = ["Ratio", "SpeedReport", "machine", "measure_simulator"]

CHANNELS, SIZE, KERNEL = 256, 56, 3
ASKED_OF_FLOAT32, ASKED_OF_LOW_PRECISION = 3.0, 2.0


@dataclass(frozen=True)
class Ratio:
    """`found` is None where a contestant is not installed; `note` then says so."""

    name: str
    found: float | None
    asked: float
    note: str = ""


@dataclass(frozen=True)
class SpeedReport:
    """Median and best seconds by contestant, the medians' ratios, and the cost of an instruction.

    `load` is the machine's load average over the last minute: above `threads`, others were
    computing too, and all times are too long.
    """

    machine: str
    threads: int
    load: float
    repeats: int
    median_s: dict[str, float]
    best_s: dict[str, float]
    ratios: tuple[Ratio, ...]
    instructions: int
    instruction_us: float

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def machine() -> str:
    """Platform and CPU model, as the operating system tells them."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{platform.system()} {platform.machine()}, {model or 'unknown CPU'}"


def blas_threads() -> int:
    """Threads that NumPy's BLAS takes: what its variables say, else every CPU open to us."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure_simulator(repeats: int) -> SpeedReport:
    """Check that every contestant is right, then time them.

    Raises
    ------
    UserError
        A result is wrong: the speed of a wrong result means nothing.
    """
    threads = blas_threads()
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, CHANNELS, SIZE, SIZE), dtype=np.float32)
    w = generator.standard_normal((CHANNELS, CHANNELS, KERNEL, KERNEL), dtype=np.float32) / 48
    contestants: dict[str, Callable[[], Array]] = {}
    torch_run = _torch_contestant(x, w, threads)
    if torch_run is not None:
        contestants["torch float32"] = torch_run
    for name, dtype in DTYPES.items():
        contestants[f"ours {name}"] = _our_contestant(x.astype(dtype), w.astype(dtype))
    for name, run in contestants.items():
        dtype = DTYPES[name.split()[1]]
        _check(name, run(), x.astype(dtype), w.astype(dtype))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    median_s = {name: statistics.median(values) for name, values in times.items()}
    instructions, seconds = _tiny_instructions(repeats)
    return SpeedReport(
        machine=machine(),
        threads=threads,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan,
        repeats=repeats,
        median_s=median_s,
        best_s={name: min(values) for name, values in times.items()},
        ratios=_ratios(median_s),
        instructions=instructions,
        instruction_us=seconds / instructions * 1e6,
    )


def _our_contestant(x: Array, w: Array) -> Callable[[], Array]:
    return lambda: np.asarray(conv2d(x, w, padding=1, algorithm="direct"))


def _torch_contestant(x: Array, w: Array, threads: int) -> Callable[[], Array] | None:
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    x_torch, w_torch = torch.from_numpy(x), torch.from_numpy(w)

    def run() -> Array:
        with torch.inference_mode():
            result: Array = torch.nn.functional.conv2d(x_torch, w_torch, padding=1).numpy()
        return result

    return run


def _check(name: str, y: Array, x: Array, w: Array) -> None:
    wanted, size = conv2d_float64(x, w, padding=1), magnitude(x, w, padding=1)
    ratio = bounds.max_error_ratio(y, wanted, size, w[0].size, x.dtype)
    if not ratio <= 1:
        raise UserError(f"{name}: the result is wrong (error {ratio:.2g} of its allowance)")


def _ratios(median_s: dict[str, float]) -> tuple[Ratio, ...]:
    ours = median_s["ours float32"]
    found = ours / median_s["torch float32"] if "torch float32" in median_s else None
    note = "torch is not installed" if found is None else ""
    return (
        Ratio("ours float32 / torch float32", found, ASKED_OF_FLOAT32, note),
        *(
            Ratio(
                f"ours {name} / ours float32",
                median_s[f"ours {name}"] / ours,
                ASKED_OF_LOW_PRECISION,
            )
            for name in ("float16", "bfloat16")
        ),
    )


def _tiny_instructions(repeats: int) -> tuple[int, float]:
    """Instructions of a problem whose arithmetic costs next to nothing, and its median seconds."""
    x = np.ones((64, 2, 6, 6), np.float32)
    w = np.ones((2, 2, 3, 3), np.float32)
    _, seen = profile(conv2d, x, w, algorithm="direct")
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        conv2d(x, w, algorithm="direct")
        times.append(time.perf_counter() - started)
    return sum(seen.instructions.values()), statistics.median(times)
