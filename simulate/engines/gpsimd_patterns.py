"""GpSimdE's generated patterns, and its reduction across partitions.

A pattern is an affine function of the partition and of up to four loop counters, computed in
32-bit integers: ``offset + partition * channel_multiplier + w*step_w + z*step_z + y*step_y +
x*step_x``.  `iota` writes it; `affine_select` compares it with zero and selects by the outcome.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import ELEMENT_TYPES, Array, round_to
from nkiconv.simulate.engines._common import (
    bit_patterns,
    busy_until_done,
    elementwise_cost,
    fetch_by_op,
    fetch_unless_cast,
    fits_integers,
    operator,
    picoseconds,
    same_elements,
)
from nkiconv.simulate.errors import DtypeError, ShapeError
from nkiconv.simulate.ops import OPS, reduction
from nkiconv.simulate.registers import VirtualRegister
from nkiconv.simulate.sheet import (
    SBUF,
    Call,
    Cost,
    Operand,
    Role,
    Rule,
    assumed,
    free_elems,
    instruction,
    isa,
    partitions,
)
from nkiconv.simulate.trace import Lane

_INT32 = np.iinfo(np.int32)

_MOST_DIMS = 4
"""Dimensions of a pattern (isa iota)."""


def is_int32(value: object) -> bool:
    """Whether a value is a whole number that 32 bits hold, known when the kernel is traced."""
    return type(value) is int and bool(_INT32.min <= value <= _INT32.max)


def _is_pattern(call: Call) -> bool:
    """Whether the pattern is up to four pairs [step, num] of whole numbers."""
    pattern = call["pattern"]
    if not isinstance(pattern, (list, tuple)) or not 1 <= len(pattern) <= _MOST_DIMS:
        return False
    return all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(is_int32(number) for number in pair)
        and pair[1] >= 1
        for pair in pattern
    )


def _pattern_size(call: Call) -> bool:
    elems = prod(num for _, num in call["pattern"])
    return bool(elems == free_elems(call["dst"]))


def _offset(call: Call) -> int:
    """Return the offset, which may stand in a register."""
    offset: int | VirtualRegister = call["offset"]
    if isinstance(offset, VirtualRegister):
        return offset._read(f"nisa.{call.sheet.name}")
    return offset


def _numbers(call: Call) -> bool:
    offset = call["offset"]
    known = isinstance(offset, VirtualRegister) or is_int32(offset)
    return known and is_int32(call["channel_multiplier"])


def _extremes(call: Call) -> tuple[int, int]:
    """Return the least and the greatest value of the pattern, in unlimited integers."""
    pairs = [*call["pattern"], (call["channel_multiplier"], partitions(call["dst"]))]
    reaches = [step * (num - 1) for step, num in pairs]
    offset = _offset(call)
    return (
        offset + sum(reach for reach in reaches if reach < 0),
        offset + sum(reach for reach in reaches if reach > 0),
    )


def _in_32_bits(call: Call) -> bool:
    return all(is_int32(value) for value in _extremes(call))


def _shows_pattern(call: Call) -> str:
    return (
        f"pattern={call['pattern']!r}, offset={call['offset']!r}, "
        f"channel_multiplier={call['channel_multiplier']!r} for {call['dst']!r}"
    )


def _pattern_rules(name: str) -> tuple[Rule, ...]:
    """Return what every pattern must satisfy."""
    return (
        Rule(
            "pattern must be one to four pairs [step, num] of int32 numbers with num >= 1",
            _is_pattern,
            isa(name),
            shows=lambda c: f"{c['pattern']!r}",
            error=ShapeError,
            code="pattern",
        ),
        Rule(
            "offset must be an int32 number or a register, channel_multiplier an int32 number",
            _numbers,
            isa(name) + ", and NKI 0.4.0 release notes",
            shows=_shows_pattern,
            code="offset_int32",
        ),
        Rule(
            "pattern must have as many values as dst has elements per partition",
            _pattern_size,
            isa(name),
            shows=_shows_pattern,
            error=ShapeError,
            code="pattern_size",
        ),
        Rule(
            "the pattern's values must fit into the 32-bit integers they are computed in",
            _in_32_bits,
            isa(name),
            shows=_shows_pattern,
            code="pattern_32_bits",
            dynamic=True,
        ),
    )


def _affine(pattern: Any, offset: int, channel_multiplier: int, count: int) -> Array:
    """Return the values of a pattern, one row for each partition."""
    row = np.zeros(1, dtype=np.int64)
    for step, num in pattern:
        row = (row[:, None] + np.arange(num, dtype=np.int64) * step).reshape(-1)
    channel = np.arange(count, dtype=np.int64) * channel_multiplier
    values: Array = (offset + channel[:, None] + row).astype(np.int32)
    return values


def _fits_dst(call: Call) -> bool:
    return fits_integers(call["dst"]._element, *_extremes(call))


def _iota_counts(call: Call) -> None:
    call.extra = {"_partitions": partitions(call["dst"]), "offset": _offset(call)}


@instruction(
    lane=Lane.GPSIMD,
    operands={"dst": Operand(SBUF, Role.WRITE)},
    rules=(
        *_pattern_rules("iota"),
        Rule(
            "the pattern's values must be representable in dst's integer dtype",
            _fits_dst,
            assumed("the page does not say how a value outside the dtype is cast"),
            shows=_shows_pattern,
            error=DtypeError,
            code="pattern_fits_dst",
            dynamic=True,
        ),
    ),
    prepare=_iota_counts,
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(isa("iota"),),
)
def iota(
    dst: Any,
    pattern: Any,
    offset: Any = 0,
    channel_multiplier: Any = 0,
    name: Any = None,
    *,
    _partitions: Any = None,
) -> Array:
    """``dst[p, i] = offset + p*channel_multiplier + pattern(i)``, cast to dst's dtype.

    `pattern` is ``[[step, num], ...]``, the slowest dimension first.  `offset` may be a register.
    """
    return _affine(pattern, offset, channel_multiplier, _partitions)


_COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")


def _same_dtype(call: Call) -> bool:
    return bool(call["on_true_tile"].dtype == call["dst"].dtype)


def _false_fits(call: Call) -> bool:
    return fits_integers(call["dst"]._element, call["on_false_value"])


def _select_kind(call: Call) -> None:
    # Equal dtypes keep the bits of what is selected: then the other value must come in that dtype.
    kind = call["dst"]._element if _same_dtype(call) else ELEMENT_TYPES["float32"]
    call.extra = {"_kind": kind, "offset": _offset(call)}


@instruction(
    lane=Lane.GPSIMD,
    operands={
        "dst": Operand(SBUF, Role.WRITE),
        "on_true_tile": Operand(SBUF, fetch=fetch_unless_cast("on_true_tile")),
    },
    rules=(
        *_pattern_rules("affine_select"),
        same_elements("dst", "on_true_tile"),
        Rule(
            "cmp_op must be a comparison",
            lambda c: any(c["cmp_op"] is OPS[name] for name in _COMPARISONS),
            isa("affine_select"),
            shows=lambda c: f"cmp_op={c['cmp_op']!r}",
            code="comparison",
        ),
        Rule(
            "on_false_value must be a float",
            lambda c: isinstance(c["on_false_value"], float),
            isa("affine_select"),
            shows=lambda c: f"{c['on_false_value']!r}",
            error=DtypeError,
            code="false_value_float",
        ),
        Rule(
            "on_false_value must be representable in dst's integer dtype",
            _false_fits,
            assumed("the page does not say how a value outside the dtype is cast"),
            shows=lambda c: f"{c['on_false_value']!r} for {c['dst'].dtype}",
            error=DtypeError,
            code="false_value_fits",
        ),
    ),
    prepare=_select_kind,
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(isa("affine_select"),),
)
def affine_select(
    dst: Any,
    pattern: Any,
    channel_multiplier: Any,
    on_true_tile: Any,
    on_false_value: Any,
    cmp_op: Any = OPS["equal"],
    offset: Any = 0,
    name: Any = None,
    *,
    _kind: Any = None,
) -> Array:
    """``dst[p, i] = on_true_tile[p, i] if affine(p, i) <cmp_op> 0 else on_false_value``.

    ``affine(p, i) = offset + p*channel_multiplier + pattern(i)``.  What is selected keeps its bits
    where the dtypes are equal, and passes through float32 otherwise.
    """
    values = _affine(pattern, offset, channel_multiplier, len(on_true_tile))
    holds = cmp_op.binary(values, np.int32(0)) != 0
    other = round_to(np.full(1, on_false_value, dtype=np.float32), _kind)
    return np.where(holds, on_true_tile.reshape(values.shape), other)


_ACROSS = ("add", "average", "maximum", "bitwise_or", "bitwise_and")


def _reduce_cost(call: Call) -> Cost:
    hw = call.hw
    cycles = free_elems(call["data"]) * hw.gpsimd_core_partitions + hw.gpsimd_issue_cycles
    busy = picoseconds(cycles, hw.gpsimd_ghz)
    return busy_until_done(busy, hw.vector_latency_ns)


@instruction(
    lane=Lane.GPSIMD,
    operands={
        "dst": Operand(SBUF, Role.WRITE),
        "data": Operand(SBUF, fetch=fetch_by_op("op")),
    },
    rules=(
        operator(
            "op",
            lambda op: op.name in _ACROSS,
            "nl.add, nl.average, nl.maximum, nl.bitwise_or or nl.bitwise_and",
        ),
        Rule(
            "op is obligatory",
            lambda c: c["op"] is not None,
            isa("tensor_partition_reduce"),
            code="op_missing",
        ),
        bit_patterns("op"),
        Rule(
            "bitvec operators need equal dtypes",
            lambda c: not c["op"].bitvec or c["dst"].dtype == c["data"].dtype,
            assumed("a result of bits has no value that could be cast"),
            error=DtypeError,
            code="bitvec_same_dtype",
        ),
        Rule(
            "dst must have one partition, and the elements per partition of data",
            lambda c: partitions(c["dst"]) == 1 and free_elems(c["dst"]) == free_elems(c["data"]),
            isa("tensor_partition_reduce"),
            error=ShapeError,
            code="dst_one_partition",
        ),
    ),
    cost=_reduce_cost,
    sources=(
        isa("tensor_partition_reduce"),
        assumed("no public figure; as if a core took its sixteen partitions one by one"),
    ),
)
def tensor_partition_reduce(dst: Any, op: Any, data: Any, name: Any = None) -> Array:
    """``dst[0] = op over the partitions of data``.

    Shapes
    ------
    data (P, F)   dst (1, F)
    """
    if op is OPS["average"]:
        return reduction(OPS["add"], data, (0,)) / np.float32(len(data))
    return reduction(op, data, (0,))
