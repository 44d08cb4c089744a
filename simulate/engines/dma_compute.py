"""DMA that adds up on its way, also onto rows that an index gathers or scatters."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._dma import (
    VECTOR_GENERATION,
    count,
    dma_cost,
    offset_of,
    one_index_each,
    skip_rules,
    transfer_ns,
    vectors,
)
from nkiconv.simulate.enums import oob_mode
from nkiconv.simulate.errors import ShapeError
from nkiconv.simulate.indirect import VectorOffset
from nkiconv.simulate.ops import OPS
from nkiconv.simulate.sheet import (
    OFF_PSUM,
    Call,
    Cost,
    Operand,
    Role,
    Rule,
    assumed,
    instruction,
    isa,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_MOST_SOURCES = 16
"""Tensors that dma_compute adds up (isa dma_compute)."""

_UPDATE = isa("dma_compute") + ", Read-Modify-Write with vector_offset"


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
    return dma_cost(call, sum(share for share, _ in each_ns), sum(alone for _, alone in each_ns))


def _place(tensor: NkiTensor) -> tuple[object, ...]:
    return (tensor._storage, tensor.dtype, tensor.shape, tensor.strides, tensor.offset)


def _same(first: NkiTensor, second: NkiTensor) -> bool:
    """Whether two views name the same elements, by the same indices."""
    a, b = offset_of(first), offset_of(second)
    if _place(first) != _place(second) or type(a) is not type(b):
        return False
    if isinstance(a, VectorOffset) and isinstance(b, VectorOffset):
        return a.limit == b.limit and _place(a.index) == _place(b.index)
    return True


def _updates(call: Call) -> bool:
    """Whether a call with vector offsets is ``dst[i] += src`` or ``dst += src[i]``."""
    if not any(vectors(call)):
        return True
    dst, srcs = call["dst"], call["srcs"]
    if len(srcs) != 2:
        return False
    for same, other in (srcs, reversed(srcs)):
        if not _same(dst, same):
            continue
        scattered = isinstance(offset_of(dst), VectorOffset)
        if scattered and offset_of(other) is None and other._storage.space == "sbuf":
            return True
        gathered = isinstance(offset_of(other), VectorOffset)
        if not scattered and gathered and dst._storage.space == "sbuf":
            return True
    return False


@instruction(
    lane=_compute_ring,
    operands={
        "dst": Operand(OFF_PSUM, Role.WRITE, offsets=frozenset({"vector"})),
        "srcs": Operand(OFF_PSUM, most=_MOST_SOURCES, offsets=frozenset({"vector"})),
    },
    rules=(
        Rule(
            "reduce_op must be nl.add",
            lambda c: c["reduce_op"] is OPS["add"],
            isa("dma_compute"),
            shows=lambda c: f"{c['reduce_op']!r}",
            code="reduce_op_choice",
        ),
        Rule(
            "scales must be None, or 1.0 for each of srcs",
            _no_scaling,
            isa("dma_compute"),
            shows=lambda c: f"{c['scales']!r} for {len(c['srcs'])}",
        ),
        Rule(
            "dst and each of srcs must have the same number of elements",
            lambda c: all(src.size == c["dst"].size for src in c["srcs"]),
            isa("dma_compute"),
            error=ShapeError,
            code="same_size",
        ),
        Rule(
            "unique_indices must be True; others are not supported yet",
            lambda c: c["unique_indices"] is True,
            isa("dma_compute"),
            shows=lambda c: f"unique_indices={c['unique_indices']!r}",
            code="unique_indices",
        ),
        *skip_rules("dma_compute"),
        VECTOR_GENERATION,
        one_index_each("dma_compute"),
        Rule(
            "with a vector offset srcs must be two: one the same view as dst, and either that in "
            "HBM with the offset and the other in SBUF, or that in SBUF and the other in HBM with "
            "the offset",
            _updates,
            _UPDATE,
        ),
    ),
    count=count,
    carries=lambda mask: mask,
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
