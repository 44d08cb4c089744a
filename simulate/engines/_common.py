"""What the sheets of several engines share: costs, engine choice, and repeated rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nkiconv.simulate.demand import SHARED_PORT
from nkiconv.simulate.dtypes import Array, ElementType
from nkiconv.simulate.enums import engine
from nkiconv.simulate.errors import ConstraintError, DtypeError, ShapeError
from nkiconv.simulate.memory import UNWRITTEN
from nkiconv.simulate.ops import Op
from nkiconv.simulate.sheet import (
    Call,
    Cost,
    Fetch,
    Role,
    Rule,
    arch,
    free_elems,
    isa,
    partitions,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

INTEGERS = frozenset({"int8", "int16", "int32", "uint8", "uint16", "uint32"})
INTEGERS_32 = frozenset({"int32", "uint32"})
HALF = frozenset({"float16", "bfloat16"})
FLOAT8 = frozenset({"float8_e4m3", "float8_e5m2", "float8_e4m3fn"})

_LANES = {
    engine.tensor: Lane.TENSOR,
    engine.vector: Lane.VECTOR,
    engine.scalar: Lane.SCALAR,
    engine.gpsimd: Lane.GPSIMD,
    engine.sync: Lane.SYNC,
}


def picoseconds(cycles: float, ghz: float) -> int:
    """Turn engine cycles into whole picoseconds, so that times add up alike on every machine."""
    return round(cycles * 1000.0 / ghz)


def chosen_lane(call: Call, allowed: tuple[Lane, ...], default: Lane) -> Lane:
    """Return the engine that ``engine=`` asks for, or `default` for ``engine.unknown``."""
    wish = call["engine"]
    if wish is engine.unknown:
        return default
    lane = _LANES.get(wish) if isinstance(wish, engine) else None
    if lane not in allowed:
        names = ", ".join(f"engine.{name.name}" for name, at in _LANES.items() if at in allowed)
        raise ConstraintError(
            f"nisa.{call.sheet.name}: engine={wish!r} cannot execute it; {names} can "
            f"({isa(call.sheet.name)})",
            code="option.engine",
        )
    return lane


def wide_stride(tensor: NkiTensor, limit_bytes: int) -> bool:
    """Whether neighbouring elements are so far apart that the memory gives half its bandwidth."""
    for size, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.strides[1:]), strict=True):
        if size > 1:
            return stride * tensor._element.itemsize > limit_bytes
    return False


def stream_cycles(call: Call, per_element: float) -> float:
    """Return the cycles to stream the largest operand, one element per partition at a time."""
    elems, factor = 1, 1
    limit = call.hw.wide_stride_bytes
    for _, _, tensor in call.tensors():
        elems = max(elems, free_elems(tensor))
        if wide_stride(tensor, limit):
            factor = 2
    return elems * per_element * factor


def elementwise_cost(call: Call, per_element: float, more_cycles: int = 0) -> Cost:
    """Return the cost of streaming on VectorE, ScalarE or GpSimdE, whichever executes the call."""
    hw = call.hw
    more_ns = 0.0
    if call.lane is Lane.SCALAR:
        ghz, fixed, latency_ns = hw.scalar_ghz, hw.engine_issue_cycles, hw.scalar_latency_ns
        if _reads_sbuf(call):
            more_ns = hw.scalar_sbuf_ns
    elif call.lane is Lane.GPSIMD:
        ghz, fixed, latency_ns = hw.gpsimd_ghz, hw.gpsimd_issue_cycles, hw.vector_latency_ns
        per_element = max(per_element, 1.0)
    else:
        ghz, fixed, latency_ns = hw.vector_ghz, hw.engine_issue_cycles, hw.vector_latency_ns
    busy = max(stream_cycles(call, per_element), _narrow_cycles(call, ghz)) + more_cycles
    # VectorE's faster modes go through the port that it shares with GpSimdE (A3).
    port = SHARED_PORT if call.lane is Lane.VECTOR and per_element < 1 else -1
    more = round(more_ns * 1000)
    return Cost(
        picoseconds(busy + fixed, ghz) + more,
        picoseconds(busy, ghz) + more + round(latency_ns * 1000),
        port,
    )


def _reads_sbuf(call: Call) -> bool:
    return any(
        operand.role is Role.READ and not operand.per_partition and tensor._storage.space == "sbuf"
        for _, operand, tensor in call.tensors()
    )


def _narrow_cycles(call: Call, ghz: float) -> float:
    """Return the cycles to write short elements far apart, which takes longer than reading them."""
    dst = call.args.get("dst")
    if not isinstance(dst, NkiTensor) or dst._element.itemsize > 2:
        return 0.0
    if not wide_stride(dst, call.hw.wide_stride_bytes):
        return 0.0
    return free_elems(dst) * call.hw.narrow_stride_ns * ghz


def busy_until_done(busy_ps: int, latency_ns: float) -> Cost:
    """Return the cost of an instruction whose result can be seen a latency after its work."""
    return Cost(busy_ps, busy_ps + round(latency_ns * 1000))


def reducing_cost(cost: Cost, call: Call) -> Cost:
    """Return `cost` with the cycles that reading the registers takes."""
    hw = call.hw
    more = picoseconds(
        hw.reduce_extra_cycles, hw.scalar_ghz if call.lane is Lane.SCALAR else hw.vector_ghz
    )
    return cost.longer(more)


def copy_rate(call: Call, source: str) -> float:
    """Return the cycles per element of tensor_copy and tensor_scalar.

    NeuronCore-v3's VectorE moves 16-bit elements up to four times as fast (A3, Vector Engine
    Performance Mode), v4 also those of 8 bits, and its ScalarE twice as fast (A4).  Published trn2
    profiles show twice the rate from SBUF to SBUF also for float32, and from 16 to 8 bits.
    """
    src, dst = call[source], call["dst"]
    both = (src, dst)
    kinds = {t.dtype for t in both}
    newest = call.hw.generation > 3
    fast = kinds <= (HALF | FLOAT8 if newest else HALF)
    if call.lane is Lane.SCALAR and newest and fast:
        return 0.5
    if call.hw.generation < 3 or call.lane is not Lane.VECTOR:
        return 1.0
    in_sbuf = all(t._storage.space == "sbuf" for t in both)
    if fast:
        return 0.25 if in_sbuf and all(t.is_contiguous() for t in both) else 0.5
    return 0.5 if in_sbuf and (kinds == {"float32"} or kinds <= HALF | FLOAT8) else 1.0


def pair_rate(call: Call, first: str, second: str) -> float:
    """Return cycles per element of two-input instructions (A2 and A3, Vector Engine)."""
    a, b = call[first], call[second]
    in_psum = sum(t._storage.space == "psum" for t in (a, b))
    half = a.dtype in HALF and b.dtype in HALF
    # One element that stands for many: no faster mode in published trn2 profiles.
    half = half and not any(t.strides[-1] == 0 and t.shape[-1] > 1 for t in (a, b))
    if call.hw.generation >= 3:
        return 0.5 if half and in_psum == 0 else 1.0
    return 1.0 if in_psum == 1 or (half and in_psum == 0) else call.hw.float32_pair_cycles


def same_elements(*names: str) -> Rule:
    """Require equal partitions and equal elements per partition."""

    def holds(call: Call) -> bool:
        first = call[names[0]]
        count, elems = partitions(first), free_elems(first)
        return all(partitions(call[n]) == count and free_elems(call[n]) == elems for n in names[1:])

    return Rule(
        f"{', '.join(names)} must have the same partitions and elements per partition",
        holds,
        "NKI 0.6.0, page of the instruction",
        error=ShapeError,
        code="same_elements",
    )


def same_dtype(first: str, second: str, page: str = "") -> Rule:
    """Require equal dtypes, for an instruction that casts nothing; `page` is its own."""
    return Rule(
        f"{first} must have the dtype of {second}",
        lambda c: c[first].dtype == c[second].dtype,
        isa(page) if page else "NKI 0.6.0, page of the instruction",
        error=DtypeError,
        code="same_dtype",
    )


_TARGETS_SINCE = {3: "trn2 or trn3", 4: "trn3"}


def needs(instruction: str, generation: int) -> Rule:
    """Require a generation of the NeuronCore for all of an instruction."""
    return Rule(
        f"{instruction} needs {_TARGETS_SINCE[generation]}",
        lambda c: c.hw.generation >= generation,
        isa(instruction),
        shows=lambda c: c.hw.target,
        code="generation",
    )


def same_partitions(data: str, *vectors: str) -> Rule:
    """Require per-partition operands to cover the partitions of `data`."""

    def holds(call: Call) -> bool:
        count = partitions(call[data])
        return all(partitions(call[v]) == count for v in vectors if isinstance(call[v], NkiTensor))

    return Rule(
        f"{', '.join(vectors)} must have one element for each partition of {data}",
        holds,
        "NKI 0.6.0, page of the instruction",
        error=ShapeError,
        code="one_per_partition",
    )


def _no_gpsimd_in_psum(call: Call) -> bool:
    return call.lane is not Lane.GPSIMD or all(
        t._storage.space != "psum" for _, _, t in call.tensors()
    )


NO_GPSIMD_IN_PSUM = Rule(
    "GpSimdE cannot access PSUM",
    _no_gpsimd_in_psum,
    arch("NeuronCore engines"),
    code="gpsimd_in_psum",
)


def not_both_in_psum(first: str, second: str) -> Rule:
    """Refuse two inputs from PSUM."""

    def holds(call: Call) -> bool:
        return not (call[first]._storage.space == "psum" and call[second]._storage.space == "psum")

    return Rule(
        f"{first} and {second} cannot both be in PSUM",
        holds,
        "NKI 0.6.0, page of the instruction",
        code="both_in_psum",
    )


def operator(name: str, takes: Callable[[Op], bool], what: str) -> Rule:
    """Require an option to be an operator of a kind."""

    def holds(call: Call) -> bool:
        op = call[name]
        return op is None or (isinstance(op, Op) and takes(op))

    return Rule(
        f"{name} must be {what}",
        holds,
        "NKI 0.6.0, Supported Math Operators and Supported Activation Functions",
        shows=lambda call: f"{name}={call[name]!r}",
        code=f"{name}_kind",
    )


def on_generation(*names: str) -> Rule:
    """Require operators to exist on the target's VectorE."""

    def late(call: Call) -> list[Op]:
        ops = [call[n] for n in names]
        return [op for op in ops if op is not None and op.least_generation > call.hw.generation]

    return Rule(
        "the operator does not exist on this generation's VectorE",
        lambda call: not late(call),
        "NKI 0.4.0 release notes: abs_max, abs_min, square and relu on trn3 only",
        shows=lambda call: f"{late(call)} on {call.hw.target}",
        code="operator_generation",
    )


def bit_patterns(*op_names: str) -> Rule:
    """Require integer tensors wherever an operator works on bit patterns."""

    def holds(call: Call) -> bool:
        ops = [call[n] for n in op_names if call[n] is not None]
        if not any(op.bitvec for op in ops):
            return True
        return all(t.dtype in INTEGERS for _, _, t in call.tensors())

    return Rule(
        "bitvec operators take integer tensors only",
        holds,
        "NKI 0.6.0, Supported Math Operators",
        error=DtypeError,
        code="bitvec_integers",
    )


def _moves_packed(call: Call) -> bool:
    src, dst = call["src"], call["dst"]
    return src.dtype == dst.dtype or "packed" not in (src._element.kind, dst._element.kind)


PACKED_AS_IT_IS = Rule(
    "packed elements move as they are, between equal dtypes; use view() to see them as another",
    _moves_packed,
    "NKI 0.3.0 update guide, dge_mode type matching",
    error=DtypeError,
)


def fetch_unless_cast(source: str) -> Callable[[Call], Fetch]:
    """Fetch bits where dst has the dtype of `source`, float32 where values are cast."""
    return lambda call: Fetch.RAW if call[source].dtype == call["dst"].dtype else Fetch.FLOAT32


def fetch_by_op(name: str) -> Callable[[Call], Fetch]:
    """Fetch bit patterns for bitvec operators, float32 otherwise."""
    return lambda call: Fetch.RAW if call[name].bitvec else Fetch.FLOAT32


def along(vector: Any, like: Any) -> Any:
    """Shape a ``(P, 1)`` operand so that it broadcasts along the free dimensions of `like`."""
    if getattr(vector, "ndim", 0) < 2:
        return vector
    return vector.reshape(vector.shape[0], *[1] * (like.ndim - 1))


def broadcast(value: Any, like: Any) -> Any:
    """Return a number as float32, and a ``(P, 1)`` operand shaped to broadcast along `like`."""
    return along(value, like) if isinstance(value, np.ndarray) else np.float32(value)


def fits_integers(kind: ElementType, *values: float) -> bool:
    """Whether numbers are representable in a type, if it is one of integers."""
    if kind.kind != "int":
        return True
    limits = np.iinfo(kind.numpy)
    return all(limits.min <= value <= limits.max and value == int(value) for value in values)


def applied(op: Op, reverse: Any, values: Array, other: Any) -> Array:
    """Return ``values <op> other``, reversed where asked."""
    if op.unary is not None:
        return op.unary(values)
    if op.binary is None:  # pragma: no cover - the sheets' operator rules refuse it first
        return values
    if op.bitvec:
        other = np.asarray(other).astype(values.dtype)
    elif not isinstance(other, np.ndarray):
        other = np.float32(other)
    return op.binary(other, values) if reverse else op.binary(values, other)


def written(tensor: NkiTensor) -> bool:
    """Whether every element of a tensor has been written.

    Rules that look at values ask this first: they run before the check of reads, which refuses.
    """
    return tensor._storage.writers(tensor, tensor._kind)[0] != UNWRITTEN
