"""Reductions over the last free dimensions of a tile: ``nl.sum`` and its like.

By nisa.tensor_reduce, in float32, rounded once.  Without `keepdims` the reduced dimensions go, but
for the last one of a tile, which has at least two dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nkiconv.simulate.engines.scalar import activation
from nkiconv.simulate.engines.vector import tensor_reduce, tensor_scalar, tensor_tensor
from nkiconv.simulate.functions._common import (
    free_axes,
    function,
    mark_answer,
    new,
    result_dtype,
    tile,
)
from nkiconv.simulate.ops import OPS, Op
from nkiconv.simulate.tensor import NkiTensor


def kept_shape(x: NkiTensor, axes: Sequence[int], keepdims: bool) -> tuple[int, ...]:
    """Return the shape that a reduction leaves."""
    if keepdims:
        return tuple(1 if d in axes else n for d, n in enumerate(x.shape))
    kept = x.shape[: axes[0]]
    return kept if len(kept) > 1 else (*kept, 1)


def reduce_to(
    name: str, op: Op, x: NkiTensor, axes: tuple[int, ...], dtype: str, keepdims: bool
) -> NkiTensor:
    """Return a new tile of `x` reduced by `op`."""
    result = new(name, kept_shape(x, axes, keepdims), dtype)
    tensor_reduce(result, op, x, axes)
    return result


def with_kept(name: str, op: Op, x: NkiTensor, kept: NkiTensor, dtype: str) -> NkiTensor:
    """Return ``x <op> kept`` of a tile and what a reduction with keepdims made of it, in float32.

    One value a partition is an operand of nisa.tensor_scalar; more repeat by stride 0.
    """
    result = new(name, x.shape, dtype)
    if kept.size == kept.shape[0]:
        tensor_scalar(result, x, op, kept)
        return result
    for dim, (have, wanted) in enumerate(zip(kept.shape, x.shape, strict=True)):
        if have != wanted:
            kept = kept.broadcast(dim, wanted)
    tensor_tensor(result, x, kept, op)
    return result


def _reduced(name: str, op: Op, x: Any, axis: Any, dtype: Any, keepdims: bool) -> NkiTensor:
    x = tile(x, name, "x")
    axes = free_axes(name, x, axis)
    return reduce_to(name, op, x, axes, result_dtype(name, dtype, x), bool(keepdims))


@function
def sum(x: Any, axis: Any, dtype: Any = None, keepdims: Any = False) -> NkiTensor:
    """Sum over `axis`."""
    return _reduced("sum", OPS["add"], x, axis, dtype, keepdims)


@function
def prod(x: Any, axis: Any, dtype: Any = None, keepdims: Any = False) -> NkiTensor:
    """Product over `axis`."""
    return _reduced("prod", OPS["multiply"], x, axis, dtype, keepdims)


@function
def max(x: Any, axis: Any, dtype: Any = None, keepdims: Any = False) -> NkiTensor:
    """Maximum over `axis`."""
    return _reduced("max", OPS["maximum"], x, axis, dtype, keepdims)


@function
def min(x: Any, axis: Any, dtype: Any = None, keepdims: Any = False) -> NkiTensor:
    """Minimum over `axis`."""
    return _reduced("min", OPS["minimum"], x, axis, dtype, keepdims)


@function
def all(x: Any, axis: Any, dtype: Any = None) -> NkiTensor:
    """1 where no element along `axis` is 0, else 0."""
    return mark_answer(_reduced("all", OPS["logical_and"], x, axis, dtype, False))


def mean_to(
    name: str, x: NkiTensor, axes: tuple[int, ...], dtype: str, keepdims: bool
) -> NkiTensor:
    """Return a new tile of the mean, summed and divided in float32."""
    total = reduce_to(name, OPS["add"], x, axes, "float32", keepdims)
    result = new(name, total.shape, dtype)
    count = int(np.prod([x.shape[a] for a in axes]))
    tensor_scalar(result, total, OPS["multiply"], 1.0 / count)
    return result


@function
def mean(x: Any, axis: Any, dtype: Any = None, keepdims: Any = False) -> NkiTensor:
    """Mean over `axis`, by way of float32."""
    x = tile(x, "mean", "x")
    axes = free_axes("mean", x, axis)
    return mean_to("mean", x, axes, result_dtype("mean", dtype, x), bool(keepdims))


@function
def var(x: Any, axis: Any, dtype: Any = None, keepdims: Any = False) -> NkiTensor:
    """Variance over `axis`: the mean of the squared distances from the mean.

    The reduced dimensions stay at size 1, whatever `keepdims` says: the vendor's page has it so.
    """
    x = tile(x, "var", "x")
    axes = free_axes("var", x, axis)
    kind = result_dtype("var", dtype, x)
    center = mean_to("var", x, axes, "float32", True)
    distances = with_kept("var", OPS["subtract"], x, center, "float32")
    activation(distances, OPS["square"], distances)
    return mean_to("var", distances, axes, kind, True)
