"""Tensors made by a kernel: undefined, filled, like another, or constants of the program."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from nkiconv.simulate.arrays import as_numpy, is_array
from nkiconv.simulate.dtypes import Array, element_type, from_numpy, round_to
from nkiconv.simulate.engines.dma import dma_copy
from nkiconv.simulate.engines.vector import memset
from nkiconv.simulate.errors import ConstraintError, DtypeError, ShapeError
from nkiconv.simulate.functions._common import function, in_psum, is_number, new, page, tile
from nkiconv.simulate.memory import BY_ENGINE
from nkiconv.simulate.program import current
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor, checked_shape

_SBUF = MemoryRegion.sbuf

_CONSTANT_TYPES = frozenset(
    {"float32", "float16", "bfloat16", "int32", "int16", "int8", "uint32", "uint16", "uint8"}
    | {"float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"}
)
"""Element types of nl.shared_constant, as its page lists them."""

_FILL_ELEMS = 2048
"""Elements per partition of the tile from which HBM is filled; our choice."""


def ndarray(
    shape: tuple[int, ...],
    dtype: str,
    buffer: MemoryRegion = _SBUF,
    name: str = "",
    address: tuple[int, int] | None = None,
) -> NkiTensor:
    """Allocate a tensor; its contents are undefined until written.

    `address` is the first partition and the first byte of each partition; None leaves the place
    to the allocator.

    Raises
    ------
    ShapeError, DtypeError, CapacityError, ConstraintError
        A size, type, memory or address that the NeuronCore does not have.
    """
    op = "nl.ndarray"
    program = current(op)
    sizes = checked_shape(shape, op)
    kind = element_type(dtype, op=op)
    if not isinstance(buffer, MemoryRegion):
        raise ConstraintError(
            f"{op}: buffer must be nl.sbuf, nl.psum or nl.hbm, got {buffer!r}", code="tensor.buffer"
        )
    return program.allocate(sizes, kind.name, buffer, name, address)


@function
def full(
    shape: Any, fill_value: Any, dtype: Any, buffer: MemoryRegion = _SBUF, name: str = ""
) -> NkiTensor:
    """Allocate a tensor and fill it: by one memset on chip, by DMA from a filled tile in HBM."""
    if not is_number(fill_value):
        raise ConstraintError(
            f"nl.full: fill_value must be a number known at compile time, got {fill_value!r} "
            f"({page('full')})",
            code="language.fill_value",
        )
    return _filled(shape, fill_value, dtype, buffer, name)


@function
def zeros(shape: Any, dtype: Any, buffer: MemoryRegion = _SBUF, name: str = "") -> NkiTensor:
    """Allocate a tensor and fill it with 0."""
    return _filled(shape, 0, dtype, buffer, name)


@function
def ones(shape: Any, dtype: Any, buffer: MemoryRegion = _SBUF, name: str = "") -> NkiTensor:
    """Allocate a tensor and fill it with 1."""
    return _filled(shape, 1, dtype, buffer, name)


@function
def zeros_like(x: Any, dtype: Any = None, buffer: Any = None, name: str = "") -> NkiTensor:
    """Allocate zeros of the shape of `x`, and of its dtype; in SBUF where `buffer` is not given."""
    x = tile(x, "zeros_like", "x")
    where = _SBUF if buffer is None else buffer
    return _filled(x.shape, 0, x.dtype if dtype is None else dtype, where, name)


@function
def empty_like(x: Any, dtype: Any = None, buffer: Any = None, name: str = "") -> NkiTensor:
    """Allocate a tensor like `x`: its shape, and its dtype and memory where none are given."""
    x = tile(x, "empty_like", "x")
    where = x.buffer if buffer is None else buffer
    return ndarray(x.shape, x.dtype if dtype is None else dtype, where, name)


def _filled(shape: Any, value: float, dtype: Any, buffer: MemoryRegion, name: str) -> NkiTensor:
    made = ndarray(shape, dtype, buffer, name)
    if made._on_chip:
        memset(made, value)
        return made
    lanes = next(p for p in range(128, 0, -1) if made.size % p == 0)
    length = made.size // lanes
    source = new("full", (lanes, min(length, _FILL_ELEMS)), made.dtype)
    memset(source, value)
    rows = made.reshape((lanes, length))
    for start in range(0, length, _FILL_ELEMS):
        end = min(start + _FILL_ELEMS, length)
        dma_copy(rows[:, start:end], source[:, : end - start])
    return made


# Constants.


@function
def shared_constant(constant: Any) -> NkiTensor:
    """A tensor in shared HBM that holds an array, or what a ``.npy`` file holds.

    It is loaded with the program, so that no instruction makes it and none may write it.
    """
    op = "nl.shared_constant"
    if isinstance(constant, (str, PathLike)):
        constant = _from_file(op, Path(constant))
    if not is_array(constant):
        raise ConstraintError(
            f"{op}: constant must be an array of the host or the path of a .npy file, got "
            f"{constant!r} ({page('shared_constant')})",
            code="language.constant",
        )
    values = as_numpy(constant, op=op)
    return _constant(op, values, from_numpy(values.dtype, op=op).name)


def _from_file(op: str, path: Path) -> Array:
    if path.suffix != ".npy" or not path.is_file():
        raise ConstraintError(
            f"{op}: {str(path)!r} is not the path of a .npy file that exists "
            f"({page('shared_constant')})",
            code="language.constant",
        )
    loaded: Array = np.load(path, allow_pickle=False)
    return loaded


def _constant(op: str, values: Array, dtype: str) -> NkiTensor:
    if dtype not in _CONSTANT_TYPES:
        raise DtypeError(
            f"{op}: no constants of {dtype}; the types are {', '.join(sorted(_CONSTANT_TYPES))} "
            f"({page('shared_constant')})",
            code="language.constant_dtype",
        )
    if values.size == 0:
        raise ShapeError(
            f"{op}: the array has no elements, shape {values.shape}", code="language.constant_empty"
        )
    made = new("shared_constant", values.shape or (1,), dtype, MemoryRegion.shared_hbm, "constant")
    made._array[...] = values
    made._storage.mark(made, made._kind, BY_ENGINE)
    made._storage.read_only = True
    return made


@function
def shared_identity_matrix(n: Any, dtype: Any = "uint8", dst: Any = None) -> NkiTensor:
    """The n by n identity matrix in SBUF, loaded from a constant of the program."""
    op = "nl.shared_identity_matrix"
    program = current(op)
    if type(n) is not int or not 1 <= n <= program.hardware.partitions:
        raise ShapeError(
            f"{op}: n={n!r} must be an integer from 1 to {program.hardware.partitions}, the "
            "partitions of SBUF (nl.tile_size.pmax)",
            code="language.identity_size",
        )
    kind = element_type(dtype, op=op)
    if dst is None:
        dst = new("shared_identity_matrix", (n, n), kind.name)
    given = tile(dst, "shared_identity_matrix", "dst")
    if given.shape != (n, n) or given.dtype != kind.name or not given._on_chip or in_psum(given):
        raise ConstraintError(
            f"{op}: dst must be a {kind.name} tile of shape {(n, n)} in SBUF, got {given!r} "
            f"({page('shared_identity_matrix')})",
            code="language.identity_dst",
        )
    key = (n, kind.name)
    if key not in program.identities:
        values = round_to(np.eye(n, dtype=np.float32), kind)
        program.identities[key] = _constant(op, values, kind.name)
    dma_copy(given, program.identities[key])
    return given
