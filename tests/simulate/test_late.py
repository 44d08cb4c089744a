"""Late DMA: the same results where dependencies are known, wrong ones where they are hidden."""

from __future__ import annotations

from typing import Any

import nki
import numpy as np
import pytest

from nkiconv.kernels import conv2d
from nkiconv.simulate import (
    HazardError,
    UninitializedReadError,
    simulate,
    simulate_kernel,
    use_dma,
    use_target,
)
from nkiconv.simulate.late import LateTransfers, dma_is_late
from nkiconv.simulate.memory import Allocation, Storage
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.tensor import NkiTensor

X = np.arange(32, dtype=np.float32).reshape(4, 8)


@pytest.fixture
def late(chip: Any) -> Any:
    """A running program whose DMA is late."""
    chip.program.late = LateTransfers()
    return chip


def hidden(tensor: NkiTensor, number: int = 99) -> NkiTensor:
    """Return a second tensor over the same bytes, which the rule of dependencies cannot see."""
    storage = tensor._storage
    made = Allocation(number, storage.space, tensor.shape, tensor.dtype, "alias", "test.py:1")
    twin = Storage(made, buffer=storage.buffer)
    return NkiTensor(tensor.shape, tensor.dtype, twin, tensor.buffer, "alias")


# --- What waits, and for what --------------------------------------------------------------------


def test_a_transfer_happens_when_its_result_is_read(late: Any) -> None:
    tile, copy = late.new((4, 8)), late.new((4, 8))
    nisa.dma_copy(dst=tile, src=late.put(X))
    assert not tile._storage.written
    nisa.memset(dst=late.new((4, 8)), value=0)
    assert len(late.program.late) == 1
    nisa.tensor_copy(dst=copy, src=tile)
    assert len(late.program.late) == 0
    assert np.array_equal(copy._array, X)


def test_a_transfer_happens_before_its_source_is_overwritten(late: Any) -> None:
    source, tile = late.put(X), late.new((4, 8))
    nisa.dma_copy(dst=tile, src=source)
    nisa.memset(dst=source, value=0)
    assert np.array_equal(tile._array, X)


def test_reading_the_source_waits_for_nothing(late: Any) -> None:
    source, tile = late.put(X), late.new((4, 8))
    nisa.dma_copy(dst=tile, src=source)
    nisa.tensor_copy(dst=late.new((4, 8)), src=source)
    assert len(late.program.late) == 1


def test_other_bytes_of_the_tensor_wait_for_nothing(late: Any) -> None:
    tile = late.new((4, 8))
    nisa.dma_copy(dst=tile[:, 0:4], src=late.put(X)[:, 0:4])
    nisa.memset(dst=tile[:, 4:8], value=0)
    assert len(late.program.late) == 1
    nisa.memset(dst=tile[:, 3:5], value=7)
    assert len(late.program.late) == 0
    assert tile._array[0].tolist() == [0, 1, 2, 7, 7, 0, 0, 0]


def test_one_transfer_waits_for_another(late: Any) -> None:
    first, second = late.new((4, 8)), late.new((4, 8))
    nisa.dma_copy(dst=first, src=late.put(X))
    nisa.dma_copy(dst=second, src=first)
    assert first._storage.written
    assert not second._storage.written
    late.program.settle()
    assert np.array_equal(second._array, X)
    late.program.settle()  # nothing is left


def test_what_a_transfer_breaks_is_said_of_its_own_line(late: Any) -> None:
    tile = late.new((4, 8))
    nisa.dma_copy(dst=late.new((4, 8)), src=tile)
    line = test_what_a_transfer_breaks_is_said_of_its_own_line.__code__.co_firstlineno + 2
    with pytest.raises(UninitializedReadError, match=rf"^test_late\.py:{line}: nisa\.dma_copy: "):
        late.program.settle()


# --- A hidden alias ------------------------------------------------------------------------------


def copied_through_an_alias(chip: Any) -> Any:
    """Load a tile, then read it under another name."""
    tile, copy = chip.new((4, 8)), chip.new((4, 8))
    nisa.memset(dst=tile, value=-1)
    nisa.dma_copy(dst=tile, src=chip.put(X))
    nisa.tensor_copy(dst=copy, src=hidden(tile))
    chip.program.settle()
    return copy._array


def stored_after_a_hidden_write(chip: Any) -> Any:
    """Store a tile, and overwrite it under another name at once."""
    tile, out = chip.put(X), chip.new((4, 8), buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=tile)
    nisa.memset(dst=hidden(tile), value=-1)
    chip.program.settle()
    return out._array


@pytest.mark.parametrize("run", [copied_through_an_alias, stored_after_a_hidden_write])
def test_a_missing_dependency_shows_in_late_mode_alone(run: Any, start: Any) -> None:
    with start("trn1") as chip:
        assert np.array_equal(run(chip), X)
    with start("trn1") as chip:
        chip.program.late = LateTransfers()
        assert (run(chip) == -1).all()


def test_a_read_through_an_alias_of_fresh_memory(late: Any) -> None:
    tile = late.new((4, 8))
    alias = hidden(tile)
    alias._storage.uniform = 0  # nothing has written it, as far as the record knows
    nisa.dma_copy(dst=tile, src=late.put(X))
    with pytest.raises(UninitializedReadError, match="alias"):
        nisa.tensor_copy(dst=late.new((4, 8)), src=alias)


# --- Whole kernels in both modes -----------------------------------------------------------------


def turned(x_hbm: Any, out_hbm: Any) -> Any:
    """Store to an argument, read it back, return twice it; a loop on the device between."""
    tile = nl.ndarray(x_hbm.shape, x_hbm.dtype)
    nisa.dma_copy(dst=out_hbm, src=x_hbm)

    def body(i: Any) -> None:
        nisa.dma_copy(dst=tile, src=out_hbm)
        nisa.tensor_scalar(dst=tile, data=tile, op0=nl.add, operand0=1.0)
        nisa.dma_copy(dst=out_hbm, src=tile)

    nl.fori_loop(0, 3, body)
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    nisa.dma_compute(dst=y_hbm, srcs=[out_hbm, out_hbm], reduce_op=nl.add)
    return y_hbm


@pytest.mark.parametrize("mode", ["eager", "late"])
def test_kernels_are_right_in_both_modes(mode: str) -> None:
    out = np.zeros_like(X)
    assert np.array_equal(simulate(turned, dma=mode)(X, out), 2 * (X + 3))
    assert np.array_equal(out, X + 3)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("algorithm", ["direct", "naive"])
def test_convolutions_are_equal_in_both_modes(
    algorithm: str, target: str, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, 40, 9, 9), dtype=np.float32)
    w = rng.standard_normal((36, 40, 3, 3), dtype=np.float32)
    results = []
    for mode in ("eager", "late"):
        with use_target(target), use_dma(mode):
            results.append(conv2d(x, w, padding=1, algorithm=algorithm))
    assert np.array_equal(*results)


def test_two_cores_meet_when_their_transfers_are_done() -> None:
    def halves(x_hbm: Any) -> Any:
        between_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
        y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
        mine, theirs = nl.program_id(0), 1 - nl.program_id(0)
        nisa.dma_copy(dst=between_hbm[2 * mine : 2 * mine + 2], src=x_hbm[2 * mine : 2 * mine + 2])
        nisa.core_barrier(data=between_hbm, cores=(0, 1))
        rows = between_hbm[2 * theirs : 2 * theirs + 2]
        tile, other = nl.ndarray((2, 8), x_hbm.dtype), nl.ndarray((2, 8), x_hbm.dtype)
        nisa.dma_copy(dst=tile, src=rows)
        nisa.sendrecv(tile, other, send_to_rank=theirs, recv_from_rank=theirs, pipe_id=0)
        nisa.dma_copy(dst=y_hbm[2 * theirs : 2 * theirs + 2], src=other)
        return y_hbm

    with use_target("trn2"), use_dma("late"):
        assert np.array_equal(nki.jit(halves)[2](X), np.concatenate([X[2:], X[:2]]))


def test_read_only_arguments_are_refused_in_late_mode() -> None:
    def overwrite(x_hbm: Any, out_hbm: Any) -> Any:
        nisa.dma_copy(dst=out_hbm, src=x_hbm)
        return out_hbm

    out = np.zeros_like(X)
    out.setflags(write=False)
    line = overwrite.__code__.co_firstlineno + 1
    with use_dma("late"), pytest.raises(HazardError, match=rf"^test_late\.py:{line}: .*read-only"):
        simulate_kernel(overwrite, X, out)


# --- How the mode is chosen ----------------------------------------------------------------------


def test_the_mode_comes_from_the_block_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NKICONV_DMA", raising=False)
    assert not dma_is_late()
    monkeypatch.setenv("NKICONV_DMA", "")
    assert not dma_is_late()
    monkeypatch.setenv("NKICONV_DMA", "late")
    assert dma_is_late()
    with use_dma(None):
        assert dma_is_late()
    with use_dma("eager"):
        assert not dma_is_late()
    monkeypatch.setenv("NKICONV_DMA", "soon")
    with pytest.raises(ValueError, match=r"^NKICONV_DMA: 'soon' is not eager or late"):
        dma_is_late()
