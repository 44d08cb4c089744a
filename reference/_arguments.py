"""The spellings of stride, padding and pool that PyTorch takes, brought to one form.

Plain Python without NumPy.  Every function raises `ValueError` and says what it received.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import TypeAlias

Pair: TypeAlias = tuple[int, int]
IntOrPair: TypeAlias = int | Pair
Padding: TypeAlias = IntOrPair | tuple[Pair, Pair] | str
Activation: TypeAlias = str | tuple[str, float] | None
Pool: TypeAlias = tuple[str, IntOrPair] | tuple[str, IntOrPair, IntOrPair] | None

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def choice(name: str, value: object, allowed: Sequence[str | None]) -> None:
    """Refuse a `value` that is none of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def activation(value: object, allowed: Sequence[str | None]) -> Activation:
    """Return a name of an activation, or ("leaky_relu", slope)."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2 or value[0] != "leaky_relu" or not _is_finite(value[1]):
            raise ValueError(
                f"activation is {value!r}; the one that takes a number is ('leaky_relu', slope)"
            )
        return "leaky_relu", float(value[1])
    choice("activation", value, allowed)
    return value  # type: ignore[return-value]  # one of `allowed`


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def integer(name: str, value: object, least: int) -> int:
    """Return `value` as an int that is at least `least`."""
    try:
        number = index(value)  # type: ignore[arg-type]  # whatever has no __index__ raises
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it must be an integer") from None
    if number < least:
        raise ValueError(f"{name} is {number}; it must be at least {least}")
    return number


def pair(name: str, value: object, least: int = 1) -> Pair:
    """Return (vertical, horizontal) of an int or a pair of ints."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} is {value!r}; it must be an int or a pair of ints")
        return integer(name, value[0], least), integer(name, value[1], least)
    number = integer(name, value, least)
    return number, number


def padding(value: object, kernel: Pair, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """Return ((top, bottom), (left, right)).

    "same" keeps the image's size: it needs stride 1, and where the total is odd the extra pixel
    goes to the bottom and the right, as in PyTorch.
    """
    if isinstance(value, str):
        choice("padding", value, ("same", "valid"))
        if value == "valid":
            return (0, 0), (0, 0)
        if stride != (1, 1):
            raise ValueError(f"padding is 'same' and stride is {stride}; 'same' needs stride 1")
        total_h, total_w = dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)
        return (total_h // 2, total_h - total_h // 2), (total_w // 2, total_w - total_w // 2)
    if isinstance(value, (tuple, list)) and any(isinstance(v, (tuple, list)) for v in value):
        if len(value) != 2:
            raise ValueError(f"padding is {value!r}; it must be ((top, bottom), (left, right))")
        return pair("padding", value[0], 0), pair("padding", value[1], 0)
    vertical, horizontal = pair("padding", value, 0)
    return (vertical, vertical), (horizontal, horizontal)


def padding_mode(mode: object, pads: tuple[Pair, Pair], sizes: Pair) -> str:
    """Return the word of NumPy's `pad` for one of PyTorch's modes, within PyTorch's limits."""
    choice("padding_mode", mode, PADDING_MODES)
    for axis, (before, after), size in zip("HW", pads, sizes, strict=True):
        # reflect does not repeat the edge, and neither mode goes round twice
        limit = {"reflect": size - 1, "circular": size}.get(str(mode))
        if limit is not None and max(before, after) > limit:
            raise ValueError(
                f"padding is {(before, after)} along {axis} with padding_mode {mode!r}; "
                f"for {size} pixels it must be at most {limit}"
            )
    return {"zeros": "constant", "replicate": "edge", "circular": "wrap"}.get(str(mode), "reflect")


def pool(value: Pool) -> tuple[str, Pair, Pair] | None:
    """Return (kind, size, stride) of a pool argument; without a stride it is the size."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise ValueError(f"pool is {value!r}; it must be None or (kind, size[, stride])")
    choice("pool kind", value[0], ("max", "avg"))
    size = pair("pool size", value[1])
    return value[0], size, pair("pool stride", value[2]) if len(value) == 3 else size


def output_size(axis: str, size: int, window: int, stride: int, dilation: int = 1) -> int:
    """Return how many windows of `window` taps fit on `size` (padded) pixels."""
    span = dilation * (window - 1) + 1
    if span > size:
        raise ValueError(
            f"the result would have no elements: a window of {span} pixels along {axis} "
            f"does not fit on {size} (padding included)"
        )
    return (size - span) // stride + 1
