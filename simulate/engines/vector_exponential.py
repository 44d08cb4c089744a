"""VectorE's exponential of trn3, with a running sum in the engine's accumulation registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import (
    along,
    elementwise_cost,
    same_elements,
    same_partitions,
)
from nkiconv.simulate.enums import reduce_cmd
from nkiconv.simulate.errors import HazardError, ShapeError
from nkiconv.simulate.sheet import ON_CHIP, Call, Operand, Role, Rule, arch, instruction, isa
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_FLOAT32 = frozenset({"float32"})
_FLOATS = frozenset({"float8_e4m3", "float8_e5m2", "float16", "bfloat16", "float32"})
_INTEGERS = frozenset({"int8", "int16", "int32", "uint8", "uint16"})
_COMMANDS = (
    reduce_cmd.idle,
    reduce_cmd.reset_reduce,
    reduce_cmd.reduce,
    reduce_cmd.load_reduce,
)


def _lanes(call: Call) -> slice:
    _, _, first, end = call["src"]._region()
    return slice(first, end)


def _registers_known(call: Call) -> bool:
    known = call.program.vector_registers_known
    return call["reduce_cmd"] is not reduce_cmd.reduce or bool(known[_lanes(call)].all())


def _starts_from_zero(call: Call) -> bool:
    start = call["reduce_init"]
    return call["reduce_cmd"] is reduce_cmd.load_reduce or (
        not isinstance(start, NkiTensor) and start == 0
    )


def _registers(call: Call) -> None:
    lanes, program = _lanes(call), call.program
    call.extra = {
        "_registers": program.vector_registers[lanes],
        "_known": program.vector_registers_known[lanes],
    }


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE, dtypes=_FLOATS | _INTEGERS | {"tfloat32"}),
        "src": Operand(ON_CHIP, dtypes=_FLOATS | _INTEGERS | {"uint32"}),
        "max_value": Operand(ON_CHIP, dtypes=_FLOAT32, number=True, per_partition=True),
        "reduce_res": Operand(
            ON_CHIP,
            Role.WRITE,
            dtypes=_FLOATS | {"tfloat32"},
            optional=True,
            per_partition=True,
        ),
        "reduce_init": Operand(ON_CHIP, dtypes=_FLOAT32, number=True, per_partition=True),
    },
    rules=(
        Rule(
            "exponential needs trn3",
            lambda c: c.hw.generation >= 4,
            isa("exponential"),
            shows=lambda c: c.hw.target,
        ),
        same_elements("dst", "src"),
        Rule(
            "dst and src have at most four dimensions",
            lambda c: max(c["dst"].ndim, c["src"].ndim) <= 4,
            isa("exponential"),
            error=ShapeError,
        ),
        same_partitions("src", "max_value", "reduce_res", "reduce_init"),
        Rule(
            "reduce_cmd must be idle, reset_reduce, reduce or load_reduce",
            lambda c: c["reduce_cmd"] in _COMMANDS,
            isa("exponential"),
            shows=lambda c: f"{c['reduce_cmd']!r}",
        ),
        Rule(
            "reduce_res needs a reduce_cmd that accumulates: idle leaves the registers unknown",
            lambda c: c["reduce_res"] is None or c["reduce_cmd"] is not reduce_cmd.idle,
            isa("exponential"),
        ),
        Rule(
            "reduce_init needs load_reduce",
            _starts_from_zero,
            isa("exponential"),
            shows=lambda c: f"{c['reduce_init']!r} with {c['reduce_cmd']}",
        ),
        Rule(
            "reduce needs registers that reset_reduce or load_reduce has set, and idle not undone",
            _registers_known,
            isa("exponential"),
            error=HazardError,
            dynamic=True,
        ),
    ),
    prepare=_registers,
    cost=lambda c: elementwise_cost(c, 1.0 / c.hw.exponential_elems_per_cycle),
    sources=(isa("exponential"), arch("NeuronCore-v4, Fast Exponential Evaluation")),
)
def exponential(
    dst: Any,
    src: Any,
    max_value: Any = 0.0,
    reduce_res: Any = None,
    reduce_cmd: Any = reduce_cmd.idle,
    reduce_init: Any = 0.0,
    name: Any = None,
    *,
    _registers: Any = None,
    _known: Any = None,
) -> tuple[Array, Array]:
    """``dst = exp(src - max_value)``; sums along the free dimensions gather in registers.

    Shapes
    ------
    src, dst (P, F)   max_value, reduce_init numbers or (P, 1) float32   reduce_res (P, 1)
    """
    top = along(max_value, src) if hasattr(max_value, "ndim") else np.float32(max_value)
    result = np.exp(src - top)
    commands = type(reduce_cmd)
    _known[...] = reduce_cmd is not commands.idle
    if reduce_cmd is commands.reset_reduce:
        _registers[...] = 0
    elif reduce_cmd is commands.load_reduce:
        _registers[...] = np.asarray(reduce_init, dtype=np.float32).reshape(-1)
    if reduce_cmd is not commands.idle:
        _registers += result.reshape(len(result), -1).sum(axis=1, dtype=np.float32)
    return result, _registers.reshape(-1, 1).copy()
