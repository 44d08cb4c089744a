"""VectorE, scans and reductions: results that are carried from element to element.

All of them run along the free dimensions, flattened, one partition apart from the next, and carry
float32.  Two of them leave what they carry in the accumulation registers (`_accumulate`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.columns import Columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._accumulate import (
    goes_on_from_known,
    is_given,
    loads,
    one_of,
    starting,
    use_registers,
)
from nkiconv.simulate.engines._common import (
    along,
    applied,
    elementwise_cost,
    not_both_in_psum,
    on_generation,
    operator,
    reducing_cost,
    same_elements,
    same_partitions,
)
from nkiconv.simulate.enums import reduce_cmd
from nkiconv.simulate.ops import OPS, Op, reduction
from nkiconv.simulate.sheet import (
    ON_CHIP,
    Call,
    Operand,
    Role,
    Rule,
    assumed,
    estimate,
    instruction,
    isa,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_FLOAT32 = frozenset({"float32"})
_SHORT = frozenset(
    {"float32", "bfloat16", "float16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2"}
    | {"uint8", "uint16", "int8", "int16"}
)
_COMMANDS = (reduce_cmd.reset_reduce, reduce_cmd.reduce, reduce_cmd.load_reduce)


def _binary_arithmetic(op: Op) -> bool:
    return op.binary is not None and not op.bitvec


def _vector_arithmetic(op: Op) -> bool:
    # tensor_scalar has rsqrt on GpSimdE only; this instruction runs on VectorE only.
    return (op.binary is not None or op.unary is not None) and not (op.bitvec or op is OPS["rsqrt"])


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data0": Operand(ON_CHIP),
        "data1": Operand(ON_CHIP),
        "initial": Operand(ON_CHIP, number=True, per_partition=True),
    },
    rules=(
        operator("op0", _binary_arithmetic, "binary arithmetic"),
        operator("op1", _binary_arithmetic, "binary arithmetic"),
        Rule(
            "op0 and op1 are obligatory",
            lambda c: c["op0"] is not None and c["op1"] is not None,
            isa("tensor_tensor_scan"),
            shows=lambda c: f"{c['op0']!r}, {c['op1']!r}",
            code="op_missing",
        ),
        on_generation("op0", "op1"),
        same_elements("dst", "data0", "data1"),
        same_partitions("data0", "initial"),
        not_both_in_psum("data0", "data1"),
    ),
    cost=lambda c: elementwise_cost(c, c.hw.scan_cycles),
    sources=(
        isa("tensor_tensor_scan"),
        estimate("tensor_tensor_scan"),
    ),
)
def tensor_tensor_scan(
    dst: Any,
    data0: Any,
    data1: Any,
    initial: Any,
    op0: Any,
    op1: Any,
    reverse0: Any = False,
    reverse1: Any = False,
    name: Any = None,
) -> Array:
    """``dst[i] = (data0[i] <op0> dst[i - 1]) <op1> data1[i]``, `initial` before the first.

    Shapes
    ------
    data0, data1, dst (P, F)   initial number or (P, 1)
    """
    count = data0.shape[0]
    first, second = data0.reshape(count, -1), data1.reshape(count, -1)
    state = np.broadcast_to(np.asarray(initial, dtype=np.float32).reshape(-1), (count,))
    result = np.empty(first.shape, dtype=np.float32)
    for i in range(first.shape[1]):
        state = applied(op1, reverse1, applied(op0, reverse0, first[:, i], state), second[:, i])
        result[:, i] = state
    return result


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE, dtypes=_SHORT),
        "src": Operand(ON_CHIP, dtypes=_SHORT),
        "imm0": Operand(ON_CHIP, dtypes=_FLOAT32, number=True, per_partition=True),
        "imm1": Operand(ON_CHIP, dtypes=_FLOAT32, number=True, optional=True, per_partition=True),
    },
    rules=(
        operator("op0", _binary_arithmetic, "binary arithmetic"),
        Rule(
            "op0 is obligatory",
            lambda c: c["op0"] is not None,
            isa("tensor_scalar_cumulative"),
            code="op_missing",
        ),
        on_generation("op0"),
        one_of(
            "tensor_scalar_cumulative",
            "op1",
            *(OPS[n] for n in ("add", "subtract", "multiply", "maximum", "minimum")),
        ),
        one_of("tensor_scalar_cumulative", "reduce_cmd", *_COMMANDS),
        loads("tensor_scalar_cumulative", "imm1"),
        same_elements("dst", "src"),
        same_partitions("src", "imm0", "imm1"),
        goes_on_from_known("tensor_scalar_cumulative", "src"),
    ),
    prepare=use_registers("src"),
    cost=lambda c: elementwise_cost(c, c.hw.cumulative_cycles),
    columns=Columns(("src",)),
    sources=(
        isa("tensor_scalar_cumulative"),
        assumed("two cycles an element, as tensor_tensor_scan; the page names no cost"),
    ),
)
def tensor_scalar_cumulative(
    dst: Any,
    src: Any,
    op0: Any,
    op1: Any,
    imm0: Any,
    imm1: Any = None,
    reduce_cmd: Any = reduce_cmd.reset_reduce,
    name: Any = None,
    *,
    _registers: Any = None,
) -> Array:
    """``dst[i] = (src[i] <op0> imm0) <op1> dst[i - 1]``; the last one stays in the registers.

    Before the first stands the identity of `op1`, the registers' value, or `imm1`.

    Shapes
    ------
    src, dst (P, F)   imm0, imm1 numbers or (P, 1) float32
    """
    values = applied(op0, False, src, along(imm0, src)).reshape(src.shape[0], -1)
    state = starting(_registers, reduce_cmd, op1, imm1)
    result = np.empty(values.shape, dtype=np.float32)
    for i in range(values.shape[1]):
        state = applied(op1, False, values[:, i], state)
        result[:, i] = state
    _registers[...] = state
    return result


def _operand_matches(call: Call) -> bool:
    op, operand = call["op0"], call["operand0"]
    if op.unary is not None:
        return not isinstance(operand, NkiTensor) and operand in (None, 0)
    return operand is not None


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP),
        "operand0": Operand(
            ON_CHIP, dtypes=_FLOAT32, number=True, optional=True, per_partition=True
        ),
        "reduce_res": Operand(ON_CHIP, Role.WRITE, optional=True, per_partition=True),
        "reduce_init": Operand(
            ON_CHIP, dtypes=_FLOAT32, number=True, optional=True, per_partition=True
        ),
    },
    rules=(
        operator("op0", _vector_arithmetic, "arithmetic of VectorE"),
        Rule(
            "op0 is obligatory",
            lambda c: c["op0"] is not None,
            isa("tensor_scalar_reduce"),
            code="op_missing",
        ),
        on_generation("op0"),
        Rule(
            "a binary op0 needs operand0, a unary one takes None or 0",
            _operand_matches,
            isa("tensor_scalar_reduce"),
            shows=lambda c: f"{c['op0']!r}, {c['operand0']!r}",
        ),
        one_of(
            "tensor_scalar_reduce",
            "reduce_op",
            *(OPS[n] for n in ("add", "multiply", "maximum", "minimum")),
        ),
        one_of("tensor_scalar_reduce", "reduce_cmd", *_COMMANDS),
        loads("tensor_scalar_reduce", "reduce_init"),
        Rule(
            "reduce_res_negate without reduce_res would have no effect",
            lambda c: not c["reduce_res_negate"] or is_given(c, "reduce_res"),
            isa("tensor_scalar_reduce"),
            code="negate_without_result",
        ),
        same_elements("dst", "data"),
        same_partitions("data", "operand0", "reduce_res", "reduce_init"),
        goes_on_from_known("tensor_scalar_reduce", "data"),
    ),
    only={"reverse0": (False, "not modelled; the page lists it as not supported yet")},
    prepare=use_registers("data"),
    cost=lambda c: reducing_cost(elementwise_cost(c, 1.0), c),
    columns=Columns(("data",)),
    sources=(
        isa("tensor_scalar_reduce"),
        estimate("tensor_scalar_reduce"),
    ),
)
def tensor_scalar_reduce(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    reduce_op: Any,
    reduce_res: Any = None,
    reverse0: Any = False,
    reduce_cmd: Any = reduce_cmd.reset_reduce,
    reduce_init: Any = None,
    reduce_res_negate: Any = False,
    name: Any = None,
    *,
    _registers: Any = None,
) -> tuple[Array, Array]:
    """``dst = data <op0> operand0``, and ``reduce_res = reduce_op over the free dimensions``.

    The reduction takes the float32 results, before they are rounded to dst's dtype.

    Shapes
    ------
    data, dst (P, F)   operand0, reduce_init numbers or (P, 1) float32   reduce_res (P, 1)
    """
    result = applied(op0, False, data, along(operand0, data))
    reduced = reduction(reduce_op, result.reshape(result.shape[0], -1), (1,))
    _registers[...] = reduce_op.binary(
        starting(_registers, reduce_cmd, reduce_op, reduce_init), reduced
    )
    total = _registers.reshape(-1, 1)
    return result, -total if reduce_res_negate else total.copy()
