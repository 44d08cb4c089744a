"""When every instruction of a program starts and ends, given what it costs and what it touches.

Compute engines take their instructions in program order, one after the other.  DMA rings issue
theirs in program order too, and all rings share the sixteen DMA engines.  An instruction waits for
whatever it depends on: it reads what another one writes, or writes where another one reads or
writes.  Nothing here knows what an instruction computes, or what kind of program this is.

TensorE's array can be used in parts: matmuls on different cells run side by side, though they are
taken in program order too.

Times are whole picoseconds; the same program gives the same times on every machine.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field

from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.trace import HEADER, LANES, OPERAND, Lane, Trace

_FIRST_DMA = int(Lane.DMA_LOAD)
_TENSOR = int(Lane.TENSOR)

_BARRIER = -1
"""Stands for the lane of an access that both cores wait for."""

Box = tuple[int, int, int, int]
"""First byte, end byte, first partition, end partition."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Start and end of every instruction, in picoseconds from the first one's start.

    Attributes
    ----------
    start_ps, end_ps
        By instruction; the end is when the result can be seen by a waiter.
    busy_ps
        By `Lane`, one core after the other: time that the engine, or the DMA engines for that
        ring, were at work.
    issue_ps
        In the same order: time that a DMA ring spent issuing.
    body_ps
        End of the last instruction.
    """

    start_ps: array[int]
    end_ps: array[int]
    busy_ps: tuple[int, ...]
    issue_ps: tuple[int, ...]
    body_ps: int


class _SharedServer:
    """The DMA engines as one server: transfers fill the free time from their start on."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._end: list[int] = []

    def occupy(self, start: int, work: int) -> int:
        """Do `work` picoseconds in the free time from `start`; return when it is done."""
        first, end = self._first, self._end
        at = bisect_right(first, start)
        if at and end[at - 1] > start:
            start = end[at - 1]
        begin, now = start, start
        stop = at
        while True:
            limit = first[stop] if stop < len(first) else None
            if limit is None or limit - now >= work:
                now += work
                break
            work -= limit - now
            now = end[stop]
            stop += 1
        # Everything from `begin` to `now` is busy: merge with the intervals that it touches.
        low, high = at, stop
        if low and end[low - 1] == begin:
            low -= 1
            begin = first[low]
        if high < len(first) and first[high] == now:
            now_end = end[high]
            high += 1
        else:
            now_end = now
        first[low:high] = [begin]
        end[low:high] = [now_end]
        return now


@dataclass(slots=True)
class _Lists:
    """Unfinished business of one storage: who wrote and who read which bytes, until when."""

    writes: list[tuple[Box, int, int]] = field(default_factory=list)
    reads: list[tuple[Box, int, int]] = field(default_factory=list)
    latest: int = 0
    vacant: int = -1
    """When whatever held these bytes before is done with them; -1 until the first use."""


ARRAY_STEP = 32
"""Rows or columns of TensorE's array that the least tile has: the side of a block of cells."""

_BLOCKS = 128 // ARRAY_STEP


def array_cells(row: int, rows: int, column: int, columns: int) -> int:
    """Return the number that stands for a rectangle of blocks: a bit for each."""
    line = ((1 << columns) - 1) << column
    return sum(line << _BLOCKS * at for at in range(row, row + rows))


class _Array:
    """TensorE's cells, and when each block of them is free again."""

    def __init__(self, issue: int) -> None:
        self._issue = issue
        self._free = [0] * _BLOCKS**2
        self._whole = 0
        self._until = 0

    def ready(self, cells: int) -> int:
        """Return when these cells are free; -1 stands for all of them."""
        if cells < 0:
            return self._until
        return max(self._whole, *(at for n, at in enumerate(self._free) if cells >> n & 1))

    def occupy(self, cells: int, start: int, work: int) -> tuple[int, int]:
        """Work from `start`; return when the next may be taken, and for how long nothing else ran.

        Where a matmul uses all cells, the next one is taken when it is done.
        """
        end = start + work
        alone = max(0, end - max(start, self._until))
        self._until = max(self._until, end)
        if cells < 0:
            self._whole = end
            return end, alone
        self._free = [end if cells >> n & 1 else at for n, at in enumerate(self._free)]
        return start + min(work, self._issue), alone


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes of one tensor share a byte."""
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _covers(a: Box, b: Box) -> bool:
    return a[0] <= b[0] and b[1] <= a[1] and a[2] <= b[2] and b[3] <= a[3]


def _note(entries: list[tuple[Box, int, int]], box: Box, lane: int, end: int, merge: bool) -> None:
    """Remember an access; neighbouring ones of the same in-order lane become one."""
    if merge:
        for i in range(len(entries) - 1, max(-1, len(entries) - 3), -1):
            old, by, until = entries[i]
            if by == lane and old[0] <= box[1] and box[0] <= old[1]:
                joined = (
                    min(old[0], box[0]),
                    max(old[1], box[1]),
                    min(old[2], box[2]),
                    max(old[3], box[3]),
                )
                entries[i] = (joined, lane, max(until, end))
                return
    entries.append((box, lane, end))


def schedule(
    trace: Trace,
    allocations: list[Allocation],
    placement: Placement,
    hw: Hardware,
    cores: int = 1,
) -> Timeline:
    """Replay a program on the engines of `hw`, each core with engines of its own."""
    starts, ends = array("q"), array("q")
    free = [0] * (LANES * cores)
    busy = [0] * (LANES * cores)
    issued = [0] * (LANES * cores)
    lists = [_Lists() for _ in allocations]
    in_hbm = [s.space == "hbm" for s in allocations]
    by_dma = [lane % LANES >= _FIRST_DMA for lane in range(LANES * cores)]
    servers = [_SharedServer() for _ in range(cores)]
    tables = [-1] * cores
    latest = [0] * cores
    own = [range(core * LANES, (core + 1) * LANES) for core in range(cores)]
    barriers = frozenset(trace.barriers)
    synchronising = trace.find("core_barrier")
    hop = round(hw.dependency_ns * 1000)
    issue = round(hw.dma_issue_ns * 1000)
    begin_transfer = round(hw.dma_start_ns * 1000)
    complete = round(hw.dma_complete_ns * 1000)
    table_load = round(hw.scalar_table_load_ns * 1000)
    arrays = [_Array(round(hw.tile_issue_cycles * 1000 / hw.tensor_ghz)) for _ in range(cores)]
    producers: dict[int, list[int]] = {}
    for consumer, producer in trace.edges:
        producers.setdefault(consumer, []).append(producer)

    for index, words in trace.raw():
        lane, occupancy, latency, wanted = words[1], words[4], words[5], words[6]
        core = lane // LANES
        ready = latest[core] if index in barriers else 0
        for at in range(HEADER, len(words), OPERAND):
            number = words[at]
            box = (words[at + 2], words[at + 3], words[at + 4], words[at + 5])
            known = lists[number]
            if known.vacant < 0:
                before = placement.predecessors.get(number, ())
                known.vacant = max([lists[earlier].latest + hop for earlier in before], default=0)
            ready = max(ready, known.vacant)
            writes = words[at + 1]
            # What crosses cores is ordered by barriers alone: they write the whole tensor, and
            # wait for all accesses but each other.
            apart = cores > 1 and in_hbm[number]
            meets = words[0] == synchronising
            for other, by, until in known.writes:
                if apart and (by == _BARRIER if meets else by != _BARRIER and by not in own[core]):
                    continue
                # In-order lanes finish their writes in order; only a reader has to wait.
                if (not writes or by != lane) and until + hop > ready and overlap(box, other):
                    ready = until + hop
            if writes:
                for other, by, until in known.reads:
                    if apart and not meets and by not in own[core]:
                        continue
                    if by != lane and until + hop > ready and overlap(box, other):
                        ready = until + hop
        for producer in producers.get(index, ()):
            ready = max(ready, ends[producer] + hop)

        start = max(free[lane], ready)
        if by_dma[lane]:
            free[lane] = start + issue
            issued[lane] += issue
            end = servers[core].occupy(start + begin_transfer, occupancy) + complete
        elif lane % LANES == _TENSOR:
            start = max(start, arrays[core].ready(wanted))
            free[lane], occupancy = arrays[core].occupy(wanted, start, occupancy)
            end = start + latency
        else:
            if wanted >= 0 and wanted != tables[core]:
                tables[core] = wanted
                occupancy += table_load
                latency += table_load
            free[lane] = start + occupancy
            end = start + latency
        busy[lane] += occupancy
        starts.append(start)
        ends.append(end)
        latest[core] = max(latest[core], end)
        if index in barriers:
            for each in own[core]:
                free[each] = max(free[each], end)

        for at in range(HEADER, len(words), OPERAND):
            number = words[at]
            box = (words[at + 2], words[at + 3], words[at + 4], words[at + 5])
            known = lists[number]
            # Readers are done with their operands when the engine is free again.
            merge = not by_dma[lane] or in_hbm[number]
            if words[at + 1]:
                meets = words[0] == synchronising
                if not meets:
                    # Who waits for this write waits for all that it waited for itself.
                    known.writes = [w for w in known.writes if not _covers(box, w[0])]
                    known.reads = [r for r in known.reads if not _covers(box, r[0])]
                _note(known.writes, box, _BARRIER if meets else lane, end, merge)
            else:
                _note(known.reads, box, lane, end, True)
            known.latest = max(known.latest, end)

    return Timeline(starts, ends, tuple(busy), tuple(issued), max(ends, default=0))
