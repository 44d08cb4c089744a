"""How fast the simulator itself is: what was asked for beside what one run finds.

    conv2d, ours float32 / torch float32    simulation, checks and trace on, against arithmetic
    matmul, ours float32 / numpy float32    the same, for the vendor's tutorial (matmul.py)
    ours float16, bfloat16 / ours float32   low precision must not fall off the BLAS path
    microseconds an instruction             where tiles are so small that only overhead is left
    bytes an instruction                    what the record and the timeline keep of it

Contestants of one problem take turns within each repeat, so that a busy machine slows all of them;
medians are compared, and the least times as well.  Overheads are in CPU time of this thread: what
else the machine does is not in them.  Seconds depend on the machine, so nothing here passes or
fails: the figures asked for are printed beside those found.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nkiconv.bench.errors import UserError
from nkiconv.bench.matmul import K_BLOCK, matmul
from nkiconv.bench.tiny import KINDS, run_tiny
from nkiconv.kernels import conv2d
from nkiconv.reference import bounds
from nkiconv.reference._dtypes import DTYPES, Array
from nkiconv.reference.conv2d import conv2d_float64, magnitude
from nkiconv.simulate import profile

__all__ = ["Figure", "SpeedReport", "machine", "measure_simulator"]

CHANNELS, SIZE, KERNEL = 256, 56, 3
MATMUL_SIZES = (1024, 2048)
TINY_COUNT = 1000
"""Instructions in a launch whose time is divided by their number."""

ASKED_OF_CONV2D, ASKED_OF_LOW_CONV2D = 3.0, 2.0
ASKED_OF_MATMUL, ASKED_OF_LOW_MATMUL = 2.0, 1.5
ASKED_OVERHEAD_US, ASKED_BYTES = 15.0, 300.0

_ALL = "conv2d with its plan"


@dataclass(frozen=True)
class Figure:
    """One thing that was asked for: at most `asked`; None where nothing was.

    `median` and `best` are None where a contestant is not installed; `note` then says so.
    """

    name: str
    median: float | None
    best: float | None
    asked: float | None
    note: str = ""


@dataclass(frozen=True)
class SpeedReport:
    """Median and best seconds by problem and contestant, and the figures that were asked for.

    `load` is the machine's load average over the last minute: above `threads`, others were
    computing too, and all times are too long.
    """

    machine: str
    threads: int
    load: float
    repeats: int
    median_s: dict[str, float]
    best_s: dict[str, float]
    figures: tuple[Figure, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Problem:
    """Contestants for one problem by name, the check of their results, and the ratios asked."""

    name: str
    contestants: dict[str, Callable[[], Array]]
    error_ratio: Callable[[str, Array], float]
    """Of a contestant's result: largest error / what is allowed."""
    asked: tuple[tuple[str, str, float], ...]
    """Time of the first / time of the second, at most the third."""


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
    times: dict[str, list[float]] = {}
    figures: list[Figure] = []
    for problem in _problems(threads):
        found = _times_in_turns(problem, repeats)
        figures += _ratios(problem, found)
        times |= {f"{problem.name}: {name}": values for name, values in found.items()}
    figures += _overheads(repeats)
    figures.append(_kept_bytes())
    return SpeedReport(
        machine=machine(),
        threads=threads,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan,
        repeats=repeats,
        median_s={name: statistics.median(values) for name, values in times.items()},
        best_s={name: min(values) for name, values in times.items()},
        figures=tuple(figures),
    )


def _problems(threads: int) -> Iterator[_Problem]:
    """Yield one problem after the other: their operands need not be in memory together."""
    yield _conv2d_problem(threads)
    for size in MATMUL_SIZES:
        yield _matmul_problem(size)


def _conv2d_problem(threads: int) -> _Problem:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, CHANNELS, SIZE, SIZE), dtype=np.float32)
    w = generator.standard_normal((CHANNELS, CHANNELS, KERNEL, KERNEL), dtype=np.float32) / 48
    contestants: dict[str, Callable[[], Array]] = {}
    torch_run = _torch_contestant(x, w, threads)
    if torch_run is not None:
        contestants["torch float32"] = torch_run
    for name, dtype in DTYPES.items():
        contestants[f"ours {name}"] = _our_contestant(x.astype(dtype), w.astype(dtype))

    def error_ratio(name: str, y: Array) -> float:
        dtype = DTYPES[name.split()[1]]
        rounded_x, rounded_w = x.astype(dtype), w.astype(dtype)
        wanted = conv2d_float64(rounded_x, rounded_w, padding=1)
        size = magnitude(rounded_x, rounded_w, padding=1)
        return bounds.max_error_ratio(y, wanted, size, w[0].size, dtype)

    return _Problem(
        "conv2d",
        contestants,
        error_ratio,
        (("ours float32", "torch float32", ASKED_OF_CONV2D), *_low(ASKED_OF_LOW_CONV2D)),
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


def _matmul_problem(size: int) -> _Problem:
    generator = np.random.default_rng(0)
    lhs_t = generator.standard_normal((size, size), dtype=np.float32)
    rhs = generator.standard_normal((size, size), dtype=np.float32)

    def ours(dtype: np.dtype[np.generic]) -> Callable[[], Array]:
        lhs_t_rounded, rhs_rounded = lhs_t.astype(dtype), rhs.astype(dtype)
        return lambda: matmul(lhs_t_rounded, rhs_rounded)

    def error_ratio(name: str, y: Array) -> float:
        dtype = DTYPES[name.split()[1]]
        return matmul_error_ratio(y, lhs_t.astype(dtype), rhs.astype(dtype))

    return _Problem(
        f"matmul {size}",
        {"numpy float32": lambda: np.matmul(lhs_t.T, rhs)}
        | {f"ours {name}": ours(dtype) for name, dtype in DTYPES.items()},
        error_ratio,
        (("ours float32", "numpy float32", ASKED_OF_MATMUL), *_low(ASKED_OF_LOW_MATMUL)),
    )


def matmul_error_ratio(y: Array, lhs_t: Array, rhs: Array) -> float:
    """Return the largest |y - lhs_t.T @ rhs| / allowance: at most 1 for right code.

    Notes
    -----
    The kernel rounds its sum to the dtype after every block of K.  With e the error so far and
    r, m the sum and its magnitude up to a block, rounding leaves e (1 + u) + allowance(r, m), where
    `bounds.allowance` covers the float32 sum of the block and one rounding, and u is that rounding.
    """
    dtype = y.dtype
    unit = 0.0 if dtype == np.float32 else {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype.name]
    reference, size, allowed = (np.zeros(y.shape) for _ in range(3))
    for first in range(0, len(rhs), K_BLOCK):
        block = slice(first, first + K_BLOCK)
        left, right = lhs_t[block].astype(np.float64), rhs[block].astype(np.float64)
        reference += left.T @ right
        size += np.abs(left).T @ np.abs(right)
        terms = len(left) + 1  # and the sum so far
        allowed = allowed * (1 + unit) + bounds.allowance(reference, size, terms, dtype)
    error = np.abs(y.astype(np.float64) - reference)
    return float(np.max(error / allowed))


def _low(asked: float) -> tuple[tuple[str, str, float], ...]:
    return tuple((f"ours {name}", "ours float32", asked) for name in ("float16", "bfloat16"))


def _times_in_turns(problem: _Problem, repeats: int) -> dict[str, list[float]]:
    for name, run in problem.contestants.items():
        ratio = problem.error_ratio(name, run())
        if not ratio <= 1:
            raise UserError(
                f"{problem.name}: {name}: the result is wrong (error {ratio:.2g} of its allowance)"
            )
    times: dict[str, list[float]] = {name: [] for name in problem.contestants}
    for _ in range(repeats):
        for name, run in problem.contestants.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return times


def _ratios(problem: _Problem, times: dict[str, list[float]]) -> Iterator[Figure]:
    for above, below, asked in problem.asked:
        name = f"{problem.name}: {above} / {below}"
        if below not in times:
            yield Figure(name, None, None, asked, f"{below.split()[0]} is not installed")
            continue
        medians = [statistics.median(times[which]) for which in (above, below)]
        bests = [min(times[which]) for which in (above, below)]
        yield Figure(name, medians[0] / medians[1], bests[0] / bests[1], asked)


def _overheads(repeats: int) -> Iterator[Figure]:
    """Time instructions of each kind on tiny tiles, and a conv2d with all that is around them."""
    x, w = np.ones((64, 2, 6, 6), np.float32), np.ones((2, 2, 3, 3), np.float32)
    _, seen = profile(conv2d, x, w, algorithm="direct")
    instructions = sum(seen.instructions.values())
    spent_us: dict[str, list[float]] = {kind: [] for kind in (*KINDS, _ALL)}
    for _ in range(repeats):
        for kind in KINDS:
            launch_us = _thread_us(partial(run_tiny, kind, 0))
            whole_us = _thread_us(partial(run_tiny, kind, TINY_COUNT))
            spent_us[kind].append((whole_us - launch_us) / TINY_COUNT)
        whole_us = _thread_us(partial(conv2d, x, w, algorithm="direct"))
        spent_us[_ALL].append(whole_us / instructions)
    for name, values in spent_us.items():
        yield Figure(
            f"instruction on tiny tiles: {name}, µs",
            statistics.median(values),
            min(values),
            None if name == _ALL else ASKED_OVERHEAD_US,
        )


def _thread_us(run: Callable[[], object]) -> float:
    started = time.thread_time()
    run()
    return (time.thread_time() - started) * 1e6


def _kept_bytes() -> Figure:
    """Return what a profile keeps of an instruction: of the kind that takes most."""
    most = 0.0
    for kind in KINDS:
        few, many = (_traced_bytes(kind, count) for count in (TINY_COUNT, 3 * TINY_COUNT))
        most = max(most, (many - few) / (2 * TINY_COUNT))
    return Figure("instruction in the trace and the timeline: bytes", most, most, ASKED_BYTES)


def _traced_bytes(kind: str, count: int) -> int:
    profile(run_tiny, kind, count)  # what is kept once and for all is kept now
    gc.collect()
    tracemalloc.start()
    try:
        seen = profile(run_tiny, kind, count)
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    del seen
    return traced
