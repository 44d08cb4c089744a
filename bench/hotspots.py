"""Where the simulator's own time goes, function by function.

Two workloads, because two things cost.  `tiny`: instructions whose arithmetic costs next to
nothing, so that the overhead of each is left.  `matmul`: the product that `nkiconv bench` times,
where arithmetic and copies should be all that counts.

Time is a function's own, without the Python functions that it calls; NumPy's work counts for the
function that asked for it.  The profiler makes every call of a Python function slower, and so the
shares of small functions too large: ratios are for `nkiconv bench`.
"""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType

import numpy as np

from nkiconv.bench.matmul import matmul
from nkiconv.bench.tiny import KINDS, run_tiny

__all__ = ["Hotspot", "HotspotReport", "measure_hotspots"]

MATMUL_SIZE = 1024
TINY_COUNT = 500
"""Instructions of each kind."""

_MOST_ROWS = 20


@dataclass(frozen=True)
class Hotspot:
    """A function, and its own share of the time of each workload, 0 to 1."""

    where: str
    shares: dict[str, float]


@dataclass(frozen=True)
class HotspotReport:
    """Seconds of each workload under the profiler, and the functions that take most of them."""

    seconds: dict[str, float]
    hotspots: tuple[Hotspot, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def measure_hotspots(repeats: int) -> HotspotReport:
    """Profile both workloads `repeats` times, and add up."""
    generator = np.random.default_rng(0)
    lhs_t, rhs = generator.standard_normal((2, MATMUL_SIZE, MATMUL_SIZE)).astype(np.float32)

    def tiny() -> None:
        for kind in KINDS:
            run_tiny(kind, TINY_COUNT)

    spent = {
        "tiny": _own_seconds(tiny, repeats),
        "matmul": _own_seconds(lambda: matmul(lhs_t, rhs), repeats),
    }
    seconds = {name: sum(own.values()) for name, own in spent.items()}
    shares = {
        where: {name: own.get(where, 0.0) / seconds[name] for name, own in spent.items()}
        for where in sorted(set().union(*spent.values()))
    }
    most = sorted(shares, key=lambda where: max(shares[where].values()), reverse=True)[:_MOST_ROWS]
    return HotspotReport(seconds, tuple(Hotspot(where, shares[where]) for where in most))


def _own_seconds(run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return the seconds that each Python function took itself, by file and name."""
    run()  # caches fill, modules load
    profiler = cProfile.Profile(builtins=False)
    profiler.enable()
    try:
        for _ in range(repeats):
            run()
    finally:
        profiler.disable()
    spent: dict[str, float] = {}
    for entry in profiler.getstats():
        where = _place(entry.code)
        spent[where] = spent.get(where, 0.0) + entry.inlinetime
    return spent


def _place(code: CodeType | str) -> str:
    """Return ``folder/file.py function``."""
    if isinstance(code, str):  # of C; with builtins=False only the profiler's own
        return code
    name = getattr(code, "co_qualname", code.co_name)  # co_qualname since Python 3.11
    return f"{'/'.join(Path(code.co_filename).parts[-2:])} {name}"
