"""VectorE, selection: elements chosen by a predicate or by their place."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.columns import Columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._accumulate import (
    goes_on_from_known,
    is_given,
    one_of,
    starting,
    use_registers,
)
from nkiconv.simulate.engines._common import (
    along,
    elementwise_cost,
    needs,
    not_both_in_psum,
    same_elements,
    same_partitions,
    written,
)
from nkiconv.simulate.enums import reduce_cmd
from nkiconv.simulate.errors import DtypeError, ShapeError, UninitializedReadError
from nkiconv.simulate.ops import OPS
from nkiconv.simulate.sheet import (
    ON_CHIP,
    Call,
    Fetch,
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
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_FLOAT32 = frozenset({"float32"})
_FLOATS = frozenset(
    {"float32", "bfloat16", "float16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2"}
)
_FLOAT32_MIN = np.finfo(np.float32).min


def _array(tensor: NkiTensor) -> Array:
    return tensor._storage.array(tensor, tensor._kind)


def _same_type(call: Call) -> bool:
    return not is_given(call, "src") or call["src"].dtype == call["dst"].dtype


def _number_fits(call: Call) -> bool:
    kind, src = call["dst"]._element, call["src"]
    if isinstance(src, NkiTensor) or kind.kind == "float":
        return True
    limits = np.iinfo(kind.numpy)
    low, high = (0, 1) if kind.kind == "bool" else (limits.min, limits.max)
    return bool(low <= src <= high) and src == int(src)


def _like_dst(*names: str) -> Rule:
    def holds(call: Call) -> bool:
        dst = call["dst"]
        return all(
            partitions(call[n]) == partitions(dst) and free_elems(call[n]) == free_elems(dst)
            for n in names
            if is_given(call, n)
        )

    return Rule(
        f"{' and '.join(names)} must have dst's partitions and elements per partition",
        holds,
        isa("tensor_copy_predicated"),
        error=ShapeError,
        code="same_elements",
    )


def _split(call: Call) -> bool:
    return is_given(call, "src") and call["src"]._storage.space != call["predicate"]._storage.space


def _keeps_only_written(call: Call) -> bool:
    predicate = call["predicate"]
    if written(call["dst"]) or not written(predicate):
        return True  # an unwritten predicate has its own message
    return bool(np.all((_array(predicate) != 0) != bool(call["reverse_pred"])))


def _also_read_dst(call: Call) -> None:
    call.also_read = ("dst",)


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE, fetch=Fetch.RAW),
        "src": Operand(ON_CHIP, number=True, fetch=Fetch.RAW),
        "predicate": Operand(
            ON_CHIP, dtypes=frozenset({"uint8", "uint16", "uint32"}), fetch=Fetch.RAW
        ),
    },
    rules=(
        _like_dst("src", "predicate"),
        Rule(
            "src must have dst's dtype",
            _same_type,
            isa("tensor_copy_predicated"),
            error=DtypeError,
        ),
        Rule(
            "src must be representable in dst's dtype",
            _number_fits,
            isa("tensor_copy_predicated"),
            shows=lambda c: f"{c['src']!r} for {c['dst'].dtype}",
            error=DtypeError,
        ),
        Rule(
            "src and predicate cannot both be in PSUM",
            lambda c: _split(c) or not is_given(c, "src") or c["src"]._storage.space == "sbuf",
            isa("tensor_copy_predicated"),
            code="both_in_psum",
        ),
        Rule(
            "dst must have been written before, unless predicate selects every element: the "
            "others keep what is there",
            _keeps_only_written,
            isa("tensor_copy_predicated"),
            error=UninitializedReadError,
            dynamic=True,
        ),
    ),
    prepare=_also_read_dst,
    cost=lambda c: elementwise_cost(c, 1.0 if _split(c) else c.hw.predicated_copy_cycles),
    columns=Columns(("predicate",)),
    sources=(
        isa("tensor_copy_predicated"),
        estimate("tensor_copy_predicated"),
    ),
)
def tensor_copy_predicated(
    dst: Any, src: Any, predicate: Any, reverse_pred: Any = False, name: Any = None
) -> Array:
    """``dst = src`` where `predicate` is not 0 (where it is 0, with `reverse_pred`), bit-accurate.

    Shapes
    ------
    dst, predicate (P, F)   src (P, F) of dst's dtype, or a number
    """
    chosen = (predicate.reshape(dst.shape) != 0) != bool(reverse_pred)
    if isinstance(src, np.ndarray):
        return np.where(chosen, src.reshape(dst.shape), dst)
    # A number rounds as every result does; float64 holds every 32-bit integer beside it.
    wide = np.float64 if dst.dtype.kind in "iu" else np.float32
    return np.where(chosen, wide(src), dst.astype(wide))


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "predicate": Operand(
            ON_CHIP, dtypes=frozenset({"int8", "uint8", "int16", "uint16"}), fetch=Fetch.RAW
        ),
        "on_true": Operand(ON_CHIP, dtypes=_FLOATS | {"int8", "uint8", "int16", "uint16", "bool_"}),
        "on_false": Operand(ON_CHIP, dtypes=_FLOAT32, number=True, per_partition=True),
        "reduce_res": Operand(
            ON_CHIP, Role.WRITE, dtypes=_FLOATS, optional=True, per_partition=True
        ),
    },
    rules=(
        same_elements("dst", "predicate", "on_true"),
        same_partitions("dst", "on_false", "reduce_res"),
        not_both_in_psum("on_true", "predicate"),
        one_of("select_reduce", "reduce_op", OPS["maximum"]),
        one_of(
            "select_reduce",
            "reduce_cmd",
            reduce_cmd.idle,
            reduce_cmd.reset_reduce,
            reduce_cmd.reduce,
        ),
        Rule(
            "reduce_res needs a reduce_cmd that accumulates",
            lambda c: not is_given(c, "reduce_res") or c["reduce_cmd"] is not reduce_cmd.idle,
            isa("select_reduce"),
            shows=lambda c: f"{c['reduce_cmd']}",
            code="reduce_res_idle",
        ),
        goes_on_from_known("select_reduce", "on_true"),
    ),
    prepare=use_registers("on_true"),
    cost=lambda c: elementwise_cost(c, c.hw.select_reduce_cycles),
    sources=(
        isa("select_reduce"),
        assumed("two cycles an element, as tensor_copy_predicated; the page names no cost"),
    ),
)
def select_reduce(
    dst: Any,
    predicate: Any,
    on_true: Any,
    on_false: Any,
    reduce_res: Any = None,
    reduce_cmd: Any = reduce_cmd.idle,
    reduce_op: Any = OPS["maximum"],
    reverse_pred: Any = False,
    name: Any = None,
    *,
    _registers: Any = None,
) -> tuple[Array, Array]:
    """``dst = on_true`` where `predicate` is not 0, else `on_false`; maximum into the registers.

    Shapes
    ------
    dst, predicate, on_true (P, F)   on_false number or (P, 1) float32   reduce_res (P, 1)
    """
    chosen = (predicate.reshape(on_true.shape) != 0) != bool(reverse_pred)
    other = along(on_false, on_true) if isinstance(on_false, np.ndarray) else np.float32(on_false)
    result = np.where(chosen, on_true, other)
    if reduce_cmd is not type(reduce_cmd).idle:
        _keep_maximum(_registers, reduce_cmd, result)
    return result, _registers.reshape(-1, 1).copy()


def _keep_maximum(registers: Array, command: reduce_cmd, result: Array) -> None:
    largest = result.reshape(result.shape[0], -1).max(axis=1)
    registers[...] = np.maximum(starting(registers, command, OPS["maximum"]), largest)


_COMPARISONS = tuple(OPS[n] for n in ("equal", "less", "less_equal", "greater", "greater_equal"))


def _false_value(call: Call) -> bool:
    value = call["on_false_value"]
    if value is Ellipsis:  # the vendor's default, which its page does not spell out
        return True
    return isinstance(value, (int, float, np.floating)) and np.float32(value) == _FLOAT32_MIN


def _whole_start(call: Call) -> bool:
    start = call["range_start"]
    return isinstance(start, (int, np.integer)) and not isinstance(start, bool)


def _exact_indices(call: Call) -> bool:
    start, limit = int(call["range_start"]), call.hw.range_index_max
    return -limit <= start and start + free_elems(call["on_true_tile"]) - 1 <= limit


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "on_true_tile": Operand(ON_CHIP, dtypes=_FLOATS),
        "bound0": Operand(ON_CHIP, dtypes=_FLOAT32, per_partition=True),
        "bound1": Operand(ON_CHIP, dtypes=_FLOAT32, per_partition=True),
        "reduce_res": Operand(ON_CHIP, Role.WRITE, optional=True, per_partition=True),
    },
    rules=(
        needs("range_select", 3),
        same_elements("dst", "on_true_tile"),
        same_partitions("on_true_tile", "bound0", "bound1", "reduce_res"),
        one_of("range_select", "comp_op0", *_COMPARISONS),
        one_of("range_select", "comp_op1", *_COMPARISONS),
        one_of("range_select", "reduce_op", OPS["maximum"]),
        one_of("range_select", "reduce_cmd", reduce_cmd.reset_reduce, reduce_cmd.reduce),
        Rule(
            "on_false_value must be the least float32, -3.4028235e+38",
            _false_value,
            isa("range_select"),
            shows=lambda c: f"{c['on_false_value']!r}",
        ),
        Rule(
            "range_start must be an integer known at compile time",
            _whole_start,
            isa("range_select"),
            shows=lambda c: f"{c['range_start']!r}",
        ),
        Rule(
            "range_start plus the index must stay within 2**24, where float32 is exact",
            _exact_indices,
            isa("range_select"),
            shows=lambda c: f"{c['range_start']} for {c['on_true_tile']!r}",
        ),
        goes_on_from_known("range_select", "on_true_tile"),
    ),
    prepare=use_registers("on_true_tile"),
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(
        isa("range_select"),
        estimate("range_select"),
    ),
)
def range_select(
    dst: Any,
    on_true_tile: Any,
    comp_op0: Any,
    comp_op1: Any,
    bound0: Any,
    bound1: Any,
    reduce_cmd: Any = reduce_cmd.reset_reduce,
    reduce_res: Any = None,
    reduce_op: Any = OPS["maximum"],
    range_start: Any = 0,
    on_false_value: Any = ...,
    name: Any = None,
    *,
    _registers: Any = None,
) -> tuple[Array, Array]:
    """``dst[i] = on_true_tile[i]`` where ``range_start + i`` satisfies both comparisons.

    Elsewhere the least float32.  The maximum of the float32 results goes into the registers.

    Shapes
    ------
    dst, on_true_tile (P, F)   bound0, bound1 (P, 1) float32   reduce_res (P, 1)
    """
    count = on_true_tile.shape[0]
    values = on_true_tile.reshape(count, -1)
    indices = (range_start + np.arange(values.shape[1])).astype(np.float32)
    first = comp_op0.binary(indices, bound0.reshape(count, 1))
    second = comp_op1.binary(indices, bound1.reshape(count, 1))
    result = np.where((first != 0) & (second != 0), values, _FLOAT32_MIN)
    _keep_maximum(_registers, reduce_cmd, result)
    return result, _registers.reshape(-1, 1).copy()
