"""Critical path and lost time: timelines made by hand, then kernels whose parts must add up.

Of the timelines made by hand, times are nanoseconds; DMA takes 50 to complete and ScalarE 1000 for
a table.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from nkiconv.kernels import conv2d
from nkiconv.simulate import Profile, profile
from nkiconv.simulate.demand import Descriptors
from nkiconv.simulate.explain import KINDS, critical_path, kind_of, lost_time
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import jit
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.resources import Cause
from nkiconv.simulate.schedule import Timeline
from nkiconv.simulate.trace import LANES, Lane, Trace

MACHINE = replace(
    HARDWARE["trn1"], dma_complete_ns=50, scalar_table_load_ns=1000, dma_software_issue_ns=70
)
T, V, S, G, SYNC = Lane.TENSOR, Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD, Lane.SYNC
LOAD, STORE = Lane.DMA_LOAD, Lane.DMA_STORE


class Tape:
    """A trace and its timeline, instruction by instruction."""

    def __init__(self, cores: int = 1) -> None:
        self.trace = Trace()
        self.columns: list[tuple[int, int, int, int, int, int]] = []
        self.busy = [0] * (LANES * cores)

    def add(
        self,
        lane: int,
        start: int,
        end: int,
        work: int,
        why: Cause = Cause.START,
        blocker: int = -1,
        *,
        begin: int | None = None,
        load: int = 0,
        opcode: str = "x",
        descriptors: int = -1,
    ) -> None:
        name = self.trace.number(opcode)
        self.trace.add(name, lane, name, name, (work - load) * 1000, 0, descriptors, [])
        begin = start if begin is None else begin
        self.columns.append((start * 1000, end * 1000, why, blocker, work * 1000, begin * 1000))
        self.busy[lane] += work * 1000

    @property
    def line(self) -> Timeline:
        starts, ends, causes, blockers, works, begins = (
            array("q", column) for column in zip(*self.columns, strict=True)
        )
        return Timeline(
            starts, ends, tuple(self.busy), (0,) * len(self.busy), max(ends), causes, blockers,
            works, begins,
        )  # fmt: skip

    def path(self) -> list[tuple[int, str, int, int]]:
        """Return (instruction, what, start, end) of each piece."""
        pieces = critical_path(self.trace, self.line, MACHINE)
        return [(p.index, p.what, p.start_ps // 1000, p.end_ps // 1000) for p in pieces]

    def lost(self, engine: str) -> dict[str, int]:
        found = lost_time(self.trace, self.line, MACHINE)[engine]
        return {cause: ps // 1000 for cause, ps in found.items()}


@pytest.fixture
def chain() -> Tape:
    """Load, matmul, two activations with a table before the first, store."""
    tape = Tape()
    tape.add(LOAD, 0, 550, 300, begin=200)
    tape.add(T, 560, 700, 100, Cause.DATA, 0)
    tape.add(S, 710, 1900, 1100, Cause.TABLE, 1, load=1000)
    tape.add(S, 1810, 1960, 100, Cause.ENGINE, 2)
    tape.add(STORE, 1970, 2450, 230, Cause.DATA, 3, begin=2170)
    return tape


def test_critical_path_of_a_chain(chain: Tape) -> None:
    assert chain.path() == [
        (0, "start-up", 0, 200),
        (0, "transfer", 200, 500),
        (0, "completion", 500, 550),
        (1, "semaphore", 550, 560),
        (1, "work", 560, 660),
        (1, "result latency", 660, 700),
        (2, "semaphore", 700, 710),
        (2, "activation table", 710, 1710),
        (2, "work", 1710, 1810),
        (3, "work", 1810, 1910),
        (3, "result latency", 1910, 1960),
        (4, "semaphore", 1960, 1970),
        (4, "start-up", 1970, 2170),
        (4, "transfer", 2170, 2400),
        (4, "completion", 2400, 2450),
    ]


def test_kinds_of_a_chain(chain: Tape) -> None:
    lanes = (LOAD, T, S, S, STORE)
    kinds: Counter[str] = Counter()
    for index, what, start, end in chain.path():
        kinds[kind_of(what, lanes[index])] += end - start
    assert kinds == {
        "TensorE": 100,
        "ScalarE": 1000 + 100 + 100,
        "DMA bandwidth": 300 + 230,
        "DMA latency": 2 * (200 + 50),
        "dependency": 3 * 10 + 40 + 50,
    }
    assert set(kinds) < set(KINDS)


def test_lost_time_of_a_chain(chain: Tape) -> None:
    first, last = "before its first instruction", "after its last"
    assert chain.lost("TensorE") == {first: 560, last: 2450 - 660}
    assert chain.lost("ScalarE") == {first: 710, last: 2450 - 1910}
    assert chain.lost("VectorE") == {"unused": 2450}
    assert chain.lost("DMA") == {
        "DMA start-up": 200 + 200,
        "results of ScalarE": 1970 - 500,
        last: 50,
    }


def test_a_ring_that_issues_too_slowly() -> None:
    tape = Tape()
    tape.add(LOAD, 0, 255, 5, begin=200)
    tape.add(LOAD, 100, 355, 5, Cause.ISSUE, 0, begin=300)
    assert tape.path() == [
        (0, "issue", 0, 100),
        (1, "start-up", 100, 300),
        (1, "transfer", 300, 305),
        (1, "completion", 305, 355),
    ]
    assert tape.lost("DMA") == {"DMA start-up": 200, "DMA issue": 95, "after its last": 50}


def test_a_transfer_behind_another_one() -> None:
    tape = Tape()
    tape.add(LOAD, 0, 550, 300, begin=200)
    tape.add(STORE, 100, 850, 300, Cause.BANDWIDTH, 0, begin=300)
    assert tape.path() == [
        (0, "start-up", 0, 200),
        (0, "transfer", 200, 500),
        (1, "transfer", 500, 800),
        (1, "completion", 800, 850),
    ]
    assert tape.lost("DMA") == {"DMA start-up": 200, "after its last": 50}


def test_a_transfer_that_does_not_use_all_dma_engines() -> None:
    tape = Tape()
    tape.add(LOAD, 0, 650, 100, begin=200)  # bytes flow until 600, for which 100 would do
    tape.add(STORE, 500, 850, 50, begin=700)
    assert tape.lost("DMA") == {
        "DMA start-up": 200 + 100,
        "transfers of few partitions": 300 + 50,
        "after its last": 50,
    }


def test_waits_by_cause() -> None:
    tape = Tape()
    tape.add(V, 0, 100, 100)
    tape.add(G, 0, 100, 100)
    for why, start in (
        (Cause.REUSE, 110), (Cause.EDGE, 230), (Cause.BARRIER, 360), (Cause.PORT, 500),
        (Cause.DATA, 650),
    ):  # fmt: skip
        tape.add(V, start, start + 100, 100, why, 1)
    assert tape.lost("VectorE") == {
        "memory still in use": 10,
        "explicit order": 20,
        "barrier": 30,
        "shared port": 40,
        "results of GpSimdE": 50,
    }


def test_gpsimd_works_on_descriptors() -> None:
    tape = Tape()
    tape.add(LOAD, 30, 600, 300, begin=250, descriptors=Descriptors.SOFTWARE)
    assert tape.lost("GpSimdE") == {
        "before its first instruction": 30,
        "after its last": 600 - 30 - 70,
    }


def test_loops_and_barriers_are_named() -> None:
    tape = Tape()
    tape.add(V, 0, 100, 100)
    tape.add(SYNC, 100, 300, 200, Cause.BARRIER, 0)
    tape.add(G, 310, 400, 90, Cause.BARRIER, 1, opcode="core_barrier")
    assert tape.path() == [
        (0, "work", 0, 100),
        (1, "loop", 100, 300),
        (2, "semaphore", 300, 310),
        (2, "barrier", 310, 400),
    ]


def test_of_two_cores_the_busier_one() -> None:
    tape = Tape(cores=2)
    tape.add(V, 100, 200, 100)
    tape.add(LANES + V, 150, 450, 300)
    assert tape.lost("VectorE") == {"before its first instruction": 150}


def test_nothing_executed_has_no_path() -> None:
    empty = Timeline(
        array("q"), array("q"), (0,) * LANES, (0,) * LANES, 0, array("b"), array("q"), array("q"),
        array("q"),
    )  # fmt: skip
    assert critical_path(Trace(), empty, MACHINE) == []
    assert set(lost_time(Trace(), empty, MACHINE)) == {
        "TensorE", "VectorE", "ScalarE", "GpSimdE", "DMA"
    }  # fmt: skip


# --- Kernels -------------------------------------------------------------------------------------


@jit
def mixed(x_hbm: Any) -> Any:
    """Descriptors by software, tables, an on-chip loop, and engines that share ports."""
    y_hbm = nl.ndarray((2, 128, 512), nl.float32, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    x_sb = nl.ndarray((128, 512), nl.float32)
    y_sb = nl.ndarray((128, 512), nl.float32)
    acc_ps = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
    nisa.dma_copy(dst=x_sb, src=x_hbm, dge_mode=nisa.dge_mode.swdge)

    def body(_: Any) -> None:
        nisa.tensor_scalar(dst=x_sb, data=x_sb, op0=nl.add, operand0=1.0)
        nisa.memset(y_sb, 0, engine=nisa.engine.gpsimd)

    nl.fori_loop(0, 3, body)
    for function in (nl.exp, nl.tanh, nl.exp):
        nisa.activation(dst=y_sb, data=x_sb, op=function)
        nisa.nc_matmul(dst=acc_ps, stationary=y_sb[:, 0:128], moving=x_sb, accumulate=False)
        nisa.tensor_copy(dst=x_sb, src=acc_ps)
    nisa.dma_copy(dst=y_hbm[core], src=x_sb)
    nisa.core_barrier(data=y_hbm, cores=(0, 1))
    return y_hbm


def run_conv(algorithm: str, target: str) -> Profile:
    x = np.ones((1, 16, 9, 9), np.float32)
    w = np.ones((32, 16, 3, 3), np.float32)
    return profile(conv2d, x, w, padding=1, algorithm=algorithm, target=target)[1]


RUNS: dict[str, Callable[[], Profile]] = {
    **{
        f"{algorithm} {target}": lambda a=algorithm, t=target: run_conv(a, t)  # type: ignore[misc]
        for algorithm in ("naive", "direct")
        for target in ("trn1", "trn2", "trn3")
    },
    "two cores": lambda: profile(mixed[2], np.ones((128, 512), np.float32), target="trn2")[1],
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_everything_adds_up(run: Callable[[], Profile]) -> None:
    seen = run()
    assert sum(seen.time_us.values()) == pytest.approx(seen.latency_us, rel=1e-12)
    assert sum(part.us for part in seen.critical_path) == pytest.approx(seen.body_us, rel=1e-12)
    for engine, busy_us in seen.engine_busy_us.items():
        assert min(seen.lost_us[engine].values(), default=0) >= 0
        assert busy_us + sum(seen.lost_us[engine].values()) == pytest.approx(seen.body_us)
    (launch,) = seen.launches
    path = launch.path
    assert path[0].start_ps == 0
    assert path[-1].end_ps == launch.timeline.body_ps
    assert all(a.end_ps == b.start_ps < b.end_ps for a, b in pairwise(path))
    on_lines = sum(line.path_us for line in seen.lines)
    assert on_lines == pytest.approx(seen.body_us)
    assert sum(line.count for line in seen.lines) == sum(seen.instructions.values())


def test_parts_of_a_kernel_on_two_cores() -> None:
    seen = RUNS["two cores"]()
    seen_parts = {part.what for part in seen.critical_path}
    assert {"loop", "barrier", "activation table", "start-up", "transfer"} <= seen_parts
    assert {part.source.split(":")[0] for part in seen.critical_path} == {"test_explain.py"}
    loops_us = sum(part.us for part in seen.critical_path if part.what == "loop")
    assert loops_us == pytest.approx(3 * HARDWARE["trn2"].loop_iteration_ns / 1e3)
