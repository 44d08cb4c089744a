"""VectorE, shuffle: whole partitions moved within their quadrant of 32."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import elementwise_cost, same_dtype, written
from nkiconv.simulate.errors import ShapeError, UninitializedReadError
from nkiconv.simulate.sheet import (
    ON_CHIP,
    START_PARTITIONS,
    Call,
    Fetch,
    Operand,
    Role,
    Rule,
    estimate,
    free_elems,
    instruction,
    isa,
    partitions,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_KEEP = 255
"""Entry of a shuffle mask that leaves its partition alone (isa nc_stream_shuffle)."""


def _mask_form(call: Call) -> bool:
    mask, size = call["shuffle_mask"], call.hw.quadrant_partitions
    return (
        isinstance(mask, (list, tuple))
        and len(mask) == size
        and all(
            isinstance(m, (int, np.integer))
            and not isinstance(m, bool)
            and (0 <= m < size or m == _KEEP)
            for m in mask
        )
    )


def _sources(call: Call) -> list[int]:
    """Return for each partition of dst the partition of src that it gets, -1 for none."""
    mask, size = call["shuffle_mask"], call.hw.quadrant_partitions
    return [
        -1 if mask[p % size] == _KEEP else p // size * size + int(mask[p % size])
        for p in range(partitions(call["dst"]))
    ]


def _start(tensor: NkiTensor) -> int:
    return tensor._region()[2]


def _starts_allowed(call: Call) -> bool:
    most = max(partitions(call["src"]), partitions(call["dst"]))
    allowed = next(starts for limit, starts in START_PARTITIONS if most <= limit)
    return _start(call["src"]) in allowed and _start(call["dst"]) in allowed


def _keeps_written_partitions(call: Call) -> bool:
    dst = call["dst"]
    return all(written(dst[p : p + 1]) for p, s in enumerate(_sources(call)) if s < 0)


def _shuffle_sources(call: Call) -> None:
    call.also_read = ("dst",)
    call.extra = {"_sources": np.array(_sources(call))}


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE, fetch=Fetch.RAW),
        "src": Operand(ON_CHIP, fetch=Fetch.RAW),
    },
    rules=(
        same_dtype("dst", "src", "nc_stream_shuffle"),
        Rule(
            "dst must have as many elements per partition as src",
            lambda c: free_elems(c["dst"]) == free_elems(c["src"]),
            isa("nc_stream_shuffle"),
            error=ShapeError,
            code="same_free_size",
        ),
        Rule(
            "the larger of src and dst decides where both may start: 0, 32, 64, 96 up to 32 "
            "partitions, 0, 64 up to 64, else 0",
            _starts_allowed,
            isa("nc_stream_shuffle"),
            shows=lambda c: (
                f"src of {partitions(c['src'])} partitions from {_start(c['src'])}, dst of "
                f"{partitions(c['dst'])} from {_start(c['dst'])}"
            ),
        ),
        Rule(
            "shuffle_mask must be a list of 32 integers, each 0 to 31 or 255",
            _mask_form,
            isa("nc_stream_shuffle"),
            shows=lambda c: f"{c['shuffle_mask']!r}",
        ),
        Rule(
            "shuffle_mask must select partitions within src",
            lambda c: max(_sources(c)) < partitions(c["src"]),
            isa("nc_stream_shuffle"),
            shows=lambda c: f"partition {max(_sources(c))} of {c['src']!r}",
            code="mask_sources",
        ),
        Rule(
            "partitions that the mask leaves alone (255) must have been written before",
            _keeps_written_partitions,
            isa("nc_stream_shuffle"),
            error=UninitializedReadError,
            dynamic=True,
        ),
    ),
    prepare=_shuffle_sources,
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(
        isa("nc_stream_shuffle"),
        estimate("nc_stream_shuffle"),
    ),
)
def nc_stream_shuffle(
    dst: Any, src: Any, shuffle_mask: Any, name: Any = None, *, _sources: Any = None
) -> Array:
    """``dst[q, i] = src[q, shuffle_mask[i]]`` in each quadrant q of 32 partitions; 255 keeps dst.

    Shapes
    ------
    src (P1, F)   dst (P2, F)   shuffle_mask 32 integers
    """
    moved = src.reshape(src.shape[0], -1)[np.maximum(_sources, 0)]
    kept = dst.reshape(dst.shape[0], -1)
    result: Array = np.where((_sources < 0)[:, None], kept, moved)
    return result
