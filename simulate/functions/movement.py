"""Moving tiles: between HBM and SBUF, through TensorE, by indices, and as views."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.engines.dma import dma_copy
from nkiconv.simulate.engines.dma_transpose import dma_transpose
from nkiconv.simulate.engines.gpsimd_gather import nc_n_gather
from nkiconv.simulate.engines.tensor import MATMUL_INPUTS, nc_matmul, nc_transpose
from nkiconv.simulate.engines.vector import memset, tensor_copy
from nkiconv.simulate.engines.vector_shuffle import nc_stream_shuffle
from nkiconv.simulate.errors import ConstraintError, ShapeError
from nkiconv.simulate.functions._common import (
    KNOWN_ISSUES,
    function,
    in_psum,
    new,
    page,
    result_dtype,
    tile,
)
from nkiconv.simulate.program import current
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor, checked_shape


def _from_hbm(op: str, src: object) -> NkiTensor:
    src = tile(src, op, "src")
    if src._on_chip:
        raise ConstraintError(
            f"nl.{op}: src must be in HBM, got {src!r}; nl.copy copies on chip ({page(op)})",
            code="language.load",
        )
    return src


@function
def load(src: Any, dtype: Any = None) -> NkiTensor:
    """A new tile in SBUF of what `src` holds in HBM, by DMA; dimension 0 goes to the partitions."""
    src = _from_hbm("load", src)
    result = new("load", src.shape, result_dtype("load", dtype, src))
    dma_copy(result, src)
    return result


@function
def store(dst: Any, value: Any) -> None:
    """Write a tile in SBUF to HBM, by DMA: as many elements, in row-major order of both."""
    dst, value = tile(dst, "store", "dst"), tile(value, "store", "value")
    if dst._on_chip:
        raise ConstraintError(
            f"nl.store: dst must be in HBM, got {dst!r} ({page('store')})", code="language.store"
        )
    if in_psum(value):
        raise ConstraintError(
            f"nl.store: value {value!r} is in PSUM, which DMA cannot read; copy it to SBUF with "
            f"nl.copy first ({page('store')}; NKI 0.3.0 release notes)",
            code="language.store",
        )
    if not value._on_chip:
        raise ConstraintError(
            f"nl.store: value must be in SBUF, got {value!r} ({page('store')})",
            code="language.store",
        )
    dma_copy(dst, value)


@function
def load_transpose2d(src: Any, dtype: Any = None) -> NkiTensor:
    """A new tile in SBUF of a matrix in HBM, transposed by DMA."""
    src = _from_hbm("load_transpose2d", src)
    _two_dimensions("load_transpose2d", src)
    shape = (src.shape[1], src.shape[0])
    moved = new("load_transpose2d", shape, src.dtype)
    dma_transpose(moved, src)
    return _cast("load_transpose2d", moved, result_dtype("load_transpose2d", dtype, src))


def _two_dimensions(op: str, x: NkiTensor) -> None:
    if x.ndim != 2:
        raise ShapeError(
            f"nl.{op}: {x!r} must have two dimensions ({page(op)})", code="language.two_dimensions"
        )


def _cast(op: str, made: NkiTensor, dtype: str) -> NkiTensor:
    if made.dtype == dtype:
        return made
    result = new(op, made.shape, dtype, made.buffer)
    tensor_copy(result, made)
    return result


@function
def transpose(x: Any, dtype: Any = None) -> NkiTensor:
    """A new tile in PSUM of a tile in SBUF, transposed by TensorE."""
    x = tile(x, "transpose", "x")
    _two_dimensions("transpose", x)
    made = new("transpose", (x.shape[1], x.shape[0]), x.dtype, MemoryRegion.psum)
    nc_transpose(made, x)
    return _cast("transpose", made, result_dtype("transpose", dtype, x))


@function
def matmul(x: Any, y: Any, transpose_x: Any = False) -> NkiTensor:
    """``x.T @ y`` of tiles in SBUF, as a new float32 tile in PSUM.

    Shapes
    ------
    x (K, M)   y (K, N)   result (M, N); K, M <= 128
    """
    x, y = tile(x, "matmul", "x"), tile(y, "matmul", "y")
    if transpose_x is not True:
        raise ConstraintError(
            f"nl.matmul: transpose_x={transpose_x!r} fails on the device; put the contracted "
            "dimension of x into its partitions and say transpose_x=True, with nl.transpose and "
            f"nl.copy if need be ({KNOWN_ISSUES})",
            code="language.transpose_x",
        )
    _two_dimensions("matmul", x)
    _two_dimensions("matmul", y)
    result = new("matmul", (x.shape[1], y.shape[1]), "float32", MemoryRegion.psum)
    nc_matmul(result, x, y)
    return result


@function
def gather_flattened(data: Any, indices: Any, axis: Any = 0, dtype: Any = None) -> NkiTensor:
    """``result[p, i] = data[p, indices[p, i]]``, free dimensions flattened, on GpSimdE.

    Shapes
    ------
    data (P, N...)   indices (P, F...) uint32   result as indices
    """
    data = tile(data, "gather_flattened", "data")
    indices = tile(indices, "gather_flattened", "indices")
    if axis != 0 or isinstance(axis, bool):
        raise ConstraintError(
            f"nl.gather_flattened: axis={axis!r}: the page describes indices into the flattened "
            f"free dimensions only, which is the default 0 ({page('gather_flattened')})",
            code="language.gather_axis",
        )
    kind = result_dtype("gather_flattened", dtype, data)
    made = new("gather_flattened", indices.shape, data.dtype)
    nc_n_gather(made, data, indices)
    return _cast("gather_flattened", made, kind)


# Shapes.


@function
def expand_dims(x: Any, axis: Any) -> NkiTensor:
    """A view of a tile with a dimension of size 1 more, at `axis` of the result."""
    x = tile(x, "expand_dims", "x")
    if type(axis) is not int or not -x.ndim - 1 <= axis <= x.ndim:
        raise ShapeError(
            f"nl.expand_dims: axis={axis!r} of {x!r} must be an integer from {-x.ndim - 1} to "
            f"{x.ndim} ({page('expand_dims')})",
            code="language.expand_dims",
        )
    view: NkiTensor = x.expand_dim(axis % (x.ndim + 1))
    return view


@function
def broadcast_to(x: Any, shape: Any, dtype: Any = None) -> NkiTensor:
    """`x` with its dimensions of size 1 repeated; `x` itself where nothing changes.

    Free dimensions repeat by stride 0 in one copy.  Repeating a partition takes TensorE, which
    multiplies by ones; types that it does not take go through nisa.nc_stream_shuffle.
    """
    x = tile(x, "broadcast_to", "x")
    sizes = checked_shape(shape, "nl.broadcast_to")
    if len(sizes) != x.ndim or any(
        have not in (1, want) for have, want in zip(x.shape, sizes, strict=True)
    ):
        raise ShapeError(
            f"nl.broadcast_to: {x!r} cannot become {sizes}; the rank must stay, and each size "
            f"must stay or grow from 1 ({page('broadcast_to')})",
            code="language.broadcast_to",
        )
    if not x._on_chip:
        raise ConstraintError(
            f"nl.broadcast_to: x must be in SBUF or PSUM, got {x!r} ({page('broadcast_to')})",
            code="language.on_chip",
        )
    kind = result_dtype("broadcast_to", dtype, x)
    if sizes == x.shape:
        return _cast_in_sbuf(x, kind)
    if sizes[0] != x.shape[0]:
        return _cast_in_sbuf(_over_partitions(x, sizes), kind)
    result = new("broadcast_to", sizes, kind)
    tensor_copy(result, _repeated(x, sizes))
    return result


def _cast_in_sbuf(x: NkiTensor, dtype: str) -> NkiTensor:
    if x.dtype == dtype:
        return x
    result = new("broadcast_to", x.shape, dtype)
    tensor_copy(result, x)
    return result


def _repeated(x: NkiTensor, sizes: tuple[int, ...]) -> NkiTensor:
    """Return a view with the free dimensions repeated."""
    for dim, (have, want) in enumerate(zip(x.shape, sizes, strict=True)):
        if have != want:
            x = x.broadcast(dim, want)
    return x


def _over_partitions(x: NkiTensor, sizes: tuple[int, ...]) -> NkiTensor:
    """Return a tile with the one partition of `x` in all partitions."""
    name, count = "broadcast_to", sizes[0]
    hw = current("nl.broadcast_to").hardware
    row = x
    if in_psum(x) or sizes[1:] != x.shape[1:] or not x.is_contiguous():
        row = new(name, (1, *sizes[1:]), x.dtype)
        tensor_copy(row, _repeated(x, (1, *sizes[1:])))
    elems = int(np.prod(sizes[1:]))
    row = row.reshape((1, elems))
    made = new(name, (count, elems), x.dtype)
    if x.dtype in MATMUL_INPUTS:
        ones = new(name, (1, count), x.dtype)
        memset(ones, 1)
        most = hw.psum_bank_bytes // 4
        for start in range(0, elems, most):
            end = min(start + most, elems)
            product = new(name, (count, end - start), "float32", MemoryRegion.psum)
            nc_matmul(product, ones, row[:, start:end])
            tensor_copy(made[:, start:end], product)
    else:
        quadrant = hw.quadrant_partitions
        for start in range(0, count, quadrant):
            end = min(start + quadrant, count)
            nc_stream_shuffle(made[start:end], row, [0] * quadrant)
    return made.reshape(sizes)
