"""What instructions compete for: small cases worked by hand, on an invented machine.

Times are nanoseconds.  TensorE does a cycle in one; its clock runs at half rate until a window of
1000 has had 300 of work.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate import use_target
from nkiconv.simulate.demand import (
    ALL_CELLS,
    SHARED_PORT,
    Descriptors,
    array_cells,
    read_tensor_demand,
    tensor_demand,
)
from nkiconv.simulate.enums import dge_mode
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.resources import Cause, Clock, Port
from nkiconv.simulate.schedule import Timeline, schedule
from nkiconv.simulate.trace import LANES, Lane, Trace

MACHINE = replace(
    HARDWARE["trn2"],
    tensor_ghz=1.0,
    throttle_window_cycles=1000,
    throttle_busy_share=0.3,
    tensor_latency_ns=50,
    tensor_throttled_latency_ns=70,
    dependency_ns=10,
    dma_static_issue_ns=10,
    dma_static_start_ns=100,
    dma_hardware_issue_ns=50,
    dma_hardware_start_ns=200,
    dma_software_issue_ns=60,
    dma_software_start_ns=300,
    dma_complete_ns=5,
)
STEADY = replace(MACHINE, throttle_slowdown=1)
T, V, S, G = Lane.TENSOR, Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD
LOAD, STORE = Lane.DMA_LOAD, Lane.DMA_STORE

Row = tuple[Lane, int, int, int, tuple[int, ...], tuple[int, ...]]
"""Lane, occupancy, latency, demand, tensors read, tensors written."""

SPACES = ("sbuf", "psum", "hbm")


def timeline(rows: list[Row], machine: Any = MACHINE) -> Timeline:
    """Schedule instructions on tensors 0, 3, 6 in SBUF, 1, 4, 7 in PSUM, 2, 5, 8 in HBM."""
    trace = Trace()
    for lane, busy, latency, wanted, reads, writes in rows:
        words = []
        for written, tensors in ((1, writes), (0, reads)):
            for tensor in tensors:
                words += [tensor, written, 0, 100, 0, 128]
        trace.add(0, lane, 0, 0, busy * 1000, latency * 1000, wanted, words)
    storages = [
        Allocation(n, SPACES[n % 3], (128, 100), "uint8", f"t{n}", "k.py:1") for n in range(9)
    ]
    # Tensors 1 and 7 lie in PSUM's first bank, 4 in its second.
    return schedule(trace, storages, Placement({1: 0, 4: 2048, 7: 1024}, {}, 0, 0), machine)


def times(rows: list[Row], machine: Any = MACHINE) -> list[tuple[int, int]]:
    line = timeline(rows, machine)
    return [(a // 1000, b // 1000) for a, b in zip(line.start_ps, line.end_ps, strict=True)]


def causes(rows: list[Row], machine: Any = MACHINE) -> list[tuple[str, int]]:
    line = timeline(rows, machine)
    return [(Cause(c).name, b) for c, b in zip(line.cause, line.blocker, strict=True)]


# --- The record's numbers ------------------------------------------------------------------------


def test_demand_of_tensor_engine_packs_and_unpacks() -> None:
    assert array_cells(0, 4, 0, 4) == ALL_CELLS
    corner = array_cells(3, 1, 2, 2)
    assert corner == 1 << 14 | 1 << 15
    assert read_tensor_demand(tensor_demand(corner, 256, 4096)) == (corner, 256, 4096)
    assert read_tensor_demand(-1) == (ALL_CELLS, 0, 0)


# --- TensorE's clock -----------------------------------------------------------------------------


def test_the_clock_starts_slowly_and_follows_the_window_before() -> None:
    clock = Clock(2, 1000, 300)
    assert clock.run(0, 400, 400) == 800  # at half rate; 400 of 1000 is enough
    assert clock.run(800, 200, 200) == 1100  # 100 by the end of the window, 100 at full rate
    assert clock.run(1100, 190, 190) == 1290
    # The second window had 290: too little, so the third is slow again.
    assert clock.run(2000, 100, 100) == 2200
    # And so is a window after one in which nothing happened.
    assert clock.run(5500, 600, 600) == 6700  # 250 by 6000: too little once more
    assert clock.run(7000, 100, 100) == 7100  # 350 was enough


def test_columns_count_and_weights_and_gaps_do_not() -> None:
    fed, starved = Clock(2, 1000, 300), Clock(2, 1000, 300)
    for _ in range(10):
        fed.run(0, 50, 50)
        starved.run(0, 50, 10)
    assert fed.run(1000, 100, 100) == 1100
    assert starved.run(1000, 100, 100) == 1200


def test_a_slow_clock_takes_longer_also_for_the_result() -> None:
    whole = tensor_demand(ALL_CELLS, 0, 100)
    rows: list[Row] = [(T, 100, 150, whole, (), ())] * 6
    assert times(rows)[0] == (0, 200 + 70)
    assert times(rows)[5] == (1000, 1100 + 50)
    assert times(rows, STEADY)[5] == (500, 600 + 50)


def test_trn1_runs_at_its_sustained_rate() -> None:
    assert Clock(HARDWARE["trn1"].throttle_slowdown, 1000, 300).run(0, 400, 0) == 400


# --- Weights -------------------------------------------------------------------------------------


def test_weights_load_behind_the_matmul_before_or_are_waited_for() -> None:
    wanted = tensor_demand(ALL_CELLS, 30, 100)
    rows: list[Row] = [
        (T, 100, 150, wanted, (), ()),  # hidden behind nothing, yet at once
        (T, 100, 150, wanted, (), ()),
        (V, 500, 500, -1, (), (0,)),
        (T, 100, 150, wanted, (0,), ()),  # after a pause
    ]
    assert times(rows, STEADY) == [(0, 150), (100, 250), (0, 500), (510, 690)]


# --- Ports ---------------------------------------------------------------------------------------


def test_a_port_gives_the_first_gap_that_is_long_enough() -> None:
    port = Port()
    for at, (start, work) in enumerate([(100, 50), (200, 50), (300, 50)]):
        port.take(start, work, at, 0)
    assert port.free_from(0, 100) == (0, -1)
    assert port.free_from(0, 101) == (350, 2)
    assert port.free_from(120, 50) == (150, 0)
    assert port.free_from(210, 60) == (350, 2)
    port.take(400, 10, 3, 260)  # what ends before 260 is forgotten
    assert port.free_from(260, 40) == (260, -1)
    assert port.free_from(260, 41) == (350, 2)


PORTS = {
    # first and second instruction: lane, demand, tensor; whether they exclude each other on trn1,
    # and from trn2 on
    "both in SBUF": ((V, -1, 0), (G, -1, 3), True, False),
    "a faster mode": ((V, SHARED_PORT, 0), (G, -1, 3), True, True),
    "a faster mode, the other order": ((G, -1, 3), (V, SHARED_PORT, 0), True, True),
    "ScalarE in SBUF": ((V, SHARED_PORT, 0), (S, -1, 3), False, False),
    "VectorE in PSUM": ((V, -1, 1), (G, -1, 3), False, False),
    "VectorE and ScalarE in PSUM": ((V, -1, 1), (S, -1, 4), True, False),
    "both in one bank": ((V, -1, 1), (S, -1, 7), True, True),
    "both in one bank, the other order": ((S, -1, 7), (V, -1, 1), True, True),
    "TensorE in PSUM": ((V, -1, 1), (T, -1, 4), False, False),
}


@pytest.mark.parametrize("case", PORTS.values(), ids=PORTS)
def test_who_excludes_whom(case: Any) -> None:
    first, second, on_trn1, later = case
    rows = [(lane, 100, 150, wanted, (), (tensor,)) for lane, wanted, tensor in (first, second)]
    old = replace(STEADY, generation=2)
    assert times(rows, old)[1][0] == (100 if on_trn1 else 0)
    assert times(rows, STEADY)[1][0] == (100 if later else 0)
    if later:
        assert causes(rows) == [("START", -1), ("PORT", 0)]


def test_an_instruction_runs_in_a_gap_that_a_later_one_has_left() -> None:
    rows: list[Row] = [
        (S, 1000, 1000, -1, (), (0,)),
        (V, 100, 150, SHARED_PORT, (0,), (3,)),  # from 1010
        (G, 100, 150, -1, (), (6,)),  # before that
        (G, 950, 950, -1, (), (6,)),  # too long for what is left until 1010
    ]
    assert [start for start, _ in times(rows)] == [0, 1010, 0, 1110]


# --- Descriptors ---------------------------------------------------------------------------------


def test_who_generates_descriptors_decides_on_issue_and_start() -> None:
    for by, issue, begin in (
        (Descriptors.STATIC, 10, 100),
        (Descriptors.HARDWARE, 50, 200),
        (Descriptors.HARDWARE_SCALAR, 50, 200),
        (Descriptors.SOFTWARE, 60, 300),
    ):
        rows: list[Row] = [(LOAD, 4, 20, by, (), (0,)), (LOAD, 4, 20, by, (), (3,))]
        assert times(rows) == [(0, begin + 25), (issue, issue + begin + 25)]


def test_rings_share_a_generator_but_not_what_was_made_beforehand() -> None:
    static: list[Row] = [(LOAD, 4, 4, 0, (), (0,)), (STORE, 4, 4, 0, (3,), ())]
    assert [start for start, _ in times(static)] == [0, 0]
    shared: list[Row] = [(*row[:3], int(Descriptors.HARDWARE), *row[4:]) for row in static]  # type: ignore[misc]
    assert [start for start, _ in times(shared)] == [0, 50]
    assert causes(shared)[1] == ("ISSUE", 0)
    shared[1] = (STORE, 4, 4, int(Descriptors.HARDWARE_SCALAR), (3,), ())
    assert [start for start, _ in times(shared)] == [0, 0]
    line = timeline(shared)
    assert (line.issue_ps[Lane.SYNC], line.issue_ps[Lane.SCALAR]) == (50_000, 50_000)


def test_two_blocks_generate_side_by_side_where_the_compiler_chooses() -> None:
    either, sync = int(Descriptors.HARDWARE_EITHER), int(Descriptors.HARDWARE)
    rows: list[Row] = [(LOAD, 4, 4, either, (), (tensor,)) for tensor in (0, 3, 6)]
    line = timeline(rows)
    assert [start // 1000 for start in line.start_ps] == [0, 0, 50]
    assert (line.issue_ps[Lane.SYNC], line.issue_ps[Lane.SCALAR]) == (100_000, 50_000)
    assert causes(rows)[2] == ("ISSUE", 0)
    rows[0] = (LOAD, 4, 4, sync, (), (0,))  # SyncE is busy: the other block takes the second
    assert [start for start, _ in times(rows)] == [0, 0, 50]
    assert timeline(rows).issue_ps[Lane.SCALAR] == 50_000


def test_an_engine_that_triggers_holds_up_its_own_transfers_alone() -> None:
    by_scalar = int(Descriptors.HARDWARE_SCALAR)
    rows: list[Row] = [
        (V, 500, 500, -1, (), (0,)),
        (LOAD, 4, 4, by_scalar, (0,), (3,)),  # waits for VectorE, in ScalarE's queue
        (LOAD, 4, 4, int(Descriptors.HARDWARE), (), (6,)),  # another engine's queue
    ]
    assert [start for start, _ in times(rows)] == [0, 510, 0]


def test_a_table_loads_while_an_operand_is_waited_for() -> None:
    machine = replace(MACHINE, scalar_table_load_ns=100)
    for wait, start, end in ((40, 50, 50 + 50 + 15), (200, 210, 210 + 15)):
        rows: list[Row] = [(V, wait, wait, -1, (), (0,)), (S, 10, 15, 7, (0,), ())]
        assert times(rows, machine)[1] == (start, end)
        assert causes(rows, machine)[1] == ("TABLE" if wait == 40 else "DATA", 0)


def test_scalar_engine_triggers_in_its_program_order() -> None:
    by = int(Descriptors.HARDWARE_SCALAR)
    rows: list[Row] = [
        (V, 200, 200, -1, (), (0,)),
        (S, 500, 500, -1, (), (3,)),  # from 0: the generation may go on beside it
        (STORE, 4, 4, by, (0,), ()),  # from 210
        (S, 10, 10, -1, (), (6,)),  # from 500, as ScalarE is busy
        (V, 800, 800, -1, (), (0,)),  # from 429, after the store has read
        (STORE, 4, 4, by, (0,), ()),  # from 1239
        (S, 10, 10, -1, (), (6,)),  # not before its sequencer has triggered that
    ]
    assert [start for start, _ in times(rows)] == [0, 0, 210, 500, 429, 1239, 1239]


def test_software_takes_gpsimd() -> None:
    by = int(Descriptors.SOFTWARE)
    rows: list[Row] = [
        (G, 100, 100, -1, (), (0,)),
        (LOAD, 4, 4, by, (), (3,)),
        (G, 100, 100, -1, (), (6,)),
    ]
    assert [start for start, _ in times(rows)] == [0, 100, 160]
    assert causes(rows) == [("START", -1), ("ENGINE", 0), ("ENGINE", 1)]
    assert timeline(rows).busy_ps[G] == 260_000


def test_a_transfer_takes_its_own_time_and_shares_the_engines() -> None:
    rows: list[Row] = [
        (LOAD, 30, 300, 0, (), (0,)),  # by few engines: 100 to 400; the others go on
        (STORE, 30, 40, 0, (3,), ()),  # all engines are free from 130 on
        (STORE, 300, 300, 0, (3,), ()),  # issued at 10, bytes from 110, engines from 160
    ]
    assert times(rows) == [(0, 405), (0, 165), (10, 465)]
    assert causes(rows)[1:] == [("BANDWIDTH", 0), ("BANDWIDTH", 1)]


# --- Who generates what, by instruction ----------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "by"),
    [
        ("trn1", {}, Descriptors.STATIC),
        ("trn1", {"to": "bfloat16"}, Descriptors.STATIC),
        ("trn1", {"dge_mode": dge_mode.swdge}, Descriptors.SOFTWARE),
        ("trn2", {}, Descriptors.HARDWARE_EITHER),
        ("trn3", {}, Descriptors.HARDWARE_EITHER),
        ("trn2", {"to": "bfloat16"}, Descriptors.SOFTWARE),
        ("trn2", {"dge_mode": dge_mode.none}, Descriptors.STATIC),
        ("trn2", {"dge_mode": dge_mode.swdge}, Descriptors.SOFTWARE),
        ("trn2", {"dge_mode": dge_mode.hwdge}, Descriptors.HARDWARE),
        (
            "trn2",
            {"dge_mode": dge_mode.hwdge, "engine": nisa.engine.scalar},
            Descriptors.HARDWARE_SCALAR,
        ),
    ],
)
def test_generation_of_a_copy(start: Any, target: str, options: Any, by: Descriptors) -> None:
    options = dict(options)
    with use_target(target), start(target) as chip:
        dst = chip.new((4, 8), options.pop("to", "float32"))
        nisa.dma_copy(dst=dst, src=chip.put(np.ones((4, 8)), buffer=nl.shared_hbm), **options)
        assert chip.last.table == by


# --- Two cores -----------------------------------------------------------------------------------


def test_two_cores_share_their_memory() -> None:
    """1,000 B on each core: 80 ns by its DMA engines, 62 through a memory that moves 16 B a ns."""
    machine = replace(MACHINE, hbm_pair_bytes_per_ns=16)
    storages = [Allocation(n, "sbuf", (128, 100), "uint8", f"t{n}", "k.py:1") for n in range(2)]

    def ends(cores: int, moved: int) -> list[int]:
        trace = Trace()
        for core in range(cores):
            trace.add(0, LOAD + core * LANES, 0, 0, 80_000, 80_000, 0, [core, 1, 0, 100, 0, 128])
            trace.note_hbm(moved)
        line = schedule(trace, storages, Placement({}, {}, 0, 0), machine, cores)
        if cores > 1 and moved == 1000:
            assert (Cause(line.cause[1]).name, line.blocker[1]) == ("BANDWIDTH", 0)
        return [end // 1000 for end in line.end_ps]

    assert ends(1, 1000) == [185]  # 100 to the first byte, 5 to complete
    assert ends(2, 1000) == [185, 230]  # 2 x 62.5 after the first byte
    assert ends(2, 500) == [185, 185]
