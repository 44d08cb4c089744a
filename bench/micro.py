"""Single instructions and transfers as published measurements have them, and as modelled.

    modelled within [low, high], 5% beyond on both sides     or a reason why not

A measurement is a range where several were published, else one number; 5% is what a figure that
somebody read off a profile is good for.  The data, with origins, are in microbench.json.  Each row
is one small program here: a few instructions, whose times the scheduler gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nkiconv.simulate import use_target
from nkiconv.simulate.enums import dge_mode
from nkiconv.simulate.hardware import HARDWARE
from nkiconv.simulate.memory import BY_ENGINE
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.program import Program, running
from nkiconv.simulate.schedule import Timeline, schedule
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor

__all__ = ["MicroRow", "measure_micro", "micro_sources"]

DATA = Path(__file__).with_name("microbench.json")

SLACK = 0.05
"""What a published number is taken to be uncertain by, on each side."""

_WARM = 64
"""Matmuls of 512 columns after which TensorE's clock is up."""


@dataclass(frozen=True)
class MicroRow:
    """One measurement; `modelled_ns` is None where the model has nothing of the kind."""

    id: str
    target: str
    published: str
    status: str
    source: str
    low_ns: float
    high_ns: float
    modelled_ns: float | None
    why: str

    @property
    def within(self) -> bool:
        """Whether the model reproduces it."""
        low, high = self.low_ns * (1 - SLACK), self.high_ns * (1 + SLACK)
        return self.modelled_ns is not None and low <= self.modelled_ns <= high

    @property
    def error(self) -> float | None:
        """Distance from the nearest end of the range, as a share of it; 0 within."""
        if self.modelled_ns is None:
            return None
        nearest = min(max(self.modelled_ns, self.low_ns), self.high_ns)
        return self.modelled_ns / nearest - 1

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self) | {"within": self.within, "error": self.error}


class Rig:
    """A program under construction, and the times that the scheduler gives it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._timeline: Timeline | None = None

    def new(self, *shape: int, dtype: str = "float32", space: MemoryRegion = nl.sbuf) -> NkiTensor:
        """Make a tensor that counts as written, without an instruction."""
        tensor: NkiTensor = nl.ndarray(shape, dtype, space)
        tensor._array[...] = 0
        tensor._storage.mark(tensor, tensor._element, BY_ENGINE)
        return tensor

    def _times(self) -> Timeline:
        program = self.program
        if self._timeline is None:
            self._timeline = schedule(
                program.trace, program.allocations, Placement({}, {}, 0, 0), program.hardware
            )
        return self._timeline

    def start(self, index: int) -> float:
        """Return when an instruction starts, in nanoseconds."""
        return self._times().start_ps[index] / 1000

    def end(self, index: int) -> float:
        """Return when its result can be seen."""
        return self._times().end_ps[index] / 1000

    def duration(self, index: int) -> float:
        """Return the time from start until the result can be seen."""
        return self.end(index) - self.start(index)

    def alone(self, index: int) -> float:
        """Return what a transfer takes from its first byte to the last."""
        steps = list(self.program.trace.steps())
        return steps[index].latency_ps / 1000


@contextmanager
def _rig(target: str) -> Iterator[Rig]:
    with use_target(target), running(Program("microbenchmark", target)) as program:
        yield Rig(program)


# --- Compute engines -----------------------------------------------------------------------------

Call = Callable[[Rig], object]
Programs = dict[str, Callable[[], float]]


def _duration(call: Call, target: str = "trn2") -> float:
    with _rig(target) as rig:
        call(rig)
        return rig.duration(0)


def _interval(call: Call, target: str = "trn2") -> float:
    """Return the time from the start of one to that of the next, which does not depend on it."""
    with _rig(target) as rig:
        for _ in range(3):
            call(rig)
        return rig.start(2) - rig.start(1)


def _activation(
    op: Any, n: int, space: MemoryRegion = nl.psum, dtype: str = "float32", to: str = ""
) -> Call:
    """Return one activation of `n` elements."""

    def call(rig: Rig) -> None:
        nisa.activation(
            rig.new(128, n, dtype=to or dtype), op, rig.new(128, n, dtype=dtype, space=space)
        )

    return call


def _loaded(call: Call, target: str = "trn2") -> float:
    """Return the duration of the second of two, for which the table is there."""
    with _rig(target) as rig:
        call(rig)
        call(rig)
        return rig.duration(1)


def _strided(
    lane: Any, n: int, dtype: str, space: MemoryRegion, into: int = 1, out_of: int = 1
) -> Call:
    """Return a copy that writes every `into`-th element, or reads every `out_of`-th."""

    def call(rig: Rig) -> None:
        src = rig.new(128, n * out_of, dtype=dtype, space=space)[:, ::out_of]
        dst = rig.new(128, n * into, dtype=dtype)[:, ::into]
        nisa.tensor_copy(dst, src, engine=lane)

    return call


def _cast(lane: Any, n: int, into: int = 1) -> Call:
    def call(rig: Rig) -> None:
        dst = rig.new(128, n * into, dtype="float16")[:, ::into]
        nisa.tensor_copy(dst, rig.new(128, n, space=nl.psum), engine=lane)

    return call


def _reduce(n: int, dtype: str = "float32", space: MemoryRegion = nl.sbuf) -> Call:
    def call(rig: Rig) -> None:
        src = rig.new(128, n, dtype=dtype, space=space)
        nisa.tensor_reduce(rig.new(128, 1, dtype=dtype), nl.maximum, src, 1)

    return call


def _pair(n: int, dtype: str = "float32", space: MemoryRegion = nl.sbuf, second: int = 0) -> Call:
    def call(rig: Rig) -> None:
        x = rig.new(128, n, dtype="float32" if space is nl.psum else dtype, space=space)
        y = rig.new(128, second or n, dtype=dtype)
        y = y if not second else y.broadcast(1, n)
        nisa.tensor_tensor(rig.new(128, n, dtype=dtype), x, y, nl.add)

    return call


def _scale(n: int, dtype: str = "float32", space: MemoryRegion = nl.sbuf, to: str = "") -> Call:
    def call(rig: Rig) -> None:
        src = rig.new(128, n, dtype=dtype, space=space)
        nisa.tensor_scalar(rig.new(128, n, dtype=to or dtype), src, nl.multiply, 2.0)

    return call


def _reciprocal(n: int) -> Call:
    def call(rig: Rig) -> None:
        x = rig.new(128, n)
        x._array[...] = 1
        nisa.reciprocal(rig.new(128, n), x)

    return call


def _fused(rig: Rig) -> None:
    x, y = rig.new(128, 512, space=nl.psum), rig.new(128, 512)
    nisa.scalar_tensor_tensor(rig.new(128, 512), x, nl.multiply, 2.0, nl.add, y)


def _activate_reduce(rig: Rig) -> None:
    x, y = rig.new(128, 16_384, dtype="bfloat16"), rig.new(128, 16_384, dtype="bfloat16")
    nisa.activation_reduce(y, nl.copy, x, nl.add, rig.new(128, 1))


def _table() -> float:
    """Return what the first exp takes longer than the second."""
    with _rig("trn2") as rig:
        call = _activation(nl.exp, 512)
        call(rig)
        call(rig)
        return rig.duration(0) - rig.duration(1)


def _chain() -> float:
    """Return the time from start to start of two activations, the second of the first's result."""
    with _rig("trn1") as rig:
        x, y, z = rig.new(128, 1), rig.new(128, 1), rig.new(128, 1)
        for dst, src in ((z, x), (y, x), (z, y)):  # the first loads the table
            nisa.activation(dst, nl.copy, src)
        return rig.start(2) - rig.start(1)


def _hop() -> float:
    with _rig("trn2") as rig:
        x, y, z = rig.new(128, 512), rig.new(128, 512), rig.new(128, 512)
        nisa.tensor_copy(y, x, engine=nisa.engine.vector)
        nisa.tensor_copy(z, y, engine=nisa.engine.scalar)
        return rig.start(1) - rig.end(0)


# --- TensorE -------------------------------------------------------------------------------------


def _matmuls(
    dtype: str, n: int, quantity: str, *, warm: bool, passes: int = 1, target: str = "trn2"
) -> float:
    """Return interval or duration of a matmul, or of each of its passes, at full or half clock."""
    with _rig(target) as rig:
        acc = rig.new(128, 512, space=nl.psum)
        weights, moving = rig.new(128, 128, dtype=dtype), rig.new(128, n, dtype=dtype)
        if warm:
            held, wide = rig.new(128, 128, dtype="bfloat16"), rig.new(128, 512, dtype="bfloat16")
            for _ in range(_WARM):
                nisa.nc_matmul(acc, held, wide, accumulate=False)
        first = len(rig.program.trace)
        for _ in range(3):
            nisa.nc_matmul(acc[:, :n], weights, moving, accumulate=False)
        interval = (rig.start(first + 2) - rig.start(first + 1)) / passes
        if quantity == "interval":
            return interval
        # The result of the last pass: those before it are intervals.
        return rig.duration(first + 1) - interval * (passes - 1)


def _transposes(*, warm: bool) -> float:
    with _rig("trn2") as rig:
        acc = rig.new(128, 512, space=nl.psum)
        held, wide = rig.new(128, 128, dtype="bfloat16"), rig.new(128, 512, dtype="bfloat16")
        data = rig.new(128, 128)
        for _ in range(_WARM if warm else 0):
            nisa.nc_matmul(acc, held, wide, accumulate=False)
        first = len(rig.program.trace)
        for _ in range(3):
            nisa.nc_transpose(rig.new(128, 128, space=nl.psum), data)
        return rig.start(first + 2) - rig.start(first + 1)


def _isolated() -> float:
    """Return the duration of a matmul whose weights are loaded, of 128 columns, on trn1."""
    return _matmuls("bfloat16", 128, "duration", warm=False, target="trn1")


# --- DMA -----------------------------------------------------------------------------------------


def _load(rig: Rig, rows: int, run_bytes: int, mode: dge_mode = dge_mode.none) -> NkiTensor:
    x, y = rig.new(rows, run_bytes // 4, space=nl.shared_hbm), rig.new(rows, run_bytes // 4)
    nisa.dma_copy(dst=y, src=x, dge_mode=mode)
    return y


def _store(rig: Rig, rows: int, run_bytes: int) -> None:
    x, y = rig.new(rows, run_bytes // 4, space=nl.shared_hbm), rig.new(rows, run_bytes // 4)
    nisa.dma_copy(dst=x, src=y, dge_mode=dge_mode.none)


def _issue(mode: dge_mode) -> float:
    return _interval(lambda rig: _load(rig, 128, 64, mode))


def _begin(mode: dge_mode, target: str = "trn2") -> float:
    """Return the time from the trigger to the first byte."""
    with _rig(target) as rig:
        _load(rig, 128, 512, mode)
        return rig.duration(0) - rig.alone(0) - HARDWARE[target].dma_complete_ns


def _ready_to_byte(target: str) -> float:
    """Return the time from an engine's result to the first byte of its store."""
    with _rig(target) as rig:
        x, y = rig.new(128, 128), rig.new(128, 128)
        nisa.tensor_copy(y, x, engine=nisa.engine.vector)
        nisa.dma_copy(dst=rig.new(128, 128, space=nl.shared_hbm), src=y)
        begin = rig.end(1) - rig.alone(1) - HARDWARE[target].dma_complete_ns
        return begin - rig.end(0)


def _consumed(target: str) -> float:
    """Return the time from the last byte to the start of an engine that waits for it."""
    with _rig(target) as rig:
        y = _load(rig, 128, 512)
        nisa.tensor_copy(rig.new(128, 128), y, engine=nisa.engine.vector)
        return rig.start(1) - rig.end(0) + HARDWARE[target].dma_complete_ns


def _row(run_bytes: int, move: Callable[[Rig, int, int], object] = _load) -> float:
    """Return what one more row costs an engine."""
    with _rig("trn2") as rig:
        for rows in (1, 2):
            move(rig, rows, run_bytes)
        return rig.alone(1) - rig.alone(0)


def _transfer(rows: int, run_bytes: int, target: str = "trn2") -> float:
    with _rig(target) as rig:
        _load(rig, rows, run_bytes)
        return rig.alone(0)


def _stream(move: Callable[[Rig, int, int], object]) -> float:
    """Return the time between the ends of transfers that follow each other closely."""
    with _rig("trn2") as rig:
        for _ in range(64):
            move(rig, 128, 512)
        return (rig.end(63) - rig.end(31)) / 32


def _turned(dtype: str) -> float:
    with _rig("trn2") as rig:
        x = rig.new(128, 128, dtype=dtype, space=nl.shared_hbm)
        nisa.dma_transpose(rig.new(128, 128, dtype=dtype), x, dge_mode=dge_mode.none)
        return rig.alone(0)


# --- Which program is which measurement ----------------------------------------------------------

_V, _S = nisa.engine.vector, nisa.engine.scalar
_HALF, _BF16 = "float16", "bfloat16"


def _both(name: str, call: Call) -> Programs:
    return {f"{name}-duration": partial(_duration, call), name: partial(_interval, call)}


def _matmul_rows() -> Programs:
    rows: Programs = {}
    for name, dtype, n, passes in (
        ("matmul-bf16-512", _BF16, 512, 1),
        ("matmul-bf16-128", _BF16, 128, 1),
        ("matmul-fp32-512-pass", "float32", 512, 2),
        ("matmul-fp32-128-pass", "float32", 128, 2),
        ("matmul-fp16-420", _HALF, 420, 1),
        ("matmul-fp16-444", _HALF, 444, 1),
        ("matmul-fp32-420", "float32", 420, 2),
        ("matmul-fp16-128", _HALF, 128, 1),
        ("matmul-fp32-128", "float32", 128, 2),
    ):
        for clock, warm in (("", True), ("-half", False)):
            for suffix, quantity in (("", "interval"), ("-duration", "duration")):
                rows[f"{name}{clock}{suffix}"] = partial(
                    _matmuls, dtype, n, quantity, warm=warm, passes=passes
                )
    for name, dtype, passes in (("matmul-fp16-14", _HALF, 1), ("matmul-fp32-14", "float32", 2)):
        rows[name] = partial(_matmuls, dtype, 14, "interval", warm=False, passes=passes)
    rows["transpose-fp32-128"] = partial(_transposes, warm=True)
    rows["transpose-fp32-128-half"] = partial(_transposes, warm=False)
    rows["trn1-matmul-bf16-128-duration"] = _isolated
    return rows


def _scalar_rows() -> Programs:
    timed = {
        "scalar-cast-psum-444": _cast(_S, 444),
        "scalar-copy-psum-64": _strided(_S, 64, "int8", nl.psum),
        "scalar-copy-psum-128-again": _strided(_S, 128, "float32", nl.psum),
        "scalar-copy-psum-420": _strided(_S, 420, "float32", nl.psum),
        "scalar-copy-half-strided-psum": _strided(_S, 128, _HALF, nl.psum, into=9),
        "scalar-copy-half-strided-sbuf": _strided(_S, 128, _HALF, nl.sbuf, into=9),
        "scalar-copy-half-gather": _strided(_S, 128, _HALF, nl.sbuf, out_of=9),
        "scalar-copy-fp32-strided-psum": _strided(_S, 128, "float32", nl.psum, into=9),
        "scalar-copy-fp32-strided-sbuf": _strided(_S, 128, "float32", nl.sbuf, into=9),
        "scalar-copy-fp32-gather": _strided(_S, 128, "float32", nl.sbuf, out_of=9),
    }
    rows: Programs = {name: partial(_duration, call) for name, call in timed.items()}
    for n in (512, 128):
        rows |= _both(f"scalar-copy-psum-{n}", _strided(_S, n, "float32", nl.psum))
    for name, space in (("psum", nl.psum), ("sbuf", nl.sbuf)):
        call = _activation(nl.exp, 512, space)
        rows[f"scalar-exp-{name}-512-duration"] = partial(_loaded, call)
        rows[f"scalar-exp-{name}-512"] = partial(_interval, call)
    for n in (4096, 128):
        rows[f"scalar-exp-{n}"] = partial(_loaded, _activation(nl.exp, n, nl.sbuf, _BF16))
    rows["scalar-table-load"] = _table
    rows["scalar-activation-reduce-16384"] = partial(_loaded, _activate_reduce)
    rows["trn1-scalar-1-duration"] = partial(_loaded, _activation(nl.copy, 1, nl.sbuf), "trn1")
    rows["trn1-scalar-chain"] = _chain
    return rows


def _vector_rows() -> Programs:
    timed = {
        "vector-copy-psum-512-duration": _strided(_V, 512, "float32", nl.psum),
        "vector-copy-psum-512-again": _strided(_V, 512, "float32", nl.psum),
        "vector-copy-psum-128-duration": _strided(_V, 128, "float32", nl.psum),
        "vector-copy-psum-128-again": _strided(_V, 128, "float32", nl.psum),
        "vector-copy-14": _strided(_V, 14, "float32", nl.psum),
        "vector-copy-14-strided": _strided(_V, 14, "float32", nl.psum, into=2),
        "vector-copy-half-strided-18": _strided(_V, 128, _HALF, nl.psum, into=18),
        "vector-copy-half-strided-9": _strided(_V, 128, _HALF, nl.psum, into=9),
        "vector-copy-half-strided-sbuf": _strided(_V, 128, _HALF, nl.sbuf, into=9),
        "vector-copy-half-gather": _strided(_V, 128, _HALF, nl.sbuf, out_of=9),
        "vector-copy-fp32-strided-18": _strided(_V, 128, "float32", nl.psum, into=18),
        "vector-copy-fp32-strided-9": _strided(_V, 128, "float32", nl.psum, into=9),
        "vector-copy-fp32-strided-sbuf": _strided(_V, 128, "float32", nl.sbuf, into=9),
        "vector-copy-fp32-gather": _strided(_V, 128, "float32", nl.sbuf, out_of=9),
        "vector-cast-14": _cast(_V, 14),
        "vector-cast-14-strided": _cast(_V, 14, into=2),
        "vector-scalar-psum-128-duration": _scale(128, space=nl.psum),
        "vector-scalar-fp8-16384": _scale(16_384, _BF16, to="float8_e4m3"),
        "vector-reciprocal-4": _reciprocal(4),
        "vector-reciprocal-8": _reciprocal(8),
        "vector-reduce-16384": _reduce(16_384, _BF16),
        "vector-pair-half-14": _pair(14, _HALF, second=1),
        "vector-pair-half-444": _pair(444, _HALF, second=1),
        "vector-pair-mixed-420": _pair(420, _HALF, nl.psum),
        "vector-pair-mixed-444": _pair(444, _HALF, nl.psum),
        "vector-pair-fp32-14": _pair(14),
        "vector-pair-fp32-psum-420": _pair(420, space=nl.psum),
        "vector-pair-fp32-420": _pair(420),
        "vector-pair-2000": _pair(2000),
        "vector-fused-psum-512": _fused,
    }
    for n in (14, 28, 222, 444):
        timed[f"vector-reduce-half-{n}"] = _reduce(n, _HALF)
        timed[f"vector-reduce-fp32-{n}"] = _reduce(n)
    rows: Programs = {name: partial(_duration, call) for name, call in timed.items()}
    for name, space in (("psum", nl.psum), ("sbuf", nl.sbuf)):
        rows |= _both(f"vector-reduce-{name}-512", _reduce(512, space=space))
    rows |= _both("vector-scalar-sbuf-512", _scale(512))
    for n in (8192, 2000):
        rows[f"trn1-vector-pair-{n}"] = partial(_duration, _pair(n), "trn1")
    return rows


def _dma_rows() -> Programs:
    rows: Programs = {
        "dma-hardware-issue": partial(_issue, dge_mode.hwdge),
        "dma-software-issue": partial(_issue, dge_mode.swdge),
        "dma-static-issue": partial(_issue, dge_mode.none),
        "dma-hardware-start": partial(_begin, dge_mode.hwdge),
        "dma-static-start": partial(_begin, dge_mode.none),
        "trn1-dma-static-start": partial(_ready_to_byte, "trn1"),
        "dma-hop": partial(_consumed, "trn2"),
        "trn1-dma-hop": partial(_consumed, "trn1"),
        "dma-512k": partial(_transfer, 128, 4096),
        "dma-32k": partial(_transfer, 4, 8192),
        "trn1-dma-32k": partial(_transfer, 4, 8192, "trn1"),
        "dma-rows-512-load": partial(_stream, _load),
        "dma-rows-512-store": partial(_stream, _store),
        "dma-element": partial(_row, 4),
        "dma-descriptor-store-256": partial(_row, 256, _store),
        "dma-transpose-static-fp32": partial(_turned, "float32"),
        "dma-transpose-static-fp16": partial(_turned, _HALF),
        "hop": _hop,
    }
    for size in (256, 512, 2048, 4096):
        rows[f"dma-descriptor-{size}"] = partial(_row, size)
    return rows


_HIDDEN = "no instruction of its own here: hidden behind the matmul before, or a wait of that much"
_TRIGGER = "the model's rings issue without taking time from the engine that triggers"

NOT_MODELLED = {
    "load-weights-bf16": _HIDDEN,
    "load-weights-fp32": _HIDDEN,
    "trn1-load-weights-1": _HIDDEN,
    "dma-semaphore-write": "part of dma_transfer_ns",
    "dma-software-start": "counted from GpSimdE's trigger; the model starts where it is ready to",
    "dma-static-trigger-gpsimd": _TRIGGER,
    "dma-static-trigger-scalar": _TRIGGER,
}
"""Measurements of what the model has no number for, and why."""


_SHORTER = (
    "shorter than 420 elements can take: counted from another moment; the slowest tenth agrees"
)
_BIMODAL = "published with two modes and few samples; the model has the rate of the slower"

DIFFERENT = {
    "dma-descriptor-store-256": "the model takes rows below 512 B to HBM as long as those of 512 B",
    "dma-element": "one of three inferred figures, 42 to 55; the model has 50 for all",
    "dma-transpose-static-fp32": "one of three inferred figures, 42 to 55 an element; as above",
    "dma-rows-512-store": "loads take 234 and stores 211; the model has one figure for both",
    "scalar-copy-half-gather": "2.1 cycles an element and not the documented factor 2",
    "vector-copy-half-strided-9": "18 B apart VectorE writes faster than 36 B apart, as modelled",
    "vector-copy-half-strided-sbuf": "18 B apart VectorE writes faster than 36 B apart; as above",
    "vector-copy-half-gather": _BIMODAL,
    "vector-copy-fp32-strided-9": _BIMODAL,
    "vector-copy-fp32-gather": _BIMODAL,
    "vector-pair-mixed-420": _SHORTER,
    "vector-pair-fp32-psum-420": _SHORTER,
}
"""Measurements that the model misses, and why it is left so."""


def _programs() -> Programs:
    return _matmul_rows() | _scalar_rows() | _vector_rows() | _dma_rows()


def micro_sources() -> dict[str, str]:
    """Return where each source of the measurements was published."""
    sources: dict[str, str] = json.loads(DATA.read_text(encoding="utf-8"))["sources"]
    return sources


def measure_micro() -> list[MicroRow]:
    """Model every published measurement."""
    programs = _programs()
    rows = []
    for given in json.loads(DATA.read_text(encoding="utf-8"))["rows"]:
        name = given["id"]
        why = NOT_MODELLED.get(name, "") or DIFFERENT.get(name, "")
        rows.append(
            MicroRow(
                id=name,
                target=given["target"],
                published=given["published"],
                status=given["status"],
                source=given["source"],
                low_ns=given["low_ns"],
                high_ns=given["high_ns"],
                modelled_ns=None if name in NOT_MODELLED else programs[name](),
                why=why,
            )
        )
    return rows
