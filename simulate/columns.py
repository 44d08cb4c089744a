"""Column offsets of NeuronCore-v4: what they demand of an instruction, and which places they name.

An instruction on a view made by ``NkiTensor.indirect`` reads or writes columns, each wherever an
index tensor says.  The vendor calls this tensor indirection.

Sources
-------
Vendor documentation of NKI 0.6.0: nki.language.NkiTensor.indirect and the section Tensor
indirection on the pages of thirteen instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    HazardError,
    OutOfBoundsError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.indirect import ColumnOffsets, IndirectTensor
from nkiconv.simulate.memory import UNWRITTEN
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

if TYPE_CHECKING:
    from nkiconv.simulate.sheet import Call

_QUADRANT = 32
"""Partitions between the places where an index may start (isa tensor_copy, Tensor indirection)."""

MATMUL_DTYPES = frozenset({"float16", "bfloat16", "float8_e4m3", "float8_e5m2", "float8_e4m3fn"})
"""Of indirect operands of TensorE (isa nc_matmul, Tensor indirection)."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which operands of an instruction may be views of columns.

    Attributes
    ----------
    inputs
        Names of inputs, beside ``dst``; the first is the one that a scattered ``dst`` goes with.
    not_on
        Engines that execute the instruction, but not on such views.
    also
        A sentence and a predicate that the call must satisfy besides.
    dtypes
        Of such operands, where the page limits them.
    """

    inputs: tuple[str, ...]
    not_on: tuple[Lane, ...] = ()
    also: tuple[str, Callable[[Call], bool]] | None = None
    dtypes: frozenset[str] | None = None


def _start(tensor: NkiTensor) -> int:
    """Return the partition where a tensor begins."""
    storage = tensor._storage
    return tensor.offset * tensor._kind.itemsize // storage.free_bytes + storage.first_partition


def _of(call: Call, name: str) -> ColumnOffsets | None:
    value = call.args[name]
    if isinstance(value, IndirectTensor) and isinstance(value._runtime, ColumnOffsets):
        return value._runtime
    return None


def same_columns(first: NkiTensor, second: NkiTensor) -> bool:
    """Whether two views take columns by the same elements of the same index."""
    indices = []
    for view in (first, second):
        if not isinstance(view, IndirectTensor) or not isinstance(view._runtime, ColumnOffsets):
            return False
        index = view._runtime.index
        indices.append((id(index._storage), index.shape, index.strides, index.offset))
    return indices[0] == indices[1]


def check(call: Call, spec: Columns) -> None:
    """Refuse what the pages exclude, once the engine is known.

    Raises
    ------
    ConstraintError, DtypeError
    """
    op = f"nisa.{call.sheet.name}"
    source = f"nki.isa.{call.sheet.name}, NKI 0.6.0, Tensor indirection"
    hw = call.hw
    if hw.generation < 4:
        raise ConstraintError(
            f"{op}: views made by NkiTensor.indirect need trn3; the target is "
            f"{hw.target} ({source})",
            code="columns.generation",
        )
    if call.lane in spec.not_on:
        raise ConstraintError(
            f"{op}: {call.lane.label} cannot execute it on a view made by NkiTensor.indirect "
            f"({source})",
            code="columns.engine",
        )
    if spec.also is not None and not spec.also[1](call):
        raise ConstraintError(
            f"{op}: {spec.also[0]}; got {call.describe()} ({source})", code="columns.operands"
        )
    for name in ("dst", *spec.inputs):
        found = _of(call, name)
        if found is None:
            continue
        at = _start(found.index)
        if at % _QUADRANT:
            raise ConstraintError(
                f"{op}: the index of {name} starts at partition {at}; it must start at a multiple "
                f"of {_QUADRANT} ({source})",
                code="columns.index_start",
            )
        if name != "dst" and _start(found.base) != at:
            raise ConstraintError(
                f"{op}: {name} starts at partition {_start(found.base)}, its index at {at}; both "
                f"must start on the same partition ({source})",
                code="columns.same_start",
            )
        if spec.dtypes is not None and found.base.dtype not in spec.dtypes:
            raise DtypeError(
                f"{op}: {name} is {found.base.dtype}; a view made by NkiTensor.indirect must be "
                f"one of {', '.join(sorted(spec.dtypes))} there ({source})",
                code="columns.dtype",
            )
    _check_scatter(call, spec, op, source)


def _check_scatter(call: Call, spec: Columns, op: str, source: str) -> None:
    """Check what holds for a destination that is scattered."""
    found = _of(call, "dst")
    if found is None:
        return
    first = spec.inputs[0]
    data = call.args[first]
    partner = _of(call, first)
    begin: int | None = None
    if data._storage.space == "sbuf":
        begin = _start(data)
    elif partner is not None:
        begin = _start(partner.index)
    if begin is not None and begin != _start(found.index):
        raise ConstraintError(
            f"{op}: the index of dst starts at partition {_start(found.index)}, {first} at "
            f"{begin}; both must start on the same partition ({source})",
            code="columns.same_start",
        )
    if call.lane is Lane.SCALAR and found.base._storage.space == "psum":
        raise ConstraintError(
            f"{op}: ScalarE cannot scatter dst into PSUM ({source})", code="columns.scalar_psum"
        )


def positions(call: Call, name: str, tensor: IndirectTensor, writes: bool) -> tuple[Any, Any]:
    """Return the index into ``base`` of the elements that a view of columns names.

    Offset ``i`` stands in ``index[i % group, i // group]``; groups have 16 partitions, and 32 for
    TensorE.  Groups that name different columns are refused: whether each follows its own, or all
    follow the first, is not said.
    """
    runtime = tensor._runtime
    if not isinstance(runtime, ColumnOffsets):  # pragma: no cover
        raise TypeError(f"{tensor!r} has no columns")
    op = f"nisa.{call.sheet.name}"
    source = "nki.language.NkiTensor.indirect"
    index, base = runtime.index, runtime.base
    rows, count = tensor.shape
    group = 32 if call.lane is Lane.TENSOR else 16
    groups, odd = divmod(rows, group)
    if odd and (groups or count > rows):
        raise ShapeError(
            f"{op}: {name} has {rows} partitions, of which the offsets take groups of {group}, and "
            f"{count} offsets ({source})",
            code="columns.groups",
        )
    if count > group * index.shape[1]:
        raise ShapeError(
            f"{op}: {name} takes {count} offsets, but {index!r} holds {group * index.shape[1]} in "
            f"each group of {group} partitions; give num_elem ({source})",
            code="columns.count",
        )
    number = np.arange(count)
    line, column = number % group, number // group
    lines = (np.arange(max(groups, 1)) * group)[:, None] + line
    at = (lines, np.broadcast_to(column, lines.shape))
    storage = index._storage
    if (storage.codes(index, index._kind, at) == UNWRITTEN).any():
        raise UninitializedReadError(
            f"{op}: the index of {name} has offsets that nothing has written, in "
            f"{storage.describe()}",
            code="indirect.index_unwritten",
        )
    values = storage.array(index, index._kind)[at].astype(np.int64)
    if (values != values[0]).any():
        raise ConstraintError(
            f"{op}: the offsets of {name} differ between groups of {group} partitions, and what "
            f"that means is not documented; write the same ones to each ({source})",
            code="columns.groups_equal",
        )
    wanted = values[0]
    wrong = (wanted < 0) | (wanted >= base.shape[1])
    if wrong.any():
        raise OutOfBoundsError(
            f"{op}: offset {wanted[wrong][0]} of {name} is outside the {base.shape[1]} elements "
            f"per partition of {base!r} ({source})",
            code="indirect.bounds",
        )
    if writes and len(np.unique(wanted)) != count:
        raise HazardError(
            f"{op}: dst repeats offsets, so that several results would land on one place; got "
            f"{wanted.tolist()}",
            code="operand.repeats",
        )
    return np.arange(rows)[:, None], wanted[None, :]
