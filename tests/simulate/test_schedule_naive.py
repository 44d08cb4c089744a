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
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.schedule import Timeline, _SharedServer, array_cells, schedule
from nkiconv.simulate.trace import Lane, Trace

# Picoseconds: 2 to a waiter; DMA 3 to issue, 4 until the first byte, 1 to complete; 5 for a table;
# 2 until the next matmul on another tile.
TINY = replace(
    HARDWARE["trn1"],
    dependency_ns=0.002,
    dma_issue_ns=0.003,
    dma_start_ns=0.004,
    dma_complete_ns=0.001,
    scalar_table_load_ns=0.005,
    tensor_ghz=1.0,
    tile_issue_cycles=0.002,
)


def run(trace: Trace) -> Timeline:
    """Schedule a trace over up to ten storages, the even ones in SBUF, the odd ones in HBM."""
    storages = [
        Allocation(n, "hbm" if n % 2 else "sbuf", (1, 1), "uint8", "", "k.py:1") for n in range(10)
    ]
    return schedule(trace, storages, Placement({}, {}, 0, 0), TINY)


# --- The DMA engines as a server -----------------------------------------------------------------


@settings(max_examples=300)
@given(jobs=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=20))
def test_the_server_gives_every_job_the_first_free_time(jobs: list[tuple[int, int]]) -> None:
    server = _SharedServer()
    taken: set[int] = set()
    for start, work in jobs:
        now, left = start, work
        while left:
            left -= now not in taken
            taken.add(now)
            now += 1
        assert server.occupy(start, work) == now
        spans = list(zip(server._first, server._end, strict=True))
        assert {n for first, end in spans for n in range(first, end)} == taken
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

ENTRIES = st.tuples(
    st.sampled_from(list(Lane)),
    st.integers(1, 9),
    st.integers(-1, 2),
    st.none() | st.integers(0, 4),
    st.none() | st.integers(0, 4),
)


def naive(entries: list[Entry]) -> list[tuple[int, int]]:
    """Return start and end, by looking at every earlier instruction for every reason to wait."""
    times: list[tuple[int, int]] = []
    free = dict.fromkeys(Lane, 0)
    taken: set[int] = set()
    table = -1
    blocks = dict.fromkeys(range(16), 0)
    for n, (lane, busy, wanted, read, write) in enumerate(entries):
        start = free[lane]
        for (other, _, _, read_before, write_before), (_, end) in zip(
            entries[:n], times, strict=True
        ):
            after_write = write_before is not None and write_before == write
            after_read = read_before is not None and read_before == write
            needs = write_before is not None and write_before == read
            if needs or ((after_write or after_read) and other is not lane):
                start = max(start, end + 2)
        if lane.is_dma:
            free[lane], now, left = start + 3, start + 4, busy
            while left:
                left -= now not in taken
                taken.add(now)
                now += 1
            times.append((start, now + 1))
            continue
        if lane is Lane.TENSOR:
            start = max(start, *(blocks[block] for block in TILES[wanted]))
            blocks.update(dict.fromkeys(TILES[wanted], start + busy))
            free[lane] = start + (busy if wanted < 0 else min(busy, 2))
            times.append((start, start + busy + 6))
            continue
        load = 5 if lane is Lane.SCALAR and wanted not in (-1, table) else 0
        table = wanted if load else table
        free[lane] = start + busy + load
        times.append((start, start + busy + load + 6))
    return times


@settings(max_examples=300)
@given(entries=st.lists(ENTRIES, max_size=14))
def test_agrees_with_a_naive_scheduler(entries: list[Entry]) -> None:
    trace = Trace()
    for lane, busy, table, read, write in entries:
        words = [word for number, written in ((write, 1), (read, 0)) if number is not None
                 for word in (number, written, 0, 100, 0, 128)]  # fmt: skip
        wanted = {Lane.SCALAR: table, Lane.TENSOR: NUMBERS[table]}.get(lane, -1)
        trace.add(0, lane, 0, 0, busy, busy + 6, wanted, words)
    lines = [run(trace), run(trace)]
    assert lines[0] == lines[1]
    found = list(zip(lines[0].start_ps, lines[0].end_ps, strict=True))
    assert found == naive(entries)
    assert lines[0].body_ps == max([end for _, end in found], default=0)


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
