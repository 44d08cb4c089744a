"""Functions over the last free dimensions that keep the shape: softmax and RMS normalisation."""

from __future__ import annotations

from typing import Any

from nkiconv.simulate.dtypes import element_type
from nkiconv.simulate.engines.scalar import activation
from nkiconv.simulate.engines.vector import reciprocal, tensor_scalar, tensor_tensor
from nkiconv.simulate.errors import ConstraintError
from nkiconv.simulate.functions._common import (
    free_axes,
    function,
    is_number,
    new,
    page,
    result_dtype,
    same_shape,
    tile,
)
from nkiconv.simulate.functions.reductions import reduce_to, with_kept
from nkiconv.simulate.ops import OPS
from nkiconv.simulate.tensor import NkiTensor


@function
def softmax(x: Any, axis: Any = -1, dtype: Any = None) -> NkiTensor:
    """``exp(x - max(x)) / sum(exp(x - max(x)))`` over `axis`, by way of float32."""
    x = tile(x, "softmax", "x")
    axes = free_axes("softmax", x, axis)
    kind = result_dtype("softmax", dtype, x)
    largest = reduce_to("softmax", OPS["maximum"], x, axes, "float32", True)
    powers = with_kept("softmax", OPS["subtract"], x, largest, "float32")
    activation(powers, OPS["exp"], powers)
    total = reduce_to("softmax", OPS["add"], powers, axes, "float32", True)
    reciprocal(total, total)
    return with_kept("softmax", OPS["multiply"], powers, total, kind)


@function
def rms_norm(
    x: Any,
    w: Any,
    axis: Any,
    n: Any,
    epsilon: Any = 1e-06,
    dtype: Any = None,
    compute_dtype: Any = None,
) -> NkiTensor:
    """``x / sqrt(sum(x**2)/n + epsilon) * w`` over `axis`.

    The sum and the root are float32, whatever is between them and the result is `compute_dtype`,
    float32 where it is not given.

    Shapes
    ------
    x, w (P, F...), both the same
    """
    x, w = tile(x, "rms_norm", "x"), tile(w, "rms_norm", "w")
    same_shape("rms_norm", x, w)
    axes = free_axes("rms_norm", x, axis)
    for label, value, least in (("n", n, 1), ("epsilon", epsilon, 0)):
        if not is_number(value) or value < least:
            raise ConstraintError(
                f"nl.rms_norm: {label}={value!r} must be a number of at least {least} "
                f"({page('rms_norm')})",
                code="language.rms_norm",
            )
    kind = result_dtype("rms_norm", dtype, x)
    inner = element_type(compute_dtype or "float32", op="nl.rms_norm").name
    squares = new("rms_norm", x.shape, inner)
    activation(squares, OPS["square"], x)
    scale = reduce_to("rms_norm", OPS["add"], squares, axes, "float32", True)
    tensor_scalar(scale, scale, OPS["multiply"], 1.0 / n, False, OPS["add"], epsilon)
    tensor_scalar(scale, scale, OPS["rsqrt"], 0.0)
    scaled = with_kept("rms_norm", OPS["multiply"], x, scale, inner)
    result = new("rms_norm", x.shape, kind)
    tensor_tensor(result, scaled, w, OPS["multiply"])
    return result
