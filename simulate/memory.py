"""Memory as the chip has it: bytes per partition, poisoned when fresh, with a record of writes.

A tensor's storage is one block of bytes: ``partitions x free_bytes`` for SBUF and PSUM, one row for
HBM.  Beside the bytes stands a map of who wrote each byte, so that reading what nothing wrote, or
accumulating onto what no matmul wrote, is refused at the instruction that does it.

Where a block lies in SBUF or PSUM is not decided here but in `placement`, when the whole program is
known, as the compiler's allocator does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nkiconv.simulate.dtypes import ELEMENT_TYPES, Array, ElementType, Float32Array, to_float32

if TYPE_CHECKING:
    from nkiconv.simulate.tensor import NkiTensor

__all__ = ["BY_ENGINE", "BY_MATMUL", "UNWRITTEN", "Storage"]

UNWRITTEN, BY_ENGINE, BY_MATMUL = 0, 1, 2
"""Who wrote a byte last."""

_POISON = 0xFF
"""Fresh bytes: NaN in every float type, -1 or the largest value in integers."""


def _typed(itemsize: int) -> np.dtype[np.unsignedinteger[npt.NBitBase]]:
    return np.dtype(f"u{itemsize}")


def _repeated(code: int, itemsize: int) -> int:
    return int.from_bytes(bytes([code]) * itemsize, "little")


class Storage:
    """The bytes of one allocation, their writers, and when it is in use.

    Parameters
    ----------
    number
        Running number within the program.
    space
        ``"sbuf"``, ``"psum"`` or ``"hbm"``.
    shape, dtype, name, line
        As allocated; for messages.
    partitions, free_bytes
        Extent; HBM has one partition.
    buffer
        Existing bytes (a kernel's input), else fresh poisoned ones.
    """

    __slots__ = (
        "_codes",
        "_seen_version",
        "_shadow",
        "_shadow_version",
        "_version",
        "buffer",
        "dtype",
        "first_use",
        "free_bytes",
        "is_input",
        "last_use",
        "line",
        "name",
        "number",
        "partitions",
        "shape",
        "space",
        "uniform",
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
        buffer: Array | None = None,
    ) -> None:
        item = ELEMENT_TYPES[dtype].itemsize
        self.number = number
        self.space = space
        self.shape = shape
        self.dtype = dtype
        self.name = name
        self.line = line
        self.is_input = buffer is not None
        self.partitions = 1 if space == "hbm" else shape[0]
        elems = 1
        for size in shape if space == "hbm" else shape[1:]:
            elems *= size
        self.free_bytes = elems * item
        if buffer is None:
            buffer = np.empty(self.partitions * self.free_bytes, dtype=np.uint8)
            buffer.fill(_POISON)
        self.buffer = buffer
        self.uniform: int | None = BY_ENGINE if self.is_input else UNWRITTEN
        self._codes: npt.NDArray[np.uint8] | None = None
        self._version = 0
        self._seen_version = -1
        self._shadow: Float32Array | None = None
        self._shadow_version = -1
        self.first_use = -1
        self.last_use = -1

    @property
    def written(self) -> bool:
        """Whether any instruction has written here."""
        return self._version > 0

    def describe(self) -> str:
        """Return name, type and shape, and where it was allocated."""
        label = f"{self.name} " if self.name else ""
        sizes = ", ".join(map(str, self.shape))
        return f"{label}{self.dtype}[{sizes}] in {self.space.upper()} ({self.line})"

    # Access through views.

    def array(self, view: NkiTensor, kind: ElementType) -> Array:
        """Return the elements of a view, in place."""
        item = kind.itemsize
        return np.ndarray(
            view.shape,
            kind.numpy,
            self.buffer,
            view.offset * item,
            tuple([s * item for s in view.strides]),
        )

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
            self._codes = None
            return
        if self._codes is None:
            self._codes = np.full(self.buffer.size, self.uniform, dtype=np.uint8)
            self.uniform = None
        self._code_view(view, kind)[...] = _repeated(code, kind.itemsize)

    def writers(self, view: NkiTensor, kind: ElementType) -> tuple[int, int]:
        """Return the lowest and the highest code among the elements of `view`."""
        if self.uniform is not None:
            return self.uniform, self.uniform
        codes = self._codes
        if codes is None:  # pragma: no cover - uniform is None only while codes exist
            return UNWRITTEN, UNWRITTEN
        low, high = int(codes.min()), int(codes.max())
        if low == high:
            # Written completely by now: no need to look again until somebody else writes.
            self.uniform = low
            self._codes = None
            return low, high
        marks = self._code_view(view, kind)
        low, high = int(marks.min()), int(marks.max())
        if low == high:
            code = low & 0xFF
            if _repeated(code, kind.itemsize) == low:
                return code, code
        single = self._byte_view(view, kind)
        return int(single.min()), int(single.max())

    def count_unwritten(self, view: NkiTensor, kind: ElementType) -> int:
        """Return how many elements of `view` have a byte that nothing has written."""
        if self.uniform is not None:
            return 0 if self.uniform else view.size
        return int(np.count_nonzero((self._byte_view(view, kind) == UNWRITTEN).any(axis=-1)))

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

    def _byte_view(self, view: NkiTensor, kind: ElementType) -> Array:
        """Return the codes of a view's bytes, with the bytes of an element as last dimension."""
        item = kind.itemsize
        return np.ndarray(
            (*view.shape, item),
            np.uint8,
            self._codes,
            view.offset * item,
            (*[s * item for s in view.strides], 1),
        )

    def _code_view(self, view: NkiTensor, kind: ElementType) -> Array:
        item = kind.itemsize
        return np.ndarray(
            view.shape,
            _typed(item),
            self._codes,
            view.offset * item,
            tuple([s * item for s in view.strides]),
        )
