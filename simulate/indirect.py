"""Views whose address is known at run time only: one index, an index for each row, or columns.

Three kinds, all made by methods of `NkiTensor`:

* ``select(dim, index)`` and ``ap(scalar_offset=index)`` move a whole view by ``index`` steps,
* ``vector_select(0, indices)`` and ``ap(vector_offset=indices)`` give each row of a tensor in HBM
  a place of its own: a gather where they are read, a scatter where they are written,
* ``indirect(index)`` takes columns of a tensor on chip, on NeuronCore-v4.

A view keeps the tensor or register that holds its indices; what they are is asked when an
instruction executes (`indirect_call`).

Sources
-------
Vendor documentation of NKI 0.6.0: nki.language.NkiTensor, the access-pattern deep dive (Dynamic
Access) and nki.isa.dma_copy (Indirect addressing).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.errors import ConstraintError, DtypeError, OutOfBoundsError, ShapeError
from nkiconv.simulate.registers import VirtualRegister
from nkiconv.simulate.tensor import NkiTensor, inferred, reshaped

if TYPE_CHECKING:
    from collections.abc import Sequence

INDEX_DTYPES = frozenset({"int32", "uint32"})
"""Of indices that DMA reads; the pages show these two."""

COLUMN_DTYPES = frozenset({"uint16", "int32", "uint32"})
"""Of column offsets; the page of `NkiTensor.indirect` names none."""

_SOURCE = "access-pattern deep dive, Dynamic Access"


@dataclass(frozen=True, slots=True)
class ScalarOffset:
    """One index for the whole view.

    Attributes
    ----------
    index
        A tensor of shape (1, 1) in SBUF, or a register.
    step_bytes
        How far the view moves for each step of the index.
    limit
        Size of the dimension that is indexed.
    """

    index: NkiTensor | VirtualRegister
    step_bytes: int
    limit: int


@dataclass(frozen=True, slots=True)
class VectorOffset:
    """An index for each row; the fields are those of `ScalarOffset`."""

    index: NkiTensor
    step_bytes: int
    limit: int


@dataclass(frozen=True, slots=True)
class ColumnOffsets:
    """Positions along the free dimension of `base`, the same ones in all partitions."""

    index: NkiTensor
    base: NkiTensor


class IndirectTensor(NkiTensor):
    """A view with an address of run time.

    It has a class of its own so that instructions on ordinary views need not ask for it.
    """

    __slots__ = ("_runtime",)

    _runtime: ScalarOffset | VectorOffset | ColumnOffsets

    def _view(
        self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> IndirectTensor:
        if isinstance(self._runtime, ColumnOffsets):
            raise ConstraintError(
                f"{self!r}: a view made by NkiTensor.indirect goes into an instruction as it is; "
                "cut and reshape the tensor before (nki.language.NkiTensor)",
                code="indirect.columns_whole",
            )
        return attach(NkiTensor._view(self, shape, strides, offset), self._runtime)

    def is_indirect(self) -> bool:
        """Whether addresses are resolved at run time: yes."""
        return True

    def is_contiguous(self) -> bool:
        """Whether the elements of a row are dense, for rows that lie wherever their index says."""
        if isinstance(self._runtime, VectorOffset):
            return self._one().is_contiguous()
        return NkiTensor.is_contiguous(self)

    # What the rows of a vector offset forbid: they stay first, and whole.

    def _guard(self, op: str, moved: bool) -> None:
        if moved and isinstance(self._runtime, VectorOffset):
            raise ConstraintError(
                f"NkiTensor.{op}: dimension 0 of {self!r} has an index for each of its rows; it "
                "must stay first and whole (nki.language.NkiTensor, after vector_select)",
                code="indirect.rows_first",
            )

    def __getitem__(self, key: Any) -> NkiTensor:
        first = key[0] if isinstance(key, tuple) and key else key
        if not isinstance(first, EllipsisType):
            whole = isinstance(first, slice) and (
                self._range(0, first.start, first.stop, first.step) == (0, self.shape[0], 1)
            )
            self._guard("__getitem__", not whole)
        return NkiTensor.__getitem__(self, key)

    def slice(self, dim: int, start: int, end: int, step: int = 1) -> NkiTensor:
        """Return elements `start` to `end` of one dimension."""
        self._guard(
            "slice", dim in (0, -self.ndim) and (start, end, step) != (0, *self.shape[:1], 1)
        )
        return NkiTensor.slice(self, dim, start, end, step)

    def select(self, dim: int, index: Any) -> NkiTensor:
        """Return one element of a dimension, and drop the dimension."""
        if is_index(index):
            raise self._again("select with an index of run time")
        self._guard("select", dim in (0, -self.ndim))
        return NkiTensor.select(self, dim, index)

    def permute(self, dims: Sequence[int]) -> NkiTensor:
        """Reorder the dimensions."""
        self._guard("permute", tuple(dims)[:1] != (0,))
        return NkiTensor.permute(self, dims)

    def broadcast(self, dim: int, size: int) -> NkiTensor:
        """Repeat a dimension of size 1 by stride 0."""
        self._guard("broadcast", dim in (0, -self.ndim))
        return NkiTensor.broadcast(self, dim, size)

    def expand_dim(self, dim: int) -> NkiTensor:
        """Insert a dimension of size 1."""
        self._guard("expand_dim", dim == 0)
        return NkiTensor.expand_dim(self, dim)

    def squeeze_dim(self, dim: int) -> NkiTensor:
        """Remove a dimension of size 1."""
        self._guard("squeeze_dim", dim in (0, -self.ndim))
        return NkiTensor.squeeze_dim(self, dim)

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> NkiTensor:
        """Split one dimension; one size may be -1."""
        self._guard("reshape_dim", dim in (0, -self.ndim) and len(shape) != 1)
        return NkiTensor.reshape_dim(self, dim, shape)

    def flatten_dims(self, start_dim: int, end_dim: int) -> NkiTensor:
        """Merge dimensions `start_dim` to `end_dim` (inclusive)."""
        self._guard("flatten_dims", start_dim in (0, -self.ndim) and end_dim != start_dim)
        return NkiTensor.flatten_dims(self, start_dim, end_dim)

    def reshape(self, shape: Sequence[int]) -> NkiTensor:
        """Give the same elements another shape, without a copy."""
        if not isinstance(self._runtime, VectorOffset):
            return NkiTensor.reshape(self, shape)
        sizes = inferred(shape, self.size, "NkiTensor.reshape", self)
        self._guard("reshape", sizes[0] != self.shape[0])
        inner = reshaped(self.shape[1:], self.strides[1:], sizes[1:])
        if inner is None:
            raise ShapeError(
                f"NkiTensor.reshape: {self!r} with strides {self.strides} cannot be seen as "
                f"{sizes} without a copy",
                code="tensor.reshape_copy",
            )
        return self._view(sizes, (self.strides[0], *inner), self.offset)

    # What no indirect view does.

    def _again(self, op: str) -> ConstraintError:
        return ConstraintError(
            f"NkiTensor.{op}: {self!r} has an offset of run time already, and a view has at most "
            "one (nki.language.NkiTensor, is_indirect)",
            code="indirect.second_offset",
        )

    def vector_select(self, dim: int, vector_offset: object) -> NkiTensor:
        """Refused: the view has an offset already."""
        raise self._again("vector_select")

    def indirect(self, index: object, num_elem: int | None = None) -> NkiTensor:
        """Refused: the view has an offset already."""
        raise self._again("indirect")

    def ap(self, *args: Any, **kwargs: Any) -> NkiTensor:
        """Refused: a pattern over the storage would drop the offset without a word."""
        raise self._again("ap")

    def view(self, dtype: str) -> NkiTensor:
        """Refused after a dynamic select, as the page says."""
        raise ConstraintError(
            f"NkiTensor.view: not supported after a dynamic or vector select, as of {self!r}; "
            "reinterpret the tensor before (nki.language.NkiTensor.view)",
            code="indirect.view",
        )

    reinterpret_cast = view

    # For the simulator.

    @property
    def _array(self) -> Array:
        raise ConstraintError(
            f"{self!r} is a view with an address of run time: only an instruction can read it",
            code="indirect.read",
        )

    def _one(self) -> NkiTensor:
        """Return the view without its offset: of the first row, or of the tensor, of its kind."""
        shape, strides, offset = self.shape, self.strides, self.offset
        if isinstance(self._runtime, VectorOffset):
            shape, strides = shape[1:] or (1,), strides[1:] or (1,)
        return NkiTensor._view(self, shape, strides, offset)

    def _region(self) -> tuple[int, int, int, int]:
        """Return the bytes that the view can reach, as nobody knows better before it runs."""
        runtime = self._runtime
        if isinstance(runtime, ColumnOffsets):
            return runtime.base._region()
        first, end, partition, end_partition = self._one()._region()
        end += (runtime.limit - 1) * runtime.step_bytes
        return first, min(end, self._storage.free_bytes), partition, end_partition


def attach(view: NkiTensor, runtime: ScalarOffset | VectorOffset | ColumnOffsets) -> IndirectTensor:
    """Return an ordinary view with an offset of run time."""
    made = IndirectTensor.__new__(IndirectTensor)
    for slot in NkiTensor.__slots__:
        setattr(made, slot, getattr(view, slot))
    made._runtime = runtime
    return made


def is_index(value: object) -> bool:
    """Whether a value is known at run time only: a tensor or a register."""
    return isinstance(value, (NkiTensor, VirtualRegister))


def _checked_index(op: str, what: str, index: object, dtypes: frozenset[str]) -> NkiTensor:
    if not isinstance(index, NkiTensor):
        raise ConstraintError(
            f"{op}: {what} must be a tensor in SBUF, got {index!r} ({_SOURCE})",
            code="indirect.index_tensor",
        )
    if index.is_indirect() or index._storage.space != "sbuf":
        raise ConstraintError(
            f"{op}: {what} must be in SBUF, at an address of its own that is known at compile "
            f"time, got {index!r} ({_SOURCE})",
            code="indirect.index_tensor",
        )
    if index.dtype not in dtypes:
        raise DtypeError(
            f"{op}: {what} must be one of {', '.join(sorted(dtypes))}, got {index!r} "
            "(nki.isa.dma_copy, Indirect addressing)",
            code="indirect.index_dtype",
        )
    return index


def _scalar(op: str, what: str, index: object) -> NkiTensor | VirtualRegister:
    """Return the index of a whole view, which is one number."""
    if isinstance(index, VirtualRegister):
        return index
    tensor = _checked_index(op, what + ", where it is no register,", index, INDEX_DTYPES)
    if tensor.shape != (1, 1):
        raise ShapeError(
            f"{op}: {what} must have the shape (1, 1), got {tensor!r} ({_SOURCE})",
            code="indirect.index_shape",
        )
    return tensor


def _free_dimension(op: str, tensor: NkiTensor, dim: int) -> None:
    if dim == 0 and tensor._on_chip:
        raise ConstraintError(
            f"{op}: the partition dimension of {tensor!r} cannot be indexed at run time "
            f"({_SOURCE})",
            code="indirect.partition",
        )
    if tensor.strides[dim] == 0:
        raise ConstraintError(
            f"{op}: dimension {dim} of {tensor!r} repeats one element, which no index moves",
            code="indirect.repeated",
        )


def select(tensor: NkiTensor, dim: int, index: object) -> NkiTensor:
    """Return `tensor` at an index of run time along `dim`, without that dimension."""
    op = "NkiTensor.select"
    which = _scalar(op, "the index", index)
    dim = tensor._dimension(dim, "select")
    _free_dimension(op, tensor, dim)
    step = tensor.strides[dim] * tensor._kind.itemsize
    return attach(tensor.select(dim, 0), ScalarOffset(which, step, tensor.shape[dim]))


def vector_select(tensor: NkiTensor, dim: int, index: object) -> NkiTensor:
    """Return rows of a tensor in HBM, one for each index."""
    op = "NkiTensor.vector_select"
    if tensor._dimension(dim, "vector_select") != 0:
        raise ConstraintError(
            f"{op}: dim must be 0, got {dim} (nki.language.NkiTensor)",
            code="indirect.rows_dimension",
        )
    which = _checked_index(op, "vector_offset", index, INDEX_DTYPES)
    if which.ndim != 2 or which.shape[1] != 1:
        raise ShapeError(
            f"{op}: vector_offset must have the shape (partitions, 1), got {which!r} "
            "(nki.language.NkiTensor)",
            code="indirect.index_shape",
        )
    view = tensor._view((which.shape[0], *tensor.shape[1:]), tensor.strides, tensor.offset)
    return _rows(op, tensor, view, which)


def _rows(op: str, base: NkiTensor, view: NkiTensor, index: NkiTensor) -> NkiTensor:
    if base._storage.space != "hbm":
        raise ConstraintError(
            f"{op}: rows can be indexed in HBM only, got {base!r} (nki.isa.dma_copy, Indirect "
            "addressing)",
            code="indirect.rows_memory",
        )
    if index.ndim != 2:
        raise ShapeError(
            f"{op}: vector_offset must have two dimensions, got {index!r} ({_SOURCE})",
            code="indirect.index_shape",
        )
    _free_dimension(op, base, 0)
    step = base.strides[0] * base._kind.itemsize
    # The leading stride of the pattern is ignored: the rows are those of the base tensor.
    strides = (step // view._kind.itemsize, *view.strides[1:])
    made = base._view(view.shape, strides, view.offset)
    made.dtype, made._kind = view.dtype, view._kind
    return attach(made, VectorOffset(index, step, base.shape[0]))


def pattern(
    tensor: NkiTensor, view: NkiTensor, scalar: object, vector: object, indirect_dim: int
) -> NkiTensor:
    """Give `view`, an explicit pattern over the storage of `tensor`, its offset of run time."""
    op = "NkiTensor.ap"
    if scalar is not None and vector is not None:
        raise ConstraintError(
            f"{op}: at most one of scalar_offset and vector_offset can be given ({_SOURCE})",
            code="indirect.second_offset",
        )
    if not 0 <= indirect_dim < tensor.ndim:
        raise OutOfBoundsError(
            f"{op}: indirect_dim={indirect_dim} is no dimension of {tensor!r}, the tensor whose "
            f"shape scales the index ({_SOURCE})",
            code="indirect.dimension",
        )
    if not tensor.is_contiguous():
        raise ConstraintError(
            f"{op}: an offset of run time needs a dense tensor, got {tensor!r} with strides "
            f"{tensor.strides}: whether its strides or its sizes scale the index is not said "
            f"({_SOURCE})",
            code="indirect.dense",
        )
    if vector is None:
        which = _scalar(op, "scalar_offset", scalar)
        _free_dimension(op, tensor, indirect_dim)
        step = prod(tensor.shape[indirect_dim + 1 :]) * tensor._kind.itemsize
        tensor._check_pattern(view)
        return attach(view, ScalarOffset(which, step, tensor.shape[indirect_dim]))
    if indirect_dim != 0:
        raise ConstraintError(
            f"{op}: vector_offset takes indirect_dim=0 only, got {indirect_dim} ({_SOURCE}, "
            "Vector Dynamic Access)",
            code="indirect.rows_dimension",
        )
    if view._kind.itemsize != tensor._kind.itemsize:
        raise ConstraintError(
            f"{op}: a vector_offset with a dtype of another size is not supported, got "
            f"{view.dtype} over {tensor!r} (NKI 0.5.0 release notes, known issues)",
            code="indirect.item_size",
        )
    rows = _rows(op, tensor, view, _checked_index(op, "vector_offset", vector, INDEX_DTYPES))
    tensor._check_pattern(tensor._view((1, *rows.shape[1:]), rows.strides, rows.offset))
    return rows


def columns(tensor: NkiTensor, index: object, num_elem: int | None) -> NkiTensor:
    """Return columns of a tensor on chip, at positions along its free dimension."""
    op = "NkiTensor.indirect"
    which = _checked_index(op, "index", index, COLUMN_DTYPES)
    if not tensor._on_chip or tensor.ndim != 2 or not tensor.is_contiguous():
        raise ConstraintError(
            f"{op}: takes columns of a dense tensor of two dimensions in SBUF or PSUM, got "
            f"{tensor!r} (nki.language.NkiTensor)",
            code="indirect.columns_tensor",
        )
    if which.ndim != 2 or which.shape[0] != tensor.shape[0]:
        raise ShapeError(
            f"{op}: index must have two dimensions and the partitions of {tensor!r}, got "
            f"{which!r} (nki.language.NkiTensor)",
            code="indirect.index_shape",
        )
    count = which.size if num_elem is None else num_elem
    if type(count) is not int or count < 1:
        raise ShapeError(
            f"{op}: num_elem must be a positive integer, got {num_elem!r}", code="indirect.count"
        )
    view = tensor._view((tensor.shape[0], count), tensor.strides, tensor.offset)
    return attach(view, ColumnOffsets(which, tensor))
