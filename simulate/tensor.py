"""``NkiTensor``: a strided view of a storage, with the vendor's view methods.

A view is shape, strides and offset in elements; no view copies data.  On-chip tensors keep the
partition dimension first and unbroken, because one access pattern serves all partitions.

Sources
-------
Vendor documentation of NKI 0.6.0: nki.language.NkiTensor, the language guide (Tensor Values, Tensor
Indexing) and the access-pattern deep dive.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from enum import Enum
from math import prod
from types import EllipsisType
from typing import Any

from nkiconv.simulate.dtypes import Array, ElementType, Float32Array, element_type
from nkiconv.simulate.errors import ConstraintError, OutOfBoundsError, ShapeError
from nkiconv.simulate.memory import Storage
from nkiconv.simulate.objects import NKIObject as NKIObject
from nkiconv.simulate.trace import pattern_of


class MemoryRegion(Enum):
    """Where a tensor lives."""

    sbuf = "sbuf"
    psum = "psum"
    private_hbm = "private_hbm"
    shared_hbm = "shared_hbm"


SPACE = {
    MemoryRegion.sbuf: "sbuf",
    MemoryRegion.psum: "psum",
    MemoryRegion.private_hbm: "hbm",
    MemoryRegion.shared_hbm: "hbm",
}


class DynamicSlice:
    """``nl.ds(start, size)``: `size` elements from `start`, which is not counted from the end."""

    __slots__ = ("size", "start")

    def __init__(self, start: int, size: int) -> None:
        self.start = _whole(start, "nl.ds", "start")
        self.size = _whole(size, "nl.ds", "size")
        if self.start < 0 or self.size < 1:
            raise OutOfBoundsError(
                f"nl.ds({start}, {size}): start must be at least 0 and size at least 1",
                code="tensor.ds",
            )


_WHOLE = slice(None)

Index = int | slice | DynamicSlice | EllipsisType


def _whole(value: object, op: str, what: str) -> int:
    """Return `value` as int; NumPy integers count, bools and floats do not."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ShapeError(
            f"{op}: {what} must be an integer known at compile time, got {value!r}",
            code="tensor.whole_number",
        )
    return int(value.__index__())


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a dense tensor, in elements."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def checked_shape(shape: object, op: str) -> tuple[int, ...]:
    """Return `shape` as a tuple of positive integers.

    Raises
    ------
    ShapeError
        It is not a sequence, or a size is not a positive integer.
    """
    if not isinstance(shape, (tuple, list)) or not shape:
        raise ShapeError(
            f"{op}: shape must be a tuple of positive integers, got {shape!r}", code="tensor.shape"
        )
    sizes = tuple(
        [size if type(size) is int else _whole(size, op, "a size of shape") for size in shape]
    )
    if min(sizes) < 1:
        raise ShapeError(
            f"{op}: every size of a tensor must be at least 1, got {sizes}", code="tensor.size"
        )
    return sizes


class NkiTensor(NKIObject):
    """A tensor in SBUF, PSUM or HBM, or a view of one.

    Attributes
    ----------
    shape, strides
        Sizes and element strides.  On-chip, dimension 0 is the partition dimension.
    offset
        First element, counted from the beginning of the storage.
    dtype
        NKI dtype (a string).
    buffer
        `MemoryRegion`.
    name
        Label of the allocation.
    """

    __slots__ = ("_kind", "_on_chip", "_storage", "buffer", "dtype", "name", "offset", "shape",
                 "strides")  # fmt: skip

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str,
        storage: Storage,
        buffer: MemoryRegion = MemoryRegion.sbuf,
        name: str = "",
    ) -> None:
        self.shape = checked_shape(shape, "NkiTensor")
        self._kind = element_type(dtype, op="NkiTensor")
        self.dtype = dtype
        self._storage = storage
        self.buffer = buffer
        self.name = name
        self.strides = row_major(self.shape)
        self.offset = 0
        self._on_chip = SPACE[buffer] != "hbm"

    def _view(self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> NkiTensor:
        view = NkiTensor.__new__(NkiTensor)
        view.shape = shape
        view.strides = strides
        view.offset = offset
        view.dtype = self.dtype
        view.buffer = self.buffer
        view.name = self.name
        view._kind = self._kind
        view._storage = self._storage
        view._on_chip = self._on_chip
        return view

    __eq__ = object.__eq__  # the same tensor; values are compared by instructions
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        label = f" {self.name!r}" if self.name else ""
        return f"<NkiTensor{label} {self.dtype}[{sizes}] {self._storage.space.upper()}>"

    def __bool__(self) -> bool:
        """Return True, as any object: what a tensor holds is not known when a kernel is compiled.

        Raises
        ------
        ConstraintError
            It is the answer of a comparison (``assert nl.equal(a, b)``) and not 1 everywhere: the
            device would go on as if it were.
        """
        if self._storage.holds_answer and (wrong := self.size - int((self._array != 0).sum())):
            raise ConstraintError(
                f"{self!r}: as a condition this comparison does not hold for {wrong} of "
                f"{self.size} elements; on the device a tensor counts as true whatever it holds, "
                "because a kernel's conditions are decided when it is compiled (NKI language "
                "guide). Return the tensor and compare on the host",
                code="tensor.condition",
            )
        return True

    @property
    def address(self) -> tuple[int, int] | None:
        """Partition and byte that the kernel chose for the tensor, if it did.

        Not recorded among the vendor's attributes; the page on its library's allocator prints it.
        """
        return self._storage.allocation.address

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    # Layout.

    def is_contiguous(self) -> bool:
        """Whether the elements are dense and in row-major order (per partition, on chip)."""
        expected = 1
        first = 1 if self._on_chip else 0
        for size, stride in zip(
            reversed(self.shape[first:]), reversed(self.strides[first:]), strict=True
        ):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    def get_pattern(self) -> list[list[int]]:
        """Return ``[[stride, count], ...]``, the form that `ap` takes."""
        return [[stride, size] for stride, size in zip(self.strides, self.shape, strict=True)]

    def is_indirect(self) -> bool:
        """Whether addresses are resolved at run time; such views are in `indirect`."""
        return False

    # Indexing.

    def __getitem__(self, key: Index | tuple[Index, ...]) -> NkiTensor:
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            fill = self.ndim - (len(keys) - 1)
            keys = (*keys[:at], *[_WHOLE] * fill, *keys[at + 1 :])
        own_shape, own_strides = self.shape, self.strides
        if len(keys) > len(own_shape):
            raise OutOfBoundsError(
                f"{self!r}: {len(keys)} indices for a tensor of {self.ndim} dimensions",
                code="tensor.index_count",
            )
        shape: list[int] = []
        strides: list[int] = []
        offset = self.offset
        dim = 0  # counted by hand: this is what kernels do most
        for index in keys:
            stride = own_strides[dim]
            if type(index) is slice:
                if index == _WHOLE:
                    shape.append(own_shape[dim])
                    strides.append(stride)
                else:
                    start, count, step = self._range(dim, index.start, index.stop, index.step)
                    offset += start * stride
                    shape.append(count)
                    strides.append(stride * step)
            elif isinstance(index, DynamicSlice):
                start, count, _ = self._range(dim, index.start, index.start + index.size, 1)
                offset += start * stride
                shape.append(count)
                strides.append(stride)
            else:
                offset += self._position(dim, index) * stride
                if dim == 0 and self._on_chip:
                    shape.append(1)
                    strides.append(stride)
            dim += 1
        if dim < len(own_shape):
            shape += own_shape[dim:]
            strides += own_strides[dim:]
        least = 2 if self._on_chip else 1
        while len(shape) < least:  # a tensor keeps its last dimension, at size 1
            shape.append(1)
            strides.append(1)
        return self._view(tuple(shape), tuple(strides), offset)

    def __setitem__(self, key: object, value: object) -> None:
        raise ConstraintError(
            f"{self!r}: assignment to a slice is not an instruction; write with nisa.tensor_copy, "
            "nisa.memset or nisa.dma_copy (dst=...)",
            code="tensor.assignment",
        )

    def _position(self, dim: int, index: object) -> int:
        size = self.shape[dim]
        if type(index) is int:
            if 0 <= index < size:
                return index
            where = index
        else:
            where = _whole(index, repr(self), f"the index of dimension {dim}")
        if not -size <= where < size:
            raise OutOfBoundsError(
                f"{self!r}: index {where} of dimension {dim} is outside its size {size}",
                code="tensor.index_bounds",
            )
        return where + size if where < 0 else where

    def _range(self, dim: int, start: Any, stop: Any, step: Any) -> tuple[int, int, int]:
        """Return start, count and step of a slice that lies inside the dimension."""
        size = self.shape[dim]
        if step is None:
            if type(start) is int and type(stop) is int and 0 <= start < stop <= size:
                return start, stop - start, 1  # as most slices are written
            step = 1
        if start is None:
            start = 0
        if stop is None:
            stop = size
        if not (type(step) is int and type(start) is int and type(stop) is int):
            step = _whole(step, repr(self), f"the step of dimension {dim}")
            start = _whole(start, repr(self), f"the start of dimension {dim}")
            stop = _whole(stop, repr(self), f"the end of dimension {dim}")
        if start < 0:
            start += size
        if stop < 0:
            stop += size
        if step < 1:
            raise OutOfBoundsError(
                f"{self!r}: step {step} of dimension {dim} must be at least 1",
                code="tensor.slice_step",
            )
        if not 0 <= start < stop <= size:
            raise OutOfBoundsError(
                f"{self!r}: slice {start}:{stop} of dimension {dim} must satisfy "
                f"0 <= start < end <= {size}; slices are not clamped "
                "(vendor documentation, NkiTensor.slice)",
                code="tensor.slice_bounds",
            )
        count = (stop - start + step - 1) // step
        if dim == 0 and self._on_chip and step > 1 and count > 1:
            raise ConstraintError(
                f"{self!r}: step {step} of dimension 0 would skip partitions; an access pattern "
                "covers neighbouring partitions only (access-pattern deep dive, Restriction on "
                "SBUF/PSUM Tensors)",
                code="tensor.partition_step",
            )
        return start, count, step

    def slice(self, dim: int, start: int, end: int, step: int = 1) -> NkiTensor:
        """Return elements `start` to `end` of one dimension; no negative numbers here."""
        dim = self._dimension(dim, "slice")
        limits = [_whole(n, "NkiTensor.slice", "start or end") for n in (start, end)]
        if min(limits) < 0:
            raise OutOfBoundsError(
                f"NkiTensor.slice: {start}:{end} of dimension {dim} of {self!r} must satisfy "
                f"0 <= start < end <= {self.shape[dim]} (vendor documentation, NkiTensor.slice)",
                code="tensor.slice_bounds",
            )
        first, count, stride = self._range(dim, start, end, step)
        shape = (*self.shape[:dim], count, *self.shape[dim + 1 :])
        strides = (*self.strides[:dim], self.strides[dim] * stride, *self.strides[dim + 1 :])
        return self._view(shape, strides, self.offset + first * self.strides[dim])

    def select(self, dim: int, index: Any) -> NkiTensor:
        """Return one element of a dimension, and drop the dimension.

        `index` is a number, or a tensor of shape (1, 1) in SBUF or a register for one that is known
        at run time.
        """
        if type(index) is not int:
            from nkiconv.simulate import indirect

            if indirect.is_index(index):
                return indirect.select(self, dim, index)
        dim = self._dimension(dim, "select")
        if _whole(index, "NkiTensor.select", "index") < 0:
            raise OutOfBoundsError(
                f"NkiTensor.select: index {index} of dimension {dim} of {self!r} must be at least "
                "0 (vendor documentation, NkiTensor.select)",
                code="tensor.index_bounds",
            )
        if dim == 0 and self._on_chip:
            return self[index]
        keys: tuple[Index, ...] = (*[slice(None)] * dim, index)
        return self[keys]

    # Rearranging.

    def _dimension(self, dim: int, op: str, *, free_only: bool = False) -> int:
        where = _whole(dim, f"NkiTensor.{op}", "dim")
        if not -self.ndim <= where < self.ndim:
            raise OutOfBoundsError(
                f"NkiTensor.{op}: {self!r} has no dimension {where}", code="tensor.dimension"
            )
        where %= self.ndim
        if free_only and where == 0 and self._on_chip:
            raise _partition_rule(op, self)
        return where

    def _check_rank(self, ndim: int, op: str) -> None:
        least = 2 if self._on_chip else 1
        if ndim < least:
            raise ShapeError(
                f"NkiTensor.{op}: {self!r} would keep {ndim} dimensions; a tensor in "
                f"{self._storage.space.upper()} has at least {least} (vendor language guide, "
                "Tensor Values)",
                code="tensor.rank",
            )

    def permute(self, dims: Sequence[int]) -> NkiTensor:
        """Reorder the dimensions; on-chip the partition dimension stays first."""
        order = tuple([_whole(d, "NkiTensor.permute", "a dimension") for d in dims])
        if sorted(order) != list(range(self.ndim)):
            raise ShapeError(
                f"NkiTensor.permute: {order} is not an order of the {self.ndim} dimensions of "
                f"{self!r}",
                code="tensor.permutation",
            )
        if self._on_chip and order[0] != 0:
            raise _partition_rule("permute", self)
        return self._view(
            tuple([self.shape[d] for d in order]),
            tuple([self.strides[d] for d in order]),
            self.offset,
        )

    def broadcast(self, dim: int, size: int) -> NkiTensor:
        """Repeat a dimension of size 1 by stride 0."""
        dim = self._dimension(dim, "broadcast", free_only=True)
        if self.shape[dim] != 1:
            raise ShapeError(
                f"NkiTensor.broadcast: dimension {dim} of {self!r} has size {self.shape[dim]}; "
                "only size 1 can be repeated",
                code="tensor.broadcast",
            )
        count = checked_shape((size,), "NkiTensor.broadcast")[0]
        shape = (*self.shape[:dim], count, *self.shape[dim + 1 :])
        strides = (*self.strides[:dim], 0, *self.strides[dim + 1 :])
        return self._view(shape, strides, self.offset)

    def expand_dim(self, dim: int) -> NkiTensor:
        """Insert a dimension of size 1."""
        where = _whole(dim, "NkiTensor.expand_dim", "dim")
        if not 0 <= where <= self.ndim:
            raise OutOfBoundsError(
                f"NkiTensor.expand_dim: no position {where} in {self!r}", code="tensor.dimension"
            )
        if where == 0 and self._on_chip:
            raise _partition_rule("expand_dim", self)
        stride = self.strides[where] * self.shape[where] if where < self.ndim else 1
        return self._view(
            (*self.shape[:where], 1, *self.shape[where:]),
            (*self.strides[:where], stride, *self.strides[where:]),
            self.offset,
        )

    def squeeze_dim(self, dim: int) -> NkiTensor:
        """Remove a dimension of size 1."""
        dim = self._dimension(dim, "squeeze_dim", free_only=True)
        if self.shape[dim] != 1:
            raise ShapeError(
                f"NkiTensor.squeeze_dim: dimension {dim} of {self!r} has size {self.shape[dim]}",
                code="tensor.squeeze",
            )
        self._check_rank(self.ndim - 1, "squeeze_dim")
        return self._view(
            (*self.shape[:dim], *self.shape[dim + 1 :]),
            (*self.strides[:dim], *self.strides[dim + 1 :]),
            self.offset,
        )

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> NkiTensor:
        """Split one dimension; one size may be -1."""
        dim = self._dimension(dim, "reshape_dim")
        sizes = inferred(shape, self.shape[dim], "NkiTensor.reshape_dim", self)
        if dim == 0 and self._on_chip and len(sizes) != 1:
            raise _partition_rule("reshape_dim", self)
        inner = tuple([s * self.strides[dim] for s in row_major(sizes)])
        return self._view(
            (*self.shape[:dim], *sizes, *self.shape[dim + 1 :]),
            (*self.strides[:dim], *inner, *self.strides[dim + 1 :]),
            self.offset,
        )

    def flatten_dims(self, start_dim: int, end_dim: int) -> NkiTensor:
        """Merge dimensions `start_dim` to `end_dim` (inclusive), which must be dense."""
        first = self._dimension(start_dim, "flatten_dims", free_only=True)
        last = self._dimension(end_dim, "flatten_dims")
        if last < first:
            raise ShapeError(
                f"NkiTensor.flatten_dims: {start_dim} comes after {end_dim}",
                code="tensor.flatten_order",
            )
        merged = _merged(self.shape[first : last + 1], self.strides[first : last + 1])
        if len(merged) != 1:
            raise ShapeError(
                f"NkiTensor.flatten_dims: dimensions {first} to {last} of {self!r} with strides "
                f"{self.strides} are not dense; a view cannot merge them",
                code="tensor.flatten_dense",
            )
        stride, size = merged[0]
        return self._view(
            (*self.shape[:first], size, *self.shape[last + 1 :]),
            (*self.strides[:first], stride, *self.strides[last + 1 :]),
            self.offset,
        )

    def reshape(self, shape: Sequence[int]) -> NkiTensor:
        """Give the same elements another shape, without a copy."""
        sizes = inferred(shape, self.size, "NkiTensor.reshape", self)
        self._check_rank(len(sizes), "reshape")
        if self._on_chip:
            if sizes[0] != self.shape[0]:
                raise _partition_rule("reshape", self)
            free = reshaped(self.shape[1:], self.strides[1:], sizes[1:])
            strides = None if free is None else (self.strides[0], *free)
        else:
            strides = reshaped(self.shape, self.strides, sizes)
        if strides is None:
            raise ShapeError(
                f"NkiTensor.reshape: {self!r} with strides {self.strides} cannot be seen as "
                f"{sizes} without a copy",
                code="tensor.reshape_copy",
            )
        return self._view(sizes, strides, self.offset)

    def rearrange(
        self,
        src_pattern: Sequence[str | Sequence[str]],
        dst_pattern: Sequence[str | Sequence[str]],
        fixed_sizes: dict[str, int] | None = None,
    ) -> NkiTensor:
        """Split, reorder and merge dimensions by name, as einops does."""
        fixed = fixed_sizes or {}
        if len(src_pattern) != self.ndim:
            raise ShapeError(
                f"NkiTensor.rearrange: {len(src_pattern)} names for {self.ndim} dimensions of "
                f"{self!r}",
                code="tensor.rearrange",
            )
        split: NkiTensor = self
        names: list[str] = []
        for entry in src_pattern:
            group = [entry] if isinstance(entry, str) else list(entry)
            sizes = [fixed.get(name, -1) for name in group]
            split = split.reshape_dim(len(names), sizes)
            names.extend(group)
        if not set(fixed) <= set(names):
            raise ShapeError(
                f"NkiTensor.rearrange: fixed_sizes {fixed} names more than {src_pattern}",
                code="tensor.rearrange",
            )
        flat: list[str] = []
        for entry in dst_pattern:
            flat.extend([entry] if isinstance(entry, str) else entry)
        if sorted(flat) != sorted(names) or () in map(tuple, dst_pattern):
            raise ShapeError(
                f"NkiTensor.rearrange: {dst_pattern} does not name {names}", code="tensor.rearrange"
            )
        result = split.permute([names.index(name) for name in flat])
        for where, entry in enumerate(dst_pattern):
            if not isinstance(entry, str) and len(entry) > 1:
                result = result.flatten_dims(where, where + len(entry) - 1)
        return result

    # Raw patterns and types.

    def ap(
        self,
        pattern: Sequence[Sequence[int]],
        offset: int | None = None,
        scalar_offset: object = None,
        vector_offset: object = None,
        indirect_dim: int = 0,
        dtype: str | None = None,
    ) -> NkiTensor:
        """Return an explicit ``[[stride, count], ...]`` pattern over the storage.

        The offsets of run time move it along dimension `indirect_dim` of this tensor.  A pattern
        that leaves the tensor is refused by what uses it: kernels of the vendor make some that they
        use only if a condition holds.
        """
        dynamic = scalar_offset is not None or vector_offset is not None
        if _whole(indirect_dim, "NkiTensor.ap", "indirect_dim") != 0 and not dynamic:
            raise ConstraintError(
                f"NkiTensor.ap: indirect_dim={indirect_dim} needs a scalar_offset or vector_offset",
                code="indirect.without_offset",
            )
        kind = self._kind if dtype is None else element_type(dtype, op="NkiTensor.ap")
        if offset is None:
            start = self.offset * self._kind.itemsize
            if start % kind.itemsize:
                raise ShapeError(
                    f"NkiTensor.ap: offset {self.offset} of {self!r} does not fall on a {dtype}",
                    code="tensor.ap_offset",
                )
            begin = start // kind.itemsize
        else:
            begin = _whole(offset, "NkiTensor.ap", "offset")
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pattern):
            raise ShapeError(
                f"NkiTensor.ap: pattern must be [[stride, count], ...], got {pattern!r} "
                "(access-pattern deep dive)",
                code="tensor.ap_pattern",
            )
        strides = tuple([_whole(pair[0], "NkiTensor.ap", "a stride") for pair in pattern])
        shape = checked_shape([pair[1] for pair in pattern], "NkiTensor.ap")
        view = self._view(shape, strides, begin)
        view.dtype = kind.name
        view._kind = kind
        if min(strides) < 0 or begin < 0:
            raise OutOfBoundsError(
                f"NkiTensor.ap: negative strides or offsets leave {self._storage.describe()}",
                code="tensor.ap_bounds",
            )
        if dynamic:
            from nkiconv.simulate import indirect

            return indirect.pattern(self, view, scalar_offset, vector_offset, indirect_dim)
        try:
            self._check_pattern(view)
        except OutOfBoundsError as error:
            return _Beyond(view, error)
        return view

    def _check_pattern(self, view: NkiTensor) -> None:
        item = view._kind.itemsize
        storage = self._storage
        row = storage.free_bytes // item
        reach = [(n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)]
        if not self._on_chip:
            if view.offset + sum(reach) >= row:
                raise OutOfBoundsError(
                    f"NkiTensor.ap: pattern {view.get_pattern()} at {view.offset} reaches element "
                    f"{view.offset + sum(reach)} of the {row} of {storage.describe()}",
                    code="tensor.ap_bounds",
                )
            return
        if view.ndim < 2:
            raise ShapeError(
                f"NkiTensor.ap: an on-chip pattern needs a free dimension: {view!r}",
                code="tensor.ap_pattern",
            )
        if storage.free_bytes % item:
            raise ShapeError(
                f"NkiTensor.ap: the {storage.free_bytes} B per partition of {storage.describe()} "
                f"do not divide into {view.dtype} elements",
                code="tensor.ap_row",
            )
        if view.strides[0] != row and view.shape[0] != 1:
            raise ConstraintError(
                f"NkiTensor.ap: the partition stride of {storage.describe()} must be its {row} "
                f"elements per partition, got {view.strides[0]} (access-pattern deep dive)",
                code="tensor.ap_partition_stride",
            )
        last_partition = view.offset // row + view.shape[0] - 1
        last_elem = view.offset % row + sum(reach[1:])
        if last_partition >= storage.partitions or last_elem >= row:
            raise OutOfBoundsError(
                f"NkiTensor.ap: pattern {view.get_pattern()} at {view.offset} reaches partition "
                f"{last_partition}, element {last_elem} of {storage.describe()}",
                code="tensor.ap_bounds",
            )

    def view(self, dtype: str) -> NkiTensor:
        """Read the same bits as another dtype; the last dimension scales with the item size."""
        kind = element_type(dtype, op="NkiTensor.view")
        old, new = self._kind.itemsize, kind.itemsize
        last = self.shape[-1] * old
        if self.strides[-1] != 1 and self.shape[-1] != 1 and old != new:
            raise ShapeError(
                f"NkiTensor.view: the last dimension of {self!r} is not contiguous",
                code="tensor.view_contiguous",
            )
        starts = [s * old for s in self.strides[:-1]]
        # A stride that is never taken does not matter, but the partition stride stands for the row.
        taken = [
            s for dim, s in enumerate(starts) if self.shape[dim] > 1 or (dim == 0 and self._on_chip)
        ]
        if last % new or (self.offset * old) % new or any(s % new for s in taken):
            raise ShapeError(
                f"NkiTensor.view: {self!r} does not divide into {dtype} elements",
                code="tensor.view_size",
            )
        inner = self.strides[-1] if old == new else 1
        result = self._view(
            (*self.shape[:-1], last // new),
            (*[s // new for s in starts], inner),
            self.offset * old // new,
        )
        result.dtype = dtype
        result._kind = kind
        return result

    reinterpret_cast = view

    def vector_select(self, dim: int, vector_offset: object) -> NkiTensor:
        """Return rows of a tensor in HBM, one for each index in `vector_offset`, (P, 1) in SBUF."""
        from nkiconv.simulate import indirect

        return indirect.vector_select(self, dim, vector_offset)

    def indirect(self, index: object, num_elem: int | None = None) -> NkiTensor:
        """Return columns of a tensor on chip, at the positions in `index` (NeuronCore-v4)."""
        from nkiconv.simulate import indirect

        return indirect.columns(self, index, num_elem)

    # For the simulator.

    @property
    def _array(self) -> Array:
        return self._storage.array(self, self._kind)

    @property
    def _float32(self) -> Float32Array:
        return self._storage.float32(self, self._kind)

    @property
    def _element(self) -> ElementType:
        return self._kind

    def _region(self) -> tuple[int, int, int, int]:
        """Return first byte, end byte (per partition), first partition and end partition."""
        item = self._kind.itemsize
        reach = 0
        if self._on_chip:
            row = self._storage.free_bytes // item
            partition, start = divmod(self.offset, row)
            for n, s in zip(self.shape[1:], self.strides[1:], strict=True):
                reach += (n - 1) * s
            return start * item, (start + reach + 1) * item, partition, partition + self.shape[0]
        for n, s in zip(self.shape, self.strides, strict=True):
            reach += (n - 1) * s
        return self.offset * item, (self.offset + reach + 1) * item, 0, 1

    def _pattern(self) -> int:
        """Return which bytes of its region it touches, as `pattern_of` tells."""
        item = self._kind.itemsize
        dims = zip(self.strides, self.shape, strict=True)
        if self._on_chip:
            next(dims)
        return pattern_of(((stride * item, size) for stride, size in dims), item)


def inferred(shape: Sequence[int], total: int, op: str, tensor: NkiTensor) -> tuple[int, ...]:
    """Return `shape` with the one size that may be -1 filled in, for so many elements."""
    sizes = [_whole(size, op, "a size") for size in shape]
    if sizes.count(-1) == 1:
        known = -prod(sizes)
        if known > 0 and total % known == 0:
            sizes[sizes.index(-1)] = total // known
    if not sizes or min(sizes) < 1 or prod(sizes) != total:
        raise ShapeError(
            f"{op}: {total} elements of {tensor!r} do not fill {tuple(shape)}",
            code="tensor.elements",
        )
    return tuple(sizes)


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Merge neighbouring dense dimensions; return ``(stride, size)`` without sizes of 1."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][0] == stride * size:
            merged[-1] = (stride, merged[-1][1] * size)
        else:
            merged.append((stride, size))
    return merged or [(1, 1)]


def reshaped(
    shape: Sequence[int], strides: Sequence[int], target: Sequence[int]
) -> tuple[int, ...] | None:
    """Return the strides of `target` over the same elements, or None where that needs a copy."""
    blocks = _merged(shape, strides)
    result: list[int] = []
    position = len(blocks) - 1
    stride, left = blocks[position]
    for size in reversed(target):
        if size == 1:
            result.append(stride)
            continue
        if left == 1 and position > 0:
            position -= 1
            stride, left = blocks[position]
        if left % size:
            return None
        result.append(stride)
        stride *= size
        left //= size
    return tuple(reversed(result))


def _partition_rule(op: str, tensor: NkiTensor) -> ConstraintError:
    return ConstraintError(
        f"NkiTensor.{op}: the partition dimension of {tensor!r} must stay first and whole; moving "
        "data between partitions takes an instruction (vendor documentation, NkiTensor)",
        code="tensor.partition_first",
    )


def tensors_in(value: Any) -> list[NkiTensor]:
    """Return the tensors of a kernel's result: one, or those of a tuple or list."""
    if isinstance(value, NkiTensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in tensors_in(item)]
    return []


class _Beyond(NkiTensor):
    """A pattern beyond the end of its tensor: nothing can be done with it."""

    __slots__ = ("_problem",)

    def __init__(self, view: NkiTensor, problem: OutOfBoundsError) -> None:
        self._problem = problem
        self.shape, self.strides, self.offset = view.shape, view.strides, view.offset
        self.dtype, self.buffer, self.name = view.dtype, view.buffer, view.name
        self._kind, self._on_chip = view._kind, view._on_chip

    @property
    def _storage(self) -> Storage:  # type: ignore[override]
        raise copy(self._problem)  # which gets the place of this use
