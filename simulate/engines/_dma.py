"""What the DMA instructions share: rings, descriptors, their cost, and who may generate them.

A transfer is cut into descriptors, each a run of bytes that is contiguous on both sides; sixteen
engines work on them side by side, each for the partitions that it belongs to.  Short runs and few
partitions are what makes transfers slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from nkiconv.simulate.demand import Descriptors
from nkiconv.simulate.enums import dge_mode, engine, oob_mode
from nkiconv.simulate.errors import ShapeError
from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.indirect import IndirectTensor, ScalarOffset, VectorOffset
from nkiconv.simulate.sheet import Call, Cost, Role, Rule, isa
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_SPLIT_BYTES = 2048
"""Runs longer than this may be shared out between idle DMA engines; the guide advises 2 KiB."""

_ELEMENT_BYTES = 4
"""Runs of at most a word cost as strided elements do (published trn2 profiles)."""

MODES = "descriptor generation deep dive"
_GUIDE = "migration guide of NKI 0.3.0: no integers where an enumeration is expected"
_PRIORITIES = (None, 0, 1, 2, 3)


def ring(call: Call) -> Lane:
    """Return the ring of a transfer from ``src`` to ``dst``."""
    source, target = call["src"]._storage.space, call["dst"]._storage.space
    if source == target:
        return Lane.DMA_LOCAL
    return Lane.DMA_LOAD if source == "hbm" else Lane.DMA_STORE


def offset_of(tensor: NkiTensor) -> ScalarOffset | VectorOffset | None:
    """Return the offset of run time of an operand, or None."""
    if isinstance(tensor, IndirectTensor):
        runtime = tensor._runtime
        if isinstance(runtime, (ScalarOffset, VectorOffset)):
            return runtime
    return None


def vectors(call: Call) -> Iterator[tuple[str, NkiTensor, VectorOffset]]:
    """Yield the operands that have an index for each row."""
    for name, _, tensor in call.tensors():
        runtime = offset_of(tensor)
        if isinstance(runtime, VectorOffset):
            yield name, tensor, runtime


def run_elements(tensor: NkiTensor) -> int:
    """Return the elements that are contiguous in memory.

    A run cannot cross partitions, nor rows that have an index each.
    """
    elems = 1
    first = 1 if tensor._on_chip or isinstance(offset_of(tensor), VectorOffset) else 0
    for size, stride in zip(
        reversed(tensor.shape[first:]), reversed(tensor.strides[first:]), strict=True
    ):
        if size == 1:
            continue
        if stride != elems:
            break
        elems *= size
    return elems


def generation(call: Call) -> Descriptors:
    """Return who generates the descriptors; for ``dge_mode.unknown`` what a compiler would choose.

    Nothing says what it chooses.  Kernels of 2025 on trn2 issue one transfer after the other, as
    slowly as one block of hardware generates; profiles of 2026 have transfers of SyncE, ScalarE and
    GpSimdE side by side.  Those on trn1 issue as fast as static rings, where addresses are known.
    """
    wish = call.args.get("dge_mode", dge_mode.unknown)
    if wish is dge_mode.none:
        return Descriptors.STATIC
    if wish is dge_mode.swdge:
        return Descriptors.SOFTWARE
    if wish is dge_mode.hwdge:
        by_scalar = call.args.get("engine") is engine.scalar
        return Descriptors.HARDWARE_SCALAR if by_scalar else Descriptors.HARDWARE
    if any(vectors(call)):
        return Descriptors.SOFTWARE
    if call.hw.generation < 3:
        known = all(offset_of(tensor) is None for _, _, tensor in call.tensors())
        return Descriptors.STATIC if known else Descriptors.SOFTWARE
    casts = len({tensor.dtype for _, _, tensor in call.tensors()}) > 1
    return Descriptors.SOFTWARE if casts else Descriptors.HARDWARE_EITHER


def _engines(hw: Hardware, tensor: NkiTensor) -> float:
    """Return how many DMA engines could share a tensor evenly as one serves its partitions.

    Each serves eight partitions, so that nine of them take as long as sixteen.
    """
    if not tensor._on_chip:
        return hw.dma_engines
    return max(1.0, tensor.shape[0] / hw.dma_engine_partitions)


def transfer_ns(hw: Hardware, src: NkiTensor, dst: NkiTensor) -> tuple[float, float]:
    """Return what share of all DMA engines' time a transfer takes, and how long it takes alone."""
    run_elems = min(run_elements(src), run_elements(dst))
    item_bytes = max(src._element.itemsize, dst._element.itemsize)
    total, run = src.size * item_bytes, run_elems * item_bytes
    engines = min(_engines(hw, src), _engines(hw, dst))
    descriptors = ceil(src.size / run_elems)
    if not (src._on_chip or dst._on_chip) and descriptors < engines and run > _SPLIT_BYTES:
        pieces = min(hw.dma_engines // descriptors, ceil(run / _SPLIT_BYTES))
        descriptors, run = descriptors * pieces, max(_SPLIT_BYTES, ceil(run / pieces))
    moved = run if dst._on_chip else max(run, hw.dma_hbm_write_bytes)
    each_ns = max(hw.dma_shortest_ns, hw.dma_descriptor_ns + moved / hw.dma_bytes_per_ns)
    if run <= _ELEMENT_BYTES:
        each_ns = hw.dma_element_ns
    hbm_bytes = sum(t.size * t._element.itemsize for t in (src, dst) if not t._on_chip)
    share_ns = max(
        hw.dma_transfer_ns + descriptors * each_ns / hw.dma_engines,
        hbm_bytes / hw.hbm_bytes_per_ns,
        total / hw.dma_aggregate_bytes_per_ns,
    )
    alone_ns = hw.dma_fill_ns + hw.dma_transfer_ns + ceil(descriptors / engines) * each_ns
    return share_ns, max(alone_ns, share_ns)


def dma_cost(call: Call, share_ns: float, alone_ns: float) -> Cost:
    """Return the cost of a transfer: all engines' time, its own, and who generates descriptors."""
    return Cost(round(share_ns * 1000), round(alone_ns * 1000), int(generation(call)))


def count(call: Call) -> None:
    """Add a transfer and its traffic at HBM to the program's counters."""
    program = call.program
    program.dma_transfers += 1
    moved = 0
    for _, operand, src in call.tensors():
        if operand.role is Role.READ and src._storage.space == "hbm":
            read = src.size * src._element.itemsize
            program.hbm_read_bytes += read
            moved += read
            program.hbm_read_bytes_by_tensor[src.name or src._storage.describe()] += read
    dst = call["dst"]
    if dst._storage.space == "hbm":
        written = dst.size * dst._element.itemsize
        program.hbm_write_bytes += written
        moved += written
    if moved:
        program.trace.note_hbm(moved)


# Rules of several instructions.


def _known_priority(call: Call) -> bool:
    wish = call["priority"]
    return wish is None or (type(wish) is int and wish in _PRIORITIES)


def priority_rules(page: str) -> tuple[Rule, ...]:
    """Return what ``priority=`` must satisfy."""
    return (
        Rule(
            "priority must be None or a whole number from 0 to 3",
            _known_priority,
            isa(page),
            shows=lambda c: f"priority={c['priority']!r}",
        ),
        Rule(
            "priority needs trn3",
            lambda c: c["priority"] is None or c.hw.generation >= 4,
            isa(page),
            shows=lambda c: f"priority={c['priority']!r} on {c.hw.target}",
            code="priority_generation",
        ),
    )


def mode_rules(page: str) -> tuple[Rule, ...]:
    """Return what ``dge_mode=`` must satisfy, whatever is transferred."""
    return (
        Rule(
            "dge_mode must be a member of nki.isa.dge_mode",
            lambda c: isinstance(c["dge_mode"], dge_mode),
            _GUIDE,
            shows=lambda c: f"dge_mode={c['dge_mode']!r}",
            code="dge_mode",
        ),
        Rule(
            "dge_mode.hwdge needs trn2 or trn3",
            lambda c: c["dge_mode"] is not dge_mode.hwdge or c.hw.generation >= 3,
            isa(page),
            shows=lambda c: f"dge_mode={c['dge_mode']!r} on {c.hw.target}",
            code="hwdge_generation",
        ),
        Rule(
            "dge_mode.none cannot handle addresses of run time",
            lambda c: (
                c["dge_mode"] is not dge_mode.none
                or all(offset_of(tensor) is None for _, _, tensor in c.tensors())
            ),
            MODES,
            code="none_with_address",
        ),
    )


def skip_rules(page: str) -> tuple[Rule, ...]:
    """Return what ``oob_mode=`` must satisfy.

    Skipping needs an address of run time, but for `dma_copy`: its page does not ask for one, and
    the vendor's kernels skip in copies that can have none out of bounds.
    """
    named = Rule(
        "oob_mode must be a member of nki.isa.oob_mode",
        lambda c: isinstance(c["oob_mode"], oob_mode),
        _GUIDE,
        shows=lambda c: f"oob_mode={c['oob_mode']!r}",
        code="oob_mode",
    )
    dynamic = Rule(
        "oob_mode.skip needs an operand with an address of run time",
        lambda c: (
            c["oob_mode"] is not oob_mode.skip
            or any(offset_of(tensor) is not None for _, _, tensor in c.tensors())
        ),
        isa(page),
        code="skip_without_address",
    )
    return (named,) if page == "dma_copy" else (named, dynamic)


VECTOR_GENERATION = Rule(
    "a vector offset needs trn2 or trn3",
    lambda c: c.hw.generation >= 3 or not any(vectors(c)),
    f"{MODES}, Mode Selection Summary",
    code="vector_offset_generation",
)


def software_rule(page: str) -> Rule:
    """Require GpSimdE to generate the descriptors of a gather or scatter."""
    return Rule(
        "a vector offset takes dge_mode.swdge or dge_mode.unknown",
        lambda c: c["dge_mode"] in (dge_mode.swdge, dge_mode.unknown) or not any(vectors(c)),
        isa(page),
        shows=lambda c: f"dge_mode={c['dge_mode']!r}",
        code="vector_offset_by_software",
    )


def one_index_each(page: str) -> Rule:
    """Require an index tensor of shape (rows, 1)."""
    return Rule(
        "the indices of a vector offset must have the shape (P, 1), P being the size of the first "
        "dimension that they index",
        lambda c: all(o.index.shape == (t.shape[0], 1) for _, t, o in vectors(c)),
        isa(page),
        shows=lambda c: ", ".join(f"{o.index!r} for {name} {t!r}" for name, t, o in vectors(c)),
        error=ShapeError,
        code="vector_offset_shape",
    )
