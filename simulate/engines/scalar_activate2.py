"""ScalarE's activation of trn3 with two tensor-scalar operations of choice before the function."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.columns import Columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import (
    broadcast,
    needs,
    operator,
    same_elements,
    same_partitions,
)
from nkiconv.simulate.engines.scalar import activation_cost, scalar_registers, warn_outside
from nkiconv.simulate.enums import reduce_cmd
from nkiconv.simulate.errors import DtypeError
from nkiconv.simulate.ops import OPS, Op
from nkiconv.simulate.sheet import ON_CHIP, Call, Operand, Role, Rule, arch, instruction, isa
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_PAIRS = (
    ("multiply", "add"),
    ("multiply", "subtract"),
    ("multiply", "bypass"),
    ("add", "bypass"),
    ("subtract", "bypass"),
    ("bypass", "bypass"),
)
"""What op0 and op1 may be (isa activate2)."""

_COMMANDS = (reduce_cmd.idle, reduce_cmd.reset, reduce_cmd.reduce, reduce_cmd.reset_reduce)
_ACCUMULATING = (reduce_cmd.reduce, reduce_cmd.reset_reduce)

_IDENTITIES = {
    OPS["add"]: 0.0,
    OPS["maximum"]: -np.inf,
    OPS["minimum"]: np.inf,
    OPS["abs_max"]: 0.0,
    OPS["abs_min"]: np.inf,
}
"""What activate2 may reduce by, and the register's value that changes nothing."""


def _pair_exists(call: Call) -> bool:
    return any(call["op0"] is OPS[a] and call["op1"] is OPS[b] for a, b in _PAIRS)


def _shows_stages(call: Call) -> str:
    return ", ".join(
        f"{name}={call[name]!r}" for name in ("op0", "imm0", "reverse0", "op1", "imm1", "reverse1")
    )


def _stages(call: Call) -> tuple[tuple[Any, Any, Any], ...]:
    return tuple((call[f"op{i}"], call[f"imm{i}"], call[f"reverse{i}"]) for i in (0, 1))


def _bypass_is_plain(call: Call) -> bool:
    return not any(
        op is OPS["bypass"] and (isinstance(imm, NkiTensor) or reverse)
        for op, imm, reverse in _stages(call)
    )


def _is_zero(value: Any) -> bool:
    return not isinstance(value, NkiTensor) and bool(value == 0)


def _reduction_fits(call: Call) -> bool:
    op = call["reduce_op"]
    return op in _IDENTITIES if call["reduce_cmd"] in _ACCUMULATING else op is None


def _same_imm_type(call: Call) -> bool:
    first, second = call["imm0"], call["imm1"]
    both = isinstance(first, NkiTensor) and isinstance(second, NkiTensor)
    return not both or first.dtype == second.dtype


@instruction(
    lane=Lane.SCALAR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP),
        "imm0": Operand(ON_CHIP, number=True, per_partition=True),
        "imm1": Operand(ON_CHIP, number=True, per_partition=True),
        "relu_param": Operand(ON_CHIP, number=True, per_partition=True),
        "reduce_res": Operand(ON_CHIP, Role.WRITE, optional=True, per_partition=True),
    },
    rules=(
        needs("activate2", 4),
        operator("op", lambda op: op.scalar is not None, "an activation function"),
        Rule(
            "op is obligatory", lambda c: c["op"] is not None, isa("activate2"), code="op_missing"
        ),
        Rule(
            "op0 and op1 must be multiply and add, multiply and subtract, or one of multiply, "
            "add, subtract and bypass with nl.bypass",
            _pair_exists,
            isa("activate2"),
            shows=_shows_stages,
        ),
        Rule(
            "nl.bypass takes a number as its immediate, and nothing to reverse",
            _bypass_is_plain,
            isa("activate2"),
            shows=_shows_stages,
        ),
        Rule(
            "imm0 and imm1 must have the same dtype",
            _same_imm_type,
            isa("activate2"),
            error=DtypeError,
        ),
        same_elements("dst", "data"),
        same_partitions("data", "imm0", "imm1", "relu_param", "reduce_res"),
        Rule(
            "relu_param is for nl.prelu, no other function has a parameter",
            lambda c: c["op"].scalar.parametric or _is_zero(c["relu_param"]),
            isa("activate2"),
            shows=lambda c: f"{c['relu_param']!r} with {c['op']!r}",
            code="slope_without_prelu",
        ),
        Rule(
            "reduce_cmd must be idle, reset, reduce or reset_reduce",
            lambda c: c["reduce_cmd"] in _COMMANDS,
            isa("activate2"),
            shows=lambda c: f"{c['reduce_cmd']!r}",
            code="reduce_cmd_choice",
        ),
        Rule(
            "reduce_op must be nl.add, nl.maximum, nl.minimum, nl.abs_max or nl.abs_min with a "
            "reduce_cmd that accumulates, and None without",
            _reduction_fits,
            isa("activate2"),
            shows=lambda c: f"{c['reduce_cmd']!r} with {c['reduce_op']!r}",
            code="reduce_op_choice",
        ),
    ),
    prepare=scalar_registers,
    cost=activation_cost,
    columns=Columns(("data",)),
    sources=(isa("activate2"), arch("Scalar Engine")),
)
def activate2(
    dst: Any,
    op: Any,
    data: Any,
    imm0: Any,
    imm1: Any,
    op0: Any,
    op1: Any,
    relu_param: Any = 0.0,
    reverse0: Any = False,
    reverse1: Any = False,
    reduce_op: Any = None,
    reduce_res: Any = None,
    reduce_cmd: Any = reduce_cmd.idle,
    name: Any = None,
    *,
    _registers: Any = None,
) -> tuple[Array, Array | None]:
    """``dst = op((data <op0> imm0) <op1> imm1)``; sums of it gather in ScalarE's registers.

    Shapes
    ------
    data, dst (P, F)   imm0, imm1 numbers or (P, 1)   reduce_res (P, 1)
    """
    values = _stage(op1, _stage(op0, data, imm0, reverse0), imm1, reverse1)
    warn_outside("activate2", op, values)
    parameters = (broadcast(relu_param, values),) if op.scalar.parametric else ()
    result: Array = op.activation(values, *parameters)
    if _registers is None:
        return result, None
    commands = type(reduce_cmd)
    if reduce_cmd in (commands.reset, commands.reset_reduce):
        _registers[...] = _IDENTITIES.get(reduce_op, 0.0)
    if reduce_cmd in (commands.reduce, commands.reset_reduce):
        _registers[...] = reduce_op.binary(_registers, _along_free(reduce_op, result))
    return result, _registers.reshape(-1, 1).copy()


def _along_free(op: Op, values: Array) -> Array:
    """Reduce each partition's values to one, in float32."""
    flat = values.reshape(len(values), -1)
    if op is OPS["add"]:
        return np.asarray(flat.sum(axis=1, dtype=np.float32))
    if op in (OPS["maximum"], OPS["minimum"]):
        return np.asarray(flat.max(axis=1) if op is OPS["maximum"] else flat.min(axis=1))
    # By magnitude, one element after another: the later one wins a tie.
    result = flat[:, 0]
    for column in flat.T[1:]:
        result = np.asarray(op.binary(result, column) if op.binary else column)
    return result


def _stage(op: Op, values: Array, imm: Any, reverse: bool) -> Array:
    """Return ``values <op> imm``, reversed where asked."""
    if op.binary is None:  # nl.bypass
        return values
    other = broadcast(imm, values)
    return op.binary(other, values) if reverse else op.binary(values, other)
