"""How an instruction executes on views with an address of run time.

An index for a whole view turns it into an ordinary one.  Rows and columns are copied into a
stand-in, on which the instruction works as on any other tensor; a stand-in of the destination is
copied to where its rows or columns belong when the instruction is done.  Indices are checked, and
what the device would leave alone (``oob_mode.skip``) stays as it is.

The record of the instruction names the index as one more operand that is read, and all that the
view could reach: the compiler, which orders instructions, does not know more either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nkiconv.simulate import columns
from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.enums import oob_mode
from nkiconv.simulate.errors import (
    ConstraintError,
    HazardError,
    OutOfBoundsError,
    UninitializedReadError,
)
from nkiconv.simulate.indirect import (
    ColumnOffsets,
    IndirectTensor,
    ScalarOffset,
    VectorOffset,
)
from nkiconv.simulate.memory import BY_ENGINE, UNWRITTEN, Allocation, Storage
from nkiconv.simulate.tensor import NkiTensor

if TYPE_CHECKING:
    from nkiconv.simulate.sheet import Call, Cost, NkiInstruction, Operand, Sheet

_KINDS = {
    ScalarOffset: ("scalar", "a view at an index of run time"),
    VectorOffset: ("vector", "rows at indices of run time"),
    ColumnOffsets: ("columns", "a view made by NkiTensor.indirect"),
}


@dataclass(slots=True)
class _Scatter:
    """Results in a stand-in, and the places where they belong."""

    stand_in: NkiTensor
    place: NkiTensor
    at: Any
    """Index into the array of `place`."""
    taken: Any
    """Index into the array of the stand-in: as many elements, in the same order."""
    rows: Array | None = None
    """Of a vector offset: which row of `place` each row of the stand-in goes to."""


@dataclass(slots=True)
class _Resolution:
    """What became of a call's operands."""

    call: Call
    skip: bool
    scatters: list[_Scatter] = field(default_factory=list)
    masks: list[tuple[str, NkiTensor, Array]] = field(default_factory=list)
    """Operands that are read, and which of their elements are within bounds."""
    touched: list[tuple[NkiTensor, bool]] = field(default_factory=list)
    """Where in HBM the call goes, and whether it writes there."""
    nothing: bool = False
    """The whole transfer is out of bounds, and skipped."""


def is_indirect(call: Call) -> bool:
    """Whether an operand of the call has an address of run time."""
    for value in call.args.values():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, IndirectTensor):
                return True
    return False


def execute(sheet: Sheet, call: Call, read: Operand) -> NkiInstruction:
    """Check, resolve, compute, write and record one call with such operands.

    `read` stands for the indices in the record.
    """
    for name, operand in sheet.operand_items:
        if operand.most:
            sheet._check_number(name, operand, call.args[name])
    used = call.tensors()
    for name, operand, tensor in used:
        if isinstance(tensor, IndirectTensor):
            kind, words = _KINDS[type(tensor._runtime)]
            if kind not in operand.offsets:
                raise ConstraintError(
                    f"nisa.{sheet.name}: {name} cannot be {words}, got {tensor!r} "
                    f"({sheet.sources[0]}); copy it with nisa.tensor_copy or nisa.dma_copy first",
                    code="indirect.operand",
                )
    sheet._check(call)
    if sheet.columns is not None and any(_is_columns(t) for _, _, t in used):
        columns.check(call, sheet.columns)
    cost: Cost = sheet.cost(call)
    done = _Resolution(call, call.args.get("oob_mode") is oob_mode.skip)
    inner = type(call)(sheet, _resolved(done), call.program, call.hw, call.lane)
    if not done.nothing:
        _mask_destination(done, inner)
        tensors = inner.tensors()
        sheet._carry_out(inner, tensors, sheet._plan(inner, tensors, cost))
        for scatter in done.scatters:
            _write(scatter, f"nisa.{sheet.name}", unique="unique_indices" in call.args)
    counted = _counted(done)
    moved = [one for one in used if isinstance(one[2], IndirectTensor)]
    indices = [
        (name, read, tensor._runtime.index)
        for name, _, tensor in moved
        if isinstance(tensor, IndirectTensor) and isinstance(tensor._runtime.index, NkiTensor)
    ]
    counted.also_touch = (*moved, *indices)
    if call.program.race is not None:
        for place, writes in done.touched:
            call.program.race.note(sheet.name, place, call.program.core, writes)
    plain = [one for one in used if not isinstance(one[2], IndirectTensor)]
    sheet._note_accesses(call, plain)
    return sheet._record(counted, plain, sheet._plan(call, plain, cost))


def _counted(done: _Resolution) -> Call:
    """Return the call as it counts for traffic: what was skipped did not move."""
    call = done.call
    moved = [int(mask.sum()) for *_, mask in done.masks]
    if done.nothing:
        moved.append(0)
    for scatter in done.scatters:
        moved.append(int(scatter.stand_in._array[scatter.taken].size))
    if not done.skip or not moved:
        return call

    def cut(value: Any) -> Any:
        if isinstance(value, NkiTensor):
            return NkiTensor._view(value, (min(moved),), (1,), value.offset)
        return [cut(one) for one in value] if isinstance(value, (list, tuple)) else value

    args = {name: cut(value) for name, value in call.args.items()}
    return type(call)(call.sheet, args, call.program, call.hw, call.lane)


def _is_columns(tensor: NkiTensor) -> bool:
    return isinstance(tensor, IndirectTensor) and isinstance(tensor._runtime, ColumnOffsets)


def _resolved(done: _Resolution) -> dict[str, Any]:
    """Return the call's arguments with ordinary tensors for all views of run time."""
    call = done.call
    args = call.args.copy()
    for name, operand in call.sheet.operand_items:
        value = args[name]
        writes = name in call.sheet.outputs
        if operand.most:
            args[name] = [_ordinary(done, name, one, writes) for one in value]
        else:
            args[name] = _ordinary(done, name, value, writes)
    return args


def _ordinary(done: _Resolution, name: str, value: Any, writes: bool) -> Any:
    if not isinstance(value, IndirectTensor):
        return value
    runtime = value._runtime
    op = f"nisa.{done.call.sheet.name}"
    if isinstance(runtime, ScalarOffset):
        moved = _moved(done, op, name, value, runtime)
        if moved._storage.space == "hbm" and not done.nothing:
            done.touched.append((moved, writes))
        return moved
    if writes and value._storage.read_only:
        raise HazardError(
            f"{op}: {name} writes to {value._storage.describe()}, but the caller's array is "
            "read-only",
            code="operand.read_only",
        )
    at: Any
    taken: Any = ...
    rows: Array | None = None
    if isinstance(runtime, ColumnOffsets):
        place = runtime.base
        at = columns.positions(done.call, name, value, writes)
    else:
        place, rows, inside = _rows(done, op, name, value, runtime)
        at = (rows,)
        one = value._one()
        done.touched += [
            (one._view(one.shape, one.strides, one.offset + row), writes)
            for row in (rows * place.strides[0]).tolist()
        ]
        if not inside.all():
            taken = (inside,)
    made = _stand_in(value)
    if writes:
        _prefill(made, place, at, taken)
        done.scatters.append(_Scatter(made, place, at, taken, rows))
        return made
    if done.call.sheet.operands[name].touches is not None:
        _prefill(made, place, at, taken)  # only what is touched must have been written
        return made
    if (place._storage.codes(place, place._kind, at) == UNWRITTEN).any():
        raise UninitializedReadError(
            f"{op}: {name} reads through its indices elements that nothing has written, in "
            f"{place._storage.describe()}; on the device they hold whatever was there before",
            code="operand.unwritten",
        )
    made._storage.array(made, made._kind)[taken] = place._storage.array(place, place._kind)[at]
    made._storage.mark(made, made._kind, BY_ENGINE)
    if taken is not ...:
        mask = np.zeros(made.shape, dtype=np.bool_)
        mask[taken] = True
        done.masks.append((name, made, mask))
    return made


def _index_values(op: str, name: str, index: NkiTensor) -> Array:
    """Return the numbers in an index tensor."""
    storage = index._storage
    if storage.writers(index, index._kind)[0] == UNWRITTEN:
        raise UninitializedReadError(
            f"{op}: the index of {name} has elements that nothing has written, in "
            f"{storage.describe()}",
            code="indirect.index_unwritten",
        )
    return storage.array(index, index._kind).astype(np.int64)


def _moved(
    done: _Resolution, op: str, name: str, view: IndirectTensor, runtime: ScalarOffset
) -> NkiTensor:
    """Return the ordinary view at one index."""
    index = runtime.index
    if isinstance(index, NkiTensor):
        value = int(_index_values(op, name, index)[0, 0])
    else:
        value = index._read(op)
    base = view._one()
    item = base._kind.itemsize
    first, end, _, _ = base._region()
    shift = value * runtime.step_bytes
    storage = base._storage
    if not 0 <= value < runtime.limit or first + shift >= storage.free_bytes:
        if not done.skip:
            raise OutOfBoundsError(
                f"{op}: the index of {name} is {value}, outside the {runtime.limit} elements of "
                f"the dimension that it indexes, in {storage.describe()}{_cure(done)}",
                code="indirect.bounds",
            )
        done.nothing = True
        return base
    if end + shift > storage.free_bytes:
        raise OutOfBoundsError(
            f"{op}: at index {value} {name} {base!r} begins inside its memory and ends "
            f"{end + shift - storage.free_bytes} B behind it, in {storage.describe()}",
            code="indirect.bounds",
        )
    if shift % item:
        raise ConstraintError(
            f"{op}: at index {value} {name} begins {shift} B further on, which is no whole number "
            f"of {base.dtype} elements",
            code="indirect.alignment",
        )
    return base._view(base.shape, base.strides, base.offset + shift // item)


def _cure(done: _Resolution) -> str:
    """Return what may be done about an index out of bounds."""
    if "oob_mode" not in done.call.args:
        return ""
    return "; oob_mode.skip leaves such elements alone"


def _rows(
    done: _Resolution, op: str, name: str, view: IndirectTensor, runtime: VectorOffset
) -> tuple[NkiTensor, Array, Array]:
    """Return all rows that an index could name, those it does name, and which of them are inside.

    The rows of a two-dimensional index are taken column by column (isa dma_transpose).
    """
    wanted = _index_values(op, name, runtime.index).T.reshape(-1)[: view.shape[0]]
    one = view._one()
    first, end, _, _ = one._region()
    step, whole = runtime.step_bytes, one._storage.free_bytes
    inside = (wanted >= 0) & (wanted < runtime.limit) & (first + wanted * step < whole)
    if not done.skip and not inside.all():
        raise OutOfBoundsError(
            f"{op}: an index of {name} is {wanted[~inside][0]}, outside the {runtime.limit} rows "
            f"of {one._storage.describe()}{_cure(done)}",
            code="indirect.bounds",
        )
    rows = wanted[inside]
    if len(rows) and end + int(rows.max()) * step > whole:
        raise OutOfBoundsError(
            f"{op}: the row of {name} at index {rows.max()} begins inside its memory and ends "
            f"{end + int(rows.max()) * step - whole} B behind it, in {one._storage.describe()}",
            code="indirect.bounds",
        )
    count = min(runtime.limit, (whole - end) // step + 1)
    strides = (step // one._kind.itemsize, *view.strides[1:])
    place = NkiTensor._view(view, (count, *view.shape[1:]), strides, view.offset)
    return place, rows, inside


def _stand_in(view: NkiTensor) -> NkiTensor:
    """Return a fresh dense tensor of a view's shape, in the same partitions."""
    storage = view._storage
    skipped = 0
    if view._on_chip:
        skipped = view.offset // (storage.free_bytes // view._kind.itemsize)
    shape = (skipped + view.shape[0], *view.shape[1:])
    known = storage.allocation
    made = Allocation(
        -1, storage.space, shape, view.dtype, known.name, known.line, address=known.address
    )
    whole = NkiTensor(shape, view.dtype, Storage(made), view.buffer, view.name)
    return whole[skipped:] if skipped else whole


def _prefill(stand_in: NkiTensor, place: NkiTensor, at: Any, taken: Any) -> None:
    """Put into a stand-in what the destination holds, and who wrote it."""
    target, source = stand_in._storage, place._storage
    kind = place._kind
    target.array(stand_in, kind)[taken] = source.array(place, kind)[at]
    target.mark_each(stand_in, kind, taken, source.codes(place, kind, at))


def _mask_destination(done: _Resolution, inner: Call) -> None:
    """Keep those elements of the destination whose sources are out of bounds."""
    if not done.masks or done.scatters:
        return  # a scattered destination is masked by its own indices, which are the same
    dst = inner.args["dst"]
    name, _, mask = done.masks[0]
    carried = inner.sheet.carries
    if carried is None:  # pragma: no cover
        raise TypeError(f"nisa.{inner.sheet.name} skips {name}, but not into dst")
    chosen = carried(mask).reshape(dst.shape)
    if dst._storage.read_only:
        raise HazardError(
            f"nisa.{inner.sheet.name}: dst writes to {dst._storage.describe()}, but the caller's "
            "array is read-only",
            code="operand.read_only",
        )
    made = _stand_in(dst)
    done.scatters.append(_Scatter(made, dst, chosen, chosen))
    inner.args["dst"] = made


def _write(scatter: _Scatter, op: str, unique: bool) -> None:
    """Copy results to their places; `unique` forbids an index that comes twice."""
    made, place = scatter.stand_in, scatter.place
    kind = place._kind
    values = made._storage.array(made, kind)[scatter.taken]
    if scatter.rows is not None:
        if unique and len(np.unique(scatter.rows)) < len(scatter.rows):
            raise HazardError(
                f"{op}: unique_indices=True, but the indices of dst are "
                f"{scatter.rows.tolist()}, of which some are equal",
                code="indirect.unique",
            )
        _refuse_collisions(scatter.rows, values, place, op)
    place._storage.array(place, kind)[scatter.at] = values
    codes = made._storage.codes(made, kind, scatter.taken)
    place._storage.mark_each(place, kind, scatter.at, codes)


def _refuse_collisions(rows: Array, values: Array, place: NkiTensor, op: str) -> None:
    """Refuse rows that bring different values to one place."""
    offsets = np.zeros(1, dtype=np.int64)
    for size, stride in zip(place.shape[1:], place.strides[1:], strict=True):
        offsets = (offsets[:, None] + np.arange(size) * stride).reshape(-1)
    places = (rows[:, None] * place.strides[0] + offsets).reshape(-1)
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    bits = np.ascontiguousarray(values).reshape(-1).view(f"V{values.dtype.itemsize}")[order]
    clash = (ordered[1:] == ordered[:-1]) & (bits[1:] != bits[:-1])
    if clash.any():
        row = int(rows[order[:-1][clash][0] // len(offsets)])
        raise HazardError(
            f"{op}: rows of dst bring different values to one place, and which of them stays is "
            f"not defined; the index {row} is one of theirs",
            code="indirect.collision",
        )
