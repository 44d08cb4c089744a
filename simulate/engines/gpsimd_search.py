"""GpSimdE's searches: where segments begin and end, and which elements are not zero.

`topk` is not here: NKI 0.6.0 does not say how its results are laid out over the sixteen partitions
that share one input.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import (
    busy_until_done,
    elementwise_cost,
    needs,
    picoseconds,
    written,
)
from nkiconv.simulate.engines.gpsimd_gather import same_start
from nkiconv.simulate.engines.gpsimd_patterns import is_int32
from nkiconv.simulate.errors import ShapeError
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
    partitions,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_IDS = frozenset({"float32", "int32"})


def _are_ids(call: Call) -> bool:
    ids = call["segment_ids"]
    if not written(ids):
        return True
    values = ids._array
    return bool(np.all((values >= 0) & (values == np.rint(values))))


def _bounds_shape(call: Call) -> bool:
    dst, ids = call["dst"], call["segment_ids"]
    return bool(dst.shape == (1, 2, free_elems(ids)))


@instruction(
    lane=Lane.GPSIMD,
    operands={
        "dst": Operand(SBUF, Role.WRITE, dtypes=_IDS),
        "segment_ids": Operand(SBUF, dtypes=_IDS, fetch=Fetch.RAW),
    },
    rules=(
        Rule(
            "segment_ids must have one partition",
            lambda c: partitions(c["segment_ids"]) == 1,
            isa("sequence_bounds"),
            error=ShapeError,
            code="one_partition",
        ),
        Rule(
            "dst must have the shape (1, 2, n) for n segment IDs",
            _bounds_shape,
            isa("sequence_bounds"),
            error=ShapeError,
        ),
        Rule(
            "segment IDs must be whole numbers, not below zero",
            _are_ids,
            isa("sequence_bounds"),
            shows=lambda c: f"{c['segment_ids']._array.min()} as the lowest of {c['segment_ids']}",
            dynamic=True,
            code="ids_whole",
        ),
    ),
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(
        isa("sequence_bounds"),
        assumed("a cycle for each of the 2n results; no public figure"),
    ),
)
def sequence_bounds(dst: Any, segment_ids: Any, name: Any = None) -> Array:
    """``dst[0, 0, i]``, ``dst[0, 1, i]`` = start and end of the run of equal IDs that holds i.

    The end is the first index after the run.  ID 0 is padding: its bounds are n and -1.
    """
    ids = segment_ids.reshape(-1)
    n = len(ids)
    edges = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    runs = np.searchsorted(edges, np.arange(n), side="right")
    bounds = np.stack([np.r_[0, edges][runs], np.r_[edges, n][runs]])
    bounds[:, ids == 0] = [[n], [-1]]
    # Indices are below 2^24: an SBUF partition is smaller.
    return bounds.astype(np.float32)


def _first_of_each_core(tensor: NkiTensor, call: Call) -> NkiTensor:
    """Return the part of a tensor in the first partition of each core (isa nonzero_with_count)."""
    lanes = call.hw.gpsimd_core_partitions
    count = -(-tensor.shape[0] // lanes)
    strides = (tensor.strides[0] * lanes, *tensor.strides[1:])
    return tensor._view((count, *tensor.shape[1:]), strides, tensor.offset)


def _nonzero_cost(call: Call) -> Cost:
    hw = call.hw
    elems = free_elems(call["src"])
    cycles = hw.gpsimd_issue_cycles + hw.nonzero_elem_cycles * elems + (elems + 1)
    busy = picoseconds(cycles, hw.gpsimd_ghz)
    return busy_until_done(busy, hw.vector_latency_ns)


@instruction(
    lane=Lane.GPSIMD,
    operands={
        "dst": Operand(SBUF, Role.WRITE, dtypes=frozenset({"int32"}), touches=_first_of_each_core),
        "src": Operand(SBUF, dtypes=_IDS, fetch=Fetch.RAW, touches=_first_of_each_core),
    },
    rules=(
        needs("nonzero_with_count", 3),
        Rule(
            "dst and src must have the same partitions, and dst one element more in each",
            lambda c: (
                partitions(c["dst"]) == partitions(c["src"])
                and free_elems(c["dst"]) == free_elems(c["src"]) + 1
            ),
            isa("nonzero_with_count"),
            error=ShapeError,
            code="dst_one_more",
        ),
        same_start("dst", "src"),
        Rule(
            "index_offset and padding_val must be int32 numbers known at compile time",
            lambda c: is_int32(c["index_offset"]) and is_int32(c["padding_val"]),
            isa("nonzero_with_count"),
            shows=lambda c: f"{c['index_offset']!r}, {c['padding_val']!r}",
            code="offset_int32",
        ),
        Rule(
            "the greatest index plus index_offset must be an int32",
            lambda c: is_int32(c["index_offset"] + free_elems(c["src"]) - 1),
            isa("nonzero_with_count"),
            shows=lambda c: f"{c['index_offset']!r} for {c['src']!r}",
            code="index_int32",
        ),
    ),
    cost=_nonzero_cost,
    sources=(
        isa("nonzero_with_count"),
        assumed("4 cycles an element and 1 a result, as the page of topk gives; none of its own"),
    ),
)
def nonzero_with_count(
    dst: Any, src: Any, index_offset: Any = 0, padding_val: Any = -1, name: Any = None
) -> Array:
    """``dst[p] = [indices where src[p] != 0, padding_val ..., their count]``, p = 0, 16, 32, ...

    Other partitions are neither read nor written.

    Shapes
    ------
    src (P, T) float32 or int32   dst (P, T + 1) int32
    """
    rows = src.reshape(len(src), -1)
    found = np.full((len(rows), rows.shape[1] + 1), padding_val, dtype=np.int32)
    for row, result in zip(rows, found, strict=True):
        (where,) = np.nonzero(row)
        result[: len(where)] = where + index_offset
        result[-1] = len(where)
    return found
