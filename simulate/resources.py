"""What instructions compete for on one NeuronCore, and how long each lets them wait.

Engines take their instructions in program order.  Beside them there are TensorE's cells and its
clock, the ports of SBUF and PSUM that engines share, ScalarE's activation table, the blocks that
generate descriptors, and the DMA engines.  All times are whole picoseconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from enum import IntEnum

from nkiconv.simulate.demand import (
    ALL_CELLS,
    BLOCKS,
    SHARED_PORT,
    Descriptors,
    read_tensor_demand,
)
from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.trace import LANES, Lane


class Cause(IntEnum):
    """What an instruction waited for last before it started, or what made it longer."""

    START = 0
    """Nothing: it started with the kernel."""
    ENGINE = 1
    """Its engine was busy with an earlier instruction."""
    DATA = 2
    """A producer's result."""
    REUSE = 3
    """Those who still used the bytes that it overwrites, or that its tensor was given."""
    ISSUE = 4
    """Its DMA ring, or whoever generates its descriptors, was busy with an earlier transfer."""
    BANDWIDTH = 5
    """Other transfers kept the DMA engines busy after it had started."""
    TABLE = 6
    """It waited for its activation table to load; the blocker is what it waited for before."""
    BARRIER = 7
    """A barrier, or everything before it where it is one itself."""
    EDGE = 8
    """An explicit order, from ``depends_on``."""
    PORT = 9
    """Another engine had the port to SBUF or PSUM that both share."""


class SharedServer:
    """One worker for many: jobs fill the free time from their start on."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.end: list[int] = []
        self._last: list[int] = []  # the job that was at work when an interval ended

    def when(self, start: int, work: int) -> int:
        """Return when `work` picoseconds from `start` on would be done."""
        first, end = self.first, self.end
        at = bisect_right(first, start)
        if at and end[at - 1] > start:
            start = end[at - 1]
        while at < len(first) and first[at] - start < work:
            work -= first[at] - start
            start = end[at]
            at += 1
        return start + work

    def occupy(self, start: int, work: int, index: int) -> tuple[int, int]:
        """Do `work` picoseconds in the free time from `start`.

        Returns
        -------
        done
            When it is done.
        blocker
            The job that it waited for last, or -1.
        """
        first, end, last = self.first, self.end, self._last
        blocker = -1
        at = bisect_right(first, start)
        if at and end[at - 1] > start:
            start = end[at - 1]
            blocker = last[at - 1]
        begin, now = start, start
        stop = at
        while True:
            limit = first[stop] if stop < len(first) else None
            if limit is None or limit - now >= work:
                now += work
                break
            work -= limit - now
            now = end[stop]
            blocker = last[stop]
            stop += 1
        # Everything from `begin` to `now` is busy: merge with the intervals that it touches.
        low, high = at, stop
        if low and end[low - 1] == begin:
            low -= 1
            begin = first[low]
        if high < len(first) and first[high] == now:
            now_end, index = end[high], last[high]
            high += 1
        else:
            now_end = now
        first[low:high] = [begin]
        end[low:high] = [now_end]
        last[low:high] = [index]
        return now, blocker


class Port:
    """A way into a memory that two engines share: one instruction has it at a time."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._end: list[int] = []
        self._user: list[int] = []

    def free_from(self, start: int, work: int) -> tuple[int, int]:
        """Return when it is free for as long as `work`, and who had it until then, or -1."""
        first, end = self._first, self._end
        user = -1
        at = bisect_right(first, start)
        if at and end[at - 1] > start:
            start, user = end[at - 1], self._user[at - 1]
        while at < len(first) and first[at] - start < work:
            start, user = end[at], self._user[at]
            at += 1
        return start, user

    def take(self, start: int, work: int, index: int, past: int) -> None:
        """Hold it; nobody asks any more for the time before `past`."""
        first, end, user = self._first, self._end, self._user
        gone = bisect_right(end, past)
        if gone > len(end) // 2:
            del first[:gone], end[:gone], user[:gone]
        at = bisect_right(first, start)
        first.insert(at, start)
        end.insert(at, start + work)
        user.insert(at, index)


class Clock:
    """TensorE's clock: chosen anew for each window by how well the array was fed in the last."""

    def __init__(self, slowdown: int, window: int, enough: int) -> None:
        self._slowdown = slowdown
        self._window = window
        self._enough = enough
        self.pace = slowdown
        """Picoseconds for each picosecond of work at full clock."""
        self._limit = window
        self._active = 0

    def _next_window(self) -> None:
        self.pace = 1 if self._active >= self._enough else self._slowdown
        self._active = 0
        self._limit += self._window

    def run(self, start: int, work: int, active: int) -> int:
        """Work from `start`; return when it is done.

        `work` and `active` are picoseconds at full clock; `active` is what counts as fed.
        """
        if self._slowdown == 1:
            return start + work
        if start >= self._limit:
            self._next_window()
            if start >= self._limit:
                self.pace = self._slowdown
                self._limit += (start - self._limit) // self._window * self._window + self._window
        left, now = work, start
        while (room := (self._limit - now) // self.pace) < left:
            self._active += active * room // work
            left -= room
            now = self._limit
            self._next_window()
        self._active += active * left // work
        return now + left * self.pace


class Array:
    """TensorE's cells, and when each block of them is free again."""

    def __init__(self, issue: int) -> None:
        self._issue = issue
        self._free = [(0, -1)] * BLOCKS**2
        self._whole = (0, -1)
        self.until = (0, -1)
        """When all of them are free, and who uses one until then."""

    def ready(self, cells: int) -> tuple[int, int]:
        """Return when these cells are free, and who uses them until then."""
        if cells == ALL_CELLS:
            return self.until
        return max(self._whole, *(at for n, at in enumerate(self._free) if cells >> n & 1))

    def occupy(self, cells: int, start: int, end: int, pace: int, index: int) -> tuple[int, int]:
        """Work until `end`; return when the next may be taken, and for how long nothing else ran.

        Where a matmul uses all cells, the next one is taken when it is done.
        """
        alone = max(0, end - max(start, self.until[0]))
        self.until = max(self.until, (end, index))
        if cells == ALL_CELLS:
            self._whole = end, index
            return end, alone
        self._free = [(end, index) if cells >> n & 1 else at for n, at in enumerate(self._free)]
        return min(end, start + self._issue * pace), alone


def _picoseconds(nanoseconds: float) -> int:
    return round(nanoseconds * 1000)


_TENSOR, _VECTOR, _SCALAR, _GPSIMD = (
    int(lane) for lane in (Lane.TENSOR, Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD)
)
_SYNC = int(Lane.SYNC)
_SHARING = {_VECTOR, _SCALAR, _GPSIMD}
_BESIDE = {Descriptors.HARDWARE: _SYNC, Descriptors.HARDWARE_SCALAR: _SCALAR}
_FIRST_DMA = int(Lane.DMA_LOAD)


def queue_of(lane: int, wanted: int) -> int:
    """Return the number of the in-order queue that an instruction goes through.

    An engine has one.  A DMA ring has one for each engine that triggers its transfers.
    """
    return lane + LANES * max(wanted, 0) if lane >= _FIRST_DMA else lane


QUEUES = LANES * len(Descriptors)

Wait = tuple[int, Cause, int]
"""When an instruction may start, why not earlier, and which instruction it waited for."""


class Engines:
    """All that one core's instructions compete for.

    Attributes
    ----------
    free, held
        By `queue_of`: when the next instruction may be taken, and who keeps the queue until then.
    busy
        By `Lane`: time at work.
    issue
        By `Lane`: time that a ring spent issuing; of an engine, that the generation of descriptors
        in its name took.
    """

    def __init__(self, hw: Hardware, lanes: set[int], memory: SharedServer | None = None) -> None:
        self.free = [0] * QUEUES
        self.held = [(Cause.START, -1)] * QUEUES
        self.busy = [0] * LANES
        self.issue = [0] * LANES
        self._last_start = 0  # of ScalarE, whose sequencer triggers transfers too
        self._transfers = SharedServer()
        self._memory = memory
        self._memory_ps = 1000 / hw.hbm_pair_bytes_per_ns
        self._generators = {lane: SharedServer() for lane in _BESIDE.values()}
        self._array = Array(_picoseconds(hw.tile_issue_cycles / hw.tensor_ghz))
        window = _picoseconds(hw.throttle_window_cycles / hw.tensor_ghz)
        enough = round(window * hw.throttle_busy_share)
        self._clock = Clock(hw.throttle_slowdown, window, enough)
        self._tensor_ghz = hw.tensor_ghz
        self._later = _picoseconds(hw.tensor_throttled_latency_ns - hw.tensor_latency_ns)
        self._table = -1
        self._table_load = _picoseconds(hw.scalar_table_load_ns)
        # NeuronCore-v2: VectorE shares SBUF with GpSimdE, PSUM with ScalarE.  From v3 on VectorE's
        # faster modes alone take the port of GpSimdE, and it shares single banks of PSUM with
        # ScalarE (A2 and A3).
        self._always = hw.generation < 3
        self._sbuf = Port() if {_VECTOR, _GPSIMD} <= lanes else None
        both = {_VECTOR, _SCALAR} <= lanes
        self._psum = Port() if self._always and both else None
        self._banks = [] if self._always or not both else [Port() for _ in range(hw.psum_banks)]
        self.end = 0
        """When the result of the instruction that was taken last can be seen."""
        self.work = 0
        """What it added to `busy` of its lane."""
        self.begin = 0
        """When its work began; of a transfer, when its first byte could flow."""
        self._issue_static = _picoseconds(hw.dma_static_issue_ns)
        self._issue_hardware = _picoseconds(hw.dma_hardware_issue_ns)
        self._issue_software = _picoseconds(hw.dma_software_issue_ns)
        self._begin = {
            Descriptors.STATIC: _picoseconds(hw.dma_static_start_ns),
            Descriptors.HARDWARE: _picoseconds(hw.dma_hardware_start_ns),
            Descriptors.HARDWARE_SCALAR: _picoseconds(hw.dma_hardware_start_ns),
            Descriptors.SOFTWARE: _picoseconds(hw.dma_software_start_ns),
            Descriptors.HARDWARE_EITHER: _picoseconds(hw.dma_hardware_start_ns),
        }
        self._complete = _picoseconds(hw.dma_complete_ns)

    def matmul(self, wait: Wait, work: int, latency: int, wanted: int, index: int) -> Wait:
        """Take an instruction of TensorE; return its start, why then, and whom it waited for."""
        start, why, blocker = wait
        cells, load_cycles, active_cycles = read_tensor_demand(wanted)
        ready, user = self._array.ready(cells)
        if ready > start:
            start, why, blocker = ready, Cause.ENGINE, user
        result = latency - work
        # Weights load behind the matmul before, unless there was none.
        idle = start > self._array.until[0]
        load = round(load_cycles * 1000 / self._tensor_ghz) if idle else 0
        active = round(active_cycles * 1000 / self._tensor_ghz)
        done = self._clock.run(start, max(1, load + work), active)
        pace = self._clock.pace
        if pace > 1:
            result += self._later
        free, alone = self._array.occupy(cells, start, done, pace, index)
        self.free[_TENSOR] = free
        self.held[_TENSOR] = Cause.ENGINE, index
        self.busy[_TENSOR] += alone
        self.work, self.begin = alone, start
        self.end = done + result
        return start, why, blocker

    def compute(
        self,
        lane: int,
        wait: Wait,
        work: int,
        latency: int,
        wanted: int,
        index: int,
        spaces: set[str],
        banks: Collection[int] = (),
    ) -> Wait:
        """Take an instruction of another engine, with `banks` of PSUM; as `matmul`."""
        start, why, blocker = wait
        if lane == _SCALAR and wanted >= 0 and wanted != self._table:
            # The load is an instruction of its own and needs no operand: it goes on while the
            # activation waits for one.
            self._table = wanted
            rest = self._table_load - (start - self.free[_SCALAR])
            if rest > 0:
                work += rest
                latency += rest
                why = Cause.TABLE
        if lane in _SHARING:
            ports = self._ports(lane, wanted, spaces, banks)
            asked = -1
            while asked != start:  # of two ports, both must be free at once
                asked = start
                for port in ports:
                    at, user = port.free_from(start, work)
                    if at > start:
                        start, why, blocker = at, Cause.PORT, user
            for port in ports:
                other = _GPSIMD if port is self._sbuf else _SCALAR
                port.take(start, work, index, min(self.free[_VECTOR], self.free[other]))
        if lane == _SCALAR:
            self._last_start = start
        self.free[lane] = start + work
        self.held[lane] = Cause.ENGINE, index
        self.busy[lane] += work
        self.work, self.begin = work, start
        self.end = start + latency
        return start, why, blocker

    @property
    def shares_banks(self) -> bool:
        """Whether it matters which banks of PSUM an instruction touches."""
        return bool(self._banks)

    def _ports(
        self, lane: int, wanted: int, spaces: set[str], banks: Collection[int]
    ) -> list[Port]:
        ports = []
        if self._sbuf is not None and lane != _SCALAR and "sbuf" in spaces:
            fast = self._always or lane == _GPSIMD or wanted == SHARED_PORT
            if fast:
                ports.append(self._sbuf)
        if self._psum is not None and lane != _GPSIMD and "psum" in spaces:
            ports.append(self._psum)
        if self._banks and lane != _GPSIMD:
            ports += [self._banks[bank] for bank in banks]
        return ports

    def _idle_generator(self, start: int, issue: int) -> int:
        """Return the engine whose block could generate first; SyncE where both could."""
        ready = {lane: block.when(start, issue) for lane, block in self._generators.items()}
        return _SCALAR if ready[_SCALAR] < ready[_SYNC] else _SYNC

    def transfer(
        self,
        lane: int,
        wait: Wait,
        work: int,
        alone: int,
        wanted: int,
        index: int,
        hbm_bytes: int = 0,
    ) -> Wait:
        """Take a transfer: `work` is of all DMA engines, `alone` its time if it has them.

        Of two cores, `hbm_bytes` go through the HBM that both share.
        """
        start, why, blocker = wait
        by = Descriptors(max(wanted, 0))
        if by is Descriptors.STATIC:
            issue = self._issue_static
        elif by is Descriptors.SOFTWARE:
            issue = self._issue_software
            if self.free[_GPSIMD] > start:
                start, (why, blocker) = self.free[_GPSIMD], self.held[_GPSIMD]
            self.free[_GPSIMD] = start + issue
            self.held[_GPSIMD] = Cause.ENGINE, index
            self.busy[_GPSIMD] += issue
            self.issue[_GPSIMD] += issue
        else:
            issue = self._issue_hardware
            if by is Descriptors.HARDWARE_SCALAR and self._last_start > start:
                start, why, blocker = self._last_start, *self.held[_SCALAR]
            beside = _BESIDE[by] if by in _BESIDE else self._idle_generator(start, issue)
            done, other = self._generators[beside].occupy(start, issue, index)
            if other >= 0:
                start, why, blocker = done - issue, Cause.ISSUE, other
            self.issue[beside] += issue
            if by is Descriptors.HARDWARE_SCALAR:
                self._last_start = start
                if start > self.free[_SCALAR]:
                    self.free[_SCALAR], self.held[_SCALAR] = start, (Cause.ENGINE, index)
        queue = queue_of(lane, by)
        # Two blocks may generate side by side, in the order of the program.
        self.free[queue] = start if by is Descriptors.HARDWARE_EITHER else start + issue
        self.held[queue] = Cause.ISSUE, index
        self.issue[lane] += issue
        first_byte = start + self._begin[by]
        done, other = self._transfers.occupy(first_byte, work, index)
        if other >= 0 and done > first_byte + alone:
            why, blocker = Cause.BANDWIDTH, other
        done = max(done, first_byte + alone)
        if self._memory is not None and hbm_bytes:
            moved, other = self._memory.occupy(
                first_byte, round(hbm_bytes * self._memory_ps), index
            )
            if other >= 0 and moved > done:
                why, blocker = Cause.BANDWIDTH, other
            done = max(done, moved)
        self.busy[lane] += work
        self.work, self.begin = work, first_byte
        self.end = done + self._complete
        return start, why, blocker
