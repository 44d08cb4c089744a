"""Instruction sheets: what an instruction touches, refuses, costs and does, side by side.

`instruction` turns a function into a sheet.  The function's signature is the vendor's, keyword for
keyword, and its body is only arithmetic: tensors arrive as arrays, the result goes back as an
array.  Everything else (limits, rules, rounding, cost, record) happens here, once for all sheets.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NoReturn

import numpy as np

from nkiconv.simulate.columns import Columns
from nkiconv.simulate.dtypes import Array, round_to
from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    HazardError,
    NkiconvError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.indirect import IndirectTensor
from nkiconv.simulate.indirect_call import execute as execute_indirect
from nkiconv.simulate.indirect_call import is_indirect
from nkiconv.simulate.late import LateTransfers, Touch
from nkiconv.simulate.memory import BY_ENGINE, UNWRITTEN
from nkiconv.simulate.program import Program, current, kernel_line
from nkiconv.simulate.slugs import rule_slugs
from nkiconv.simulate.tensor import NKIObject, NkiTensor
from nkiconv.simulate.trace import UNNAMED, Lane

_MOST_PLANS = 20_000
"""Kinds of call that an instruction remembers as checked; a few hundred bytes each."""

SHEETS: dict[str, Sheet] = {}
"""Every instruction of the embedded NKI, by name."""


def isa(page: str) -> str:
    """Cite the vendor's page of an instruction."""
    return f"nki.isa.{page}, NKI 0.6.0"


def estimate(page: str) -> str:
    """Cite the cost on an instruction's page in SDK 2.26; later pages name none."""
    return f"nki.isa.{page}, SDK 2.26, estimated instruction cost"


def arch(section: str) -> str:
    """Cite a section of the vendor's architecture guides."""
    return f"NeuronCore architecture guides, {section}"


def assumed(reason: str) -> str:
    """State that there is no source, and why the choice was made."""
    return f"assumed: {reason}"


class Role(Enum):
    """What an instruction does with an operand."""

    READ = "read"
    WRITE = "write"


class Fetch(Enum):
    """How an operand reaches the body."""

    FLOAT32 = "float32"
    RAW = "raw"


SBUF = frozenset({"sbuf"})
PSUM = frozenset({"psum"})
ON_CHIP = SBUF | PSUM
OFF_PSUM = frozenset({"sbuf", "hbm"})

START_PARTITIONS = ((32, (0, 32, 64, 96)), (64, (0, 64)), (128, (0,)))
"""Where an operand of at most so many partitions may start (A2, Accessing SBUF/PSUM tensors)."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Limits of one operand that a table can hold."""

    spaces: frozenset[str] = ON_CHIP
    role: Role = Role.READ
    dtypes: frozenset[str] | None = None
    max_free_elems: Callable[[Hardware], int] | None = None
    optional: bool = False
    number: bool = False
    """A plain number may stand in the tensor's place."""
    per_partition: bool = False
    """Must have the shape ``(partitions, 1)``."""
    fetch: Fetch | Callable[[Call], Fetch] = Fetch.FLOAT32
    packed: bool = False
    """Takes the packed types of MX matmuls as well, where `dtypes` does not say."""
    any_start: bool = False
    """May start at any partition: a rule says where."""
    touches: Callable[[NkiTensor, Call], NkiTensor] | None = None
    """Which part of the tensor is read or written, where that is not all of it."""
    offsets: frozenset[str] = frozenset()
    """Addresses of run time that it may have: ``"scalar"``, ``"vector"``, ``"columns"``."""
    most: int = 0
    """A list of up to so many tensors stands here; 0 where it is one tensor."""


_INDEX = Operand(SBUF)
"""An index tensor, as an operand of the record."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a table cannot hold: a sentence, a predicate and a source.

    The sentence is the error message; `shows` adds the values that broke it.
    """

    sentence: str
    holds: Callable[[Call], bool]
    source: str
    shows: Callable[[Call], str] | None = None
    error: type[NkiconvError] = ConstraintError
    dynamic: bool = False
    """Looks at addresses or values, so that one check does not stand for all similar calls."""
    applies: Callable[[Call], bool] | None = None
    """Of a dynamic rule: whether calls of these shapes, types and options are looked at at all."""
    code: str = ""
    """Slug within the sheet; without one it comes from the predicate's name or the sentence."""


CodedRule = tuple[Rule, str]
"""A rule, and its code."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an instruction costs: when its engine is free again, and when its result can be seen."""

    occupancy_ps: int
    latency_ps: int
    table: int = -1
    """The activation table that ScalarE needs; for TensorE the cells that work (`schedule`)."""

    def longer(self, more_ps: int) -> Cost:
        """Return the cost of an instruction that takes so much longer."""
        return Cost(self.occupancy_ps + more_ps, self.latency_ps + more_ps, self.table)


@dataclass(slots=True)
class Call:
    """One call of an instruction: its arguments by name, on one generation."""

    sheet: Sheet
    args: dict[str, Any]
    program: Program
    hw: Hardware
    lane: Lane = Lane.VECTOR
    also_read: tuple[str, ...] = ()
    """Outputs whose present contents the body needs."""
    works_in: tuple[str, ...] = ()
    """Outputs that the body gets for their shape, or to overwrite them itself."""
    extra: dict[str, Any] | None = None
    """Values for the body's own parameters, those with a leading underscore."""
    also_touch: tuple[Used, ...] = ()
    """Tensors that the record names beside the operands."""

    def __getitem__(self, name: str) -> Any:  # operand or option, whatever the vendor's type is
        return self.args[name]

    def tensors(self) -> list[Used]:
        """Return the operands that are tensors."""
        args = self.args
        return [
            (name, operand, tensor)
            for name, operand in self.sheet.operand_items
            for tensor in (args[name] if operand.most else (args[name],))
            if isinstance(tensor, NkiTensor)
        ]

    def describe(self) -> str:
        """Return the call's operands with their types, for messages."""
        parts = []
        for name, _, tensor in self.tensors():
            sizes = ", ".join(map(str, tensor.shape))
            parts.append(f"{name} {tensor.dtype}[{sizes}] {tensor._storage.space.upper()}")
        return "; ".join(parts)


Used = tuple[str, Operand, NkiTensor]
"""A tensor that a call uses: the operand's name, its limits, the tensor."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is the same for all calls that look alike; that there is one says that they pass."""

    lane: Lane
    cost: Cost
    rules: tuple[CodedRule, ...]
    """Those that look at addresses or values, and so at every call."""
    raw: tuple[bool, ...]
    """Of each tensor, whether the body gets its elements as they are, not widened to float32."""
    spans: tuple[tuple[int, int, int], ...]
    """Of each tensor, how it is accessed, its bytes from first to last, and its partitions."""
    work: tuple[str, int, int] | None
    """Of a matmul, dtype of moving, multiply-accumulates and columns streamed."""


class NkiInstruction(NKIObject):
    """Handle of an executed instruction."""

    __slots__ = ("_index", "_program")
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, handle: tuple[Program, int]) -> None:
        self._program, self._index = handle

    def depends_on(self, *producers: NkiInstruction) -> NkiInstruction:
        """Make this instruction start after every producer has completed."""
        for producer in producers:
            if not isinstance(producer, NkiInstruction):
                raise ConstraintError(
                    f"depends_on: {producer!r} is not an instruction (nki.isa.NkiInstruction)",
                    code="order.producer",
                )
            if producer._program is not self._program or producer._index >= self._index:
                raise HazardError(
                    "depends_on: the producer must come earlier in the same kernel "
                    f"(instruction {producer._index} for {self._index})",
                    code="order.later",
                )
            self._program.trace.edges.append((self._index, producer._index))
        return self


def partitions(tensor: NkiTensor) -> int:
    """Return the partitions that an on-chip operand occupies."""
    return tensor.shape[0]


def free_elems(tensor: NkiTensor) -> int:
    """Return the elements per partition of an on-chip operand."""
    elems = 1
    for size in tensor.shape[1:]:
        elems *= size
    return elems


def _touches(tensors: list[Used]) -> list[Touch]:
    """Return which bytes an instruction reads and writes, for `LateTransfers`."""
    return [
        (tensor._storage.allocation.number, operand.role is Role.WRITE, tensor._region())
        for _, operand, tensor in tensors
    ]


def _overlaps(tensor: NkiTensor) -> bool:
    """Whether two elements of a view may share a place: a stride within the reach of the rest.

    Rows that lie wherever their index says are looked at one by one; `indirect_call` has the rest.
    """
    if isinstance(tensor, IndirectTensor):
        tensor = tensor._one()
    reach = 0
    for stride, size in sorted(zip(tensor.strides, tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += (size - 1) * stride
    return False


class Sheet:
    """An instruction: callable as the vendor's function is."""

    def __init__(
        self,
        body: Callable[..., Any],
        *,
        lane: Lane | Callable[[Call], Lane],
        operands: Mapping[str, Operand],
        cost: Callable[[Call], Cost],
        sources: Sequence[str],
        rules: Sequence[Rule] = (),
        only: Mapping[str, tuple[Any, str]] | None = None,
        prepare: Callable[[Call], None] | None = None,
        count: Callable[[Call], None] | None = None,
        work: Callable[[Call], tuple[str, int, int] | None] | None = None,
        writes_as: int = BY_ENGINE,
        at_once: bool = False,
        columns: Columns | None = None,
        carries: Callable[[Array], Array] | None = None,
    ) -> None:
        self.name = body.__name__
        self._op = f"nisa.{self.name}"
        self.body = body
        full = inspect.signature(body)
        # Parameters with a leading underscore are the simulator's own, not the vendor's.
        self.signature = full.replace(
            parameters=[p for n, p in full.parameters.items() if not n.startswith("_")]
        )
        self.lane = lane
        self.operands = dict(operands)
        self.columns = columns
        if columns is not None:
            for name in ("dst", *columns.inputs):
                limits = self.operands[name]
                self.operands[name] = replace(limits, offsets=limits.offsets | {"columns"})
        self.carries = carries
        self.operand_items = tuple(self.operands.items())
        self.cost = cost
        self.sources = tuple(sources)
        self.rules = tuple(rules)
        slugs = rule_slugs(self.name, [(r.code, r.holds, r.sentence) for r in self.rules])
        self.codes = tuple(f"{self.name}.{slug}" for slug in slugs)
        coded = tuple(zip(self.rules, self.codes, strict=True))
        self._static_rules = tuple(pair for pair in coded if not pair[0].dynamic)
        self._dynamic_rules = tuple(pair for pair in coded if pair[0].dynamic)
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self.only = dict(only or {})
        self._only_items = tuple((name, *rest) for name, rest in self.only.items())
        self.prepare = prepare
        self.count = count
        self.work = work
        self.writes_as = writes_as
        self.at_once = at_once  # the cores meet in it: it never waits where DMA is late
        self.outputs = tuple(n for n, o in self.operand_items if o.role is Role.WRITE)
        parameters = self.signature.parameters
        self._names = tuple(parameters)
        self._options = frozenset(parameters) - {"name", *self.operands}
        self._defaults = {
            n: p.default for n, p in parameters.items() if p.default is not inspect.Parameter.empty
        }
        self._required = frozenset(parameters) - frozenset(self._defaults)
        functools.update_wrapper(self, body)
        self.__signature__ = self.signature

    def __repr__(self) -> str:
        return f"<nki.isa.{self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> NkiInstruction:
        """Execute the instruction in the running kernel."""
        program = current(self._op)
        bound = self._bind(args, kwargs)
        call = Call(self, bound, program, program.hardware)
        try:
            admitted = self._admit(call, bound if args else kwargs)
            if admitted is None:  # an address of run time could depend on any transfer
                program.settle()
                return execute_indirect(self, call, _INDEX)
            tensors, plan = admitted
            if program.late is None or not self._wait(call, tensors, program.late):
                self._carry_out(call, tensors, plan)
                if program.race is not None:
                    self._note_accesses(call, tensors)
                return self._record(call, tensors, plan)
            issued = self._record(call, tensors, plan)
            self._defer(call, admitted, program.late, issued._index)
            return issued
        except NkiconvError as error:
            error.locate(kernel_line())
            raise

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = self._defaults.copy()
        if not args and kwargs.keys() >= self._required:
            bound.update(kwargs)
            if len(bound) == len(self._names):
                return bound
        elif len(args) <= len(self._names):
            for name, value in zip(self._names, args, strict=False):
                bound[name] = value
            bound.update(kwargs)
            if (
                len(bound) == len(self._names)
                and bound.keys() >= self._required
                and not kwargs.keys() & set(self._names[: len(args)])
            ):
                return bound
        self.signature.bind(*args, **kwargs)  # raises TypeError, in Python's own words
        raise TypeError(f"nisa.{self.name}: arguments do not fit")  # pragma: no cover

    def _admit(self, call: Call, given: dict[str, Any]) -> tuple[list[Used], _Plan] | None:
        """Check one call, and return its tensors and its plan; None for an address of run time.

        `given` are the arguments that the call names, in contrast to the defaults.

        Most checks depend on shapes, types and options alone: a call that looks like an earlier
        one in these passes as that did, at the same cost.
        """
        tensors, key = self._look(call, given)
        try:
            plan = self._plans.get(key)
        except TypeError:  # an argument without a hash: such a call is checked every time
            plan, key = None, ()
        if plan is None:
            if is_indirect(call):
                return None
            self._check(call)
            plan = self._plan(call, tensors, self.cost(call))
            if key:
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.clear()
                self._plans[key] = plan
        call.lane = plan.lane
        return tensors, plan

    def forget_costs(self) -> None:
        """Work out anew what the next calls cost."""
        self._plans.clear()

    def _carry_out(self, call: Call, tensors: list[Used], plan: _Plan) -> None:
        """Run the checks that look at memory, compute, and write."""
        for rule, code in plan.rules:
            if not rule.holds(call):
                self._refuse(call, rule, code)
        if self.prepare is not None:
            self.prepare(call)
        values = self._fetch(call, tensors, plan.raw)
        self._store(call, values, self.body(**values))

    def _wait(self, call: Call, tensors: list[Used], late: LateTransfers) -> bool:
        """Let the transfers happen that the call depends on; return whether it is one itself."""
        late.settle(_touches(tensors))
        return call.lane.is_dma and not self.at_once

    def _defer(
        self, call: Call, admitted: tuple[list[Used], _Plan], late: LateTransfers, index: int
    ) -> None:
        """Leave a transfer until something depends on it."""
        place = kernel_line()

        def carry_out() -> None:
            try:
                self._carry_out(call, *admitted)
                self._note_accesses(call, admitted[0])
            except NkiconvError as error:
                error.locate(place)
                raise

        late.add(index, _touches(admitted[0]), carry_out)

    def _look(self, call: Call, given: dict[str, Any]) -> tuple[list[Used], tuple[Any, ...]]:
        """Return the tensors, and what the static checks, the cost and the fetches depend on."""
        tensors: list[Used] = []
        key: list[Any] = [call.hw.target]
        args = call.args
        for name, operand in self.operand_items:
            value = args[name]
            if type(value) is NkiTensor:
                tensors.append((name, operand, value))
                storage = value._storage
                start = storage.first_partition
                if value.offset and value._on_chip:
                    start += value.offset * value._kind.itemsize // storage.free_bytes
                key += (storage.space, value.dtype, value.shape, value.strides, start)
            elif operand.most and isinstance(value, (list, tuple)):
                tensors += [(name, operand, one) for one in value if type(one) is NkiTensor]
                key.append([])  # without a hash: such calls are rare
            else:
                key += (type(value), value)
        for name in given.keys() & self._options:  # the others are the same in all calls
            value = args[name]
            key += (name, type(value), value)  # True equals 1, but is not the same to a rule
        return tensors, tuple(key)

    def _plan(self, call: Call, tensors: list[Used], cost: Cost) -> _Plan:
        """Return what follows from shapes, types and options, for a call that is checked."""
        raw: list[bool] = []
        spans: list[tuple[int, int, int]] = []
        for _, operand, tensor in tensors:
            fetch = operand.fetch if isinstance(operand.fetch, Fetch) else operand.fetch(call)
            raw.append(fetch is Fetch.RAW or tensor._kind.numpy == np.float32)
            first, end, first_partition, end_partition = tensor._region()
            access = int(operand.role is Role.WRITE) + 2 * tensor._pattern()
            spans.append((access, end - first, end_partition - first_partition))
        rules = [r for r in self._dynamic_rules if r[0].applies is None or r[0].applies(call)]
        work = None if self.work is None else self.work(call)
        return _Plan(call.lane, cost, tuple(rules), tuple(raw), tuple(spans), work)

    def _check(self, call: Call) -> None:
        """Run all checks that depend on shapes, types and options, and choose the engine."""
        args = call.args
        for name, default, why in self._only_items:
            if args[name] != default:
                raise ConstraintError(
                    f"nisa.{self.name}: {name}={args[name]!r} is refused: {why}",
                    code="option.not_modelled",
                )
        for name, operand in self.operand_items:
            if operand.most:
                self._check_number(name, operand, args[name])
            for value in args[name] if operand.most else (args[name],):
                self._check_operand(call, name, operand, value)
        call.lane = self.lane if isinstance(self.lane, Lane) else self.lane(call)
        if not call.lane.is_dma:
            for name, operand, tensor in call.tensors():
                if not operand.any_start:
                    self._check_start(name, tensor)
                self._check_pattern(name, tensor, call.hw)
        for rule, code in self._static_rules:
            if not rule.holds(call):
                self._refuse(call, rule, code)

    def _refuse(self, call: Call, rule: Rule, code: str) -> NoReturn:
        shown = rule.shows(call) if rule.shows is not None else call.describe()
        raise rule.error(
            f"nisa.{self.name}: {rule.sentence}; got {shown} ({rule.source})", code=code
        )

    def _check_number(self, name: str, operand: Operand, values: Any) -> None:
        if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= operand.most:
            raise ConstraintError(
                f"nisa.{self.name}: {name} must be a list of 1 to {operand.most} tensors, got "
                f"{values!r} ({isa(self.name)})",
                code="operand.list",
            )

    def _check_operand(self, call: Call, name: str, operand: Operand, value: Any) -> None:
        if not isinstance(value, NkiTensor):
            if value is None and operand.optional:
                return
            if operand.number and isinstance(value, (int, float)) and not isinstance(value, bool):
                return
            raise ConstraintError(
                f"nisa.{self.name}: {name} must be a tensor"
                f"{' or a number' if operand.number else ''}, got {value!r} "
                f"({isa(self.name)})",
                code="operand.tensor",
            )
        hw = call.hw
        space = value._storage.space
        if space not in operand.spaces:
            raise ConstraintError(
                f"nisa.{self.name}: {name} must be in "
                f"{' or '.join(sorted(s.upper() for s in operand.spaces))}, got {value!r} "
                f"({isa(self.name)})",
                code="operand.memory",
            )
        if operand.dtypes is not None and value.dtype not in operand.dtypes:
            raise DtypeError(
                f"nisa.{self.name}: {name} must be one of {', '.join(sorted(operand.dtypes))}, "
                f"got {value.dtype} ({isa(self.name)})",
                code="operand.dtype",
            )
        if operand.dtypes is None and value._element.kind == "packed":
            self._check_packed(call, name, operand, value)
        if operand.role is Role.WRITE and _overlaps(value) and not self._throws_away(value):
            raise HazardError(
                f"nisa.{self.name}: {name} repeats elements, so that several results would land "
                f"on one place; got {value!r} with strides {value.strides}",
                code="operand.repeats",
            )
        if space == "hbm":
            return
        if operand.max_free_elems is not None:
            elems, limit = free_elems(value), operand.max_free_elems(hw)
            if elems > limit:
                raise ShapeError(
                    f"nisa.{self.name}: {name} has {elems} elements per partition, the limit on "
                    f"{hw.target} is {limit} ({isa(self.name)})",
                    code="operand.free_size",
                )
        if operand.per_partition and free_elems(value) != 1:
            raise ShapeError(
                f"nisa.{self.name}: {name} must have one element per partition, got {value!r} "
                f"({isa(self.name)})",
                code="operand.per_partition",
            )

    def _check_packed(self, call: Call, name: str, operand: Operand, value: NkiTensor) -> None:
        if not operand.packed:
            raise DtypeError(
                f"nisa.{self.name}: {name} is {value.dtype}, whose elements hold four numbers; "
                "nc_matmul_mx and quantize_mx compute with them, memset, tensor_copy, dma_copy and "
                f"sendrecv move them, nothing else takes them ({isa('nc_matmul_mx')})",
                code="operand.packed",
            )
        if call.hw.generation < 4:
            raise DtypeError(
                f"nisa.{self.name}: {name} is {value.dtype}, which needs trn3; the target is "
                f"{call.hw.target} (nki.language.{value.dtype}, NKI 0.6.0)",
                code="operand.packed_generation",
            )

    def _throws_away(self, dst: NkiTensor) -> bool:
        """Whether an instruction with a second output writes the first onto one place.

        The vendor's qkv kernel is rid of the squares of `activation_reduce` in this way: it needs
        their sum only, and every instruction has a `dst`.  What stays there is not documented.
        """
        moved = [s for s, n in zip(dst.strides[1:], dst.shape[1:], strict=True) if n > 1]
        return len(self.outputs) > 1 and bool(moved) and not any(moved)

    def _check_start(self, name: str, value: NkiTensor) -> None:
        storage = value._storage
        if value.offset == 0 and storage.first_partition == 0:
            return
        row = storage.free_bytes // value._element.itemsize
        start = value.offset // row + storage.first_partition
        if start == 0:
            return
        count = value.shape[0]
        allowed = next(starts for most, starts in START_PARTITIONS if count <= most)
        if start not in allowed:
            raise ConstraintError(
                f"nisa.{self.name}: {name} covers {count} partitions from {start}; an engine can "
                f"start such an operand at {' or '.join(map(str, allowed))} only "
                f"({arch('Accessing SBUF/PSUM tensors')})",
                code="operand.partition_start",
            )

    def _check_pattern(self, name: str, value: NkiTensor, hw: Hardware) -> None:
        shape, strides = value.shape, value.strides
        if len(shape) > hw.free_dims_max + 1:
            raise ConstraintError(
                f"nisa.{self.name}: {name} has {len(shape) - 1} free dimensions, an access "
                f"pattern has at most {hw.free_dims_max} ({arch('access patterns')})",
                code="operand.free_dims",
            )
        for size, stride in zip(shape[1:], strides[1:], strict=True):
            if size > hw.count_max_elems or (size > 1 and stride > hw.stride_max_elems):
                raise ConstraintError(
                    f"nisa.{self.name}: {name} has a free dimension of size {size} and stride "
                    f"{stride} elements; the limits are {hw.count_max_elems} (uint16) and "
                    f"{hw.stride_max_elems} (int16) ({arch('Accessing SBUF/PSUM tensors')})",
                    code="operand.stride",
                )

    def _fetch(self, call: Call, tensors: list[Used], raw: tuple[bool, ...]) -> dict[str, Any]:
        """Return the body's arguments; refuse to read what nothing wrote, or to write at all."""
        values = call.args.copy()
        lists: dict[str, list[Array]] = {}
        for (name, operand, whole), as_it_is in zip(tensors, raw, strict=True):
            tensor = whole if operand.touches is None else operand.touches(whole, call)
            storage = tensor._storage
            if operand.role is Role.WRITE:
                if storage.read_only:
                    whose = "the caller's array" if storage.is_input else "a constant"
                    raise HazardError(
                        f"nisa.{self.name}: {name} writes to {storage.describe()}, but {whose} "
                        "is read-only",
                        code="operand.read_only",
                    )
                if name in call.also_read:
                    fetch = storage.array if as_it_is else storage.float32
                elif name in call.works_in:
                    fetch = storage.elements
                else:
                    values[name] = None
                    continue
            else:
                if not storage.uniform:  # else all of it has been written
                    self._check_written(name, tensor)
                fetch = storage.elements if as_it_is else storage.float32
            elements = fetch(tensor, tensor._kind)
            if operand.most:
                lists.setdefault(name, []).append(elements)
            else:
                values[name] = elements
        values.update(lists)
        if call.extra is not None:
            values.update(call.extra)
        return values

    def _check_written(self, name: str, tensor: NkiTensor) -> None:
        storage = tensor._storage
        low, _ = storage.writers(tensor, tensor._kind)
        if low == UNWRITTEN:
            missing = storage.count_unwritten(tensor, tensor._kind)
            raise UninitializedReadError(
                f"nisa.{self.name}: {name} reads {missing} of {tensor.size} elements that "
                f"nothing has written, in {storage.describe()}; on the device they hold "
                "whatever was there before",
                code="operand.unwritten",
            )

    def _store(self, call: Call, values: dict[str, Any], results: Any) -> None:
        """Round results and write them; a body may have worked in the output that it was given."""
        outputs = self.outputs
        if len(outputs) == 1:
            results = (results,)
        for name, result in zip(outputs, results, strict=True):
            tensor = call.args[name]
            if tensor is None or result is None:
                continue
            touches = self.operands[name].touches
            if touches is not None:
                tensor = touches(tensor, call)
            kind = tensor._kind
            storage = tensor._storage
            if result is values[name]:
                storage.mark(tensor, kind, self.writes_as)
                continue
            if kind.name != "float32" or result.dtype != kind.numpy:
                if kind.kind == "int" and result.dtype.kind in "iu":
                    # Integers come from bit patterns or exact sums: what does not fit is cut off.
                    result = result.astype(kind.numpy, copy=False)
                else:
                    result = round_to(result, kind)
            shape = tensor.shape
            storage.elements(tensor, kind)[...] = (
                result if result.shape == shape else result.reshape(shape)
            )
            kept = len(outputs) == 1 or not self._throws_away(tensor)
            storage.mark(tensor, kind, self.writes_as if kept else UNWRITTEN)

    def _note_accesses(self, call: Call, tensors: list[Used]) -> None:
        """Let two cores know what of HBM an instruction has touched, once it has."""
        program = call.program
        if program.race is None:
            return
        for _, operand, tensor in tensors:
            if tensor._storage.space == "hbm":
                program.race.note(self.name, tensor, program.core, operand.role is Role.WRITE)

    def _record(self, call: Call, tensors: list[Used], plan: _Plan) -> NkiInstruction:
        program = call.program
        trace = program.trace
        index = len(trace)
        words: list[int] = []
        if index - program.repeated >= program.hardware.program_max_instructions:
            raise program.too_large()
        for (_, _, tensor), (access, span, count) in zip(tensors, plan.spans, strict=True):
            storage = tensor._storage
            used = storage.allocation
            used.last_use = index
            if used.first_use < 0:
                used.first_use = index
            partition, first = 0, tensor.offset * tensor._kind.itemsize
            if first and tensor._on_chip:
                partition, first = divmod(first, storage.free_bytes)
            words += (used.number, access, first, first + span, partition, partition + count)
        for _, operand, tensor in call.also_touch:
            used = tensor._storage.allocation
            used.last_use = index
            if used.first_use < 0:
                used.first_use = index
            words += (used.number, operand.role is Role.WRITE, *tensor._region())
        label = call.args.get("name")
        trace.add(
            trace.number(self.name),
            plan.lane + program.lane_base,
            program.source_number(2),
            UNNAMED if label is None else trace.number(str(label)),
            plan.cost.occupancy_ps,
            plan.cost.latency_ps,
            plan.cost.table,
            words,
        )
        if plan.work is not None:
            program.add_work(*plan.work)
        if self.count is not None:
            self.count(call)
        return NkiInstruction((program, index))


def forget_costs() -> None:
    """Let every instruction work out anew what its calls cost, after facts have changed."""
    for each in SHEETS.values():
        each.forget_costs()


def instruction(**sheet: Any) -> Callable[[Callable[..., Any]], Sheet]:
    """Register the decorated body as an instruction; the arguments are those of `Sheet`."""

    def register(body: Callable[..., Any]) -> Sheet:
        made = Sheet(body, **sheet)
        SHEETS[made.name] = made
        return made

    return register
