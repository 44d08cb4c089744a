"""How the scheduler's time and memory grow with the number of instructions.

The program is that of a kernel in steady state: loads into three buffers by turns, matmuls that
accumulate, copies out of PSUM on two engines, stores.  Seconds depend on the machine, so nothing
passes or fails; what is asked for stands beside what was found.
"""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import asdict, dataclass

from nkiconv.bench.speed import machine
from nkiconv.simulate.demand import ALL_CELLS, Descriptors, tensor_demand
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.schedule import schedule
from nkiconv.simulate.trace import Lane, Trace

__all__ = ["ASKED_S", "SIZES", "ScalingReport", "ScalingRow", "measure_scaling", "steady_trace"]

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)

ASKED_INSTRUCTIONS, ASKED_S = 100_000, 5.0
"""What scheduling that many instructions may take at most."""

_MEMORY_UP_TO = 100_000
"""Memory is counted in a run of its own, which is several times slower."""


@dataclass(frozen=True)
class ScalingRow:
    """One size: seconds to schedule, bytes of the record, and bytes that scheduling needs."""

    instructions: int
    seconds: float
    trace_bytes: int
    schedule_bytes: int | None

    @property
    def each_us(self) -> float:
        """Microseconds for an instruction."""
        return self.seconds / self.instructions * 1e6


@dataclass(frozen=True)
class ScalingReport:
    """All sizes, on one machine."""

    machine: str
    rows: tuple[ScalingRow, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def steady_trace(instructions: int) -> tuple[Trace, list[Allocation]]:
    """Return a program of at least so many instructions, and its tensors."""
    trace = Trace()
    spaces = {0: "sbuf", 1: "sbuf", 2: "sbuf", 3: "psum", 4: "psum", 5: "sbuf", 6: "hbm", 7: "hbm"}
    tensors = [
        Allocation(n, space, (128, 4096), "float32", f"t{n}", "scaling.py")
        for n, space in spaces.items()
    ]
    name = trace.number("x")

    def add(
        lane: Lane, work: int, latency: int, demand: int, *boxes: tuple[int, int, int, int]
    ) -> None:
        words = [word for box in boxes for word in (*box, 0, 128)]
        trace.add(name, lane, name, name, work, latency, demand, words)

    matmul = tensor_demand(ALL_CELLS, 32, 512)
    by = int(Descriptors.HARDWARE)
    for turn in range(-(-instructions // 16)):
        window, bank, row = turn % 3, 3 + turn % 2, turn * 2048 % 2**40
        add(Lane.DMA_LOAD, 700_000, 900_000, by, (window, 1, 0, 2048), (6, 0, row, row + 2048))
        for tap in range(9):
            reads = (window, 0, 128 * tap, 128 * tap + 1024), (5, 0, 8192, 8192 + 256)
            add(
                Lane.TENSOR,
                215_833,
                379_833,
                matmul,
                (bank, 1, 0, 2048),
                *reads,
                (bank, 0, 0, 2048),
            )
        for part, lane in enumerate((Lane.VECTOR, Lane.SCALAR) * 2):
            first = 512 * part
            out = (5, 1, first + 2048 * (turn % 4), first + 512 + 2048 * (turn % 4))
            add(lane, 300_000, 400_000, -1, out, (bank, 0, first, first + 512))
        held = 2048 * (turn % 4)
        add(Lane.GPSIMD, 250_000, 300_000, -1, (5, 1, held, held + 16), (5, 0, held, held + 2048))
        add(
            Lane.DMA_STORE, 700_000, 900_000, by, (7, 1, row, row + 2048), (5, 0, held, held + 2048)
        )
    return trace, tensors


def measure_scaling(sizes: tuple[int, ...] = SIZES) -> ScalingReport:
    """Schedule programs of these sizes, once for the time and once for the memory."""
    rows = []
    for size in sizes:
        trace, tensors = steady_trace(size)
        place, hw = Placement({}, {}, 0, 0), HARDWARE["trn2"]
        started = time.perf_counter()
        schedule(trace, tensors, place, hw)
        seconds = time.perf_counter() - started
        peak = None
        if size <= _MEMORY_UP_TO:
            tracemalloc.start()
            try:
                schedule(trace, tensors, place, hw)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        rows.append(ScalingRow(len(trace), seconds, trace.memory_bytes, peak))
    return ScalingReport(machine(), tuple(rows))
