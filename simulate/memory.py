"""Memory as the chip has it: bytes per partition, poisoned when fresh, with a record of writes.

A tensor's storage is one block of bytes: ``partitions x free_bytes`` for SBUF and PSUM, one row for
HBM.  Beside the bytes stands a map of who wrote each byte, so that reading what nothing wrote, or
accumulating onto what no matmul wrote, is refused at the instruction that does it.

Where a block lies in SBUF or PSUM is not decided here but in `placement`, when the whole program is
known, as the compiler's allocator does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nkiconv.simulate.dtypes import ELEMENT_TYPES, Array, ElementType, Float32Array, to_float32

if TYPE_CHECKING:
    from nkiconv.simulate.tensor import NkiTensor

__all__ = ["BY_ENGINE", "BY_MATMUL", "UNWRITTEN", "Allocation", "Storage"]

UNWRITTEN, BY_ENGINE, BY_MATMUL = 0, 1, 2
"""Who wrote a byte last."""

_POISON = 0xFF
"""Fresh bytes: NaN in every float type, -1 or the largest value in integers."""


class Allocation:
    """What stays of a tensor when its bytes are gone: extent, name, and when it was in use.

    Parameters
    ----------
    number
        Running number within the program.
    space
        ``"sbuf"``, ``"psum"`` or ``"hbm"``.
    shape, dtype, name, line
        As allocated; for messages.
    core
        The NeuronCore of a logical one whose memory it lies in; of HBM, whichever came first.
    address
        First partition and first byte, where the kernel chose them; else None.

    Attributes
    ----------
    partitions, free_bytes
        Extent; HBM has one partition.
    first_use, last_use
        Instructions, by index; -1 while there is none.
    """

    __slots__ = (
        "address",
        "core",
        "dtype",
        "first_use",
        "free_bytes",
        "last_use",
        "line",
        "name",
        "number",
        "partitions",
        "shape",
        "space",
    )

    def __init__(
        self,
        number: int,
        space: str,
        shape: tuple[int, ...],
        dtype: str,
        name: str,
        line: str,
        *,
        core: int = 0,
        address: tuple[int, int] | None = None,
    ) -> None:
        self.number = number
        self.core = core
        self.address = address
        self.space = space
        self.shape = shape
        self.dtype = dtype
        self.name = name
        self.line = line
        self.partitions = 1 if space == "hbm" else shape[0]
        elems = 1
        for size in shape if space == "hbm" else shape[1:]:
            elems *= size
        self.free_bytes = elems * ELEMENT_TYPES[dtype].itemsize
        self.first_use = -1
        self.last_use = -1

    def describe(self) -> str:
        """Return name, type and shape, and where it was allocated."""
        label = f"{self.name} " if self.name else ""
        sizes = ", ".join(map(str, self.shape))
        return f"{label}{self.dtype}[{sizes}] in {self.space.upper()} ({self.line})"


class Storage:
    """The bytes of one allocation, and their writers; gone with the last view of them.

    Parameters
    ----------
    allocation
        Extent and type; its figures are copied here, because instructions ask for them.
    buffer
        Existing bytes (a kernel's input), else fresh poisoned ones.
    read_only
        The caller's array may not be written to.
    """

    __slots__ = (
        "_answer_version",
        "_bytes",
        "_map",
        "_poisoned",
        "_seen_version",
        "_shadow",
        "_shadow_version",
        "_version",
        "allocation",
        "dtype",
        "first_partition",
        "free_bytes",
        "is_input",
        "partitions",
        "read_only",
        "space",
        "uniform",
    )

    def __init__(
        self, allocation: Allocation, *, buffer: Array | None = None, read_only: bool = False
    ) -> None:
        self.allocation = allocation
        self.space = allocation.space
        self.dtype = allocation.dtype
        self.partitions = allocation.partitions
        self.first_partition = 0 if allocation.address is None else allocation.address[0]
        self.free_bytes = allocation.free_bytes
        self.is_input = buffer is not None
        self.read_only = read_only
        self._poisoned = buffer is not None
        if buffer is None:
            buffer = np.empty(self.partitions * self.free_bytes, dtype=np.uint8)
        self._bytes = buffer
        self.uniform: int | None = BY_ENGINE if self.is_input else UNWRITTEN
        self._map: _WriteMap | None = None
        self._version = 0
        self._answer_version = -1
        self._seen_version = -1
        self._shadow: Float32Array | None = None
        self._shadow_version = -1

    @property
    def written(self) -> bool:
        """Whether any instruction has written here."""
        return self._version > 0

    @property
    def holds_answer(self) -> bool:
        """Whether this is still what a comparison (nl.equal and its like) has written."""
        return self._answer_version == self._version

    def hold_answer(self) -> None:
        """Note that the elements are the answer of a comparison."""
        self._answer_version = self._version

    def describe(self) -> str:
        """Return name, type and shape, and where it was allocated."""
        return self.allocation.describe()

    # Access through views.

    @property
    def buffer(self) -> Array:
        """All bytes, in place; those that nothing has written are poison.

        They become it when somebody looks: most tensors are written in full before that.
        """
        if not self._poisoned:
            self._poisoned = True
            if self._map is not None:
                self._map.poison(self._bytes)
            elif self.uniform == UNWRITTEN:
                self._bytes.fill(_POISON)
        return self._bytes

    def array(self, view: NkiTensor, kind: ElementType) -> Array:
        """Return the elements of a view, in place."""
        if not self._poisoned:
            _ = self.buffer
        return self.elements(view, kind)

    def elements(self, view: NkiTensor, kind: ElementType) -> Array:
        """Return the elements of a view, in place: all written, or about to be overwritten."""
        item = kind.itemsize
        strides = view.strides
        if len(strides) == 2:  # most are; the general way takes a call
            steps: tuple[int, ...] = (strides[0] * item, strides[1] * item)
        else:
            steps = tuple([stride * item for stride in strides])
        return np.ndarray(view.shape, kind.numpy, self._bytes, view.offset * item, steps)

    def float32(self, view: NkiTensor, kind: ElementType) -> Float32Array:
        """Return the elements of a view widened to float32; in place where that is possible.

        A tensor that is read twice without a write between (a strip under many taps) is widened
        once as a whole, and its views are cut from that copy.
        """
        if kind.name in ("float32", "tfloat32"):
            return self.array(view, kind)
        if kind.name == self.dtype and kind.kind == "float":
            if self._shadow_version == self._version:
                return self._shadow_view(view)
            if self._seen_version == self._version:
                whole = self.buffer.view(kind.numpy)
                self._shadow = to_float32(whole, kind)
                self._shadow_version = self._version
                return self._shadow_view(view)
            self._seen_version = self._version
        return to_float32(self.array(view, kind), kind)

    def _shadow_view(self, view: NkiTensor) -> Float32Array:
        return np.ndarray(
            view.shape,
            np.float32,
            self._shadow,
            view.offset * 4,
            tuple([s * 4 for s in view.strides]),
        )

    # The map of writers.

    def mark(self, view: NkiTensor, kind: ElementType, code: int) -> None:
        """Note that the elements of `view` were written by `code`."""
        self._version += 1
        if self._shadow is not None:
            self._shadow = None
        if self.uniform == code:
            return
        if self._covers(view, kind):
            self.uniform = code
            self._map = None
            return
        if self._map is None:
            self._map = _WriteMap(self, self.uniform or UNWRITTEN)
            self.uniform = None
        self._map.mark(view, kind.itemsize, code)

    def writers(self, view: NkiTensor, kind: ElementType) -> tuple[int, int]:
        """Return the lowest and the highest code among the elements of `view`."""
        if self.uniform is not None or self._map is None:
            code = self.uniform or UNWRITTEN
            return code, code
        if self._map.changed:
            self._map.changed = False
            low, high = self._map.extremes()
            if low == high:
                # Written completely by now: no need to look again until somebody else writes.
                self.uniform = low
                self._map = None
                return low, high
        return self._map.writers(view, kind.itemsize)

    def count_unwritten(self, view: NkiTensor, kind: ElementType) -> int:
        """Return how many elements of `view` nothing has written."""
        low, _ = self.writers(view, kind)
        if low != UNWRITTEN:
            return 0
        return view.size if self._map is None else self._map.count_unwritten(view, kind.itemsize)

    def codes(self, view: NkiTensor, kind: ElementType, at: Any) -> Array:
        """Return who wrote the elements of ``view[at]``, `at` being an index of NumPy."""
        if self._map is None:
            code = self.uniform or UNWRITTEN
            everywhere: Array = np.broadcast_to(np.uint8(code), view.shape)[at]
            return everywhere
        return self._map.codes(view, kind.itemsize, at)

    def mark_each(self, view: NkiTensor, kind: ElementType, at: Any, codes: Array) -> None:
        """Note for each element of ``view[at]`` who wrote it."""
        self._version += 1
        self._shadow = None
        if self._map is None:
            if bool((codes == (self.uniform or UNWRITTEN)).all()):
                return
            self._map = _WriteMap(self, self.uniform or UNWRITTEN)
            self.uniform = None
        self._map.mark_each(view, kind.itemsize, at, codes)

    def _covers(self, view: NkiTensor, kind: ElementType) -> bool:
        """Whether `view` is the whole storage, its dimensions in any order."""
        if view.size * kind.itemsize != self.partitions * self.free_bytes or view.offset:
            return False
        dense = 1
        for stride, size in sorted(zip(view.strides, view.shape, strict=True)):
            if size > 1:
                if stride != dense:
                    return False
                dense *= size
        return True


class _WriteMap:
    """Who wrote which part of a storage: one code for each grain of bytes.

    A grain is an element of the storage's dtype until a view of another size comes along, then a
    byte.  All partitions share one row until a write leaves some of them out.
    """

    __slots__ = ("_codes", "_free_bytes", "_grain", "_on_chip", "_partitions", "changed")

    def __init__(self, storage: Storage, code: int) -> None:
        self._grain = ELEMENT_TYPES[storage.dtype].itemsize
        self._free_bytes = storage.free_bytes
        self._partitions = storage.partitions
        self._on_chip = storage.space != "hbm"
        self._codes = np.full((1, storage.free_bytes // self._grain), code, dtype=np.uint8)
        self.changed = False

    def poison(self, everything: Array) -> None:
        """Poison the bytes of a storage that nothing has written."""
        grains = everything.reshape(self._partitions, -1, self._grain)
        unwritten = np.broadcast_to(self._codes == UNWRITTEN, grains.shape[:2])
        grains[unwritten] = _POISON

    def extremes(self) -> tuple[int, int]:
        """Return the lowest and the highest code of all."""
        return int(self._codes.min()), int(self._codes.max())

    def mark(self, view: NkiTensor, itemsize: int, code: int) -> None:
        """Set the code of a view's elements."""
        self._refine(itemsize)
        if self._on_chip and len(self._codes) == 1 and view.shape[0] != self._partitions:
            self._codes = np.repeat(self._codes, self._partitions, axis=0)
        self._part(view, itemsize)[...] = code
        self.changed = True

    def codes(self, view: NkiTensor, itemsize: int, at: Any) -> Array:
        """Return a code for each element of ``view[at]``, the lowest one of its bytes."""
        self._refine(itemsize)
        part: Array = self._part(view, itemsize)
        if self._on_chip and len(self._codes) == 1:
            part = np.broadcast_to(part, (view.shape[0], *part.shape))
        found: Array = part[at]
        return found if itemsize == self._grain else found.min(axis=-1)

    def mark_each(self, view: NkiTensor, itemsize: int, at: Any, codes: Array) -> None:
        """Set the code of each element of ``view[at]``."""
        self._refine(itemsize)
        if self._on_chip and len(self._codes) == 1:
            self._codes = np.repeat(self._codes, self._partitions, axis=0)
        part = self._part(view, itemsize)
        part[at] = codes if itemsize == self._grain else codes[..., None]
        self.changed = True

    def writers(self, view: NkiTensor, itemsize: int) -> tuple[int, int]:
        """Return the lowest and the highest code of a view's elements."""
        self._refine(itemsize)
        part = self._part(view, itemsize)
        return int(part.min()), int(part.max())

    def count_unwritten(self, view: NkiTensor, itemsize: int) -> int:
        """Return how many of a view's elements hold a grain that nothing has written."""
        self._refine(itemsize)
        part = self._part(view, itemsize)
        if itemsize != self._grain:
            part = part.min(axis=-1)
        return int(np.count_nonzero(part == UNWRITTEN)) * (view.size // part.size)

    def _refine(self, itemsize: int) -> None:
        if itemsize != self._grain and self._grain != 1:
            self._codes = np.repeat(self._codes, self._grain, axis=1)
            self._grain = 1

    def _part(self, view: NkiTensor, itemsize: int) -> npt.NDArray[np.uint8]:
        """Return the codes of a view; with bytes as grains, the bytes are the last dimension."""
        per_elem = itemsize // self._grain
        shape, strides, offset = view.shape, view.strides, view.offset
        if self._on_chip and len(self._codes) == 1:
            # One row stands for all partitions, which may be split over two dimensions.
            row = self._free_bytes // itemsize
            first = 1
            while first < len(shape) and shape[first] > 1 and strides[first] >= row:
                first += 1
            shape, strides = shape[first:], strides[first:]
            offset %= row
        steps = tuple([s * per_elem for s in strides])
        if per_elem > 1:
            shape, steps = (*shape, per_elem), (*steps, 1)
        return np.ndarray(shape, np.uint8, self._codes, offset * per_elem, steps)
