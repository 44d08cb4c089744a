"""VectorE, search: the eight largest values of a partition, where they are, and removing them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._accumulate import is_given
from nkiconv.simulate.engines._common import elementwise_cost, same_elements
from nkiconv.simulate.errors import ShapeError
from nkiconv.simulate.sheet import (
    ON_CHIP,
    Call,
    Operand,
    Role,
    Rule,
    assumed,
    estimate,
    free_elems,
    instruction,
    isa,
    partitions,
)
from nkiconv.simulate.trace import Lane

_EIGHT = 8
_INDICES = frozenset({"uint16", "uint32"})
_NOWHERE = -1
"""Index of a value that is not there; written to an unsigned type it is all ones."""


def _searchable(data: str, source: str) -> Rule:
    def holds(call: Call) -> bool:
        return (
            call.hw.search_min_elems <= free_elems(call[data]) <= call.hw.search_max_elems
            and call[data].ndim <= 3
        )

    return Rule(
        f"{data} must have at most 3 dimensions and 8 to 16384 elements per partition",
        holds,
        source,
        error=ShapeError,
        code="searchable",
    )


def _eight(data: str, *names: str) -> Rule:
    def holds(call: Call) -> bool:
        return all(
            partitions(call[n]) == partitions(call[data]) and free_elems(call[n]) == _EIGHT
            for n in names
            if is_given(call, n)
        )

    return Rule(
        f"{' and '.join(names)} must have the partitions of {data} and 8 elements each",
        holds,
        "NKI 0.6.0, page of the instruction",
        error=ShapeError,
        code="eight_elements",
    )


def _flat(page: str, dst: str) -> Rule:
    return Rule(
        f"{dst} must have two dimensions",
        lambda c: not is_given(c, dst) or c[dst].ndim == 2,
        isa(page),
        error=ShapeError,
        code="two_dimensions",
    )


@instruction(
    lane=Lane.VECTOR,
    operands={"dst": Operand(ON_CHIP, Role.WRITE), "src": Operand(ON_CHIP)},
    rules=(_searchable("src", isa("max8")), _eight("src", "dst"), _flat("max8", "dst")),
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(
        isa("max8"),
        estimate("max8"),
    ),
)
def max8(dst: Any, src: Any, name: Any = None) -> Array:
    """``dst`` = the 8 largest of each partition of `src`, in float32, largest first.

    Shapes
    ------
    src (P, F), F from 8 to 16384   dst (P, 8)
    """
    ascending: Array = np.sort(src.reshape(src.shape[0], -1), axis=1)
    return ascending[:, : -_EIGHT - 1 : -1]


def _vals_dimensions(page: str) -> Rule:
    return Rule(
        "vals must have at most 3 dimensions",
        lambda c: c["vals"].ndim <= 3,
        isa(page),
        error=ShapeError,
        code="vals_dimensions",
    )


def _find(data: Array, vals: Array, order: range) -> tuple[Array, Array]:
    """Pair each value, in `order`, with its first place that no value before it has taken.

    Returns
    -------
    places (P, 8), `_NOWHERE` where there is none left, and which elements were taken (P, F).
    """
    rows = np.arange(len(data))
    taken = np.zeros(data.shape, dtype=np.bool_)
    places = np.full((len(data), _EIGHT), _NOWHERE, dtype=np.int64)
    for i in order:
        free = (data == vals[:, i : i + 1]) & ~taken
        place, found = free.argmax(axis=1), free.any(axis=1)
        taken[rows[found], place[found]] = True
        places[found, i] = place[found]
    return places, taken


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE, dtypes=_INDICES),
        "data": Operand(ON_CHIP),
        "vals": Operand(ON_CHIP),
    },
    rules=(
        _searchable("data", isa("nc_find_index8")),
        _eight("data", "dst", "vals"),
        _flat("nc_find_index8", "dst"),
        _vals_dimensions("nc_find_index8"),
    ),
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(
        isa("nc_find_index8"),
        estimate("nc_find_index8"),
        "NKI 0.6.0 release notes: duplicates advance, unmatched slots are all ones",
    ),
)
def nc_find_index8(dst: Any, data: Any, vals: Any, name: Any = None) -> Array:
    """``dst[i]`` = index of ``vals[i]`` in `data`: the first, for equal values one after another.

    Shapes
    ------
    data (P, F), F from 8 to 16384   vals (P, 8)   dst (P, 8) uint16 or uint32, all ones for none
    """
    count = data.shape[0]
    return _find(data.reshape(count, -1), vals.reshape(count, -1), range(_EIGHT))[0]


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP),
        "vals": Operand(ON_CHIP),
        "dst_idx": Operand(ON_CHIP, Role.WRITE, dtypes=_INDICES, optional=True),
    },
    rules=(
        same_elements("dst", "data"),
        _searchable("data", assumed("as nc_find_index8; the page names no limit")),
        _eight("data", "vals", "dst_idx"),
        _flat("nc_match_replace8", "dst_idx"),
        _vals_dimensions("nc_match_replace8"),
        Rule(
            "imm must be a number known at compile time",
            lambda c: isinstance(c["imm"], (int, float)) and not isinstance(c["imm"], bool),
            isa("nc_match_replace8"),
            shows=lambda c: f"{c['imm']!r}",
            code="imm_number",
        ),
        Rule(
            "dst_idx needs NeuronCore-v3 or newer; use nisa.nc_find_index8",
            lambda c: c.hw.generation > 2 or not is_given(c, "dst_idx"),
            assumed("the vendor's kernel library avoids it on NeuronCore-v2"),
            shows=lambda c: c.hw.target,
            code="dst_idx_generation",
        ),
    ),
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(
        isa("nc_match_replace8"),
        estimate("nc_match_replace8"),
        "NKI 0.6.0 release notes: values are taken in reverse",
    ),
)
def nc_match_replace8(
    dst: Any, data: Any, vals: Any, imm: Any, dst_idx: Any = None, name: Any = None
) -> tuple[Array, Array]:
    """``dst = data`` with the first place of each value replaced by `imm`; places in `dst_idx`.

    Values are taken from ``vals[7]`` down to ``vals[0]``, equal ones find one place after another.

    Shapes
    ------
    data, dst (P, F), F from 8 to 16384   vals (P, 8)   dst_idx (P, 8) uint16 or uint32
    """
    values = data.reshape(data.shape[0], -1)
    places, taken = _find(values, vals.reshape(len(values), -1), range(_EIGHT - 1, -1, -1))
    return np.where(taken, np.float32(imm), values), places
