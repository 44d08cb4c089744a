"""Views with an address of run time, before anything reads them: shapes, patterns, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    NkiconvError,
    OutOfBoundsError,
    ShapeError,
)
from nkiconv.simulate.registers import VirtualRegister
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor

Fresh = Callable[..., NkiTensor]
SBUF, PSUM, HBM = MemoryRegion.sbuf, MemoryRegion.psum, MemoryRegion.shared_hbm
REG = VirtualRegister(5)

# region, shape, the shape of the index, its dtype.  `t` is the tensor, `i` the index.
SHAPES: list[tuple[MemoryRegion, tuple[int, ...], tuple[int, int], Any, tuple[int, ...]]] = [
    (HBM, (4, 128, 8), (1, 1), lambda t, i: t.select(0, i), (128, 8)),
    (HBM, (4, 128, 8), (1, 1), lambda t, i: t.select(-1, i), (4, 128)),
    (HBM, (4,), (1, 1), lambda t, i: t.select(0, i), (1,)),
    (SBUF, (128, 8, 64), (1, 1), lambda t, i: t.select(1, i), (128, 64)),
    (SBUF, (128, 8), (1, 1), lambda t, i: t.select(1, i), (128, 1)),
    (SBUF, (128, 8, 64), (1, 1), lambda t, i: t.select(1, REG)[:, 8:16], (128, 8)),
    (HBM, (64, 128, 8), (128, 1), lambda t, i: t.vector_select(0, i), (128, 128, 8)),
    (HBM, (64, 12), (32, 1), lambda t, i: t.vector_select(0, i)[:, 2:7], (32, 5)),
    (HBM, (64, 12), (32, 1), lambda t, i: t.vector_select(0, i)[..., 2:7], (32, 5)),
    (HBM, (64, 12), (32, 1), lambda t, i: t.vector_select(0, i)[0:32, 3], (32,)),
    (HBM, (64, 3, 4), (32, 1), lambda t, i: t.vector_select(0, i).permute((0, 2, 1)), (32, 4, 3)),
    (HBM, (64, 3, 4), (32, 1), lambda t, i: t.vector_select(0, i).reshape((32, 6, 2)), (32, 6, 2)),
    (HBM, (64, 3, 4), (32, 1), lambda t, i: t.vector_select(0, i).flatten_dims(1, 2), (32, 12)),
    (HBM, (64, 12), (32, 1), lambda t, i: t.vector_select(0, i).reshape_dim(1, (4, -1)),
     (32, 4, 3)),
    (HBM, (64, 12), (32, 1), lambda t, i: t.vector_select(0, i).expand_dim(1), (32, 1, 12)),
    (HBM, (64, 1, 12), (32, 1), lambda t, i: t.vector_select(0, i).squeeze_dim(1), (32, 12)),
    (HBM, (64, 1, 12), (32, 1), lambda t, i: t.vector_select(0, i).broadcast(1, 3), (32, 3, 12)),
    (HBM, (64, 24), (32, 1), lambda t, i: t.vector_select(0, i).rearrange(
        ("b", ("h", "w")), ("b", "w", "h"), {"h": 4}), (32, 6, 4)),
    (HBM, (64, 12), (32, 1), lambda t, i: t.vector_select(0, i).slice(1, 0, 12, 2), (32, 6)),
    (HBM, (64, 12), (32, 1), lambda t, i: t.vector_select(0, i).select(1, 4), (32,)),
    (HBM, (512, 512), (1, 1), lambda t, i: t.ap([[512, 128], [1, 256]], scalar_offset=i),
     (128, 256)),
    (HBM, (128, 512), (64, 1), lambda t, i: t.ap([[512, 64], [1, 512]], 0, vector_offset=i),
     (64, 512)),
    (SBUF, (128, 32), (1, 1), lambda t, i: t.ap(
        [[64, 128], [1, 16]], dtype="bfloat16", scalar_offset=i, indirect_dim=1), (128, 16)),
    (SBUF, (32, 512), (32, 2), lambda t, i: t.indirect(i, 20), (32, 20)),
    (PSUM, (16, 512), (16, 2), lambda t, i: t.indirect(i), (16, 32)),
]  # fmt: skip


@pytest.mark.parametrize(("region", "shape", "index", "view", "expected"), SHAPES)
def test_shape(
    fresh: Fresh,
    region: MemoryRegion,
    shape: tuple[int, ...],
    index: tuple[int, int],
    view: Callable[[Any, Any], NkiTensor],
    expected: tuple[int, ...],
) -> None:
    seen = view(fresh(shape, "float32", region), fresh(index, "int32"))
    assert seen.shape == expected
    assert seen.is_indirect()
    assert len(seen.strides) == len(expected)


def test_ordinary_views_are_not_indirect(fresh: Fresh) -> None:
    assert not fresh((4, 8)).select(1, 3).is_indirect()


def test_leading_stride_of_the_pattern_is_ignored(fresh: Fresh) -> None:
    """The rows are those of the tensor that ap is called on; the vendor's kernels rely on it."""
    index = fresh((16, 1), "int32")
    view = fresh((100, 8), "float32", HBM).ap([[1, 16], [1, 8]], vector_offset=index)
    assert view.get_pattern() == [[8, 16], [1, 8]]


def test_contiguous_rows(fresh: Fresh) -> None:
    rows = fresh((64, 3, 4), "float32", HBM).vector_select(0, fresh((8, 1), "int32"))
    assert rows.is_contiguous()
    assert not rows.permute((0, 2, 1)).is_contiguous()
    picked = fresh((4, 6, 8)).select(1, REG)
    assert picked.is_contiguous()
    assert not picked[:, ::2].is_contiguous()


ONE = "has an offset of run time already, and a view has at most one"
ROWS = "has an index for each of its rows; it must stay first and whole"

REFUSED: list[tuple[MemoryRegion, tuple[int, ...], tuple[int, int], str, Any, Any, str]] = [
    # What an index may be.
    (HBM, (4, 6), (1, 2), "int32", lambda t, i: t.select(0, i), ShapeError, r"shape \(1, 1\)"),
    (HBM, (4, 6), (1, 1), "float32", lambda t, i: t.select(0, i), DtypeError, "int32, uint32"),
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.select(0, t), ConstraintError, "in SBUF, at"),
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.ap([[1, 4]], scalar_offset=3), ConstraintError,
     "must be a tensor in SBUF, got 3"),
    (HBM, (4, 6), (1, 3), "int32", lambda t, i: t.select(0, i.select(1, REG)), ConstraintError,
     "at an address of its own that is known at compile time"),
    (HBM, (4, 6), (8, 2), "int32", lambda t, i: t.vector_select(0, i), ShapeError, "partitions, 1"),
    (HBM, (4, 6), (8, 1), "int32", lambda t, i: t.vector_select(0, REG), ConstraintError,
     "must be a tensor in SBUF"),
    (HBM, (4, 6), (8, 1), "uint16", lambda t, i: t.vector_select(0, i), DtypeError, "uint16"),
    # What can be indexed.
    (SBUF, (4, 6), (1, 1), "int32", lambda t, i: t.select(0, i), ConstraintError,
     "the partition dimension .* cannot be indexed at run time"),
    (PSUM, (4, 6), (1, 1), "int32", lambda t, i: t.ap([[6, 4], [1, 6]], scalar_offset=i),
     ConstraintError, "the partition dimension .* cannot be indexed"),
    (HBM, (4, 1), (1, 1), "int32", lambda t, i: t.broadcast(1, 3).select(1, i), ConstraintError,
     "repeats one element"),
    (HBM, (4, 6), (8, 1), "int32", lambda t, i: t.vector_select(1, i), ConstraintError,
     "dim must be 0"),
    (SBUF, (4, 6), (8, 1), "int32", lambda t, i: t.vector_select(0, i), ConstraintError,
     "in HBM only"),
    (SBUF, (4, 6), (4, 1), "int32", lambda t, i: t.ap([[6, 4], [1, 6]], vector_offset=i),
     ConstraintError, "in HBM only"),
    (HBM, (4, 6), (4, 1), "int32",
     lambda t, i: t.ap([[6, 4], [1, 6]], vector_offset=i, indirect_dim=1), ConstraintError,
     "indirect_dim=0 only, got 1"),
    (HBM, (4, 6), (1, 1), "int32",
     lambda t, i: t.ap([[6, 4], [1, 6]], scalar_offset=i, indirect_dim=2), OutOfBoundsError,
     "indirect_dim=2 is no dimension"),
    (HBM, (4, 6), (1, 1), "int32",
     lambda t, i: t.ap([[6, 4], [1, 6]], scalar_offset=i, vector_offset=i), ConstraintError,
     "at most one of"),
    (HBM, (4, 6), (1, 1), "int32",
     lambda t, i: t[:, 0:3].ap([[6, 4], [1, 3]], scalar_offset=i), ConstraintError,
     "needs a dense tensor"),
    (HBM, (4, 6), (4, 1), "int32",
     lambda t, i: t.ap([[12, 4], [1, 12]], vector_offset=i, dtype="bfloat16"), ConstraintError,
     "a dtype of another size is not supported"),
    # A pattern must lie inside for the least index at least.
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.ap([[6, 5], [1, 6]], scalar_offset=i),
     OutOfBoundsError, "element 29 of the 24"),
    (HBM, (4, 6), (9, 1), "int32", lambda t, i: t.ap([[6, 9], [5, 6]], vector_offset=i),
     OutOfBoundsError, "element 25 of the 24"),
    # One offset, and no other look at it.
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.select(0, i).select(0, i), ConstraintError, ONE),
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.select(0, i).vector_select(0, i),
     ConstraintError, ONE),
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.select(0, i).ap([[1, 6]]), ConstraintError, ONE),
    (SBUF, (4, 6), (4, 1), "uint16", lambda t, i: t.indirect(i).indirect(i), ConstraintError, ONE),
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.select(0, i).view("int32"), ConstraintError,
     "not supported after a dynamic or vector select"),
    # Rows stay first, and whole.
    *[
        (HBM, (4, 6), (8, 1), "int32", lambda t, i, op=op: op(t.vector_select(0, i)),
         ConstraintError, ROWS)
        for op in (
            lambda v: v[0:4], lambda v: v[3], lambda v: v[0:8:2, :], lambda v: v.slice(0, 0, 4),
            lambda v: v.select(0, 1), lambda v: v.permute((1, 0)), lambda v: v.expand_dim(0),
            lambda v: v.reshape_dim(0, (2, 4)), lambda v: v.reshape((4, 12)),
            lambda v: v.flatten_dims(0, 1), lambda v: v.slice(-2, 1, 8),
        )
    ],
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.vector_select(0, i).squeeze_dim(0),
     ConstraintError, ROWS),
    (HBM, (4, 6), (1, 1), "int32", lambda t, i: t.vector_select(0, i).broadcast(0, 3),
     ConstraintError, ROWS),
    (HBM, (4, 2, 6), (8, 1), "int32",
     lambda t, i: t.vector_select(0, i)[:, :, ::4].reshape((8, 4)), ShapeError, "without a copy"),
    # Columns.
    (HBM, (4, 6), (4, 1), "uint16", lambda t, i: t.indirect(i), ConstraintError, "SBUF or PSUM"),
    (SBUF, (4, 6, 2), (4, 1), "uint16", lambda t, i: t.indirect(i), ConstraintError,
     "of two dimensions"),
    (SBUF, (4, 6), (4, 1), "uint16", lambda t, i: t[:, ::2].indirect(i), ConstraintError, "dense"),
    (SBUF, (4, 6), (5, 1), "uint16", lambda t, i: t.indirect(i), ShapeError, "the partitions of"),
    (SBUF, (4, 6), (4, 1), "float32", lambda t, i: t.indirect(i), DtypeError, "uint16"),
    (SBUF, (4, 6), (4, 1), "uint16", lambda t, i: t.indirect(i, 0), ShapeError, "positive integer"),
    (SBUF, (4, 6), (4, 1), "uint16", lambda t, i: t.indirect(i)[:, 0:2], ConstraintError,
     "goes into an instruction as it is"),
]  # fmt: skip


@pytest.mark.parametrize(("region", "shape", "index", "dtype", "view", "error", "words"), REFUSED)
def test_refused(
    fresh: Fresh,
    region: MemoryRegion,
    shape: tuple[int, ...],
    index: tuple[int, int],
    dtype: str,
    view: Callable[[Any, Any], Any],
    error: type[NkiconvError],
    words: str,
) -> None:
    tensor, which = fresh(shape, "float32", region), fresh(index, dtype)
    with pytest.raises(error, match=words):
        view(tensor, which)


def test_only_instructions_read_such_a_view(fresh: Fresh) -> None:
    with pytest.raises(ConstraintError, match="only an instruction can read it"):
        _ = fresh((4, 6), "float32", HBM).select(0, REG)._array
