"""VectorE, statistics: mean and variance of each partition in two steps, as for normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import elementwise_cost
from nkiconv.simulate.errors import ShapeError
from nkiconv.simulate.sheet import (
    ON_CHIP,
    Call,
    Operand,
    Role,
    Rule,
    estimate,
    free_elems,
    instruction,
    isa,
    partitions,
)
from nkiconv.simulate.trace import Lane

_TUPLE = 3
"""Elements of one statistic: count, mean, count times variance."""


def _dst_holds(page: str, elems: int) -> Rule:
    def holds(call: Call) -> bool:
        dst = call["dst"]
        return partitions(dst) == partitions(call["data"]) and free_elems(dst) == elems

    return Rule(
        f"dst must have the partitions of data and {elems} elements each",
        holds,
        isa(page),
        error=ShapeError,
        code="dst_shape",
    )


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP, max_free_elems=lambda hw: hw.bn_stats_max_elems),
    },
    rules=(_dst_holds("bn_stats", 2 * _TUPLE),),
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(
        isa("bn_stats"),
        estimate("bn_stats"),
    ),
)
def bn_stats(dst: Any, data: Any, name: Any = None) -> Array:
    """``dst = (count, mean, count * variance)`` of the elements 0, 2, …, then of 1, 3, ….

    Shapes
    ------
    data (P, F), F up to 512   dst (P, 6)
    """
    values = data.reshape(data.shape[0], -1)
    result = np.zeros((len(values), 2 * _TUPLE), dtype=np.float32)
    for at, part in ((0, values[:, 0::2]), (_TUPLE, values[:, 1::2])):
        if count := part.shape[1]:  # of a single element there are no odd ones: all three are 0
            mean = part.mean(axis=1, dtype=np.float32)
            result[:, at] = count
            result[:, at + 1] = mean
            result[:, at + 2] = np.square(part - mean[:, None]).sum(axis=1, dtype=np.float32)
    return result


@instruction(
    lane=Lane.VECTOR,
    operands={"dst": Operand(ON_CHIP, Role.WRITE), "data": Operand(ON_CHIP)},
    rules=(
        Rule(
            "data must hold whole tuples of 3 elements",
            lambda c: free_elems(c["data"]) % _TUPLE == 0,
            isa("bn_aggr"),
            error=ShapeError,
            code="whole_tuples",
        ),
        _dst_holds("bn_aggr", 2),
    ),
    cost=lambda c: elementwise_cost(c, c.hw.bn_aggr_tuple_cycles / _TUPLE),
    sources=(
        isa("bn_aggr"),
        estimate("bn_aggr"),
    ),
)
def bn_aggr(dst: Any, data: Any, name: Any = None) -> Array:
    """``dst = (mean, variance)`` of all elements that the tuples of bn_stats describe.

    Shapes
    ------
    data (P, 3 K): tuples of count, mean, count * variance   dst (P, 2)
    """
    count, mean, spread = np.moveaxis(data.reshape(data.shape[0], -1, _TUPLE), -1, 0)
    total = count.sum(axis=1, dtype=np.float32)
    whole = (count * mean).sum(axis=1, dtype=np.float32) / total
    # Spread around the common mean: that within each tuple, and that of the tuples' means.
    between = count * np.square(mean - whole[:, None])
    variance = (spread + between).sum(axis=1, dtype=np.float32) / total
    return np.stack([whole, variance], axis=1)
