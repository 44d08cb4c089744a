"""DMA: moving data between HBM and SBUF by descriptors.

A transfer is cut into descriptors, each a run of bytes that is contiguous on both sides; sixteen
engines work on them side by side.  Short runs are what makes transfers slow.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import fetch_unless_cast
from nkiconv.simulate.enums import dge_mode, engine, oob_mode
from nkiconv.simulate.errors import DtypeError, ShapeError
from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.ops import OPS
from nkiconv.simulate.sheet import (
    OFF_PSUM,
    SBUF,
    Call,
    Cost,
    Fetch,
    Operand,
    Role,
    Rule,
    assumed,
    instruction,
    isa,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_SPLIT_BYTES = 2048
"""Runs longer than this may be shared out between idle DMA engines; the guide advises 2 KiB."""

_ELEMENT_BYTES = 4
"""Runs of at most a word cost as strided elements do (published trn2 profiles)."""

_ONLY = {
    "priority": (None, "DMA priorities exist on trn3 only and are not modelled yet"),
    "dge_mode": (dge_mode.unknown, "the choice of descriptor generation is not modelled yet"),
    "oob_mode": (oob_mode.error, "skip is for run-time addresses, which are not modelled yet"),
}


def _ring(call: Call) -> Lane:
    source, target = call["src"]._storage.space, call["dst"]._storage.space
    if source == target:
        return Lane.DMA_LOCAL
    return Lane.DMA_LOAD if source == "hbm" else Lane.DMA_STORE


def run_elements(tensor: NkiTensor) -> int:
    """Return the elements that are contiguous in memory; a run cannot cross partitions."""
    elems = 1
    first = 1 if tensor._on_chip else 0
    for size, stride in zip(
        reversed(tensor.shape[first:]), reversed(tensor.strides[first:]), strict=True
    ):
        if size == 1:
            continue
        if stride != elems:
            break
        elems *= size
    return elems


def transfer_ns(hw: Hardware, src: NkiTensor, dst: NkiTensor) -> float:
    """Return how long the sixteen engines work on a transfer."""
    run_elems = min(run_elements(src), run_elements(dst))
    item_bytes = max(src._element.itemsize, dst._element.itemsize)
    total, run = src.size * item_bytes, run_elems * item_bytes
    descriptors = ceil(src.size / run_elems)
    if descriptors < hw.dma_engines and run > _SPLIT_BYTES:
        pieces = min(hw.dma_engines // descriptors, ceil(run / _SPLIT_BYTES))
        descriptors, run = descriptors * pieces, max(_SPLIT_BYTES, ceil(run / pieces))
    each_ns = max(hw.dma_shortest_ns, hw.dma_descriptor_ns + run / hw.dma_bytes_per_ns)
    if run <= _ELEMENT_BYTES:
        each_ns = hw.dma_element_ns
    engines_ns = ceil(descriptors / hw.dma_engines) * each_ns
    touches_hbm = "hbm" in (src._storage.space, dst._storage.space)
    return max(float(engines_ns), total / hw.hbm_bytes_per_ns if touches_hbm else 0.0)


def _copy_cost(call: Call) -> Cost:
    busy = round(transfer_ns(call.hw, call["src"], call["dst"]) * 1000)
    return Cost(busy, busy)


def _transpose_cost(call: Call) -> Cost:
    hw = call.hw
    src = call["src"]
    rate = hw.dma_engines * hw.dma_bytes_per_ns * hw.dma_transpose_share
    busy = round(src.size * src._element.itemsize / rate * 1000)
    return Cost(busy, busy)


def _count(call: Call) -> None:
    program = call.program
    program.dma_transfers += 1
    for _, operand, src in call.tensors():
        if operand.role is Role.READ and src._storage.space == "hbm":
            read = src.size * src._element.itemsize
            program.hbm_read_bytes += read
            program.hbm_read_bytes_by_tensor[src.name or src._storage.describe()] += read
    dst = call["dst"]
    if dst._storage.space == "hbm":
        program.hbm_write_bytes += dst.size * dst._element.itemsize


@instruction(
    lane=_ring,
    operands={
        "dst": Operand(OFF_PSUM, Role.WRITE),
        "src": Operand(OFF_PSUM, fetch=fetch_unless_cast("src")),
    },
    rules=(
        Rule(
            "dst and src must have the same number of elements",
            lambda c: c["dst"].size == c["src"].size,
            isa("dma_copy"),
            error=ShapeError,
            code="same_size",
        ),
    ),
    only={
        **_ONLY,
        "engine": (engine.unknown, "an engine goes with dge_mode.hwdge, which is not modelled yet"),
    },
    count=_count,
    cost=_copy_cost,
    sources=(isa("dma_copy"), "NKI DMA bandwidth guide"),
)
def dma_copy(
    dst: Any,
    src: Any,
    priority: Any = None,
    oob_mode: Any = oob_mode.error,
    dge_mode: Any = dge_mode.unknown,
    engine: Any = engine.unknown,
    name: Any = None,
) -> Array:
    """``dst = src`` between HBM and SBUF, element by element in row-major order of both.

    Different dtypes convert through float32.
    """
    copied: Array = src
    return copied


_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}


def _axes_fit(call: Call) -> bool:
    order = _AXES.get(call["src"].ndim)
    wish = call["axes"]
    if wish is None:
        return order is not None
    return isinstance(wish, (tuple, list)) and tuple(wish) == order


def _transposed_shape(call: Call) -> bool:
    src = call["src"]
    return bool(call["dst"].shape == tuple(src.shape[a] for a in _AXES[src.ndim]))


@instruction(
    lane=_ring,
    operands={
        "dst": Operand(SBUF, Role.WRITE, fetch=Fetch.RAW),
        "src": Operand(OFF_PSUM, fetch=Fetch.RAW),
    },
    rules=(
        Rule(
            "axes must be (1, 0), (2, 1, 0) or (3, 1, 2, 0) for 2, 3 or 4 dimensions",
            _axes_fit,
            isa("dma_transpose"),
            shows=lambda c: f"axes={c['axes']!r} of {c['src']!r}",
            error=ShapeError,
            code="axes",
        ),
        Rule(
            "dst must have the dtype of src",
            lambda c: c["dst"].dtype == c["src"].dtype,
            isa("dma_transpose"),
            error=DtypeError,
            code="same_dtype",
        ),
        Rule(
            "elements must have 2 or 4 bytes",
            lambda c: c["src"]._element.itemsize in (2, 4),
            "NeuronCore-v3 architecture guide, DMA Transpose",
            error=DtypeError,
            code="item_size",
        ),
        Rule(
            "dst must have the transposed shape of src",
            _transposed_shape,
            isa("dma_transpose"),
            error=ShapeError,
        ),
    ),
    only=_ONLY,
    count=_count,
    cost=_transpose_cost,
    sources=(
        isa("dma_transpose"),
        assumed("half of the DMA rate: documented for SBUF to SBUF, up to 0.9 from HBM"),
    ),
)
def dma_transpose(
    dst: Any,
    src: Any,
    axes: Any = None,
    priority: Any = None,
    dge_mode: Any = dge_mode.unknown,
    oob_mode: Any = oob_mode.error,
    name: Any = None,
) -> Array:
    """``dst = src`` with its axes in the order (1, 0), (2, 1, 0) or (3, 1, 2, 0)."""
    return np.ascontiguousarray(np.transpose(src, _AXES[src.ndim]))


_MOST_SOURCES = 16
"""Tensors that dma_compute adds up (isa dma_compute)."""


def _compute_ring(call: Call) -> Lane:
    target = call["dst"]._storage.space
    if all(src._storage.space == target for src in call["srcs"]):
        return Lane.DMA_LOCAL
    return Lane.DMA_LOAD if target == "sbuf" else Lane.DMA_STORE


def _no_scaling(call: Call) -> bool:
    scales = call["scales"]
    return scales is None or (
        isinstance(scales, (list, tuple))
        and len(scales) == len(call["srcs"])
        and all(type(s) in (int, float) and s == 1 for s in scales)
    )


def _compute_cost(call: Call) -> Cost:
    each_ns = [transfer_ns(call.hw, src, call["dst"]) for src in call["srcs"]]
    busy = round(sum(each_ns) * 1000)
    return Cost(busy, busy)


@instruction(
    lane=_compute_ring,
    operands={
        "dst": Operand(OFF_PSUM, Role.WRITE),
        "srcs": Operand(OFF_PSUM, most=_MOST_SOURCES),
    },
    rules=(
        Rule(
            "reduce_op must be nl.add",
            lambda c: c["reduce_op"] is OPS["add"],
            isa("dma_compute"),
            shows=lambda c: f"{c['reduce_op']!r}",
            code="reduce_op_add",
        ),
        Rule(
            "scales must be None, or 1.0 for each of srcs",
            _no_scaling,
            isa("dma_compute"),
            shows=lambda c: f"{c['scales']!r} for {len(c['srcs'])}",
            code="scales",
        ),
        Rule(
            "dst and each of srcs must have the same number of elements",
            lambda c: all(src.size == c["dst"].size for src in c["srcs"]),
            isa("dma_compute"),
            error=ShapeError,
            code="same_size",
        ),
    ),
    only={
        "unique_indices": (True, "indices are for vector offsets, which are not modelled yet"),
        "oob_mode": _ONLY["oob_mode"],
    },
    count=_count,
    cost=_compute_cost,
    sources=(
        isa("dma_compute"),
        assumed("as long as copying each source to dst, one after another; no public figure"),
    ),
)
def dma_compute(
    dst: Any,
    srcs: Any,
    reduce_op: Any,
    scales: Any = None,
    unique_indices: Any = True,
    oob_mode: Any = oob_mode.error,
    name: Any = None,
) -> Array:
    """``dst = srcs[0] + srcs[1] + ...`` in float32, element by element in row-major order of each.

    Shapes
    ------
    srcs one to 16 tensors, dst one; all with the same number of elements, in HBM or SBUF
    """
    total = np.array(srcs[0], dtype=np.float32).reshape(-1)
    for values in srcs[1:]:
        total += values.reshape(-1)
    return total
