"""Why a program takes as long as it does: its critical path, and what every engine waited for.

The critical path is walked backwards from the instruction that ends last: each one to the
instruction that held it up.  Its pieces follow each other without a gap, so that they add up to the
modelled time, and every piece has one of the names below.

An engine's time is cut up the other way round: it worked, or it waited for the next instruction in
its queue, for that one's cause.  Work and waiting add up to the modelled time as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from nkiconv.simulate.demand import Descriptors
from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.program import Program
from nkiconv.simulate.resources import Cause
from nkiconv.simulate.schedule import Timeline
from nkiconv.simulate.trace import LANES, Lane, Trace

BANDWIDTH, LATENCY, DEPENDENCY, LAUNCH = "DMA bandwidth", "DMA latency", "dependency", "launch"

KINDS = ("TensorE", "VectorE", "ScalarE", "GpSimdE", BANDWIDTH, LATENCY, DEPENDENCY, LAUNCH)
"""What can bound a kernel, in the order in which it is printed."""

_FIRST_DMA = int(Lane.DMA_LOAD)
_SYNC = int(Lane.SYNC)
_ENGINE_LANES = (Lane.TENSOR, Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD)

# Names of pieces of the path.  Work of an engine is of its own kind, the others of these.
WORK, TABLE = "work", "activation table"
RESULT, SEMAPHORE, LOOP, BARRIER = "result latency", "semaphore", "loop", "barrier"
ISSUE, START_UP, TRANSFER, COMPLETION = "issue", "start-up", "transfer", "completion"
_KIND_OF = {
    RESULT: DEPENDENCY,
    SEMAPHORE: DEPENDENCY,
    LOOP: DEPENDENCY,
    BARRIER: DEPENDENCY,
    ISSUE: LATENCY,
    START_UP: LATENCY,
    TRANSFER: BANDWIDTH,
    COMPLETION: LATENCY,
}

# Names of what an engine waited for; `waits_for` makes those of results.
FIRST, LAST, UNUSED = "before its first instruction", "after its last", "unused"
REUSE, ORDER, PORT = "memory still in use", "explicit order", "shared port"
DMA_ISSUE, DMA_START_UP = "DMA issue", "DMA start-up"
FEW_ENGINES = "transfers of few partitions"


def waits_for(engine: str) -> str:
    """Return the name of the time spent waiting for results of an engine or DMA ring."""
    return f"results of {engine}"


def queue_of(engine: str) -> str:
    """Return the name of the time spent in the queue of another engine, for its descriptors."""
    return f"queue of {engine}"


@dataclass(frozen=True, slots=True)
class PathPart:
    """A share of the critical path: all pieces of one source line, engine and name.

    Attributes
    ----------
    source
        ``file.py:line``.
    engine
        Compute engine or DMA ring.
    opcode
        Instruction.
    kind
        What bounds the kernel there, one of `KINDS`.
    what
        What the time was spent on, such as ``"work"`` or ``"start-up"``.
    us
        Modelled.
    count
        Pieces.
    """

    source: str
    engine: str
    opcode: str
    kind: str
    what: str
    us: float
    count: int


@dataclass(frozen=True, slots=True)
class LineTime:
    """What one source line cost on one engine.

    Attributes
    ----------
    source, engine
        ``file.py:line``, and the compute engine or DMA ring.
    count
        Instructions.
    busy_us
        Time that they kept the engine, or the DMA engines, at work; modelled.
    path_us
        Time that they took on the critical path; modelled.
    """

    source: str
    engine: str
    count: int
    busy_us: float
    path_us: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the critical path: whose, what, and from when to when (picoseconds)."""

    index: int
    what: str
    start_ps: int
    end_ps: int


_HELD = frozenset({Cause.ENGINE, Cause.ISSUE, Cause.PORT})
"""The blocker let go when it made room, before its result was out."""


class _Walk:
    """Walks one timeline backwards."""

    def __init__(self, trace: Trace, line: Timeline, hw: Hardware) -> None:
        self._trace = trace
        self._line = line
        self._complete = round(hw.dma_complete_ns * 1000)

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces, last one first."""
        line = self._line
        if not line.end_ps:
            return
        index = max(range(len(line.end_ps)), key=line.end_ps.__getitem__)
        until, issues = line.end_ps[index], False
        while index >= 0:
            lane = self._trace.words(index)[1] % LANES
            start, blocker = line.start_ps[index], line.blocker[index]
            if lane >= _FIRST_DMA:
                low = start
                if line.cause[index] == Cause.BANDWIDTH and blocker >= 0:
                    low = min(until, max(start, line.end_ps[blocker] - self._complete))
                yield from self._transfer(index, low, until, issues)
                if low > start:
                    index, until, issues = blocker, low, False
                    continue
            else:
                yield from self._instruction(index, lane, until)
            if blocker < 0:
                if start:
                    yield Piece(index, SEMAPHORE, 0, start)
                return
            free = self._until(index, blocker)
            if free < start:
                yield Piece(index, SEMAPHORE, free, start)
            issues = line.cause[index] in _HELD
            index, until = blocker, free

    def _until(self, index: int, blocker: int) -> int:
        """Return when the blocker let an instruction go."""
        line = self._line
        start, end = line.start_ps[index], line.end_ps[blocker]
        cause = line.cause[index]
        if cause in _HELD:
            return start
        if cause == Cause.TABLE:
            same = self._trace.words(index)[1] == self._trace.words(blocker)[1]
            if same and start == line.start_ps[blocker] + line.work_ps[blocker]:
                return start
        return min(start, max(end, line.start_ps[blocker]))

    def _instruction(self, index: int, lane: int, until: int) -> Iterator[Piece]:
        line, words = self._line, self._trace.words(index)
        start = line.start_ps[index]
        if lane == _SYNC or self._trace.name(words[0]) == "core_barrier":
            yield Piece(index, LOOP if lane == _SYNC else BARRIER, start, until)
            return
        # Of matmuls side by side on TensorE, work_ps has only what nothing else covers.
        worked = min(until, start + max(line.work_ps[index], words[4]))
        if worked < until:
            yield Piece(index, RESULT, worked, until)
        loads = line.cause[index] == Cause.TABLE
        loaded = min(worked, start + line.work_ps[index] - words[4]) if loads else start
        if loaded < worked:
            yield Piece(index, WORK, loaded, worked)
        if start < loaded:
            yield Piece(index, TABLE, start, loaded)

    def _transfer(self, index: int, low: int, until: int, issues: bool) -> Iterator[Piece]:
        start, end = self._line.start_ps[index], self._line.end_ps[index]
        if issues:  # what follows waited for its place in the ring alone
            if low < until:
                yield Piece(index, ISSUE, low, until)
            return
        flows, flowed = self._line.begin_ps[index], end - self._complete
        for what, first, last in (
            (COMPLETION, flowed, end),
            (TRANSFER, flows, flowed),
            (START_UP, start, flows),
        ):
            first, last = max(first, low), min(last, until)
            if first < last:
                yield Piece(index, what, first, last)


def critical_path(trace: Trace, line: Timeline, hw: Hardware) -> list[Piece]:
    """Return the pieces of the critical path in order of time; they cover it without a gap."""
    pieces = list(_Walk(trace, line, hw).pieces())
    pieces.reverse()
    return pieces


def kind_of(what: str, lane: Lane) -> str:
    """Return which of `KINDS` a piece of the path belongs to."""
    return _KIND_OF.get(what, lane.label)


def path_parts(programs: list[tuple[Program, list[Piece]]]) -> tuple[PathPart, ...]:
    """Add up pieces by source line, engine and name; the longest first."""
    sums: dict[tuple[str, str, str, str, str], list[int]] = {}
    for program, pieces in programs:
        trace = program.trace
        for piece in pieces:
            words = trace.words(piece.index)
            lane = Lane(words[1] % LANES)
            key = (
                trace.name(words[2]),
                lane.label,
                trace.name(words[0]),
                kind_of(piece.what, lane),
                piece.what,
            )
            entry = sums.setdefault(key, [0, 0])
            entry[0] += piece.end_ps - piece.start_ps
            entry[1] += 1
    ordered = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    return tuple(PathPart(*key, ps / 1e6, count) for key, (ps, count) in ordered)


def line_times(
    programs: list[tuple[Program, Timeline]], path: tuple[PathPart, ...]
) -> tuple[LineTime, ...]:
    """Return what each source line cost on each engine; the longest on the critical path first."""
    busy: dict[tuple[str, str], list[int]] = {}
    for program, line in programs:
        trace = program.trace
        by_number: dict[tuple[int, int], list[int]] = {}
        for index in range(len(trace)):
            words = trace.words(index)
            entry = by_number.setdefault((words[2], words[1] % LANES), [0, 0])
            entry[0] += 1
            entry[1] += line.work_ps[index]
        for (source, lane), (count, ps) in by_number.items():
            total = busy.setdefault((trace.name(source), Lane(lane).label), [0, 0])
            total[0] += count
            total[1] += ps
    on_path: defaultdict[tuple[str, str], float] = defaultdict(float)
    for part in path:
        on_path[part.source, part.engine] += part.us
    times = [
        LineTime(source, engine, count, ps / 1e6, on_path[source, engine])
        for (source, engine), (count, ps) in busy.items()
    ]
    return tuple(sorted(times, key=lambda t: (-t.path_us, -t.busy_us, t.source, t.engine)))


@dataclass(frozen=True, slots=True)
class _Job:
    """Work in an engine's queue: when it could start, when it began, for how long, till when."""

    index: int
    ready: int
    begin: int
    work: int
    done: int


def lost_time(trace: Trace, line: Timeline, hw: Hardware) -> dict[str, dict[str, int]]:
    """Return what each engine waited for, in picoseconds; of two cores, on the busier one.

    Waiting and the engine's work add up to the length of the timeline.  ``"DMA"`` stands for the
    DMA engines of a core, which all its rings share.
    """
    cores = len(line.busy_ps) // LANES
    complete = round(hw.dma_complete_ns * 1000)
    generating = round(hw.dma_software_issue_ns * 1000)
    queues: list[list[_Job]] = [[] for _ in range(LANES * cores)]
    for index in range(len(trace)):
        words = trace.words(index)
        lane, start, begin = words[1], line.start_ps[index], line.begin_ps[index]
        done = begin
        if lane % LANES >= _FIRST_DMA:
            done = line.end_ps[index] - complete
            if words[6] == Descriptors.SOFTWARE:  # GpSimdE writes the descriptors first
                job = _Job(index, start, start, generating, start)
                queues[lane // LANES * LANES + Lane.GPSIMD].append(job)
            lane = lane // LANES * LANES + _FIRST_DMA
        queues[lane].append(_Job(index, start, begin, line.work_ps[index], done))
    lost = {}
    for of_engine in _ENGINE_LANES:
        core = max(range(cores), key=lambda c: (line.busy_ps[c * LANES + of_engine], -c))
        lost[of_engine.label] = _waits(trace, line, queues[core * LANES + of_engine])
    busy = [sum(line.busy_ps[c * LANES + _FIRST_DMA : (c + 1) * LANES]) for c in range(cores)]
    core = max(range(cores), key=lambda c: (busy[c], -c))
    moved = sorted(queues[core * LANES + _FIRST_DMA], key=lambda job: (job.begin, job.index))
    lost["DMA"] = _waits(trace, line, moved)
    return lost


def _waits(trace: Trace, line: Timeline, queue: list[_Job]) -> dict[str, int]:
    """Return the gaps in one queue by cause."""
    lost: defaultdict[str, int] = defaultdict(int)
    if not queue:
        return {UNUSED: line.body_ps}
    free = done = 0
    for at, job in enumerate(queue):
        # A transfer of few partitions leaves DMA engines without work till its end.
        for name, until in (
            (FEW_ENGINES, min(done, job.begin)),
            (FIRST if at == 0 else _cause(trace, line, job.index), job.ready),
            # Start-up hides behind earlier transfers, unless the ring issues them too slowly.
            (
                DMA_ISSUE if line.cause[job.index] == Cause.ISSUE else DMA_START_UP,
                job.begin,
            ),
        ):
            if until > free:
                lost[name] += until - free
                free = until
        free += job.work
        done = max(done, job.done)
    for name, until in ((FEW_ENGINES, min(done, line.body_ps)), (LAST, line.body_ps)):
        if until > free:
            lost[name] += until - free
            free = until
    return dict(lost)


_CAUSES = {
    Cause.REUSE: REUSE,
    Cause.EDGE: ORDER,
    Cause.BARRIER: BARRIER,
    Cause.ISSUE: DMA_ISSUE,
    Cause.PORT: PORT,
}


def _cause(trace: Trace, line: Timeline, index: int) -> str:
    cause, blocker = Cause(line.cause[index]), line.blocker[index]
    if cause in _CAUSES:
        return _CAUSES[cause]
    if blocker < 0:
        return FIRST
    other = Lane(trace.words(blocker)[1] % LANES).label
    return queue_of(other) if cause is Cause.ENGINE else waits_for(other)


def add_up(parts: tuple[PathPart, ...], launch_us: float) -> dict[str, float]:
    """Return the modelled latency by `KINDS`, all of them; the values add up to it."""
    total = dict.fromkeys(KINDS, 0.0)
    for part in parts:
        total[part.kind] += part.us
    total[LAUNCH] += launch_us
    return total


__all__ = [
    "KINDS",
    "LineTime",
    "PathPart",
    "Piece",
    "add_up",
    "critical_path",
    "kind_of",
    "line_times",
    "lost_time",
    "path_parts",
]
