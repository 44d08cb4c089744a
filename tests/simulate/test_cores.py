"""Two NeuronCores as a logical one: what they share, how they meet, and what is not ordered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nki
import numpy as np
import pytest

from nkiconv.simulate import profile, simulate_kernel, use_target
from nkiconv.simulate.errors import (
    CapacityError,
    ConstraintError,
    HazardError,
    NkiconvError,
    ShapeError,
)
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

X = np.arange(4 * 8, dtype=np.float32).reshape(4, 8)
BOTH = (0, 1)


@pytest.fixture(autouse=True)
def _trn2() -> Iterator[None]:
    with use_target("trn2"):
        yield


def load(x_hbm: Any) -> Any:
    tile = nl.ndarray(x_hbm.shape, x_hbm.dtype)
    nisa.dma_copy(dst=tile, src=x_hbm)
    return tile


def half(x_hbm: Any, core: int) -> Any:
    rows = x_hbm.shape[0] // 2
    return x_hbm[core * rows : (core + 1) * rows]


@nki.jit
def doubled(x_hbm: Any) -> Any:
    """``2 x``, each core a half of the rows."""
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    for part in range(2 // nl.num_programs()):
        core = nl.program_id(0) + part
        tile = load(half(x_hbm, core))
        nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=2.0)
        nisa.dma_copy(dst=half(y_hbm, core), src=tile)
    return y_hbm


@nki.jit
def swapped_columns(x_hbm: Any) -> Any:
    """Even columns from core 0, odd ones from core 1: their regions are interleaved, not one."""
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    tile = load(x_hbm[:, core::2])
    nisa.dma_copy(dst=y_hbm[:, core::2], src=tile)
    return y_hbm


@nki.jit
def reversed_halves(x_hbm: Any) -> Any:
    """Rows of the other half, through shared HBM and a barrier."""
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    between_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    nisa.dma_copy(dst=half(between_hbm, core), src=load(half(x_hbm, core)))
    nisa.core_barrier(data=between_hbm, cores=BOTH)
    nisa.dma_copy(dst=half(y_hbm, core), src=load(half(between_hbm, 1 - core)))
    return y_hbm


@nki.jit
def exchanged(x_hbm: Any) -> Any:
    """Rows of the other half, from SBUF to SBUF."""
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    mine = load(half(x_hbm, core))
    theirs = nl.ndarray(mine.shape, mine.dtype)
    nisa.sendrecv(mine, theirs, send_to_rank=1 - core, recv_from_rank=1 - core, pipe_id=0)
    nisa.dma_copy(dst=half(y_hbm, core), src=theirs)
    return y_hbm


TURNED = np.concatenate([X[2:], X[:2]])


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [(doubled, 2 * X), (swapped_columns, X), (reversed_halves, TURNED), (exchanged, TURNED)],
    ids=["doubled", "swapped_columns", "reversed_halves", "exchanged"],
)
def test_two_cores_make_one_result(kernel: Any, expected: Any) -> None:
    assert np.array_equal(kernel[2](X), expected)
    assert np.array_equal(kernel[(2,)](X), expected)


def test_the_same_kernel_on_one_core() -> None:
    for launch in (doubled, doubled[1]):
        assert np.array_equal(launch(X), 2 * X)


@pytest.mark.parametrize(("grid", "ndim"), [(None, 0), (1, 1), (2, 1)])
def test_what_a_kernel_knows_of_its_grid(grid: int | None, ndim: int) -> None:
    def numbers(x_hbm: Any) -> Any:
        y_hbm = nl.ndarray((1, 3), nl.int32, buffer=nl.shared_hbm)
        if nl.program_id() == nl.num_programs() - 1:
            tile = nl.ndarray((1, 3), nl.int32)
            nisa.memset(tile[:, 0:1], nl.program_id(0))
            nisa.memset(tile[:, 1:2], nl.num_programs(axes=0))
            nisa.memset(tile[:, 2:3], nl.program_ndim())
            nisa.dma_copy(dst=y_hbm, src=tile)
        return y_hbm

    kernel = nki.jit(numbers)
    launch = kernel if grid is None else kernel[grid]
    count = grid or 1
    assert launch(X).tolist() == [[count - 1, count, ndim]]


def test_only_one_axis() -> None:
    def kernel(x_hbm: Any) -> Any:
        nl.program_id(1)
        return x_hbm

    with pytest.raises(ConstraintError, match=r"nl\.program_id: a launch grid has one axis, 0; g"):
        simulate_kernel(kernel, X)


def test_trn1_has_no_logical_cores() -> None:
    with use_target("trn1"), pytest.raises(ConstraintError, match=r"doubled\[2\]: trn1 has no log"):
        doubled[2](X)


def test_private_memory_is_private() -> None:
    def kernel(x_hbm: Any) -> Any:
        core = nl.program_id(0)
        y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
        mine_hbm = nl.ndarray((2, 8), x_hbm.dtype, buffer=nl.private_hbm)
        nisa.dma_copy(dst=mine_hbm, src=half(x_hbm, core))
        nisa.dma_copy(dst=half(y_hbm, core), src=mine_hbm)
        return y_hbm

    assert np.array_equal(nki.jit(kernel)[2](X), X)


def test_each_core_has_its_own_sbuf() -> None:
    size = HARDWARE["trn2"].sbuf_usable_bytes // 4

    def kernel(x_hbm: Any, too_much: bool) -> Any:
        tile = nl.zeros((4, size), nl.float32)
        more = nl.zeros((4, 8), nl.float32) if too_much else tile[:, 0:8]
        y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
        core = nl.program_id(0)
        nisa.dma_copy(dst=half(y_hbm, core), src=more[0:2])
        nisa.tensor_copy(dst=tile[:, 0:8], src=tile[:, 8:16])
        return y_hbm

    assert not nki.jit(kernel)[2](X, False).any()
    with pytest.raises(CapacityError, match="are live in SBUF at once"):
        nki.jit(kernel)[2](X, True)


# --- Time ----------------------------------------------------------------------------------------


def test_two_cores_work_side_by_side() -> None:
    x = np.ones((128, 40960), np.float32)
    _, one = profile(doubled, x)
    _, two = profile(doubled[2], x)
    assert two.body_us < 0.7 * one.body_us
    assert two.hbm_read_bytes == one.hbm_read_bytes == x.nbytes
    assert two.instructions["dma_copy"] == one.instructions["dma_copy"] == 4
    assert two.launch_us == one.launch_us
    lanes = {event.engine for event in two.events}
    assert {"DMA load", "DMA load (core 1)", "VectorE", "VectorE (core 1)"} <= lanes


def test_a_barrier_waits_for_both_cores_and_holds_both() -> None:
    _, seen = profile(reversed_halves[2], X)
    barriers = [event for event in seen.events if event.opcode == "core_barrier"]
    loads = [event for event in seen.events if event.engine.startswith("DMA load")]
    stores = [event for event in seen.events if event.engine.startswith("DMA store")]
    assert [len(barriers), len(loads), len(stores)] == [2, 4, 4]
    assert barriers[0].start_us == barriers[1].start_us  # neither waits for the other's end
    reached, left = barriers[0].start_us, barriers[0].end_us
    assert all(store.end_us <= reached for store in stores[:2])
    assert all(load.start_us >= left for load in loads[2:])


def test_an_exchange_waits_for_both_tiles() -> None:
    def kernel(x_hbm: Any) -> Any:
        core = nl.program_id(0)
        mine = load(half(x_hbm, core))
        if core == 1:
            late = nl.ndarray(mine.shape, mine.dtype)
            nisa.tensor_scalar(dst=late, data=mine, op0=nl.add, operand0=0.0)
            mine = late
        theirs = nl.ndarray(mine.shape, mine.dtype)
        nisa.sendrecv(mine, theirs, 1 - core, 1 - core, 0)
        y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=half(y_hbm, core), src=theirs)
        return y_hbm

    y, seen = profile(nki.jit(kernel)[2], X)
    assert np.array_equal(y, TURNED)
    scaled = next(event for event in seen.events if event.opcode == "tensor_scalar")
    exchanges = [event for event in seen.events if event.opcode == "sendrecv"]
    assert len(exchanges) == 2
    assert all(event.start_us >= scaled.end_us for event in exchanges)


# --- What is refused -----------------------------------------------------------------------------


def no_barrier(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    nisa.dma_copy(dst=half(y_hbm, core), src=load(half(x_hbm, core)))
    if core == 1:
        load(half(y_hbm, 0))
    return y_hbm


def overwritten(x_hbm: Any) -> Any:
    core = nl.program_id(0)
    tile = load(x_hbm)
    nisa.memset(tile, 99.0)
    if core == 1:
        nisa.dma_copy(dst=x_hbm[0:1], src=tile[0:1])
    return x_hbm


def both_write(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    tile = load(x_hbm)
    nisa.tensor_scalar(tile, tile, op0=nl.add, operand0=nl.program_id(0) * 1.0)
    nisa.dma_copy(dst=y_hbm, src=tile)
    return y_hbm


def reads_then_the_other_writes(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=y_hbm, src=load(x_hbm))
    tile = load(y_hbm)
    if nl.program_id(0) == 1:
        nisa.memset(tile, 7.0)
        nisa.dma_copy(dst=y_hbm[0:1], src=tile[0:1])
    return y_hbm


def barrier_on_another(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    nisa.dma_copy(dst=half(y_hbm, core), src=load(half(x_hbm, core)))
    nisa.core_barrier(data=x_hbm, cores=BOTH)
    load(y_hbm)
    return y_hbm


def one_waits(x_hbm: Any) -> Any:
    if nl.program_id(0) == 0:
        nisa.core_barrier(data=x_hbm, cores=BOTH)
    return x_hbm


def the_other_waits(x_hbm: Any) -> Any:
    if nl.program_id(0) == 1:
        nisa.core_barrier(data=x_hbm, cores=BOTH)
    return x_hbm


def different_pipes(x_hbm: Any) -> Any:
    core = nl.program_id(0)
    tile = load(x_hbm)
    nisa.sendrecv(tile, nl.ndarray(tile.shape, tile.dtype), 1 - core, 1 - core, pipe_id=core)
    return x_hbm


def different_tiles(x_hbm: Any) -> Any:
    core = nl.program_id(0)
    tile = load(x_hbm[:, 0 : 4 + core])
    nisa.sendrecv(tile, nl.ndarray(tile.shape, tile.dtype), 1 - core, 1 - core, pipe_id=0)
    return x_hbm


def different_tensors(x_hbm: Any) -> Any:
    nl.ndarray((2, 2 + nl.program_id(0)), nl.int8, buffer=nl.shared_hbm)
    return x_hbm


def different_results(x_hbm: Any, y_hbm: Any) -> Any:
    return y_hbm if nl.program_id(0) else x_hbm


def private_result(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.private_hbm)
    nisa.dma_copy(dst=y_hbm, src=load(x_hbm))
    return y_hbm


def wrong_on_core_1(x_hbm: Any) -> Any:
    if nl.program_id(0) == 1:
        nl.ndarray((200, 4), nl.float32)
    nisa.core_barrier(data=x_hbm, cores=BOTH)
    return x_hbm


REFUSED = [
    (no_barrier, HazardError, "core 1 reads elements of .* that core 0 touches too, and nothing"),
    (overwritten, HazardError, "core 1 writes elements of x_hbm .* that core 0 touches too"),
    (both_write, HazardError, "core 1 writes elements of .* that core 0 touches too"),
    (reads_then_the_other_writes, HazardError, "core 1 writes elements of .* that core 0 touches"),
    (one_waits, HazardError, "core 0 waits at .* for a core that has ended"),
    (the_other_waits, HazardError, "core 1 waits at .* for core 0, which has ended"),
    (different_pipes, HazardError, "core 1 waits for pipe_id=1 at .* core 0 waits .* pipe_id=0"),
    (different_tiles, ShapeError, "core 0 receives .* shape and dtype must be the same on both"),
    (different_tensors, HazardError, "core 1 asks for int8.2, 3. where the other core has int8"),
    (private_result, ConstraintError, "core 0 returns .* must be in shared HBM"),
    (wrong_on_core_1, ShapeError, "200 partitions"),
]


@pytest.mark.parametrize(
    ("kernel", "error", "words"), REFUSED, ids=[row[0].__name__ for row in REFUSED]
)
def test_refused(kernel: Any, error: type[NkiconvError], words: str) -> None:
    with pytest.raises(error, match=words):
        nki.jit(kernel)[2](X.copy())


def both_do_the_same(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=y_hbm, src=load(x_hbm))
    z_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=z_hbm, src=load(y_hbm))
    return z_hbm


def test_cores_that_write_the_same_bytes() -> None:
    """What a kernel does that is launched on two cores and has only work for one."""
    assert np.array_equal(nki.jit(both_do_the_same)[2](X.copy()), X)


def test_a_barrier_orders_its_own_tensor_alone() -> None:
    # Core 0 reads what core 1 has not written yet: unwritten, or not ordered, whoever comes first.
    with pytest.raises(NkiconvError, match="nothing orders the two"):
        nki.jit(barrier_on_another)[2](X)


def test_cores_that_return_different_tensors() -> None:
    with pytest.raises(HazardError, match="the cores return different tensors"):
        nki.jit(different_results)[2](X, X.copy())


def test_an_error_on_the_other_core_names_the_line() -> None:
    with pytest.raises(ShapeError, match=r"^test_cores\.py:\d+: "):
        nki.jit(wrong_on_core_1)[2](X)
