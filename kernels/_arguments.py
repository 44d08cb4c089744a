"""Checks of what users hand in, before anything is computed from it.

Every function raises one of the errors of `nkiconv.simulate.errors` and names the operation, the
argument, the value and the limit.  Where a limit is PyTorch's, the message says so.
"""

from __future__ import annotations

import math
import operator
import sys
from contextlib import suppress
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from nkiconv.kernels._activations import ACTIVATIONS, LEAKY_SLOPE
from nkiconv.kernels._blocks import Pool, PoolAxis
from nkiconv.simulate import ConstraintError, DtypeError, ShapeError
from nkiconv.simulate.arrays import as_numpy, is_torch

Array: TypeAlias = npt.NDArray[Any]
ArrayLike: TypeAlias = Any
"""A NumPy array or a CPU torch tensor; torch is optional, so its type cannot be named here."""

Pair: TypeAlias = tuple[int, int]
IntOrPair: TypeAlias = int | Pair
Padding: TypeAlias = IntOrPair | tuple[Pair, Pair] | str
Activation: TypeAlias = str | tuple[str, float] | None
PoolArgument: TypeAlias = tuple[str, IntOrPair] | tuple[str, IntOrPair, IntOrPair] | None

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

TORCH = "torch.nn.functional.conv2d"
TORCH_MODULE = "torch.nn.Conv2d"

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def array(op: str, name: str, value: Any) -> Array:
    """Return `value` as a NumPy array of one of `DTYPES`.

    Raises
    ------
    DtypeError
        It is neither a NumPy array nor a torch tensor, or has another dtype.
    ConstraintError
        It is a tensor that requires a gradient, or is not on the CPU.
    """
    if is_torch(value):
        _check_torch(op, name, value)
    elif not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise DtypeError(
            f"{op}: {name} is of type {type(value).__name__}; it must be a NumPy array or a CPU "
            "torch tensor (this package's arguments)"
        )
    if not is_torch(value) or _torch_dtype(value) in DTYPES:
        values = as_numpy(value.detach() if is_torch(value) else value)
        if values.dtype in DTYPES.values():
            return values
    got = getattr(value, "dtype", None)
    raise DtypeError(
        f"{op}: {name} has dtype {got}; the kernels take {', '.join(DTYPES)} (element types that "
        "both the tensor engine and PyTorch's convolutions have)"
    )


def check_shape(op: str, name: str, values: Array, form: str) -> None:
    """Refuse other than the dimensions that `form` lists, and arrays without elements.

    Raises
    ------
    ShapeError
    """
    ndim = form.count(",") + 1
    if values.ndim != ndim:
        raise ShapeError(
            f"{op}: {name} has shape {values.shape}, {values.ndim} dimensions; it must have "
            f"{ndim}: {form} ({TORCH})"
        )
    if values.size == 0:
        raise ShapeError(
            f"{op}: {name} has shape {values.shape}, so no elements; every size must be at least "
            f"1: {form} (nl.ndarray has no empty tensors)"
        )


def integer(op: str, name: str, value: object, *, least: int) -> int:
    """Return a Python or NumPy integer (not a bool) of at least `least`.

    Raises
    ------
    ConstraintError
    """
    number = None
    if not isinstance(value, (bool, np.bool_)):
        with suppress(TypeError):
            number = operator.index(value)  # type: ignore[arg-type]  # what has no __index__ raises
    if number is None:
        raise ConstraintError(f"{op}: {name} is {value!r}; it must be an integer ({TORCH})")
    if number < least:
        raise ConstraintError(f"{op}: {name} is {number}; it must be at least {least} ({TORCH})")
    return number


def pair(op: str, name: str, value: object, *, least: int) -> Pair:
    """Return (vertical, horizontal) of an integer or of a pair of integers.

    Raises
    ------
    ConstraintError
    """
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ConstraintError(
                f"{op}: {name} is {value!r}; it must be an integer or a pair of integers ({TORCH})"
            )
        return (
            integer(op, name, value[0], least=least),
            integer(op, name, value[1], least=least),
        )
    number = integer(op, name, value, least=least)
    return number, number


def padding(
    op: str, value: object, kernel: Pair, stride: Pair, dilation: Pair
) -> tuple[Pair, Pair]:
    """Return ((top, bottom), (left, right)).

    "same" keeps the image's size; an odd pixel goes to the bottom and the right, as in PyTorch.

    Raises
    ------
    ConstraintError
    """
    if isinstance(value, str):
        if value not in ("same", "valid"):
            raise ConstraintError(
                f'{op}: padding is {value!r}; words are "same", "valid" ({TORCH})'
            )
        if value == "same" and stride != (1, 1):
            raise ConstraintError(
                f'{op}: padding is "same" with stride {stride}; "same" needs stride 1 ({TORCH})'
            )
        total = [
            d * (k - 1) if value == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
        return (total[0] // 2, -(-total[0] // 2)), (total[1] // 2, -(-total[1] // 2))
    if isinstance(value, (tuple, list)) and any(isinstance(v, (tuple, list)) for v in value):
        if len(value) != 2 or not all(isinstance(v, (tuple, list)) and len(v) == 2 for v in value):
            raise ConstraintError(
                f"{op}: padding is {value!r}; pairs must be ((top, bottom), (left, right)) "
                "(this package's arguments)"
            )
        return (
            pair(op, "padding", value[0], least=0),
            pair(op, "padding", value[1], least=0),
        )
    vertical, horizontal = pair(op, "padding", value, least=0)
    return (vertical, vertical), (horizontal, horizontal)


def padding_mode(op: str, mode: object, pads: tuple[Pair, Pair], sizes: Pair) -> str:
    """Return the mode, if the image has the pixels that it takes for this padding.

    Raises
    ------
    ConstraintError
    """
    choice(op, "padding_mode", mode, PADDING_MODES, TORCH_MODULE)
    for axis, pad, size in zip(("H", "W"), pads, sizes, strict=True):
        if mode == "reflect" and max(pad) >= size:
            raise ConstraintError(
                f'{op}: padding is {pad} along {axis} with padding_mode "reflect"; it must be less '
                f"than the {size} pixels of x there ({TORCH_MODULE})"
            )
        if mode == "circular" and max(pad) > size:
            raise ConstraintError(
                f'{op}: padding is {pad} along {axis} with padding_mode "circular"; it must be at '
                f"most the {size} pixels of x there ({TORCH_MODULE})"
            )
    return str(mode)


def activation(op: str, value: object) -> tuple[str | None, float]:
    """Return the name of an activation, and the slope of leaky_relu (0 for the others).

    Raises
    ------
    ConstraintError
    """
    if not isinstance(value, (tuple, list)):
        choice(op, "activation", value, ACTIVATIONS, "the activations of the kernels")
        return value, LEAKY_SLOPE if value == "leaky_relu" else 0.0  # type: ignore[return-value]
    if len(value) != 2 or value[0] != "leaky_relu":
        raise ConstraintError(
            f'{op}: activation is {value!r}; the one that takes a number is ("leaky_relu", slope) '
            "(the activations of the kernels)"
        )
    slope = value[1]
    if isinstance(slope, (bool, np.bool_)) or not isinstance(
        slope, (int, float, np.integer, np.floating)
    ):
        raise ConstraintError(
            f"{op}: the slope of activation {value!r} is {slope!r}; it must be a number "
            "(torch.nn.functional.leaky_relu)"
        )
    if not math.isfinite(slope):
        raise ConstraintError(
            f"{op}: the slope of activation {value!r} must be finite (the activations of the "
            "kernels)"
        )
    if slope == 0:  # Inf times 0 would be NaN
        return "relu", 0.0
    return "leaky_relu", float(slope)


def pool(op: str, value: object, sizes: Pair) -> Pool | None:
    """Return the windows over a result of these `sizes`; without a stride they touch each other.

    Raises
    ------
    ConstraintError
        Not (kind, size) or (kind, size, stride).
    ShapeError
        No window fits.
    """
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise ConstraintError(
            f'{op}: pool is {value!r}; it must be None, ("max" or "avg", size) or (kind, size, '
            "stride) (this package's arguments)"
        )
    choice(op, "pool's kind", value[0], ("max", "avg"), "this package's arguments")
    size = pair(op, "pool's size", value[1], least=1)
    stride = size if len(value) == 2 else pair(op, "pool's stride", value[2], least=1)
    for axis, outputs, window in zip(("H", "W"), sizes, size, strict=True):
        if window > outputs:
            raise ShapeError(
                f"{op}: pool is {value!r}, but the convolution's result has {outputs} along "
                f"{axis}; the result would have no elements (torch.nn.functional.{value[0]}_pool2d)"
            )
    rows, cols = (
        PoolAxis(window, step, (outputs - window) // step + 1)
        for outputs, window, step in zip(sizes, size, stride, strict=True)
    )
    return Pool(value[0], rows, cols)


def output_size(
    op: str, axis: str, size: int, pads: Pair, taps: int, stride: int, dilation: int
) -> int:
    """Return how often `taps` fit on an axis of `size` pixels.

    Raises
    ------
    ShapeError
        Not even once.
    """
    reach, padded = dilation * (taps - 1) + 1, size + sum(pads)
    if reach > padded:
        raise ShapeError(
            f"{op}: {taps} taps with dilation {dilation} span {reach} pixels along {axis}, but x "
            f"has {padded} there ({size} and padding {pads}); the result would have no elements "
            f"({TORCH})"
        )
    return (padded - reach) // stride + 1


def choice(op: str, name: str, value: object, allowed: tuple[str | None, ...], source: str) -> None:
    """Refuse a `value` that is none of `allowed`.

    Raises
    ------
    ConstraintError
    """
    if not (value is None or isinstance(value, str)) or value not in allowed:
        known = ", ".join("None" if a is None else f'"{a}"' for a in allowed)
        raise ConstraintError(f"{op}: {name} is {value!r}; it must be one of {known} ({source})")


def _torch_dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _check_torch(op: str, name: str, value: Any) -> None:
    if value.device.type != "cpu":
        raise ConstraintError(
            f"{op}: {name} is a tensor on {value.device}; it must be on the CPU (the kernels run "
            "in the simulator)"
        )
    if value.layout is not sys.modules["torch"].strided:
        raise ConstraintError(
            f"{op}: {name} is a tensor of layout {value.layout}; it must be dense (as torch's "
            "own convolutions)"
        )
    if value.requires_grad and sys.modules["torch"].is_grad_enabled():
        raise ConstraintError(
            f"{op}: {name} is a tensor that requires a gradient, but this is the forward pass "
            "alone; pass a detached tensor or call under torch.no_grad() (no backward kernel yet)"
        )
