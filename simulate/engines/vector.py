"""VectorE (and GpSimdE, where an instruction may run there): element-wise work and reductions.

The engine streams one element per partition a cycle, computes in float32, and rounds to the
destination's dtype when it writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.columns import Columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import (
    INTEGERS,
    INTEGERS_32,
    NO_GPSIMD_IN_PSUM,
    PACKED_AS_IT_IS,
    along,
    applied,
    bit_patterns,
    chosen_lane,
    copy_rate,
    elementwise_cost,
    fetch_by_op,
    fetch_unless_cast,
    fits_integers,
    not_both_in_psum,
    on_generation,
    operator,
    pair_rate,
    same_elements,
    same_partitions,
)
from nkiconv.simulate.enums import engine
from nkiconv.simulate.errors import DtypeError, ShapeError
from nkiconv.simulate.ops import OPS, Op, reduction
from nkiconv.simulate.sheet import (
    ON_CHIP,
    Call,
    Cost,
    Fetch,
    Operand,
    Role,
    Rule,
    arch,
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


def _copy_lane(call: Call) -> Lane:
    return chosen_lane(call, (Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD), Lane.VECTOR)


@instruction(
    lane=_copy_lane,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE, packed=True, offsets=frozenset({"scalar"})),
        "src": Operand(
            ON_CHIP,
            fetch=fetch_unless_cast("src"),
            packed=True,
            offsets=frozenset({"scalar"}),
        ),
    },
    rules=(
        same_elements("dst", "src"),
        PACKED_AS_IT_IS,
        NO_GPSIMD_IN_PSUM,
        Rule(
            "ScalarE of NeuronCore-v2 has no tensor_copy; use nisa.activation with op=nl.copy",
            lambda c: c.lane is not Lane.SCALAR or c.hw.generation > 2,
            isa("tensor_copy"),
            shows=lambda c: f"engine.scalar on {c.hw.target}",
            code="scalar_engine_v2",
        ),
    ),
    cost=lambda c: elementwise_cost(c, copy_rate(c, "src")),
    columns=Columns(("src",), not_on=(Lane.GPSIMD,)),
    sources=(isa("tensor_copy"), arch("Vector Engine")),
)
def tensor_copy(dst: Any, src: Any, engine: Any = engine.unknown, name: Any = None) -> Array:
    """``dst = src``: bit-accurate for equal dtypes, through float32 otherwise."""
    copied: Array = src
    return copied


def _fill_cost(call: Call) -> Cost:
    half = call["value"] == 0 and call["dst"]._element.itemsize == 2
    return elementwise_cost(call, 0.5 if half else 1.0)


def _fits_type(call: Call) -> bool:
    return fits_integers(call["dst"]._element, call["value"])


def _type_of_value(call: Call) -> bool:
    return call["dst"]._element.kind != "int" or not isinstance(call["value"], float)


def _shape_of_dst(call: Call) -> None:
    call.works_in = ("dst",)


@instruction(
    lane=lambda c: chosen_lane(c, (Lane.VECTOR, Lane.GPSIMD), Lane.VECTOR),
    operands={"dst": Operand(ON_CHIP, Role.WRITE, fetch=Fetch.RAW, packed=True)},
    rules=(
        NO_GPSIMD_IN_PSUM,
        Rule(
            "value must be a number known at compile time",
            lambda c: isinstance(c["value"], (int, float)),
            isa("memset"),
            shows=lambda c: f"{c['value']!r}",
            code="value_number",
        ),
        Rule(
            "value must be an integer where dst has an integer dtype, 2 instead of 2.0",
            _type_of_value,
            "NKI 0.3.0 release notes, Breaking Changes, nisa.memset",
            shows=lambda c: f"{c['value']!r} for {c['dst'].dtype}",
            error=DtypeError,
        ),
        Rule(
            "value must be representable in dst's integer dtype",
            _fits_type,
            isa("memset"),
            shows=lambda c: f"{c['value']!r} for {c['dst'].dtype}",
            error=DtypeError,
        ),
        Rule(
            "packed types take no other value than 0",
            lambda c: c["value"] == 0 or c["dst"]._element.kind != "packed",
            isa("memset"),
            shows=lambda c: f"{c['value']!r} for {c['dst'].dtype}",
            error=DtypeError,
            code="packed_zero",
        ),
    ),
    prepare=_shape_of_dst,
    cost=_fill_cost,
    sources=(isa("memset"),),
)
def memset(dst: Any, value: Any, engine: Any = engine.unknown, name: Any = None) -> Array:
    """``dst = value`` in every element."""
    # float64 holds every 32-bit integer; other types round from float32, as everywhere.
    wide = np.float64 if dst.dtype.kind in "iu" else np.float32
    one = np.array(value, dtype=wide)
    return np.ndarray(dst.shape, wide, one, strides=(0,) * dst.ndim)


@instruction(
    lane=Lane.VECTOR,
    operands={"dst": Operand(ON_CHIP, Role.WRITE), "data": Operand(ON_CHIP)},
    rules=(same_elements("dst", "data"),),
    cost=lambda c: elementwise_cost(c, c.hw.reciprocal_cycles),
    sources=(
        isa("reciprocal"),
        estimate("reciprocal"),
    ),
)
def reciprocal(dst: Any, data: Any, name: Any = None) -> Array:
    """``dst = 1 / data``, element by element."""
    result: Array = np.float32(1) / data
    return result


def _whole_numbers(call: Call) -> bool:
    """Whether 32-bit integers are to be combined exactly, on GpSimdE (isa tensor_tensor)."""
    tensors = call.tensors()
    return (
        call["engine"] is not engine.vector
        and all(t.dtype in INTEGERS_32 for _, _, t in tensors)
        and all(t._storage.space == "sbuf" for _, _, t in tensors)
    )


def _pair_lane(call: Call) -> Lane:
    op = call["op"]
    exact = op is OPS["power"] or (isinstance(op, Op) and not op.bitvec and _whole_numbers(call))
    return chosen_lane(call, (Lane.VECTOR, Lane.GPSIMD), Lane.GPSIMD if exact else Lane.VECTOR)


def _work_in_dst(call: Call) -> None:
    """Hand the body dst itself, where its results need no rounding."""
    if call["dst"].dtype == "float32":
        call.works_in = ("dst",)


def _pair_fetch(call: Call) -> Fetch:
    exact = call.lane is Lane.GPSIMD and _whole_numbers(call)
    return Fetch.RAW if exact or call["op"].bitvec else Fetch.FLOAT32


@instruction(
    lane=_pair_lane,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data1": Operand(ON_CHIP, fetch=_pair_fetch),
        "data2": Operand(ON_CHIP, fetch=_pair_fetch),
    },
    rules=(
        operator("op", lambda op: op.binary is not None, "a binary operator"),
        Rule(
            "op is obligatory",
            lambda c: c["op"] is not None,
            isa("tensor_tensor"),
            code="op_missing",
        ),
        on_generation("op"),
        bit_patterns("op"),
        same_elements("dst", "data1", "data2"),
        not_both_in_psum("data1", "data2"),
        NO_GPSIMD_IN_PSUM,
        Rule(
            "power runs on GpSimdE only",
            lambda c: c["op"] is not OPS["power"] or c.lane is Lane.GPSIMD,
            isa("tensor_tensor"),
            code="power_engine",
        ),
        Rule(
            "bitvec operators run on VectorE only",
            lambda c: not c["op"].bitvec or c.lane is Lane.VECTOR,
            isa("tensor_tensor"),
            code="bitvec_engine",
        ),
    ),
    prepare=_work_in_dst,
    cost=lambda c: elementwise_cost(c, pair_rate(c, "data1", "data2")),
    columns=Columns(("data1",)),
    sources=(isa("tensor_tensor"), arch("Vector Engine")),
)
def tensor_tensor(
    dst: Any, data1: Any, data2: Any, op: Any, engine: Any = engine.unknown, name: Any = None
) -> Array:
    """``dst = data1 <op> data2``, element by element.

    In float32, except bitvec operators, and 32-bit integers on GpSimdE, which are exact and wrap.
    """
    data2 = data2.reshape(data1.shape)
    result: Array
    if dst is not None and dst.shape == data1.shape and isinstance(op.binary, np.ufunc):
        result = op.binary(data1, data2, out=dst)
    else:
        result = op.binary(data1, data2)
    return result


def _scalar_lane(call: Call) -> Lane:
    default = Lane.GPSIMD if call["op0"] is OPS["rsqrt"] else Lane.VECTOR
    return chosen_lane(call, (Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD), default)


def _takes_scalar(op: Op) -> bool:
    return op.binary is not None or op.unary is not None


def _same_kind(call: Call) -> bool:
    return call["op1"] is None or call["op0"].bitvec == call["op1"].bitvec


def _operands_match(call: Call) -> bool:
    """Whether each binary operator has an operand, and nothing else has one."""
    for op, operand in ((call["op0"], call["operand0"]), (call["op1"], call["operand1"])):
        if op is None:
            if operand is not None:
                return False
        elif op.unary is not None:
            if isinstance(operand, NkiTensor) or operand not in (None, 0):
                return False
        elif operand is None:
            return False
    return True


def _operand_types(call: Call) -> bool:
    bits = call["op0"].bitvec
    for operand in (call["operand0"], call["operand1"]):
        if isinstance(operand, NkiTensor):
            if operand.dtype not in (INTEGERS if bits else _FLOAT32):
                return False
        elif bits and operand is not None and not float(operand).is_integer():
            return False
    return True


def _scalar_cost(call: Call) -> Cost:
    more = call.hw.tensor_scalar_extra_cycles if call.lane is Lane.VECTOR else 0
    return elementwise_cost(call, copy_rate(call, "data"), more)


def _scalar_engine_takes(call: Call) -> bool:
    if call.lane is not Lane.SCALAR:
        return True
    pair = (call["op0"], call["op1"])
    return call.hw.generation > 2 and pair in (
        (OPS["multiply"], OPS["add"]),
        (OPS["multiply"], None),
        (OPS["add"], None),
    )


_NO_ADDRESSES = (
    "dst and data cannot both be 32-bit integers, which would be arithmetic on addresses",
    lambda call: not {call["dst"].dtype, call["data"].dtype} <= INTEGERS_32,
)


@instruction(
    lane=_scalar_lane,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP, fetch=fetch_by_op("op0")),
        "operand0": Operand(
            ON_CHIP, number=True, optional=True, per_partition=True, fetch=fetch_by_op("op0")
        ),
        "operand1": Operand(
            ON_CHIP, number=True, optional=True, per_partition=True, fetch=fetch_by_op("op0")
        ),
    },
    rules=(
        operator("op0", _takes_scalar, "an operator of VectorE"),
        Rule(
            "op0 is obligatory",
            lambda c: c["op0"] is not None,
            isa("tensor_scalar"),
            code="op_missing",
        ),
        operator("op1", _takes_scalar, "an operator of VectorE, or None"),
        on_generation("op0", "op1"),
        Rule(
            "op0 and op1 must both be bitvec or both arithmetic", _same_kind, isa("tensor_scalar")
        ),
        bit_patterns("op0", "op1"),
        Rule(
            "each binary operator needs its operand, unary ones take None or 0, and operand1 "
            "needs op1",
            _operands_match,
            isa("tensor_scalar"),
            shows=lambda c: f"{c['op0']!r}, {c['operand0']!r}, {c['op1']!r}, {c['operand1']!r}",
        ),
        Rule(
            "operands must be float32 tensors or numbers, of bitvec operators integers",
            _operand_types,
            isa("tensor_scalar"),
            shows=lambda c: f"{c['operand0']!r}, {c['operand1']!r}",
            error=DtypeError,
        ),
        same_elements("dst", "data"),
        same_partitions("data", "operand0", "operand1"),
        NO_GPSIMD_IN_PSUM,
        Rule(
            "ScalarE takes multiply+add, multiply, or add only, from NeuronCore-v3 on",
            _scalar_engine_takes,
            isa("tensor_scalar"),
            shows=lambda c: f"{c['op0']!r}, {c['op1']!r} on {c.hw.target}",
        ),
        Rule(
            "GpSimdE executes tensor_scalar only for rsqrt",
            lambda c: (c.lane is Lane.GPSIMD) == (c["op0"] is OPS["rsqrt"]),
            isa("tensor_scalar"),
            shows=lambda c: f"{c['op0']!r} on {c.lane.label}",
            code="gpsimd_rsqrt",
        ),
    ),
    cost=_scalar_cost,
    columns=Columns(("data",), also=_NO_ADDRESSES),
    sources=(isa("tensor_scalar"), arch("Vector Engine")),
)
def tensor_scalar(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    reverse0: Any = False,
    op1: Any = None,
    operand1: Any = None,
    reverse1: Any = False,
    engine: Any = engine.unknown,
    name: Any = None,
) -> Array:
    """``dst = (data <op0> operand0) <op1> operand1``, operands broadcast along the free dimensions.

    Shapes
    ------
    data, dst (P, F)   operand0, operand1 numbers or (P, 1) float32
    """
    result = applied(op0, reverse0, data, along(operand0, data))
    return result if op1 is None else applied(op1, reverse1, result, along(operand1, data))


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP),
        "operand0": Operand(ON_CHIP, number=True, per_partition=True),
        "operand1": Operand(ON_CHIP),
    },
    rules=(
        operator("op0", lambda op: op.binary is not None and not op.bitvec, "binary arithmetic"),
        operator("op1", lambda op: op.binary is not None and not op.bitvec, "binary arithmetic"),
        Rule(
            "op0 and op1 are obligatory",
            lambda c: c["op0"] is not None and c["op1"] is not None,
            isa("scalar_tensor_tensor"),
            shows=lambda c: f"{c['op0']!r}, {c['op1']!r}",
            code="op_missing",
        ),
        on_generation("op0", "op1"),
        same_elements("dst", "data", "operand1"),
        same_partitions("data", "operand0"),
        not_both_in_psum("data", "operand1"),
    ),
    cost=lambda c: elementwise_cost(c, pair_rate(c, "data", "operand1")),
    sources=(isa("scalar_tensor_tensor"), arch("Vector Engine")),
)
def scalar_tensor_tensor(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    op1: Any,
    operand1: Any,
    reverse0: Any = False,
    reverse1: Any = False,
    name: Any = None,
) -> Array:
    """``dst = (data <op0> operand0) <op1> operand1`` with `operand1` element by element.

    Shapes
    ------
    data, operand1, dst (P, F)   operand0 number or (P, 1)
    """
    first = applied(op0, reverse0, data, along(operand0, data))
    return applied(op1, reverse1, first, operand1.reshape(data.shape))


def _axes(call: Call) -> tuple[int, ...]:
    axis = call["axis"]
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    ndim = call["data"].ndim
    return tuple(sorted(a % ndim if isinstance(a, int) and -ndim <= a < ndim else -1 for a in axes))


def _last_axes(call: Call) -> bool:
    axes, ndim = _axes(call), call["data"].ndim
    return bool(axes) and axes == tuple(range(ndim - len(axes), ndim)) and axes[0] > 0


def _reduced_size(call: Call) -> bool:
    kept = 1
    for size in call["data"].shape[1 : _axes(call)[0]]:
        kept *= size
    dst = call["dst"]
    return partitions(dst) == partitions(call["data"]) and free_elems(dst) == kept


def _keepdims(call: Call) -> bool:
    if not call["keepdims"]:
        return True
    axes, data = _axes(call), call["data"]
    expected = tuple(1 if d in axes else n for d, n in enumerate(data.shape))
    return bool(call["dst"].shape == expected)


def _resolve_axes(call: Call) -> None:
    call.args["axis"] = _axes(call)


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP, fetch=fetch_by_op("op")),
    },
    rules=(
        operator("op", lambda op: op.reduces, "a legal reduction operator"),
        Rule(
            "op is obligatory",
            lambda c: c["op"] is not None,
            isa("tensor_reduce"),
            code="op_missing",
        ),
        bit_patterns("op"),
        Rule(
            "axis must be the last free dimensions of data, without the partition dimension",
            _last_axes,
            isa("tensor_reduce"),
            shows=lambda c: f"axis={c['axis']!r} of {c['data']!r}",
            error=ShapeError,
        ),
        Rule(
            "dst must have the partitions of data and one element for each that is kept",
            _reduced_size,
            isa("tensor_reduce"),
            error=ShapeError,
        ),
        Rule(
            "with keepdims, dst keeps the reduced dimensions at size 1",
            _keepdims,
            isa("tensor_reduce"),
            error=ShapeError,
        ),
        Rule(
            "negate needs an arithmetic operator",
            lambda c: not (c["negate"] and c["op"].bitvec),
            isa("tensor_reduce"),
            shows=lambda c: f"{c['op']!r}",
            code="negate_bitvec",
        ),
    ),
    prepare=_resolve_axes,
    cost=lambda c: elementwise_cost(c, 1.0),
    columns=Columns(("data",)),
    sources=(
        isa("tensor_reduce"),
        assumed("N cycles; published trn2 profiles show no faster mode, the guide names one"),
    ),
)
def tensor_reduce(
    dst: Any,
    op: Any,
    data: Any,
    axis: Any,
    negate: Any = False,
    keepdims: Any = False,
    name: Any = None,
) -> Array:
    """``dst = op over the last free dimensions of data``, negated where asked."""
    result = reduction(op, data, axis)
    return -result if negate else result
