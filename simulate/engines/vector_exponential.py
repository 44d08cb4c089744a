"""VectorE's exponential of trn3, with a running sum in the engine's accumulation registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.columns import Columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._accumulate import (
    goes_on_from_known,
    one_of,
    starting,
    use_registers,
)
from nkiconv.simulate.engines._common import (
    broadcast,
    elementwise_cost,
    needs,
    same_elements,
    same_partitions,
)
from nkiconv.simulate.enums import reduce_cmd
from nkiconv.simulate.errors import ShapeError
from nkiconv.simulate.ops import OPS
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


def _starts_from_zero(call: Call) -> bool:
    start = call["reduce_init"]
    return call["reduce_cmd"] is reduce_cmd.load_reduce or (
        not isinstance(start, NkiTensor) and start == 0
    )


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
        needs("exponential", 4),
        same_elements("dst", "src"),
        Rule(
            "dst and src have at most four dimensions",
            lambda c: max(c["dst"].ndim, c["src"].ndim) <= 4,
            isa("exponential"),
            error=ShapeError,
            code="dimensions",
        ),
        same_partitions("src", "max_value", "reduce_res", "reduce_init"),
        one_of("exponential", "reduce_cmd", *_COMMANDS),
        Rule(
            "reduce_res needs a reduce_cmd that accumulates: idle leaves the registers unknown",
            lambda c: c["reduce_res"] is None or c["reduce_cmd"] is not reduce_cmd.idle,
            isa("exponential"),
            code="reduce_res_idle",
        ),
        Rule(
            "reduce_init needs load_reduce",
            _starts_from_zero,
            isa("exponential"),
            shows=lambda c: f"{c['reduce_init']!r} with {c['reduce_cmd']}",
        ),
        goes_on_from_known("exponential", "src"),
    ),
    prepare=use_registers("src"),
    cost=lambda c: elementwise_cost(c, 1.0 / c.hw.exponential_elems_per_cycle),
    columns=Columns(("src",)),
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
) -> tuple[Array, Array]:
    """``dst = exp(src - max_value)``; sums along the free dimensions gather in registers.

    Shapes
    ------
    src, dst (P, F)   max_value, reduce_init numbers or (P, 1) float32   reduce_res (P, 1)
    """
    top = broadcast(max_value, src)
    result = np.exp(src - top)
    if reduce_cmd is not type(reduce_cmd).idle:
        sums = result.reshape(len(result), -1).sum(axis=1, dtype=np.float32)
        _registers[...] = starting(_registers, reduce_cmd, OPS["add"], reduce_init) + sums
    return result, _registers.reshape(-1, 1).copy()
