"""Storages: poison, who wrote which byte, widened copies, and what does not fit."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.simulate import simulate_kernel
from nkiconv.simulate.dtypes import ELEMENT_TYPES
from nkiconv.simulate.errors import (
    CapacityError,
    ConstraintError,
    DtypeError,
    NkiconvError,
    ShapeError,
    UninitializedReadError,
)
from nkiconv.simulate.memory import BY_ENGINE, BY_MATMUL, UNWRITTEN
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.program import Program, running
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor

HBM = MemoryRegion.shared_hbm

Fresh = Callable[..., NkiTensor]


def mark(view: NkiTensor, code: int = BY_ENGINE) -> None:
    view._storage.mark(view, view._element, code)


def writers(view: NkiTensor) -> tuple[int, int]:
    return view._storage.writers(view, view._element)


def unwritten(view: NkiTensor) -> int:
    return view._storage.count_unwritten(view, view._element)


# --- Poison --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
def test_fresh_memory_is_poisoned(fresh: Fresh, dtype: str) -> None:
    tensor = fresh((4, 6), dtype)
    assert (tensor._storage.buffer == 0xFF).all()
    if tensor._element.kind == "float":
        assert np.isnan(tensor._array.astype(np.float32)).all()
    assert (writers(tensor), unwritten(tensor)) == ((UNWRITTEN, UNWRITTEN), 24)
    assert not tensor._storage.written


def test_poison_comes_when_somebody_looks_and_leaves_what_was_written(fresh: Fresh) -> None:
    whole, part, other = fresh((4, 6), "float16"), fresh((4, 6), "float16"), fresh((4, 6))
    whole._storage.elements(whole, whole._element)[...] = 7
    whole._storage.mark(whole, whole._element, BY_MATMUL)
    assert (whole._array == 7).all()
    corner = part[1:3, 2:5]
    part._storage.elements(corner, corner._element)[...] = 7
    part._storage.mark(corner, corner._element, BY_ENGINE)
    expected = np.full((4, 6), np.nan)
    expected[1:3, 2:5] = 7
    np.testing.assert_array_equal(part._array.astype(np.float64), expected)
    bits = other.view("int16")[:, 0:2]  # the first element, in two halves
    other._storage.elements(bits, bits._element)[...] = 0
    other._storage.mark(bits, bits._element, BY_ENGINE)
    assert other._storage.buffer.reshape(4, 24)[0].tolist() == [0] * 4 + [0xFF] * 20


def test_poison_comes_once(fresh: Fresh) -> None:
    tensor = fresh((2, 3))
    assert np.isnan(tensor._array).all()
    tensor._storage.elements(tensor, tensor._element)[...] = 1  # not marked as written yet
    assert (tensor._array == 1).all()


def test_an_input_counts_as_written() -> None:
    def kernel(x_hbm: Any) -> Any:
        y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=y_hbm, src=x_hbm)
        return y_hbm

    x = np.full((2, 3), -1, np.int32)  # the bits of poison
    assert simulate_kernel(kernel, x).tolist() == x.tolist()


# --- The map of writers --------------------------------------------------------------------------


VIEWS: list[Callable[[NkiTensor], NkiTensor]] = [
    lambda t: t,
    lambda t: t[1:3],
    lambda t: t[:, 2:6],
    lambda t: t[:, ::2],
    lambda t: t[:, 1::3],
    lambda t: t[2, 7],
    lambda t: t.reshape((4, 2, 4)).permute((0, 2, 1)),
    lambda t: t.reshape((4, 2, 4))[:, 1, 1:3],
    lambda t: t.view("uint8"),
    lambda t: t.view("uint8")[:, 3:9],
    lambda t: t.view("uint8")[:, 1::4],
    lambda t: t.view("int16")[:, 5:8],
    lambda t: t.view("int16")[0:2, ::2],
    lambda t: t.ap(
        [[8, 4], [1, 4], [1, 2]]
    ),  # overlaps itself: as many elements as there are, fewer
    lambda t: t.ap([[8, 4], [4, 2], [1, 4]]),
    lambda t: t[:, 4:8].ap([[32, 3], [7, 2]], dtype="uint8"),
]


@settings(max_examples=300)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(range(len(VIEWS))), st.sampled_from([BY_ENGINE, BY_MATMUL])),
        max_size=6,
    ),
    region=st.sampled_from(["sbuf", "psum"]),
)
def test_the_map_agrees_with_one_code_per_byte(
    fresh: Fresh, steps: list[tuple[int, int]], region: str
) -> None:
    tensor = fresh((4, 8), "float32", MemoryRegion(region))
    codes = np.zeros((4, 32), np.uint8)  # bytes of the same tensor

    def bytes_of(view: NkiTensor) -> np.ndarray[Any, Any]:
        item = view._element.itemsize
        strides = (*[s * item for s in view.strides], 1)
        return np.ndarray((*view.shape, item), np.uint8, codes, view.offset * item, strides)

    for number, code in steps:
        view = VIEWS[number](tensor)
        mark(view, code)
        bytes_of(view)[...] = code
        for look in VIEWS:
            seen = bytes_of(look(tensor))
            assert unwritten(look(tensor)) == np.count_nonzero((seen == 0).any(axis=-1))
            assert writers(look(tensor)) == (seen.min(), seen.max())
        assert tensor._storage.written


def test_written_everywhere_needs_no_map(fresh: Fresh) -> None:
    tensor = fresh((4, 8))
    mark(tensor[:, 0:4])
    assert tensor._storage.uniform is None
    mark(tensor[:, 4:8])
    assert writers(tensor) == (BY_ENGINE, BY_ENGINE)
    assert tensor._storage.uniform == BY_ENGINE  # noticed at the first look
    mark(tensor[0:1], BY_MATMUL)
    assert writers(tensor) == (BY_ENGINE, BY_MATMUL)
    mark(tensor.permute((0, 1)), BY_MATMUL)
    assert tensor._storage.uniform == BY_MATMUL  # at once: the view covers everything


def test_a_pattern_of_as_many_elements_need_not_cover(fresh: Fresh) -> None:
    tensor = fresh((16,), "float32", HBM)
    mark(tensor.ap([[1, 4], [1, 4]]))  # elements 0 to 6, some of them several times
    assert unwritten(tensor) == 9


@pytest.mark.parametrize(
    ("write", "missing"),
    [
        (lambda t: t[:, 0:7], 4),
        (lambda t: t[:, ::2], 16),
        (lambda t: t.view("uint8")[:, 0:31], 4),  # the last element of a row lacks one byte
        (lambda t: t.view("int16")[:, ::2], 32),  # every element lacks a half
    ],
)
def test_reading_one_missing_element_is_refused(chip: Any, write: Any, missing: int) -> None:
    tensor, dst = chip.new((4, 8)), chip.new((4, 8))
    nisa.memset(write(tensor), 0)
    with pytest.raises(UninitializedReadError, match=rf"src reads {missing} of 32 elements"):
        nisa.tensor_copy(dst=dst, src=tensor)
    nisa.memset(tensor, 0)
    nisa.tensor_copy(dst=dst, src=tensor)


def test_a_written_part_can_be_read(chip: Any) -> None:
    tensor, dst = chip.new((4, 8)), chip.new((4, 4))
    nisa.memset(tensor[:, ::2], 3)
    nisa.tensor_copy(dst=dst, src=tensor[:, ::2])
    assert (dst._array == 3).all()


# --- Widened copies ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3", "float32", "int8"])
@settings(max_examples=60)
@given(data=st.data())
def test_the_widened_copy_is_never_stale(fresh: Fresh, dtype: str, data: st.DataObject) -> None:
    tensor = fresh((4, 8), dtype)
    tensor._array[...] = 0
    mark(tensor)
    views = [lambda t: t, lambda t: t[1:3, 2:6], lambda t: t[:, ::2], lambda t: t.expand_dim(2)]
    for value in range(1, data.draw(st.integers(2, 8))):
        look = data.draw(st.sampled_from(views))(tensor)
        np.testing.assert_array_equal(look._float32, look._array.astype(np.float32))
        assert look._float32.dtype == np.float32
        if data.draw(st.booleans()):
            target = data.draw(st.sampled_from(views))(tensor)
            if data.draw(st.booleans()) and dtype != "int8":
                target = tensor.view("uint8")[:, ::2]
            target._array[...] = value
            mark(target)


def test_a_tensor_read_twice_is_widened_once(fresh: Fresh) -> None:
    tensor = fresh((4, 8), "bfloat16")
    tensor._array[...] = 1.5
    mark(tensor)
    first, second = tensor._float32, tensor[:, 2:4]._float32
    assert not np.shares_memory(first, second)
    third = tensor[1:3]._float32
    assert np.shares_memory(second, third) or third.base is second.base
    mark(tensor[0])
    assert not np.shares_memory(third, tensor[1:3]._float32)
    assert fresh((4, 8), "bfloat16")._array.dtype == ml_dtypes.bfloat16


def test_float32_is_read_in_place(fresh: Fresh) -> None:
    tensor = fresh((4, 8))
    assert np.shares_memory(tensor._float32, tensor._storage.buffer)


# --- What does not fit ---------------------------------------------------------------------------

TOO_MUCH: list[tuple[Callable[[], object], type[NkiconvError], str]] = [
    (lambda: nl.ndarray((129, 4), nl.int8), ShapeError, r"129 partitions in \(129, 4\); SBUF has"),
    (lambda: nl.ndarray((128,), nl.int8), ShapeError, r"needs a partition and a free dimension"),
    (lambda: nl.ndarray((1, 180_225), nl.int8), CapacityError, "takes 180225 B per partition; SB"),
    (
        lambda: nl.ndarray((1, 45_057), nl.float32),
        CapacityError,
        r"float32\[1, 45057\] takes 180228 B .* SBUF of trn1 has 180224 \(nl.tile_size.sbuf_fmax",
    ),
    (
        lambda: nl.ndarray((1, 4097), nl.float32, buffer=nl.psum),
        CapacityError,
        r"takes 16388 B per partition; PSUM of trn1 has 16384 \(8 banks of 2 KiB",
    ),
    (lambda: nl.ndarray((4, 0), nl.int8), ShapeError, "at least 1, got"),
    (lambda: nl.ndarray(4, nl.int8), ShapeError, "must be a tuple of positive integers, got 4"),
    (lambda: nl.ndarray((4, 2.0), nl.int8), ShapeError, "size of shape must be an integer"),
    (lambda: nl.ndarray((4, 2), "float64"), DtypeError, "'float64' is not an NKI dtype"),
    (lambda: nl.ndarray((4, 2), nl.int8, buffer="sbuf"), ConstraintError, "buffer must be nl.sbuf"),
    (lambda: placed((0, -1)), ConstraintError, "must be .first partition, first byte., two int"),
    (lambda: placed((0,)), ConstraintError, "must be .first partition, first byte., two int"),
    (lambda: placed((0, 1.0)), ConstraintError, "must be .first partition, first byte., two int"),
    (lambda: placed((16, 0)), ConstraintError, "4 partitions from 16; they start at a multiple of"),
    (lambda: placed((128, 0)), ConstraintError, "4 partitions from 128; .* end within 128"),
    (lambda: placed((0, 4), nl.psum), ConstraintError, "byte 4 is no multiple of 2048"),
    (lambda: placed((0, 16384), nl.psum), CapacityError, "end at byte 16392 .* trn1 has 16384"),
    (lambda: placed((0, 180224)), CapacityError, "end at byte 180232 .* SBUF of trn1 has 180224"),
    (lambda: placed((0, 0), nl.shared_hbm), ConstraintError, "HBM has no address that a kernel"),
]


def placed(address: Any, buffer: Any = nl.sbuf) -> Any:
    return nl.ndarray((4, 2), nl.float32, buffer=buffer, address=address)


@pytest.mark.parametrize(("allocate", "error", "words"), TOO_MUCH)
def test_refused_allocations(
    chip: Any, allocate: Callable[[], object], error: type[NkiconvError], words: str
) -> None:
    with pytest.raises(error, match=words):
        allocate()


def test_the_largest_tensors_are_accepted(chip: Any) -> None:
    assert nl.ndarray((128, 180_224), nl.int8).shape == (128, 180_224)
    assert nl.ndarray((128, 4096), nl.float32, buffer=nl.psum).shape == (128, 4096)
    assert nl.ndarray((500, 3), nl.int8, buffer=nl.hbm).shape == (500, 3)


def test_zeros_are_written(chip: Any) -> None:
    tensor = nl.zeros((4, 8), nl.float16)
    assert (tensor._array == 0).all()
    assert unwritten(tensor) == 0


def test_a_storage_says_what_it_is(chip: Any) -> None:
    line = test_a_storage_says_what_it_is.__code__.co_firstlineno + 2
    tensor = nl.ndarray((4, 8), nl.float16, buffer=nl.psum, name="sums")
    described = tensor._storage.describe()
    assert described == f"sums float16[4, 8] in PSUM (test_memory.py:{line})"


def test_bytes_go_with_the_last_view() -> None:
    with running(Program("k", "trn1")) as program:
        tensor = nl.ndarray((128, 64), nl.float32)
        part = tensor[:, 0:8]
        data = weakref.ref(tensor._storage.buffer)
        del tensor
        assert data() is not None
        del part
        assert data() is None
    assert [made.free_bytes for made in program.allocations] == [256]
