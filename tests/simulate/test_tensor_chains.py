"""Views: a random walk through all methods, each step against NumPy's view of the same bytes.

For every method a *move* draws arguments, right and wrong ones, and tells from the documentation's
words alone whether they are legal.  Legal moves must work and agree, all others must be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.simulate.dtypes import ELEMENT_TYPES
from nkiconv.simulate.errors import NkiconvError
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor

SBUF, PSUM, HBM = MemoryRegion.sbuf, MemoryRegion.psum, MemoryRegion.shared_hbm

Array = np.ndarray[Any, Any]
Counted = Callable[..., tuple[NkiTensor, Array]]
Move = tuple[Callable[[NkiTensor], NkiTensor], Array | None]
"""What is done to the tensor, and NumPy's view after it: None where the method must refuse."""


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def merged(array: Array, shape: tuple[int, ...]) -> Array | None:
    """Reshape without a copy, or None."""
    other = array.reshape(shape)
    return other if np.shares_memory(other, array) else None


def limits(draw: Any, size: int) -> tuple[int, int]:
    """Draw start and end, most often inside a dimension."""
    if draw(st.integers(0, 5)) == 5:
        return draw(st.integers(-1, size)), draw(st.integers(0, size + 1))
    start = draw(st.integers(0, size - 1))
    return start, draw(st.integers(start + 1, size))


def index_move(draw: Any, array: Array, on_chip: bool) -> Move:
    keys: list[Any] = []
    wanted: list[Any] = []
    legal = True
    for dim, size in enumerate(array.shape[: draw(st.integers(1, array.ndim))]):
        kind = draw(st.sampled_from(["all", "int", "slice", "slice", "ds"]))
        if kind == "all":
            keys.append(slice(None))
            wanted.append(slice(None))
        elif kind == "int":
            at = draw(st.integers(-size - 1, size))
            legal &= -size <= at < size
            keys.append(at)
            wanted.append(slice(at % size, at % size + 1) if on_chip and dim == 0 else at)
        elif kind == "ds":
            start, stop = limits(draw, size)
            legal &= 0 <= start < stop <= size
            keys.append(partial(nl.ds, start, stop - start))
            wanted.append(slice(start, stop))
        else:
            start, stop = limits(draw, size)
            start, stop = draw(st.sampled_from([(start, stop), (start - size, stop), (None, stop),
                                                (start, None), (start, stop - size)]))  # fmt: skip
            step = draw(st.none() | st.integers(1, 3))
            first, last = start or 0, size if stop is None else stop
            first, last = (n + size if n < 0 else n for n in (first, last))
            legal &= 0 <= first < last <= size
            if on_chip and dim == 0:
                legal &= step in (None, 1) or last - first <= step
            keys.append(slice(start, stop, step))
            wanted.append(slice(start, stop, step))
    if draw(st.booleans()):
        gap = draw(st.integers(0, len(keys)))
        behind = len(keys) - gap
        if array.ndim == len(keys) or not behind:  # there the keys mean the same dimensions
            keys.insert(gap, ...)

    def move(tensor: NkiTensor) -> NkiTensor:
        made = [key() if isinstance(key, partial) else key for key in keys]
        return tensor[made[0] if len(made) == 1 else tuple(made)]

    if not legal:
        return move, None
    view = array[(*wanted, ...)]
    least = 2 if on_chip else 1
    return move, view.reshape(view.shape + (1,) * (least - view.ndim))


def slice_move(draw: Any, array: Array, on_chip: bool) -> Move:
    dim = draw(st.integers(-array.ndim, array.ndim - 1))
    size = array.shape[dim]
    start, end = limits(draw, size)
    step = draw(st.sampled_from([1, 2, 3, 0]))
    legal = 0 <= start < end <= size and step >= 1
    legal &= not on_chip or dim % array.ndim != 0 or step == 1 or end - start <= step
    keys = [slice(None)] * array.ndim
    keys[dim] = slice(start, end, step)
    return lambda t: t.slice(dim, start, end, step), array[tuple(keys)] if legal else None


def select_move(draw: Any, array: Array, on_chip: bool) -> Move:
    dim = draw(st.integers(0, array.ndim - 1))
    at = draw(st.integers(-1, array.shape[dim]))
    move = lambda t: t.select(dim, at)  # noqa: E731 - a name for the two returns below
    if not 0 <= at < array.shape[dim]:
        return move, None
    if on_chip and dim == 0:
        return move, array[at : at + 1]
    view = array[(*[slice(None)] * dim, at, ...)]
    return move, view.reshape(view.shape + (1,) * ((2 if on_chip else 1) - view.ndim))


def permute_move(draw: Any, array: Array, on_chip: bool) -> Move:
    order = tuple(draw(st.permutations(range(array.ndim))))
    legal = not on_chip or order[0] == 0
    return lambda t: t.permute(order), array.transpose(order) if legal else None


def broadcast_move(draw: Any, array: Array, on_chip: bool) -> Move:
    ones = [dim for dim, size in enumerate(array.shape) if size == 1]
    dim = draw(st.sampled_from(ones or range(array.ndim)))
    size = draw(st.integers(0, 3))
    legal = array.shape[dim] == 1 and size > 0 and not (on_chip and dim == 0)
    shape = (*array.shape[:dim], size, *array.shape[dim + 1 :])
    return lambda t: t.broadcast(dim, size), np.broadcast_to(array, shape) if legal else None


def expand_move(draw: Any, array: Array, on_chip: bool) -> Move:
    dim = draw(st.integers(0, array.ndim + 1))
    legal = dim <= array.ndim and not (on_chip and dim == 0)
    return lambda t: t.expand_dim(dim), np.expand_dims(array, dim) if legal else None


def squeeze_move(draw: Any, array: Array, on_chip: bool) -> Move:
    dim = draw(st.integers(0, array.ndim - 1))
    legal = array.shape[dim] == 1 and array.ndim > (2 if on_chip else 1)
    legal &= not (on_chip and dim == 0)
    return lambda t: t.squeeze_dim(dim), np.squeeze(array, dim) if legal else None


def factors(draw: Any, size: int) -> list[int]:
    inner = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    return [size // inner, inner]


def reshape_dim_move(draw: Any, array: Array, on_chip: bool) -> Move:
    dim = draw(st.integers(0, array.ndim - 1))
    sizes = factors(draw, array.shape[dim])
    if draw(st.booleans()):
        sizes = [array.shape[dim]]
    elif draw(st.booleans()):
        sizes[0] += draw(st.integers(0, 1))  # may no longer fill the dimension
    shape = (*array.shape[:dim], *sizes, *array.shape[dim + 1 :])
    legal = prod(sizes) == array.shape[dim] and not (on_chip and dim == 0 and len(sizes) > 1)
    asked = [-1, *sizes[1:]] if legal and draw(st.booleans()) else sizes
    return lambda t: t.reshape_dim(dim, asked), merged(array, shape) if legal else None


def flatten_move(draw: Any, array: Array, on_chip: bool) -> Move:
    first, last = draw(st.integers(0, array.ndim - 1)), draw(st.integers(0, array.ndim - 1))
    shape = (*array.shape[:first], -1, *array.shape[last + 1 :])
    legal = first <= last and not (on_chip and first == 0)
    return lambda t: t.flatten_dims(first, last), merged(array, shape) if legal else None


def reshape_move(draw: Any, array: Array, on_chip: bool) -> Move:
    head = [array.shape[0]] if draw(st.booleans()) else factors(draw, array.shape[0])
    body = factors(draw, prod(array.shape[1:]))
    shape = (*head, *body[draw(st.integers(0, 1)) if body[0] == 1 else 0 :])
    legal = not on_chip or (shape[0] == array.shape[0] and len(shape) > 1)
    return lambda t: t.reshape(shape), merged(array, shape) if legal else None


def rearrange_move(draw: Any, array: Array, on_chip: bool) -> Move:
    dim = draw(st.integers(1 if on_chip else 0, array.ndim - 1))
    outer, inner = factors(draw, array.shape[dim])
    names = [*"abcdefghij"[: array.ndim]]
    source = [*names[:dim], ("x", "y"), *names[dim + 1 :]]
    split = [*names[:dim], "x", "y", *names[dim + 1 :]]
    target = draw(st.permutations(split))
    where = draw(st.integers(0, len(target) - 2))
    grouped = [*target[:where], tuple(target[where : where + 2]), *target[where + 2 :]]
    shape = (*array.shape[:dim], outer, inner, *array.shape[dim + 1 :])
    moved = array.reshape(shape).transpose([split.index(name) for name in target])
    legal = not on_chip or (target[0] == split[0] and where > 0)
    joined = (*moved.shape[:where], -1, *moved.shape[where + 2 :])
    return (
        lambda t: t.rearrange(source, grouped, {"y": inner}),
        merged(moved, joined) if legal else None,
    )


def view_move(draw: Any, array: Array, on_chip: bool, begin: int) -> Move:
    dtype = draw(st.sampled_from(["uint8", "int16", "int32", "float32", "float16"]))
    kind = ELEMENT_TYPES[dtype].numpy
    move = lambda t: t.view(dtype)  # noqa: E731 - a name for the two returns below
    if kind.itemsize == array.itemsize:
        return move, array.view(kind)
    starts = [
        stride
        for dim, (size, stride) in enumerate(zip(array.shape, array.strides, strict=True))
        if dim < array.ndim - 1 and (size > 1 or (on_chip and dim == 0))
    ]
    dense = array.strides[-1] == array.itemsize or array.shape[-1] == 1
    whole = array.shape[-1] * array.itemsize % kind.itemsize == 0
    legal = dense and whole and not any(n % kind.itemsize for n in (begin, *starts))
    return move, array.view(kind) if legal else None


MOVES = (index_move, slice_move, select_move, permute_move, broadcast_move, expand_move,
         squeeze_move, reshape_dim_move, flatten_move, reshape_move, rearrange_move,
         view_move)  # fmt: skip


def check_same(tensor: NkiTensor, array: Array, base: Array) -> None:
    """Compare elements, address, extent and layout of a view with NumPy's."""
    assert tensor.shape == array.shape
    assert (tensor.ndim, tensor.size) == (array.ndim, array.size)
    np.testing.assert_array_equal(tensor._array, array)
    assert address(tensor._array) == address(array)
    begin = address(array) - address(base)
    on_chip = tensor._on_chip
    row = tensor._storage.free_bytes
    first = 1 if on_chip else 0
    reach = sum(
        (n - 1) * s for n, s in zip(array.shape[first:], array.strides[first:], strict=True)
    )
    partitions = (begin // row, begin // row + array.shape[0]) if on_chip else (0, 1)
    start = begin % row
    assert tensor._region() == (start, start + reach + array.itemsize, *partitions)
    assert tensor.is_contiguous() == (array[0] if on_chip else array).flags.c_contiguous
    assert tensor.get_pattern() == [list(p) for p in zip(tensor.strides, array.shape, strict=True)]
    np.testing.assert_array_equal(tensor.ap(tensor.get_pattern())._array, array)


@settings(max_examples=600)
@given(data=st.data())
def test_chains_of_views_agree_with_numpy(counted: Counted, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=2, max_size=4)))
    region = data.draw(st.sampled_from([SBUF, PSUM, HBM]))
    dtype = data.draw(st.sampled_from(["int32", "int16", "uint8"]))
    tensor, base = counted(shape, dtype, region)
    array = base
    on_chip = region is not HBM
    for _ in range(data.draw(st.integers(1, 5))):
        make = data.draw(st.sampled_from(MOVES))
        extra = (address(array) - address(base),) if make is view_move else ()
        move, expected = make(data.draw, array, on_chip, *extra)  # type: ignore[operator]
        if expected is None:
            with pytest.raises(NkiconvError):
                move(tensor)
            continue
        tensor, array = move(tensor), expected
        check_same(tensor, array, base)
