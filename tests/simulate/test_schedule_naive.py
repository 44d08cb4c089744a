"""When instructions start and end: random programs against a scheduler that is plainly right.

The other scheduler looks at every earlier instruction, and keeps a set of the picoseconds at which
the DMA engines are busy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.simulate import schedule as module
from nkiconv.simulate.demand import array_cells
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.resources import Cause, SharedServer
from nkiconv.simulate.schedule import Timeline, schedule
from nkiconv.simulate.trace import Lane, Trace

# Picoseconds: 2 to a waiter; DMA 3 to issue, 4 until the first byte, 1 to complete, other numbers
# with other descriptors (DESCRIPTORS); 5 for a table; 2 until the next matmul on another tile.
TINY = replace(
    HARDWARE["trn1"],
    dependency_ns=0.002,
    dma_static_issue_ns=0.003,
    dma_static_start_ns=0.004,
    dma_hardware_issue_ns=0.005,
    dma_hardware_start_ns=0.006,
    dma_software_issue_ns=0.002,
    dma_software_start_ns=0.007,
    dma_complete_ns=0.001,
    scalar_table_load_ns=0.005,
    tensor_ghz=1.0,
    tile_issue_cycles=0.002,
)


def run(trace: Trace) -> Timeline:
    """Schedule a trace over up to ten storages, in SBUF, HBM, PSUM, HBM and SBUF by turns."""
    storages = [Allocation(n, SPACES[n % 5], (1, 1), "uint8", "", "k.py:1") for n in range(10)]
    return schedule(trace, storages, Placement({}, {}, 0, 0), TINY)


SPACES = ("sbuf", "hbm", "psum", "hbm", "sbuf")

# --- The DMA engines as a server -----------------------------------------------------------------


@settings(max_examples=300)
@given(jobs=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=20))
def test_the_server_gives_every_job_the_first_free_time(jobs: list[tuple[int, int]]) -> None:
    server = SharedServer()
    taken: dict[int, int] = {}
    for job, (start, work) in enumerate(jobs):
        assert server.occupy(start, work, job) == fill(taken, start, work, job)
        spans = list(zip(server.first, server.end, strict=True))
        assert {n for first, end in spans for n in range(first, end)} == taken.keys()
        assert all(end < first for (_, end), (first, _) in pairwise(spans))
    assert len(taken) == sum(work for _, work in jobs)


# --- Against a naive scheduler -------------------------------------------------------------------

Entry = tuple[Lane, int, int, int | None, int | None]
"""Lane, occupancy in picoseconds, table or tile, tensor that is read, tensor that is written."""

TILES = {-1: range(16), 0: [0, 1, 4, 5], 1: [0, 4, 8, 12], 2: [14]}
"""Blocks of TensorE's array, row by row: all, a corner of four, the first column, a single one."""
NUMBERS = {
    -1: -1,
    0: array_cells(0, 2, 0, 2),
    1: array_cells(0, 4, 0, 1),
    2: array_cells(3, 1, 2, 1),
}

DESCRIPTORS = {-1: (3, 4, None), 0: (5, 6, Lane.SYNC), 1: (5, 6, Lane.SCALAR), 2: (2, 7, None)}
"""To issue, until the first byte, and beside which engine the hardware generates them."""
MODES = {-1: 0, 0: 1, 1: 2, 2: 3}

SHARING = {Lane.VECTOR: ("sbuf", "psum"), Lane.SCALAR: ("psum",), Lane.GPSIMD: ("sbuf",)}
"""Memories whose port an engine shares with another, on NeuronCore-v2."""

ENTRIES = st.tuples(
    st.sampled_from(list(Lane)),
    st.integers(1, 9),
    st.integers(-1, 2),
    st.none() | st.integers(0, 4),
    st.none() | st.integers(0, 4),
)


Reasons = set[tuple[Cause, int]]
"""What an instruction may have waited for last, where several things ended at once."""


def fill(taken: dict[int, int], start: int, work: int, index: int) -> tuple[int, int]:
    """Use the picoseconds that are free from `start` on; return the end and who was last before."""
    now, blocker = start, -1
    while work:
        blocker = taken.get(now, blocker)
        work -= now not in taken
        taken.setdefault(now, index)
        now += 1
    return now, blocker


def naive(entries: list[Entry]) -> list[tuple[int, int, Reasons]]:
    """Return start, end and reasons, by looking at every earlier instruction for every of them."""
    times: list[tuple[int, int, Reasons]] = []
    queues = [(lane, None) for lane in Lane] + [(lane, by) for lane in Lane for by in MODES]
    free = dict.fromkeys(queues, (0, Cause.START, -1))
    gpsimd, scalar = (Lane.GPSIMD, None), (Lane.SCALAR, None)
    taken: dict[int, int] = {}
    ports: dict[str, dict[int, int]] = {"sbuf": {}, "psum": {}}
    generating: dict[Lane, dict[int, int]] = {Lane.SYNC: {}, Lane.SCALAR: {}}
    triggered = (0, Cause.START, -1)
    table = -1
    blocks = dict.fromkeys(range(16), (0, Cause.START, -1))
    for n, (lane, busy, wanted, read, write) in enumerate(entries):
        queue = (lane, wanted if lane.is_dma else None)
        waits = [free[queue]]
        for before, ((other, _, by, read_before, write_before), (_, end, _)) in enumerate(
            zip(entries[:n], times, strict=True)
        ):
            after_write = write_before is not None and write_before == write
            after_read = read_before is not None and read_before == write
            if write_before is not None and write_before == read:
                waits.append((end + 2, Cause.DATA, before))
            elif (after_write or after_read) and queue != (other, by if other.is_dma else None):
                waits.append((end + 2, Cause.REUSE, before))
        if lane is Lane.TENSOR:
            waits += [blocks[block] for block in TILES[wanted]]
        start = max(time for time, _, _ in waits)
        reasons = {(cause, before) for time, cause, before in waits if time == start}
        if lane.is_dma:
            issue, begin, beside = DESCRIPTORS[wanted]
            if wanted == 2 and free[gpsimd][0] >= start:
                reasons = reasons if free[gpsimd][0] == start else set()
                start = free[gpsimd][0]
                reasons |= {free[gpsimd][1:]}
            if beside is Lane.SCALAR and triggered[0] >= start:
                reasons = reasons if triggered[0] == start else set()
                start = triggered[0]
                reasons |= {triggered[1:]}
            if beside is not None:
                now, other = fill(generating[beside], start, issue, n)
                if other >= 0:
                    start, reasons = now - issue, {(Cause.ISSUE, other)}
            if wanted == 2:
                free[gpsimd] = start + issue, Cause.ENGINE, n
            if beside is Lane.SCALAR:
                triggered = start, Cause.ENGINE, n
                free[scalar] = max(free[scalar], triggered, key=lambda f: f[0])
            free[queue] = start + issue, Cause.ISSUE, n
            now, stretched = fill(taken, start + begin, busy, n)
            if now > start + begin + busy + 6:
                reasons = {(Cause.BANDWIDTH, stretched)}
            times.append((start, max(now, start + begin + busy + 6) + 1, reasons))
            continue
        if lane is Lane.TENSOR:
            blocks.update(dict.fromkeys(TILES[wanted], (start + busy, Cause.ENGINE, n)))
            free[queue] = start + (busy if wanted < 0 else min(busy, 2)), Cause.ENGINE, n
            times.append((start, start + busy + 6, reasons))
            continue
        load = 0
        if lane is Lane.SCALAR and wanted not in (-1, table):
            table = wanted
            load = max(0, 5 - (start - free[scalar][0]))  # the rest went on while it waited
        if load:
            reasons = {(Cause.TABLE, before) for _, before in reasons}
        shared = {SPACES[t] for t in (read, write) if t is not None} & {*SHARING.get(lane, ())}
        begin = start
        while True:
            span = range(start, start + busy + load)
            users = {(now, ports[s][now]) for s in shared for now in span if now in ports[s]}
            if not users:
                break
            start += 1
        if start > begin:
            reasons = {(Cause.PORT, ports[s][start - 1]) for s in shared if start - 1 in ports[s]}
        for space in shared:
            ports[space].update(dict.fromkeys(span, n))
        if lane is Lane.SCALAR:
            triggered = start, Cause.ENGINE, n
        free[queue] = start + busy + load, Cause.ENGINE, n
        times.append((start, start + busy + load + 6, reasons))
    return times


@settings(max_examples=1000)
@given(entries=st.lists(ENTRIES, max_size=14))
def test_agrees_with_a_naive_scheduler(entries: list[Entry]) -> None:
    trace = Trace()
    for lane, busy, table, read, write in entries:
        words = [word for number, written in ((write, 1), (read, 0)) if number is not None
                 for word in (number, written, 0, 100, 0, 128)]  # fmt: skip
        wanted = {Lane.SCALAR: table, Lane.TENSOR: NUMBERS[table]}.get(lane, -1)
        wanted = MODES[table] if lane.is_dma else wanted
        trace.add(0, lane, 0, 0, busy, busy + 6, wanted, words)
    lines = [run(trace), run(trace)]
    assert lines[0] == lines[1]
    expected = naive(entries)
    found = list(zip(lines[0].start_ps, lines[0].end_ps, strict=True))
    assert found == [(start, end) for start, end, _ in expected]
    assert lines[0].body_ps == max([end for _, end in found], default=0)
    why = list(zip(lines[0].cause, lines[0].blocker, strict=True))
    assert all(reason in e[2] for reason, e in zip(why, expected, strict=True))


# --- Growth --------------------------------------------------------------------------------------


def test_work_grows_with_the_number_of_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def counting(function: Callable[..., bool]) -> Callable[..., bool]:
        def counted(*args: Any) -> bool:
            nonlocal looks
            looks += 1
            return function(*args)

        return counted

    for name in ("overlap", "_covers"):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))

    def looks_for(rounds: int) -> int:
        nonlocal looks
        looks = 0
        trace = Trace()

        def add(lane: Lane, *operands: tuple[int, int, int, int]) -> None:
            words = [word for operand in operands for word in (*operand, 0, 128)]
            trace.add(0, lane, 0, 0, 10, 12, -1, words)

        for n in range(rounds):
            window = 2 * (n % 3)  # three buffers by turns, read in disjoint parts by three engines
            add(Lane.DMA_LOAD, (1, 0, n, n + 1), (window, 1, 0, 100))
            for lane, at in (("TENSOR", 0), ("VECTOR", 30), ("SCALAR", 60), ("TENSOR", 90)):
                reads = (window, 0, at, at + 10), (8, 0, at, at + 5)
                add(Lane[lane], *reads, (6, 1, at, at + 10))
            add(Lane.DMA_STORE, (6, 0, 0, 100), (3, 1, n, n + 1))
        run(trace)
        return looks

    few, many = looks_for(800), looks_for(3200)  # 4 800 and 19 200 instructions
    assert many < 4.1 * few
    assert many < 30 * 19_200
