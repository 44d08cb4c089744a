"""VectorE's accumulation registers: one float32 a partition, shared by several instructions.

What an earlier kernel left in them is unknown, so that going on from registers which nothing in
this kernel has set is refused, like reading memory that nothing has written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.enums import reduce_cmd
from nkiconv.simulate.errors import UninitializedReadError
from nkiconv.simulate.ops import Op
from nkiconv.simulate.sheet import Call, Rule, isa
from nkiconv.simulate.tensor import NkiTensor

_IDENTITY = {
    "add": 0.0,
    "subtract": 0.0,
    "multiply": 1.0,
    "maximum": -np.inf,
    "minimum": np.inf,
}
"""What the registers are reset to (isa tensor_scalar_cumulative, tensor_scalar_reduce)."""


def _lanes(call: Call, data: str) -> slice:
    _, _, first, end = call[data]._region()
    return slice(first, end)


def use_registers(data: str) -> Callable[[Call], None]:
    """Hand the registers of the partitions of `data` to the body, and note what they hold after."""

    def prepare(call: Call) -> None:
        lanes = _lanes(call, data)
        call.extra = {"_registers": call.program.vector_registers[lanes]}
        # With idle, "the accumulator state may still be modified" (isa select_reduce, Notes).
        call.program.vector_registers_known[lanes] = call["reduce_cmd"] is not reduce_cmd.idle

    return prepare


def starting(registers: Array, command: reduce_cmd, op: Op, initial: Any = None) -> Array:
    """Return what accumulation starts from, one value for each partition."""
    if command is reduce_cmd.reduce:
        return registers.copy()
    if command is reduce_cmd.load_reduce:
        loaded = np.asarray(initial, dtype=np.float32).reshape(-1)
        return np.broadcast_to(loaded, registers.shape)
    return np.full_like(registers, _IDENTITY[op.name])


def one_of(page: str, option: str, *allowed: Any) -> Rule:
    """Require an option to be one of a few members or operators."""
    names = ", ".join(v.name if isinstance(v, reduce_cmd) else repr(v) for v in allowed)
    return Rule(
        f"{option} must be one of {names}",
        lambda call: any(call[option] is value for value in allowed),
        isa(page),
        shows=lambda call: f"{option}={call[option]!r}",
        code=f"{option}_choice",
    )


def goes_on_from_known(page: str, data: str) -> Rule:
    """Require that ``reduce`` finds registers that this kernel has set."""

    def holds(call: Call) -> bool:
        known = call.program.vector_registers_known[_lanes(call, data)]
        return call["reduce_cmd"] is not reduce_cmd.reduce or bool(known.all())

    return Rule(
        "reduce_cmd.reduce goes on from registers that an earlier instruction of this kernel must "
        "have reset or loaded",
        holds,
        isa(page),
        error=UninitializedReadError,
        dynamic=True,
        code="registers_unknown",
    )


def loads(page: str, initial: str) -> Rule:
    """Require an initial value with ``load_reduce``, and with nothing else."""

    def holds(call: Call) -> bool:
        return (call[initial] is not None) == (call["reduce_cmd"] is reduce_cmd.load_reduce)

    def shows(call: Call) -> str:
        value = call[initial]
        return f"{call['reduce_cmd']} with {initial}={value!r}"

    return Rule(
        f"{initial} is needed with reduce_cmd.load_reduce, and has no effect without",
        holds,
        isa(page),
        shows=shows,
        code=f"{initial}_with_load",
    )


def is_given(call: Call, name: str) -> bool:
    """Whether an optional tensor was passed."""
    return isinstance(call[name], NkiTensor)
