"""Views: the vendor's documented examples, what is refused and in which words, raw patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import (
    ConstraintError,
    DtypeError,
    NkiconvError,
    OutOfBoundsError,
    ShapeError,
)
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor, tensors_in

SBUF, PSUM, HBM = MemoryRegion.sbuf, MemoryRegion.psum, MemoryRegion.shared_hbm

Fresh = Callable[..., NkiTensor]
Counted = Callable[..., tuple[NkiTensor, "np.ndarray[Any, Any]"]]
View = Callable[[NkiTensor], NkiTensor]


# Shapes that the vendor's pages give: language guide (Tensor Values, Tensor Indexing),
# nki.language.NkiTensor, access-pattern deep dive.
DOCUMENTED: list[tuple[tuple[int, ...], str, View, tuple[int, ...]]] = [
    ((128, 64, 32), "sbuf", lambda t: t[0, :, :], (1, 64, 32)),
    ((128, 64, 32), "sbuf", lambda t: t[:, :, 0], (128, 64)),
    ((4, 128, 32), "shared_hbm", lambda t: t[0, :, :], (128, 32)),
    ((128, 64), "sbuf", lambda t: t.reshape((128, 8, 8)), (128, 8, 8)),
    ((128, 64), "sbuf", lambda t: t[:, 16:32], (128, 16)),
    ((128, 4, 16), "sbuf", lambda t: t[0:64, :, :].permute((0, 2, 1))[:, 0, :], (64, 4)),
    ((64, 64, 64), "sbuf", lambda t: t[0, 0, 10], (1, 1)),
    ((64, 64, 64), "sbuf", lambda t: t[:, 0], (64, 64)),
    ((64, 64, 64), "sbuf", lambda t: t[:, 0, 10], (64, 1)),
    ((64, 64, 64), "sbuf", lambda t: t[0:64, 0, 0:64], (64, 64)),
    ((64, 64, 64), "sbuf", lambda t: t[:, :, ::2], (64, 64, 32)),
    ((64, 64, 64), "sbuf", lambda t: t[...], (64, 64, 64)),
    ((64, 64, 64), "sbuf", lambda t: t[0, ..., :], (1, 64, 64)),
    ((64, 64, 64), "sbuf", lambda t: t[0, ...][:, 0:32, :], (1, 32, 64)),
    ((128, 64), "sbuf", lambda t: t[..., 0], (128, 1)),
    ((128, 64), "sbuf", lambda t: t[nl.ds(16, 8), :], (8, 64)),
    ((128, 4, 8), "sbuf", lambda t: t.permute((0, 2, 1)), (128, 8, 4)),
    ((128, 1, 64), "sbuf", lambda t: t.broadcast(1, 8), (128, 8, 64)),
    ((128, 64), "sbuf", lambda t: t.expand_dim(1), (128, 1, 64)),
    ((128, 1, 64), "sbuf", lambda t: t.squeeze_dim(1), (128, 64)),
    ((128, 24), "sbuf", lambda t: t.reshape_dim(1, (4, 6)), (128, 4, 6)),
    ((128, 24), "sbuf", lambda t: t.reshape_dim(1, (4, -1)), (128, 4, 6)),
    ((128, 24), "sbuf", lambda t: t.reshape_dim(0, (128,)), (128, 24)),
    ((128, 2, 3, 4), "sbuf", lambda t: t.flatten_dims(1, 2), (128, 6, 4)),
    ((128, 4, 6), "sbuf", lambda t: t.reshape((128, 2, 12)), (128, 2, 12)),
    (
        (128, 24),
        "sbuf",
        lambda t: t.rearrange(("b", ("h", "w")), ("b", "w", "h"), {"h": 4}),
        (128, 6, 4),
    ),
    ((128, 64), "sbuf", lambda t: t.slice(1, 8, 24, 1), (128, 16)),
    ((128, 64), "sbuf", lambda t: t.slice(1, 0, 64, 2), (128, 32)),
    ((128, 8, 64), "sbuf", lambda t: t.select(1, 3), (128, 64)),
    ((128, 1024), "sbuf", lambda t: t.ap(pattern=[(1024, 128), (2, 512)]), (128, 512)),
    ((128, 64), "sbuf", lambda t: t.view(nl.uint8), (128, 256)),
    ((128, 64), "sbuf", lambda t: t.view(nl.int32), (128, 64)),
    ((128, 64), "sbuf", lambda t: t.view(nl.uint8).view(nl.float32), (128, 64)),
    (
        (128, 256),
        "sbuf",
        lambda t: t.ap(pattern=[[512, 128], [1, 512]], offset=0, dtype=nl.bfloat16),
        (128, 512),
    ),
]


@pytest.mark.parametrize(("shape", "region", "view", "expected"), DOCUMENTED)
def test_documented_example(
    fresh: Fresh, shape: tuple[int, ...], region: str, view: View, expected: tuple[int, ...]
) -> None:
    assert view(fresh(shape, "float32", MemoryRegion(region))).shape == expected


def test_attributes_of_a_fresh_tensor(fresh: Fresh) -> None:
    tensor = fresh((128, 64))
    assert (tensor.strides, tensor.offset, tensor.ndim, tensor.size) == ((64, 1), 0, 2, 8192)
    assert (tensor.dtype, tensor.buffer, tensor.name) == (nl.float32, nl.sbuf, "t")
    assert tensor.get_pattern() == [[64, 128], [1, 64]]
    assert repr(tensor) == "<NkiTensor 't' float32[128, 64] SBUF>"
    assert not tensor.is_indirect()


def test_documented_pattern_of_a_slice(fresh: Fresh) -> None:
    tensor = fresh((128, 64))
    cut = tensor.slice(dim=1, start=8, end=24)
    assert (cut.get_pattern(), cut.offset) == ([[64, 128], [1, 16]], 8)
    same = tensor.ap(pattern=[[64, 128], [1, 16]], offset=8)
    assert (same.get_pattern(), same.offset) == (cut.get_pattern(), cut.offset)


def test_views_share_their_storage(counted: Counted) -> None:
    tensor, values = counted((4, 8))
    tensor.reshape((4, 2, 4))[:, 1, ::2]._array[...] = -1
    assert values[:, [4, 6]].tolist() == [[-1, -1]] * 4
    assert tensor.is_contiguous()
    assert not tensor[:, ::2].is_contiguous()
    assert tensor[1:3].is_contiguous()  # the partition stride does not count on chip
    assert not tensor[:, 0:4].permute((0, 1)).reshape((4, 2, 2)).permute((0, 2, 1)).is_contiguous()


# --- Refusals ------------------------------------------------------------------------------------

WHOLE = "must stay first and whole"
BOUNDS = "slices are not clamped"

REFUSED: list[tuple[str, tuple[int, ...], View, type[NkiconvError], str]] = [
    ("sbuf", (4, 6), lambda t: t[:, 4:7], OutOfBoundsError, f"slice 4:7 of dimension 1.*{BOUNDS}"),
    ("sbuf", (4, 6), lambda t: t[:, 3:3], OutOfBoundsError, BOUNDS),
    ("sbuf", (4, 6), lambda t: t[:, -7:], OutOfBoundsError, BOUNDS),
    ("sbuf", (4, 6), lambda t: t[:, 0:4:-1], OutOfBoundsError, "step -1 .* at least 1"),
    ("sbuf", (4, 6), lambda t: t[:, 0:4:0], OutOfBoundsError, "step 0 .* at least 1"),
    ("sbuf", (4, 6), lambda t: t[0:4:2], ConstraintError, "step 2 of dimension 0 would skip"),
    ("psum", (4, 6), lambda t: t[::3], ConstraintError, "skip partitions"),
    ("sbuf", (4, 6), lambda t: t[4], OutOfBoundsError, "index 4 of dimension 0 .* size 4"),
    ("sbuf", (4, 6), lambda t: t[:, -7], OutOfBoundsError, "index -7 of dimension 1 .* size 6"),
    ("sbuf", (4, 6), lambda t: t[0, 0, 0], OutOfBoundsError, "3 indices .* 2 dimensions"),
    ("sbuf", (4, 6), lambda t: t[0, 0, 0, ...], OutOfBoundsError, "3 indices .* 2 dimensions"),
    ("sbuf", (4, 6), lambda t: t[..., ...], ShapeError, "known at compile time, got Ellipsis"),
    ("sbuf", (4, 6), lambda t: t[None], ShapeError, "known at compile time, got None"),
    ("sbuf", (4, 6), lambda t: t[True], ShapeError, "known at compile time, got True"),
    ("sbuf", (4, 6), lambda t: t[:, 1.0:3], ShapeError, "start of dimension 1 must be an integer"),
    ("sbuf", (4, 6), lambda t: t[:, t], ShapeError, "known at compile time"),
    ("sbuf", (4, 6), lambda t: t[:, nl.ds(4, 3)], OutOfBoundsError, BOUNDS),
    ("sbuf", (4, 6), lambda t: t[:, nl.ds(4, 0)], OutOfBoundsError, r"nl.ds\(4, 0\): start"),
    ("sbuf", (4, 6), lambda t: t[:, nl.ds(-2, 1)], OutOfBoundsError, r"nl.ds\(-2, 1\): start"),
    ("sbuf", (4, 6), lambda t: t[:, nl.ds(0.5, 1)], ShapeError, "nl.ds: start must be an integer"),
    ("sbuf", (4, 6), lambda t: t.slice(1, -3, 6), OutOfBoundsError, "0 <= start < end <= 6"),
    ("sbuf", (4, 6), lambda t: t.slice(2, 0, 1), OutOfBoundsError, "no dimension 2"),
    ("sbuf", (4, 6), lambda t: t.select(1, -1), OutOfBoundsError, "at least 0"),
    ("sbuf", (4, 6), lambda t: t.permute((1, 0)), ConstraintError, WHOLE),
    ("sbuf", (4, 6), lambda t: t.permute((0, 0)), ShapeError, r"\(0, 0\) is not an order"),
    ("sbuf", (4, 6), lambda t: t.broadcast(1, 2), ShapeError, "only size 1 can be repeated"),
    ("sbuf", (1, 6), lambda t: t.broadcast(0, 2), ConstraintError, WHOLE),
    ("sbuf", (4, 1), lambda t: t.broadcast(1, 0), ShapeError, "at least 1"),
    ("sbuf", (4, 6), lambda t: t.expand_dim(0), ConstraintError, WHOLE),
    ("sbuf", (4, 6), lambda t: t.expand_dim(3), OutOfBoundsError, "no position 3"),
    ("sbuf", (1, 6, 1), lambda t: t.squeeze_dim(0), ConstraintError, WHOLE),
    ("sbuf", (4, 6, 1), lambda t: t.squeeze_dim(1), ShapeError, "dimension 1 .* has size 6"),
    ("sbuf", (4, 1), lambda t: t.squeeze_dim(1), ShapeError, "SBUF has at least 2"),
    ("shared_hbm", (1,), lambda t: t.squeeze_dim(0), ShapeError, "HBM has at least 1"),
    ("sbuf", (4, 6), lambda t: t.reshape_dim(0, (2, 2)), ConstraintError, WHOLE),
    ("sbuf", (4, 6), lambda t: t.reshape_dim(1, (4, -1)), ShapeError, "6 elements .* do not fill"),
    ("sbuf", (4, 6), lambda t: t.reshape_dim(1, (-1, -1)), ShapeError, "do not fill"),
    ("sbuf", (4, 6), lambda t: t.flatten_dims(0, 1), ConstraintError, WHOLE),
    ("sbuf", (4, 6, 2), lambda t: t.flatten_dims(2, 1), ShapeError, "2 comes after 1"),
    ("sbuf", (4, 6, 2), lambda t: t.permute((0, 2, 1)).flatten_dims(1, 2), ShapeError, "not dense"),
    ("sbuf", (4, 6), lambda t: t.reshape((2, 12)), ConstraintError, WHOLE),
    ("sbuf", (4, 1), lambda t: t.reshape((4,)), ShapeError, "SBUF has at least 2"),
    ("sbuf", (4, 6), lambda t: t.reshape((4, 5)), ShapeError, "24 elements .* do not fill"),
    ("sbuf", (4, 4, 6), lambda t: t[:, :, 0:4].reshape((4, 16)), ShapeError, "without a copy"),
    ("sbuf", (4, 6), lambda t: t.rearrange(("a",), ("a",)), ShapeError, "1 names for 2 dimensions"),
    ("sbuf", (4, 6), lambda t: t.rearrange("ab", "ac"), ShapeError, "does not name"),
    ("sbuf", (4, 6), lambda t: t.rearrange("ab", ("a", (), "b")), ShapeError, "does not name"),
    ("sbuf", (4, 6), lambda t: t.rearrange("ab", "ab", {"b": 5}), ShapeError, "do not fill"),
    ("sbuf", (4, 6), lambda t: t.rearrange("ab", "ab", {"c": 6}), ShapeError, "names more than"),
    ("sbuf", (4, 6), lambda t: t.rearrange("ab", "ba"), ConstraintError, WHOLE),
    ("sbuf", (4, 6), lambda t: t.view("float64"), DtypeError, "'float64' is not an NKI dtype"),
    ("sbuf", (4, 6), lambda t: t[:, ::2].view("uint8"), ShapeError, "not contiguous"),
    ("sbuf", (4, 6), lambda t: t.view("uint8")[:, 1:5].view("int32"), ShapeError, "divide"),
    ("sbuf", (4, 6), lambda t: t.view("uint8")[:, 0:6].view("int32"), ShapeError, "divide"),
    ("sbuf", (4, 6), lambda t: t.ap([[6, 4], [1, 7]]), OutOfBoundsError, "partition 3, element 6"),
    ("sbuf", (4, 6), lambda t: t.ap([[6, 5], [1, 6]]), OutOfBoundsError, "partition 4, element 5"),
    ("sbuf", (4, 6), lambda t: t.ap([[6, 4], [1, 6]], 1), OutOfBoundsError, "partition 3, elem"),
    ("sbuf", (4, 6), lambda t: t.ap([[12, 2], [1, 6]]), ConstraintError, "stride .* 6 elements"),
    ("sbuf", (4, 6), lambda t: t.ap([[6, 4], [-1, 2]], 1), OutOfBoundsError, "negative"),
    ("sbuf", (4, 6), lambda t: t.ap([[6, 4], [1, 2]], -6), OutOfBoundsError, "negative"),
    ("sbuf", (4, 6), lambda t: t.ap([[6, 4]]), ShapeError, "needs a free dimension"),
    ("sbuf", (4, 6), lambda t: t.ap([]), ShapeError, "tuple of positive integers"),
    ("sbuf", (4, 6), lambda t: t.ap([[6, 4], [1, 0]]), ShapeError, "at least 1"),
    ("sbuf", (4, 6), lambda t: t.ap([6, 4]), ShapeError, r"must be \[\[stride, count\], ...\]"),
    ("sbuf", (4, 6), lambda t: t.ap([[6, 4], [1, 6]], indirect_dim=1), ConstraintError, "needs a"),
    ("shared_hbm", (4, 6), lambda t: t.ap([[1, 25]]), OutOfBoundsError, "element 24 of the 24"),
    ("shared_hbm", (4, 6), lambda t: t[1, 1].ap([[9, 3]]), OutOfBoundsError, "element 25 of"),
]


@pytest.mark.parametrize(("region", "shape", "view", "error", "words"), REFUSED)
def test_refused(
    fresh: Fresh,
    region: str,
    shape: tuple[int, ...],
    view: View,
    error: type[NkiconvError],
    words: str,
) -> None:
    tensor = fresh(shape, "int32", MemoryRegion(region))
    with pytest.raises(error, match=words):
        view(tensor).view("float32")  # a pattern beyond its tensor is refused by what uses it


def test_assignment_is_not_an_instruction(fresh: Fresh) -> None:
    with pytest.raises(ConstraintError, match="assignment to a slice is not an instruction"):
        fresh((4, 6))[0] = 1


def test_numpy_integers_count_as_integers(fresh: Fresh) -> None:
    tensor = fresh((4, 6))
    assert tensor[np.int64(2), np.int32(0) : np.int8(4)].shape == (1, 4)
    assert tensor[:, nl.ds(np.int64(1), np.int64(2))].offset == 1


def test_steps_offsets_and_reinterpretation_read_the_right_elements(counted: Counted) -> None:
    tensor, values = counted((4, 24))
    np.testing.assert_array_equal(tensor.slice(1, 3, 20, 4)._array, values[:, 3:20:4])
    np.testing.assert_array_equal(tensor[1:3, -9:-2:3]._array, values[1:3, -9:-2:3])
    np.testing.assert_array_equal(tensor[:, 2:4].view("int16")._array, values[:, 2:4].view("int16"))
    halves = tensor.view("int16")[:, 2:6]
    np.testing.assert_array_equal(halves.view("int32")._array, values[:, 1:3])


# --- Raw patterns and reinterpretation -----------------------------------------------------------


def test_ap_offset_none_keeps_the_views_offset_and_a_number_replaces_it(counted: Counted) -> None:
    tensor, values = counted((4, 6))
    part = tensor[2:4, 1:3]
    pattern = [[6, 2], [1, 3]]
    np.testing.assert_array_equal(part.ap(pattern)._array, values[2:4, 1:4])
    np.testing.assert_array_equal(part.ap(pattern, offset=7)._array, values[1:3, 1:4])


def test_ap_ignores_the_pattern_of_the_view(fresh: Fresh) -> None:
    inner = fresh((128, 256)).ap(pattern=[[256, 128], [2, 128]])
    outer = inner.ap(pattern=[[256, 128], [1, 64]])
    assert (outer.get_pattern(), outer.offset) == ([[256, 128], [1, 64]], 0)


def test_ap_overlaps_and_repeats_in_hbm(counted: Counted) -> None:
    tensor, _ = counted((8,), "int32", HBM)
    assert tensor.ap([[1, 3], [1, 4]])._array.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    assert tensor.ap([[0, 2], [3, 2]], offset=1)._array.tolist() == [[1, 4], [1, 4]]


def test_ap_reads_another_dtype(counted: Counted) -> None:
    tensor, values = counted((4, 6))
    halves = tensor.ap([[12, 4], [1, 12]], dtype="int16")
    np.testing.assert_array_equal(halves._array, values.view(np.int16))
    # The offset of the view is kept in bytes: element 2 of 4 bytes is element 4 of 2 bytes.
    high = tensor[:, 2:3].ap([[12, 4], [2, 2]], dtype="int16")
    assert high.offset == 4
    np.testing.assert_array_equal(high._array, values.view(np.int16)[:, 4:8:2])


def test_ap_refuses_a_dtype_that_does_not_fit_the_partition(fresh: Fresh) -> None:
    odd = fresh((4, 6), "uint8")
    with pytest.raises(ShapeError, match=r"6 B per partition .* do not divide into float32"):
        odd.ap([[1, 4], [1, 1]], dtype="float32")
    with pytest.raises(ShapeError, match=r"offset 1 .* does not fall on a int16"):
        odd[:, 1:2].ap([[3, 4], [1, 1]], dtype="int16")


def test_view_needs_partitions_that_divide_even_if_there_is_one(fresh: Fresh) -> None:
    odd = fresh((4, 6), "uint8")  # partition 2 begins at byte 12, which alone would do
    with pytest.raises(ShapeError, match="does not divide into float32 elements"):
        odd[2:3, 0:4].view("float32")


def test_view_of_one_row_inside_wider_rows(counted: Counted) -> None:
    tensor, values = counted((4, 2, 6), "uint8")
    row = tensor[:, 0:1, 0:4].view("float32")  # the stride of 6 B between rows is never taken
    np.testing.assert_array_equal(row._array, values[:, 0:1, 0:4].view(np.float32))
    assert tensor.reinterpret_cast("int8").dtype == "int8"


def test_tensors_of_a_result(fresh: Fresh) -> None:
    one, two = fresh((4, 6)), fresh((4, 6))
    assert tensors_in((one, [two, None], 3)) == [one, two]
