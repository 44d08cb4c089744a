"""ScalarE: activation functions, with a scale and a bias on the way in and a sum on the way out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from nkiconv.simulate.columns import Columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import (
    broadcast,
    elementwise_cost,
    operator,
    reducing_cost,
    same_elements,
    same_partitions,
)
from nkiconv.simulate.enums import reduce_cmd
from nkiconv.simulate.errors import DtypeError
from nkiconv.simulate.ops import OPS, Op
from nkiconv.simulate.program import kernel_frame
from nkiconv.simulate.sheet import (
    ON_CHIP,
    Call,
    Cost,
    Operand,
    Role,
    Rule,
    arch,
    estimate,
    instruction,
    isa,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane


class ActivationRangeWarning(UserWarning):
    """ScalarE receives values outside the range for which its function is documented."""


def activation_cost(call: Call) -> Cost:
    """Return the cost of streaming through ScalarE, and the table that the function needs."""
    hw = call.hw
    op: Op = call["op"]
    # Functions other than the trivial ones go through a table and take longer to issue.
    extra = hw.scalar_table_cycles - hw.engine_issue_cycles if op.table > 0 else 0
    return replace(elementwise_cost(call, 1.0, extra), table=op.table)


def _bias_form(call: Call) -> bool:
    return call.hw.generation > 2 or call["bias"] is None or isinstance(call["bias"], NkiTensor)


def _scale_type(call: Call) -> bool:
    return not isinstance(call["scale"], NkiTensor) or call["scale"].dtype == "float32"


def _bias_type(call: Call) -> bool:
    return not isinstance(call["bias"], NkiTensor) or call["bias"].dtype != "tfloat32"


def _reduction_complete(call: Call) -> bool:
    active = call["reduce_cmd"] not in (reduce_cmd.idle, reduce_cmd.reset)
    return not active or call["reduce_op"] is OPS["add"]


def scalar_registers(call: Call) -> None:
    """Hand the body the accumulation registers of the partitions that data covers, if it asks."""
    args = call.args
    if args.get("reduce_res") is None and args.get("reduce_cmd") is reduce_cmd.idle:
        return
    _, _, first, end = call["data"]._region()
    call.extra = {"_registers": call.program.scalar_registers[first:end]}


_COMMON_RULES = (
    operator("op", lambda op: op.scalar is not None, "an activation function"),
    Rule("op is obligatory", lambda c: c["op"] is not None, isa("activation"), code="op_missing"),
    Rule(
        "nl.prelu takes its slope from relu_param, which nisa.activate2 of trn3 alone has",
        lambda c: not c["op"].scalar.parametric,
        isa("activate2"),
        shows=lambda c: f"op={c['op']!r}",
        code="no_slope",
    ),
    same_elements("dst", "data"),
    same_partitions("data", "bias", "scale", "reduce_res"),
    Rule(
        "on NeuronCore-v2 bias must be a (partitions, 1) tensor, not a number",
        _bias_form,
        isa("activation"),
        shows=lambda c: f"bias={c['bias']!r} on {c.hw.target}",
    ),
    Rule("scale must be float32", _scale_type, isa("activation"), error=DtypeError),
    Rule("bias cannot be tfloat32", _bias_type, isa("activation"), error=DtypeError),
    Rule(
        "reciprocal takes no bias on NeuronCore-v2",
        lambda c: c.hw.generation > 2 or c["op"] is not OPS["reciprocal"] or c["bias"] is None,
        "NKI 0.6.0, Engine Selection for Operators",
        code="reciprocal_bias",
    ),
)
"""What activation and activation_reduce refuse alike."""


@instruction(
    lane=Lane.SCALAR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP),
        "bias": Operand(ON_CHIP, number=True, optional=True, per_partition=True),
        "scale": Operand(ON_CHIP, number=True, per_partition=True),
        "reduce_res": Operand(ON_CHIP, Role.WRITE, optional=True, per_partition=True),
    },
    rules=(
        *_COMMON_RULES,
        Rule(
            "reduce_cmd must be a member of nisa.reduce_cmd other than load_reduce",
            lambda c: (
                isinstance(c["reduce_cmd"], reduce_cmd)
                and c["reduce_cmd"] is not reduce_cmd.load_reduce
            ),
            isa("activation"),
            shows=lambda c: f"reduce_cmd={c['reduce_cmd']!r}",
            code="reduce_cmd_choice",
        ),
        Rule(
            "reduce_op must be None or nl.add",
            lambda c: c["reduce_op"] is None or c["reduce_op"] is OPS["add"],
            isa("activation"),
            shows=lambda c: f"reduce_op={c['reduce_op']!r}",
            code="reduce_op_choice",
        ),
        Rule(
            "a reduce_cmd that accumulates needs reduce_op=nl.add",
            _reduction_complete,
            isa("activation"),
            shows=lambda c: f"{c['reduce_cmd']} with reduce_op={c['reduce_op']!r}",
        ),
        Rule(
            "reduce_op without a reduce_cmd that accumulates would have no effect",
            lambda c: (
                c["reduce_op"] is None
                or c["reduce_cmd"] in (reduce_cmd.reduce, reduce_cmd.reset_reduce)
            ),
            isa("activation"),
            shows=lambda c: f"{c['reduce_cmd']} with reduce_op={c['reduce_op']!r}",
            code="reduce_op_idle",
        ),
    ),
    prepare=scalar_registers,
    cost=activation_cost,
    columns=Columns(("data",)),
    sources=(isa("activation"), arch("Scalar Engine")),
)
def activation(
    dst: Any,
    op: Any,
    data: Any,
    bias: Any = None,
    scale: Any = 1.0,
    reduce_op: Any = None,
    reduce_res: Any = None,
    reduce_cmd: Any = reduce_cmd.idle,
    name: Any = None,
    *,
    _registers: Any = None,
) -> tuple[Array, Array | None]:
    """``dst = op(data * scale + bias)``; sums along the free dimensions gather in registers.

    Shapes
    ------
    data, dst (P, F)   bias, scale, reduce_res (P, 1); scale float32 or a number
    """
    result = _activated("activation", op, data, scale, bias)
    if _registers is None:
        return result, None
    if reduce_cmd in (type(reduce_cmd).reset, type(reduce_cmd).reset_reduce):
        _registers[...] = 0
    if reduce_cmd in (type(reduce_cmd).reduce, type(reduce_cmd).reset_reduce):
        _registers += result.reshape(result.shape[0], -1).sum(axis=1, dtype=np.float32)
    return result, _registers.reshape(-1, 1).copy()


@instruction(
    lane=Lane.SCALAR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP),
        "reduce_res": Operand(ON_CHIP, Role.WRITE, optional=True, per_partition=True),
        "bias": Operand(ON_CHIP, number=True, optional=True, per_partition=True),
        "scale": Operand(ON_CHIP, number=True, per_partition=True),
    },
    rules=(
        *_COMMON_RULES,
        Rule(
            "reduce_op must be nl.add",
            lambda c: c["reduce_op"] is OPS["add"],
            isa("activation_reduce"),
            shows=lambda c: f"reduce_op={c['reduce_op']!r}",
            code="reduce_op_choice",
        ),
    ),
    prepare=scalar_registers,
    cost=lambda c: reducing_cost(activation_cost(c), c),
    columns=Columns(("data",)),
    sources=(isa("activation_reduce"), estimate("activation_reduce"), arch("Scalar Engine")),
)
def activation_reduce(
    dst: Any,
    op: Any,
    data: Any,
    reduce_op: Any,
    reduce_res: Any,
    bias: Any = None,
    scale: Any = 1.0,
    name: Any = None,
    *,
    _registers: Any = None,
) -> tuple[Array, Array]:
    """``dst = op(data * scale + bias)``, and its sum along the free dimensions in `reduce_res`.

    As activation with ``reduce_cmd.reset_reduce``.

    Shapes
    ------
    data, dst (P, F)   bias, scale, reduce_res (P, 1); scale float32 or a number
    """
    result = _activated("activation_reduce", op, data, scale, bias)
    _registers[...] = result.reshape(result.shape[0], -1).sum(axis=1, dtype=np.float32)
    return result, _registers.reshape(-1, 1).copy()


def _activated(name: str, op: Op, data: Array, scale: Any, bias: Any) -> Array:
    """Return ``op(data * scale + bias)``."""
    values = data
    if isinstance(scale, np.ndarray) or scale != 1.0:
        values = values * broadcast(scale, data)
    if bias is not None:
        values = values + broadcast(bias, data)
    warn_outside(name, op, values)
    if op.activation is None:  # pragma: no cover - the sheets' operator rules refuse it first
        return values
    return op.activation(values)


def warn_outside(instruction: str, op: Op, values: Array) -> None:
    """Warn of values for which ScalarE's function is not documented, at the kernel's line."""
    scalar = op.scalar
    if scalar is None or scalar.valid is None or scalar.covers(values):
        return
    low, high = scalar.valid
    frame = kernel_frame()
    warnings.warn_explicit(
        f"nisa.{instruction}: nl.{op.name} receives values outside [{low:g}, {high:g}]; "
        f"{scalar.outside} (NKI 0.6.0, Supported Activation Functions)",
        ActivationRangeWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )
