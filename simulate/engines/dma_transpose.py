"""DMA transposes: of a tile as it lies, and of rows that an index gathers.

The last dimension of ``src`` has at most 128 elements because ``dst`` has so many partitions.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from nkiconv.simulate.demand import Descriptors
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import same_dtype
from nkiconv.simulate.engines._dma import (
    MODES,
    VECTOR_GENERATION,
    count,
    dma_cost,
    generation,
    mode_rules,
    priority_rules,
    ring,
    skip_rules,
    software_rule,
    transfer_ns,
    vectors,
)
from nkiconv.simulate.enums import dge_mode, oob_mode
from nkiconv.simulate.errors import DtypeError, ShapeError
from nkiconv.simulate.sheet import (
    OFF_PSUM,
    SBUF,
    Call,
    Cost,
    Fetch,
    Operand,
    Role,
    Rule,
    arch,
    assumed,
    instruction,
    isa,
)

_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}
_DIRECT = isa("dma_transpose") + ", DMA Direct Transpose Constraints"
_INDIRECT = isa("dma_transpose") + ", DMA Indirect Transpose Constraints"

_ROWS = (1, 2, 4, 8, 16)
"""Sizes of the first dimension that hardware descriptors take (isa dma_transpose)."""

_MULTIPLE = 16
_MOST_LANES = 128


def _axes_fit(call: Call) -> bool:
    order = _AXES.get(call["src"].ndim)
    wish = call["axes"]
    if wish is None:
        return order is not None
    return isinstance(wish, (tuple, list)) and tuple(wish) == order


def _transposed_shape(call: Call) -> bool:
    src = call["src"]
    return bool(call["dst"].shape == tuple(src.shape[a] for a in _AXES[src.ndim]))


def _turned(values: Array) -> Array:
    return np.ascontiguousarray(np.transpose(values, _AXES[values.ndim]))


def _cost(call: Call) -> Cost:
    hw = call.hw
    src = call["src"]
    by = generation(call)
    if hw.generation < 3 or by is Descriptors.STATIC:
        # No block that transposes: a descriptor for each element.
        share_ns = src.size * hw.dma_element_ns / hw.dma_engines
    else:
        # Blocks of all partitions and 16 elements, full or not.
        columns = src.size // src.shape[-1]
        padded = ceil(columns / hw.dma_transpose_elems) * hw.dma_transpose_elems * hw.partitions
        on_chip = src._storage.space == "sbuf"
        share = hw.dma_transpose_sbuf_share if on_chip else hw.dma_transpose_hbm_share
        share_ns = padded * src._element.itemsize / hw.dma_aggregate_bytes_per_ns / share
    if by is Descriptors.SOFTWARE:
        share_ns = max(share_ns, transfer_ns(hw, src, src)[0])  # at least a descriptor a row
    share_ns += hw.dma_transfer_ns
    return dma_cost(call, share_ns, hw.dma_fill_ns + share_ns)


def _by_hardware(call: Call) -> bool:
    return call["dge_mode"] is dge_mode.hwdge


def _hardware_rows(call: Call) -> bool:
    shape = call["src"].shape
    if len(shape) == 2:
        return bool(shape[0] == _MULTIPLE)
    return shape[0] in _ROWS and shape[0] * shape[-2] % _MULTIPLE == 0


def _lanes_fit(call: Call) -> bool:
    for _, _, offset in vectors(call):
        lanes, columns = offset.index.shape
        if lanes % _MULTIPLE or not _MULTIPLE <= lanes <= _MOST_LANES:
            return False
        if columns > 1 and lanes != _MOST_LANES:
            return False
    return True


def _shows_indices(call: Call) -> str:
    return ", ".join(f"{offset.index!r} for {src!r}" for _, src, offset in vectors(call))


def _gathers(call: Call) -> bool:
    return any(vectors(call))


_GATHER_RULES = (
    Rule(
        "a gather transpose takes elements of 2 bytes",
        lambda c: not _gathers(c) or c["src"]._element.itemsize == 2,
        _INDIRECT,
        error=DtypeError,
        code="gather_two_bytes",
    ),
    Rule(
        "a gather transpose takes a first dimension of src that is a multiple of 16",
        lambda c: not _gathers(c) or c["src"].shape[0] % _MULTIPLE == 0,
        _INDIRECT,
        error=ShapeError,
        code="gather_first_dimension",
    ),
    Rule(
        "dimension 1 or 2 of the four of src must have size 1 in a gather transpose",
        lambda c: not _gathers(c) or c["src"].ndim != 4 or 1 in c["src"].shape[1:3],
        _INDIRECT,
        error=ShapeError,
        code="gather_dimension_of_one",
    ),
    Rule(
        "the indices of a gather transpose must be uint32",
        lambda c: all(offset.index.dtype == "uint32" for _, _, offset in vectors(c)),
        _INDIRECT,
        shows=_shows_indices,
        error=DtypeError,
        code="gather_index_dtype",
    ),
    Rule(
        "the indices of a gather transpose must have 16 to 128 partitions, a multiple of 16, and "
        "all 128 where they have several columns",
        _lanes_fit,
        _INDIRECT,
        shows=_shows_indices,
        error=ShapeError,
        code="gather_index_shape",
    ),
    Rule(
        "a gather transpose needs at least as many indices as src has rows",
        lambda c: all(offset.index.size >= src.shape[0] for _, src, offset in vectors(c)),
        _INDIRECT,
        shows=_shows_indices,
        error=ShapeError,
        code="gather_enough_indices",
    ),
)


@instruction(
    lane=ring,
    operands={
        "dst": Operand(SBUF, Role.WRITE, fetch=Fetch.RAW),
        "src": Operand(OFF_PSUM, fetch=Fetch.RAW, offsets=frozenset({"scalar", "vector"})),
    },
    rules=(
        Rule(
            "axes must be (1, 0), (2, 1, 0) or (3, 1, 2, 0) for 2, 3 or 4 dimensions",
            _axes_fit,
            isa("dma_transpose"),
            shows=lambda c: f"axes={c['axes']!r} of {c['src']!r}",
            error=ShapeError,
        ),
        same_dtype("dst", "src", "dma_transpose"),
        Rule(
            "elements must have 2 or 4 bytes",
            lambda c: c["src"]._element.itemsize in (2, 4),
            "NeuronCore-v3 architecture guide, DMA Transpose",
            error=DtypeError,
            code="item_size",
        ),
        Rule(
            "dst must have the transposed shape of src, of the same rank",
            _transposed_shape,
            isa("dma_transpose") + ", and NKI 0.4.0 release notes",
            error=ShapeError,
        ),
        *priority_rules("dma_transpose"),
        *mode_rules("dma_transpose"),
        *skip_rules("dma_transpose"),
        VECTOR_GENERATION,
        software_rule("dma_transpose"),
        Rule(
            "dge_mode.swdge transposes rows that a vector offset gathers only",
            lambda c: c["dge_mode"] is not dge_mode.swdge or _gathers(c),
            _DIRECT,
            shows=lambda c: f"dge_mode={c['dge_mode']!r} for {c['src']!r}",
            code="swdge_gathers_only",
        ),
        Rule(
            "dge_mode.hwdge transposes elements of 2 bytes",
            lambda c: not _by_hardware(c) or c["src"]._element.itemsize == 2,
            _DIRECT,
            error=DtypeError,
            code="hwdge_two_bytes",
        ),
        Rule(
            "dge_mode.hwdge takes 16 rows of a src of two dimensions; of more, 1, 2, 4, 8 or 16 "
            "whose product with the last size but one is a multiple of 16",
            lambda c: not _by_hardware(c) or _hardware_rows(c),
            _DIRECT,
            error=ShapeError,
            code="hwdge_rows",
        ),
        *_GATHER_RULES,
    ),
    count=count,
    carries=_turned,
    cost=_cost,
    sources=(
        isa("dma_transpose"),
        MODES,
        arch("NeuronCore-v3, DMA Transpose"),
        assumed("trn1 and static descriptors: element by element, as trn2 profiles of 2025 show"),
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
    """``dst = src`` with its axes in the order (1, 0), (2, 1, 0) or (3, 1, 2, 0).

    A vector offset on ``src`` gathers the rows first; indices of several columns are taken column
    by column.
    """
    return _turned(src)
