"""When every instruction of a program starts and ends, given what it costs and what it touches.

Compute engines take their instructions in program order, one after the other.  DMA rings issue
theirs in program order too, and all rings share the sixteen DMA engines.  An instruction waits for
whatever it depends on: it reads what another one writes, or writes where another one reads or
writes.  Then it waits for what else it needs (`resources`).  Nothing here knows what an instruction
computes, or what kind of program this is.

Times are whole picoseconds; the same program gives the same times on every machine.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import islice
from math import gcd

from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.resources import QUEUES, Cause, Engines, SharedServer, queue_of
from nkiconv.simulate.trace import (
    HEADER,
    LANES,
    OPERAND,
    Lane,
    Trace,
    is_regular,
    read_pattern,
)

_FIRST_DMA = int(Lane.DMA_LOAD)
_TENSOR = int(Lane.TENSOR)

_BARRIER = -1
"""Stands for the queue of an access that both cores wait for."""


_LOOK_BACK = 2
"""Accesses before the latest that a new one is compared with."""

Box = tuple[int, int, int, int]
"""First byte, end byte, first partition, end partition."""

_Area = tuple[int, int, int, int, int]
"""The same, and which of these bytes, as `pattern_of` tells."""


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
        In the same order: time that a DMA ring spent issuing, and that an engine, or the block
        beside it, spent on generating descriptors.
    body_ps
        End of the last instruction.
    cause, blocker
        By instruction: a `Cause`, and the instruction that it waited for, or -1 for none.
    work_ps
        By instruction: its part of `busy_ps`.
    begin_ps
        By instruction: when its work began; of a transfer, when its first byte could flow.
    """

    start_ps: array[int]
    end_ps: array[int]
    busy_ps: tuple[int, ...]
    issue_ps: tuple[int, ...]
    body_ps: int
    cause: array[int]
    blocker: array[int]
    work_ps: array[int]
    begin_ps: array[int]


_Accesses = dict[tuple[_Area, int], tuple[int, int]]
"""By bytes and queue: when the last of these accesses ends, and the instruction that ends then."""


@dataclass(slots=True)
class _Lists:
    """Unfinished business of one storage: who wrote and who read which bytes, until when."""

    writes: _Accesses = field(default_factory=dict)
    reads: _Accesses = field(default_factory=dict)
    latest: int = 0
    last: int = -1
    """The instruction that ends at `latest`."""
    vacant: int = -1
    """When whatever held these bytes before is done with them; -1 until the first use."""
    former: int = -1
    """The instruction that `vacant` waits for."""


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes of one tensor share a byte."""
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _share(a: _Area, b: _Area) -> bool:
    """Whether two areas of one tensor share a byte: their boxes do, and do not interleave."""
    if not (a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]):
        return False
    return not (a[4] and b[4]) or _meet(a, b)


def _meet(a: _Area, b: _Area) -> bool:
    """Whether two patterns share a byte of every period that both repeat with."""
    first, run = read_pattern(a[4])
    second, other = read_pattern(b[4])
    period = gcd(first, second)
    ahead = (b[0] - a[0]) % period
    return ahead < run or (period - ahead) % period < other


def _covers(a: _Area, b: _Area) -> bool:
    """Whether `a` has every byte of `b`."""
    if not (a[0] <= b[0] and b[1] <= a[1] and a[2] <= b[2] and b[3] <= a[3]):
        return False
    if a[4] == 0:
        return True
    same = read_pattern(a[4]) == read_pattern(b[4]) and b[4] != 0
    return same and is_regular(a[4]) and (a[0] - b[0]) % read_pattern(a[4])[0] == 0


def _joined(a: _Area, b: _Area) -> _Area | None:
    """Return one area for two that touch, with no byte that neither has between them, or None."""
    if a[0] > b[1] or b[0] > a[1] or a[4] != b[4]:
        return None
    if a[4] and (a[0] - b[0]) % read_pattern(a[4])[0]:
        return None
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3]), a[4]


def _note(accesses: _Accesses, area: _Area, queue: int, ends: tuple[int, int], merge: bool) -> None:
    """Remember an access; neighbouring ones of the same in-order queue become one."""
    known = accesses.get((area, queue))
    if known is None and merge:
        for old, by in islice(reversed(accesses), _LOOK_BACK):
            whole = _joined(old, area) if by == queue else None
            if whole is not None:
                joined = accesses.pop((old, by))
                area = whole
                known = max(joined, accesses.get((area, queue), joined))
                break
    accesses[area, queue] = ends if known is None or known <= ends else known


def schedule(
    trace: Trace,
    allocations: list[Allocation],
    placement: Placement,
    hw: Hardware,
    cores: int = 1,
) -> Timeline:
    """Replay a program on the engines of `hw`, each core with engines of its own."""
    starts, ends, blockers = array("q"), array("q"), array("q")
    works, begins = array("q"), array("q")
    causes = array("b")
    used = trace.lanes()
    memory = SharedServer() if cores > 1 else None
    engines = [
        Engines(hw, {lane % LANES for lane in used if lane // LANES == core}, memory)
        for core in range(cores)
    ]
    hbm_bytes = dict(trace.hbm_moves()) if cores > 1 else {}
    lists = [_Lists() for _ in allocations]
    spaces = [s.space for s in allocations]
    latest = [(0, -1)] * cores
    own = [range(core * QUEUES, (core + 1) * QUEUES) for core in range(cores)]
    barriers = frozenset(trace.barriers)
    synchronising = trace.find("core_barrier")
    hop = round(hw.dependency_ns * 1000)
    producers: dict[int, list[int]] = {}
    for consumer, producer in trace.edges:
        producers.setdefault(consumer, []).append(producer)

    for index, words in trace.raw():
        core, lane = divmod(words[1], LANES)
        work, latency, wanted = words[4], words[5], words[6]
        engine = engines[core]
        queue = queue_of(lane, wanted)
        start, (why, blocker) = engine.free[queue], engine.held[queue]
        queue += core * QUEUES
        if index in barriers and latest[core][0] > start:
            (start, blocker), why = latest[core], Cause.BARRIER
        meets = words[0] == synchronising
        touched: set[str] = set()
        for at in range(HEADER, len(words), OPERAND):
            number, access = words[at], words[at + 1]
            writes = access & 1
            area = (words[at + 2], words[at + 3], words[at + 4], words[at + 5], access >> 1)
            touched.add(spaces[number])
            known = lists[number]
            if known.vacant < 0:
                known.vacant = 0
                for earlier in placement.predecessors.get(number, ()):
                    gone = lists[earlier].latest + hop
                    if gone > known.vacant:
                        known.vacant, known.former = gone, lists[earlier].last
            if known.vacant > start:
                start, why, blocker = known.vacant, Cause.REUSE, known.former
            # What crosses cores is ordered by barriers alone: they write the whole tensor, and
            # wait for all accesses but each other.
            apart = cores > 1 and spaces[number] == "hbm"
            wait = Cause.BARRIER if meets else Cause.REUSE if writes else Cause.DATA
            for (other, by), (until, who) in known.writes.items():
                if apart and (by == _BARRIER if meets else by != _BARRIER and by not in own[core]):
                    continue
                # In-order queues finish their writes in order; only a reader has to wait.
                waits = not writes or by != queue
                if waits and until + hop >= start and _share(area, other):
                    # Who both reads and overwrites a result waits for it as data.
                    if until + hop > start or (why is Cause.REUSE and blocker == who):
                        why, blocker = Cause.BARRIER if by == _BARRIER else wait, who
                    start = until + hop
            if writes:
                for (other, by), (until, who) in known.reads.items():
                    if apart and not meets and by not in own[core]:
                        continue
                    if by != queue and until + hop > start and _share(area, other):
                        start, why, blocker = until + hop, wait, who
        for producer in producers.get(index, ()):
            if ends[producer] + hop > start:
                start, why, blocker = ends[producer] + hop, Cause.EDGE, producer

        order = start, why, blocker
        if lane >= _FIRST_DMA:
            moved = hbm_bytes.get(index, 0)
            start, why, blocker = engine.transfer(lane, order, work, latency, wanted, index, moved)
        elif lane == _TENSOR:
            start, why, blocker = engine.matmul(order, work, latency, wanted, index)
        else:
            banks: set[int] = set()
            if engine.shares_banks and "psum" in touched:
                banks = _banks(words, spaces, placement, hw)
            start, why, blocker = engine.compute(
                lane, order, work, latency, wanted, index, touched, banks
            )
        end = engine.end
        works.append(engine.work)
        begins.append(engine.begin)
        starts.append(start)
        ends.append(end)
        causes.append(why)
        blockers.append(blocker)
        latest[core] = max(latest[core], (end, index))
        if index in barriers:
            for each in range(QUEUES):
                if end > engine.free[each]:
                    engine.free[each], engine.held[each] = end, (Cause.BARRIER, index)
        _remember(words, lists, spaces, end, index, _BARRIER if meets else queue)

    return Timeline(
        starts,
        ends,
        tuple(ps for engine in engines for ps in engine.busy),
        tuple(ps for engine in engines for ps in engine.issue),
        max(ends, default=0),
        causes,
        blockers,
        works,
        begins,
    )


def _banks(words: list[int], spaces: list[str], placement: Placement, hw: Hardware) -> set[int]:
    """Return the banks of PSUM that an instruction touches."""
    found: set[int] = set()
    for at in range(HEADER, len(words), OPERAND):
        if spaces[words[at]] == "psum":
            begin = placement.start.get(words[at], 0)
            first, last = begin + words[at + 2], begin + words[at + 3] - 1
            found.update(range(first // hw.psum_bank_bytes, last // hw.psum_bank_bytes + 1))
    return found


def _remember(
    words: list[int], lists: list[_Lists], spaces: list[str], end: int, index: int, queue: int
) -> None:
    """Note what an instruction has touched, and until when."""
    in_order = words[1] % LANES < _FIRST_DMA
    for at in range(HEADER, len(words), OPERAND):
        number = words[at]
        access = words[at + 1]
        area = (words[at + 2], words[at + 3], words[at + 4], words[at + 5], access >> 1)
        known = lists[number]
        ends = end, index
        # Readers are done with their operands when the engine is free again.
        merge = in_order or spaces[number] == "hbm"
        if access & 1:
            if queue != _BARRIER:
                # Who waits for this write waits for all that it waited for itself.  It did not wait
                # for its own queue: a short transfer may end before an earlier one of its ring.
                for accesses in (known.writes, known.reads):
                    for key in [
                        key
                        for key, (until, _) in accesses.items()
                        if _covers(area, key[0]) and (until <= end or key[1] != queue)
                    ]:
                        del accesses[key]
            _note(known.writes, area, queue, ends, merge)
        else:
            _note(known.reads, area, queue, ends, True)
        if end > known.latest:
            known.latest, known.last = end, index
