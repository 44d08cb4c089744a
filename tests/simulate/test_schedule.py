"""When instructions start and end: small programs worked by hand.

The hand-worked programs run on an invented machine with round numbers: 10 ns from a result to its
waiter; DMA takes 100 ns to issue, 200 ns until the first byte, 50 ns to complete; loading an
activation table takes 1000 ns.  Times in the comments and tables are nanoseconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nkiconv.simulate.errors import ConstraintError, HazardError
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.resources import Cause
from nkiconv.simulate.schedule import Timeline, schedule
from nkiconv.simulate.trace import Lane, Trace

MACHINE = replace(
    HARDWARE["trn2"],
    throttle_slowdown=1,
    dependency_ns=10,
    dma_static_issue_ns=100,
    dma_static_start_ns=200,
    dma_complete_ns=50,
    scalar_table_load_ns=1000,
)
T, V, S, G = Lane.TENSOR, Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD
LOAD, STORE, LOCAL = Lane.DMA_LOAD, Lane.DMA_STORE, Lane.DMA_LOCAL

Box = tuple[int, ...]
"""Storage, then optionally first byte, end byte, first partition, end partition."""


class Tape:
    """A trace under construction; storages are 0 to 9, the even ones in SBUF, the odd in HBM."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.storages = [
            Allocation(n, "hbm" if n % 2 else "sbuf", (128, 100), "uint8", f"t{n}", "k.py:1")
            for n in range(10)
        ]
        self.predecessors: dict[int, tuple[int, ...]] = {}

    def add(
        self,
        lane: Lane,
        busy: int,
        latency: int = 0,
        *,
        reads: tuple[Box, ...] = (),
        writes: tuple[Box, ...] = (),
        table: int = -1,
    ) -> int:
        words = []
        for written, boxes in ((1, writes), (0, reads)):
            for number, *box in boxes:
                words += [number, written, *(*box, *(0, 100, 0, 128)[len(box) :])]
        name = self.trace.number("x")
        return self.trace.add(name, lane, name, name, busy * 1000, latency * 1000, table, words)

    def run(self) -> Timeline:
        placed = Placement({}, self.predecessors, 0, 0)
        return schedule(self.trace, self.storages, placed, MACHINE)

    def times(self) -> list[tuple[int, int]]:
        """Return (start, end) of each instruction in nanoseconds."""
        line = self.run()
        return [(a // 1000, b // 1000) for a, b in zip(line.start_ps, line.end_ps, strict=True)]


# --- Compute engines -----------------------------------------------------------------------------


def test_an_engine_takes_the_next_instruction_when_it_is_free_not_when_the_result_is_out() -> None:
    tape = Tape()
    tape.add(V, 100, 150, writes=((0,),))
    tape.add(V, 100, 150, writes=((2,),))
    assert tape.times() == [(0, 150), (100, 250)]


def test_engines_work_side_by_side() -> None:
    tape = Tape()
    for lane, tensor in ((T, 0), (V, 2), (S, 4), (G, 6)):
        tape.add(lane, 100, 150, writes=((tensor,),))
    assert tape.times() == [(0, 150)] * 4


# second instruction: (engine, its reads, its writes) after VectorE did (reads, writes) from 0 to
# 150, busy until 100; when it starts.
PAIRS = {
    "read after write": (((), ((0,),)), (S, ((0,),), ()), 160),
    "read after write, same engine": (((), ((0,),)), (V, ((0,),), ()), 160),
    "write after read": ((((0,),), ()), (S, (), ((0,),)), 160),
    "write after read, same engine": ((((0,),), ()), (V, (), ((0,),)), 100),
    "write after write": (((), ((0,),)), (S, (), ((0,),)), 160),
    "write after write, same engine": (((), ((0,),)), (V, (), ((0,),)), 100),
    "read after read": ((((0,),), ()), (S, ((0,),), ()), 0),
    "other bytes": (((), ((0, 0, 50),)), (S, ((0, 50, 100),), ()), 0),
    "one byte in common": (((), ((0, 0, 51),)), (S, ((0, 50, 100),), ()), 160),
    "other partitions": (((), ((0, 0, 100, 0, 32),)), (S, ((0, 0, 100, 32, 64),), ()), 0),
    "one partition in common": (((), ((0, 0, 100, 0, 33),)), (S, ((0, 0, 100, 32, 64),), ()), 160),
    "other tensor": (((), ((0,),)), (S, ((2,),), ()), 0),
}


@pytest.mark.parametrize(("first", "second", "start"), PAIRS.values(), ids=PAIRS)
def test_hazards(first: Any, second: Any, start: int) -> None:
    tape = Tape()
    tape.add(V, 100, 150, reads=first[0], writes=first[1])
    tape.add(second[0], 20, 30, reads=second[1], writes=second[2])
    assert tape.times() == [(0, 150), (start, start + 30)]


def test_a_waiting_instruction_holds_up_those_behind_it() -> None:
    tape = Tape()
    tape.add(S, 500, 600, writes=((0,),))
    tape.add(V, 100, 150, reads=((0,),))  # waits until 610
    tape.add(V, 100, 150, writes=((2,),))  # could have started at 0
    assert tape.times() == [(0, 600), (610, 760), (710, 860)]


def test_a_reader_waits_for_the_last_of_several_writers() -> None:
    tape = Tape()
    tape.add(S, 100, 300, writes=((0, 0, 50),))
    tape.add(V, 100, 500, writes=((0, 50, 100),))
    tape.add(G, 100, 100, writes=((0, 0, 10),))  # after ScalarE, in whose bytes it writes: 310
    tape.add(T, 100, 100, reads=((0,),))
    assert tape.times() == [(0, 300), (0, 500), (310, 410), (510, 610)]


def test_a_change_of_activation_table_costs_its_loading() -> None:
    tape = Tape()
    for table in (1, 1, -1, 1, 2, 1):  # -1: a function that every table has
        tape.add(S, 100, 150, table=table)
    # Tables are loaded by the first, the fifth and the sixth.
    assert tape.times() == [
        (0, 1150), (1100, 1250), (1200, 1350), (1300, 1450), (1400, 2550), (2500, 3650)
    ]  # fmt: skip
    assert tape.run().busy_ps[S] == (6 * 100 + 3 * 1000) * 1000


def test_explicit_orders() -> None:
    tape = Tape()
    first = tape.add(V, 100, 150)
    second = tape.add(S, 100, 150)
    tape.trace.edges.append((second, first))
    assert tape.times() == [(0, 150), (160, 310)]


def test_depends_on_makes_an_explicit_order(chip: Any) -> None:
    first = nisa.memset(chip.new((4, 8)), 0)
    second = nisa.memset(chip.new((4, 8)), 0, engine=nisa.engine.gpsimd)
    assert second.depends_on(first) is second
    assert chip.program.trace.edges == [(1, 0)]
    with pytest.raises(HazardError, match="the producer must come earlier in the same kernel"):
        first.depends_on(second)
    with pytest.raises(ConstraintError, match="3 is not an instruction"):
        second.depends_on(3)


# --- DMA -----------------------------------------------------------------------------------------


def test_one_transfer() -> None:
    tape = Tape()
    tape.add(LOAD, 300, reads=((1,),), writes=((0,),))  # bytes flow from 200 to 500
    tape.add(V, 100, 150, reads=((0,),))
    assert tape.times() == [(0, 550), (560, 710)]
    line = tape.run()
    assert (line.busy_ps[LOAD], line.issue_ps[LOAD]) == (300_000, 100_000)
    assert line.body_ps == 710_000


def test_a_ring_issues_one_after_the_other_and_the_rings_share_the_engines() -> None:
    tape = Tape()
    tape.add(LOAD, 300, writes=((0,),))  # 200 to 500
    tape.add(LOAD, 300, writes=((2,),))  # issued at 100; 500 to 800
    tape.add(STORE, 300, reads=((4,),))  # issued at 0; 800 to 1100
    tape.add(LOCAL, 10, reads=((6,),))  # issued at 0; 1100 to 1110
    assert tape.times() == [(0, 550), (100, 850), (0, 1150), (0, 1160)]


def test_short_transfers_are_bound_by_their_issue() -> None:
    tape = Tape()
    for tensor in (0, 2, 4):
        tape.add(LOAD, 5, writes=((tensor,),))
    assert tape.times() == [(0, 255), (100, 355), (200, 455)]


def test_a_transfer_fills_the_gaps_that_others_leave() -> None:
    tape = Tape()
    tape.add(V, 1000, 1000, writes=((0,),))
    tape.add(STORE, 300, reads=((0,),))  # from 1010; bytes 1210 to 1510
    tape.add(LOAD, 2000, writes=((2,),))  # from 0; bytes 200 to 1210, 1510 to 2500
    tape.add(LOAD, 100, writes=((4,),))  # from 100; nothing is free before 2500
    assert tape.times() == [(0, 1000), (1010, 1560), (0, 2550), (100, 2650)]


def test_a_new_tensor_waits_for_those_whose_bytes_it_gets() -> None:
    tape = Tape()
    tape.add(V, 100, 150, writes=((0,),))
    tape.add(S, 1000, 1100, reads=((0,),))  # 160 to 1260: the last to be done with tensor 0
    tape.add(G, 100, 150, reads=((0,),))  # 160 to 310
    tape.add(LOAD, 300, writes=((2, 0, 50),))
    tape.add(V, 100, 150, writes=((2, 50, 100),))  # another engine, another part: waits as well
    tape.predecessors = {2: (0,)}
    assert tape.times() == [(0, 150), (160, 1260), (160, 310), (1270, 1820), (1270, 1420)]


# --- What an instruction waited for --------------------------------------------------------------


def causes(tape: Tape) -> list[tuple[str, int]]:
    line = tape.run()
    return [(Cause(c).name, b) for c, b in zip(line.cause, line.blocker, strict=True)]


def test_causes_of_compute() -> None:
    tape = Tape()
    tape.add(V, 100, 150, writes=((0,),))
    tape.add(V, 100, 150, writes=((2,),))  # 100
    tape.add(S, 100, 150, reads=((0,),), table=1)  # 160, and loads its table
    tape.add(S, 100, 150, reads=((2,),), table=1)  # 1260; its data is there from 260 on
    tape.add(G, 100, 150, writes=((0,),))  # 1320, after the reader
    tape.add(T, 100, 150, reads=((0,),), writes=((0,),))  # reads what it overwrites
    tape.trace.edges.append((tape.add(V, 10, 10), 3))
    assert causes(tape) == [
        ("START", -1),
        ("ENGINE", 0),
        ("TABLE", 0),
        ("ENGINE", 2),
        ("REUSE", 2),
        ("DATA", 4),
        ("EDGE", 3),
    ]


def test_causes_of_transfers() -> None:
    tape = Tape()
    tape.add(LOAD, 50, writes=((0,),))  # bytes flow from 200 to 250
    tape.add(LOAD, 300, writes=((2,),))  # issued at 100, bytes from 300 to 600
    tape.add(STORE, 300, reads=((4,),))  # issued at 0, bytes from 200: 50 are free between the two
    tape.add(V, 100, 150, writes=((6,),))
    assert causes(tape) == [("START", -1), ("ISSUE", 0), ("BANDWIDTH", 1), ("START", -1)]


def test_causes_of_a_new_tensor_and_of_a_barrier() -> None:
    tape = Tape()
    tape.add(V, 100, 150, writes=((0,),))
    tape.add(S, 1000, 1100, writes=((2,),))  # gets the bytes of tensor 0: from 160 to 1260
    tape.trace.barriers.append(tape.add(G, 10, 20))  # waits for all: 1260 to 1280
    tape.add(V, 10, 20)
    tape.predecessors = {2: (0,)}
    assert tape.times()[2:] == [(1260, 1280), (1280, 1300)]
    assert causes(tape) == [("START", -1), ("REUSE", 0), ("BARRIER", 1), ("BARRIER", 2)]


# --- The record ----------------------------------------------------------------------------------


def test_a_trace_unpacks_what_was_packed(chip: Any) -> None:
    tensor = chip.new((4, 8), "bfloat16")
    nisa.memset(tensor[0:2, 2:6], 0, name="clear")
    (step,) = chip.program.trace.steps()
    assert (step.index, step.opcode, step.lane.label, step.label) == (
        0,
        "memset",
        "VectorE",
        "clear",
    )
    (access,) = step.accesses
    assert (access.storage, access.write) == (0, True)
    assert (access.first_byte, access.end_byte) == (4, 12)
    assert (access.first_partition, access.end_partition) == (0, 2)
    assert chip.program.trace.memory_bytes == 8 * (8 + 6 + 1)
