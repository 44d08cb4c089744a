"""What the functions on tiles share: registration, results, and repeated refusals."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from nkiconv.simulate.dtypes import element_type
from nkiconv.simulate.errors import ConstraintError, DtypeError, NkiconvError, ShapeError
from nkiconv.simulate.memory import UNWRITTEN
from nkiconv.simulate.ops import FUNCTIONS
from nkiconv.simulate.program import current, kernel_line
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor

P = ParamSpec("P")
R = TypeVar("R")

KNOWN_ISSUES = "NKI 0.4.0 release notes, Known Issues, NKI Language; carried forward in 0.6.0"
"""Where the vendor lists what the device does not do; neither 0.5.0 nor 0.6.0 has lifted these."""

_PLACE_THEN_INSTRUCTION = re.compile(r"^(\S+:\d+: )?nisa\.")


def page(name: str) -> str:
    """Cite the vendor's page of a function."""
    return f"nki.language.{name}, NKI 0.6.0"


def function(made: Callable[P, R]) -> Callable[P, R]:
    """Register a function under its name; its errors name it and the kernel's line.

    An error of an instruction keeps its words, with ``nl.add, by nisa.…`` before them.
    """
    name = made.__name__

    @functools.wraps(made)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return made(*args, **kwargs)
        except NkiconvError as error:
            text = _PLACE_THEN_INSTRUCTION.sub(rf"\1nl.{name}, by nisa.", str(error))
            error.args = (text,)
            error.locate(kernel_line())
            raise

    FUNCTIONS[name] = call
    return call


def tile(value: object, op: str, name: str) -> NkiTensor:
    """Return `value` if it is a tensor.

    Raises
    ------
    ConstraintError
        It is anything else.
    """
    if not isinstance(value, NkiTensor):
        raise ConstraintError(
            f"nl.{op}: {name} must be a tile, got {value!r} ({page(op)})", code="language.tile"
        )
    return value


def is_number(value: object) -> bool:
    """Whether this is a number known at compile time; bools are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def new(
    op: str,
    shape: Sequence[int],
    dtype: str,
    buffer: MemoryRegion = MemoryRegion.sbuf,
    name: str = "",
) -> NkiTensor:
    """Allocate a result or something in between."""
    return current(f"nl.{op}").allocate(tuple(shape), dtype, buffer, name)


def in_psum(tensor: NkiTensor) -> bool:
    """Whether a tensor is in PSUM."""
    return tensor.buffer is MemoryRegion.psum


def result_dtype(op: str, dtype: object, *tiles: NkiTensor) -> str:
    """Return the dtype of a result: as wished, else that of the tiles.

    Raises
    ------
    DtypeError
        No dtype of NKI, or none given and the tiles differ.
    """
    if dtype is not None:
        return element_type(dtype, op=f"nl.{op}").name
    if len({t.dtype for t in tiles}) > 1:
        raise DtypeError(
            f"nl.{op}: the tiles are {' and '.join(t.dtype for t in tiles)}; which of these the "
            f"result has is not documented, so name it with dtype= ({page(op)})",
            code="language.result_dtype",
        )
    return tiles[0].dtype


def same_shape(op: str, *tiles: NkiTensor) -> None:
    """Refuse tiles of different shapes.

    Raises
    ------
    ShapeError
        They differ; nl functions do not broadcast.
    """
    if len({t.shape for t in tiles}) > 1:
        shapes = " and ".join(str(t.shape) for t in tiles)
        raise ShapeError(
            f"nl.{op}: the tiles have the shapes {shapes}; binary functions do not broadcast on "
            "the device. Use nisa.tensor_scalar for an operand of shape (partitions, 1), or make "
            f"the shapes equal with nl.broadcast_to ({KNOWN_ISSUES})",
            code="language.broadcast",
        )


def free_axes(op: str, x: NkiTensor, axis: object) -> tuple[int, ...]:
    """Return axes in order, counted from 0.

    Raises
    ------
    ShapeError
        They are not the last free dimensions of `x`.
    """
    wished = axis if isinstance(axis, (tuple, list)) else (axis,)
    whole = all(type(a) is int and -x.ndim <= a < x.ndim for a in wished)
    axes = tuple(sorted(a % x.ndim for a in wished)) if whole else ()
    if not axes or axes[0] == 0 or axes != tuple(range(x.ndim - len(axes), x.ndim)):
        raise ShapeError(
            f"nl.{op}: axis={axis!r} of a tile of shape {x.shape}; it must name the last free "
            f"dimensions, without gaps and without the partition dimension 0 ({page(op)})",
            code="language.axis",
        )
    return axes


def require_truth_values(op: str, **tiles: NkiTensor) -> None:
    """Refuse tiles that hold anything else than 0 and 1.

    Raises
    ------
    ConstraintError
        There is another value, for which the device's result is not documented.
    """
    for name, tensor in tiles.items():
        if tensor._storage.writers(tensor, tensor._kind)[0] == UNWRITTEN:
            continue  # the instruction that reads it says so
        values = tensor._float32
        other = values[(values != 0) & (values != 1)]
        if other.size:
            raise ConstraintError(
                f"nl.{op}: {name} must hold 0 and 1 only, found {float(other[0]):g} in "
                f"{tensor!r}; make truth values with nl.not_equal(x, 0), or nl.equal(x, 0) for "
                f"their opposite ({page(op)})",
                code="language.truth_values",
            )


def mark_answer(tensor: NkiTensor) -> NkiTensor:
    """Note that a tile holds the answer of a comparison, which a kernel may assert."""
    tensor._storage.hold_answer()
    return tensor
