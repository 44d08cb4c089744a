"""What the two NeuronCores of a logical one say to each other: barriers, and exchanged tiles."""

from __future__ import annotations

from typing import Any

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import chosen_lane, needs
from nkiconv.simulate.engines._dma import dma_cost, transfer_ns
from nkiconv.simulate.enums import dma_engine, engine
from nkiconv.simulate.errors import ConstraintError, DtypeError, ShapeError
from nkiconv.simulate.program import kernel_line
from nkiconv.simulate.sheet import (
    SBUF,
    Call,
    Cost,
    Fetch,
    Operand,
    Role,
    Rule,
    assumed,
    free_elems,
    instruction,
    isa,
)
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor
from nkiconv.simulate.trace import Lane

_BOTH = (0, 1)


_TWO_CORES = Rule(
    "needs a launch on both cores of a logical one, kernel[2](...)",
    lambda c: c.program.cores is not None,
    "NKI 0.6.0, page of the instruction",
    shows=lambda c: f"a launch grid of {c.program.grid or 'one core'}",
    dynamic=True,
    code="two_cores",
)


def _meet(call: Call, key: object, value: object) -> list[Any]:
    cores = call.program.cores
    if cores is None:  # pragma: no cover - the rule above refuses it
        raise ConstraintError(f"nisa.{call.sheet.name}: there is one core only", code="launch.grid")
    op = f"nisa.{call.sheet.name}"
    call.program.settle()
    return cores.wait(call.program.core, op, key, value, kernel_line())


def _start_barrier(call: Call) -> None:
    data = call["data"]
    _meet(call, f"a barrier on {data._storage.describe()}", None)
    if call.program.race is not None:
        call.program.race.clear(data)
    call.also_touch = (("data", Operand(role=Role.WRITE), data),)


def _end_barrier(call: Call) -> None:
    # Neither core goes on before both have left their mark in the record.
    _meet(call, "the end of a barrier", None)


def _sequencer_cost(call: Call) -> Cost:
    busy = round(call.hw.core_barrier_ns * 1000)
    return Cost(busy, busy)


_ENGINES = (Lane.TENSOR, Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD, Lane.SYNC)


@instruction(
    lane=lambda c: chosen_lane(c, _ENGINES, Lane.GPSIMD),
    operands={},
    rules=(
        needs("core_barrier", 3),
        _TWO_CORES,
        Rule(
            "data must be a tensor in shared HBM",
            lambda c: (
                isinstance(c["data"], NkiTensor) and c["data"].buffer is MemoryRegion.shared_hbm
            ),
            isa("core_barrier"),
            shows=lambda c: f"{c['data']!r}",
            code="shared_data",
        ),
        Rule(
            "cores must be (0, 1)",
            lambda c: isinstance(c["cores"], (tuple, list)) and tuple(c["cores"]) == _BOTH,
            isa("core_barrier"),
            shows=lambda c: f"{c['cores']!r}",
            code="both_cores",
        ),
    ),
    prepare=_start_barrier,
    count=_end_barrier,
    cost=_sequencer_cost,
    sources=(isa("core_barrier"), assumed("a semaphore written to the other core and waited for")),
)
def core_barrier(data: Any, cores: Any, engine: Any = engine.gpsimd, name: Any = None) -> Any:
    """Let no core go on before both have finished what they do with `data`, in shared HBM."""
    return ()


_MOST_BYTES = {4: 1024, 2: 512, 1: 256}
"""Bytes per partition that GpSimdE's own DMA exchanges, by size of an element (isa sendrecv)."""


def _exchange_lane(call: Call) -> Lane:
    return Lane.GPSIMD if call["dma_engine"] is dma_engine.gpsimd_dma else Lane.DMA_LOCAL


def _small_enough(call: Call) -> bool:
    if call["dma_engine"] is not dma_engine.gpsimd_dma:
        return True
    item_bytes = call["src"]._element.itemsize
    return bool(free_elems(call["src"]) * item_bytes <= _MOST_BYTES[item_bytes])


def _ranks(call: Call) -> bool:
    ranks = (call["send_to_rank"], call["recv_from_rank"])
    other = 1 - call.program.core
    return all(type(rank) is int and rank == other for rank in ranks)


def _exchange(call: Call) -> None:
    src, dst = call["src"], call["dst"]
    brought = _meet(call, f"pipe_id={call['pipe_id']!r}", (src, dst))
    sent, _ = brought[1 - call.program.core]
    if sent.dtype != dst.dtype or sent.shape != dst.shape:
        raise ShapeError(
            f"nisa.sendrecv: core {call.program.core} receives {sent!r} into {dst!r}; shape and "
            f"dtype must be the same on both cores ({isa('sendrecv')}, Constraints)",
            code="sendrecv.tiles_differ",
        )
    call.also_touch = (("src", Operand(role=Role.READ), sent),)
    call.extra = {"_received": sent._array.copy()}


def _exchange_cost(call: Call) -> Cost:
    share_ns, alone_ns = transfer_ns(call.hw, call["src"], call["dst"])
    if call.lane is not Lane.GPSIMD:
        return dma_cost(call, share_ns, alone_ns)
    busy = round(alone_ns * 1000)
    return Cost(busy, busy)


@instruction(
    lane=_exchange_lane,
    operands={
        "src": Operand(SBUF, fetch=Fetch.RAW, packed=True),
        "dst": Operand(SBUF, Role.WRITE, fetch=Fetch.RAW, packed=True),
    },
    rules=(
        needs("sendrecv", 3),
        _TWO_CORES,
        Rule(
            "src and dst must have the same dtype",
            lambda c: c["src"].dtype == c["dst"].dtype,
            isa("sendrecv"),
            error=DtypeError,
            code="same_dtype",
        ),
        Rule(
            "src and dst must have the same shape",
            lambda c: c["src"].shape == c["dst"].shape,
            isa("sendrecv"),
            error=ShapeError,
            code="same_shape",
        ),
        Rule(
            "send_to_rank and recv_from_rank must be the other core, 0 or 1",
            _ranks,
            isa("sendrecv"),
            shows=lambda c: (
                f"send_to_rank={c['send_to_rank']!r}, recv_from_rank={c['recv_from_rank']!r} on "
                f"core {c.program.core}"
            ),
            dynamic=True,
        ),
        Rule(
            "pipe_id must be an integer",
            lambda c: type(c["pipe_id"]) is int,
            isa("sendrecv"),
            shows=lambda c: f"{c['pipe_id']!r}",
            code="pipe_id",
        ),
        Rule(
            "dma_engine must be one of nisa.dma_engine",
            lambda c: isinstance(c["dma_engine"], dma_engine),
            isa("sendrecv"),
            shows=lambda c: f"{c['dma_engine']!r}",
            code="dma_engine",
        ),
        Rule(
            "GpSimdE's own DMA takes 1024, 512 or 256 bytes per partition of 4-, 2- or 1-byte "
            "elements",
            _small_enough,
            isa("sendrecv"),
            error=ShapeError,
        ),
    ),
    prepare=_exchange,
    at_once=True,
    count=_end_barrier,
    cost=_exchange_cost,
    sources=(isa("sendrecv"), assumed("as long as a copy of the tile within SBUF")),
)
def sendrecv(
    src: Any,
    dst: Any,
    send_to_rank: Any,
    recv_from_rank: Any,
    pipe_id: Any,
    dma_engine: Any = dma_engine.dma,
    name: Any = None,
    *,
    _received: Any = None,
) -> Array:
    """``dst = src`` of the other core, which receives this core's `src` at the same time."""
    received: Array = _received
    return received
