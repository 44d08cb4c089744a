"""Tiles and windows: the whole-number arithmetic that the convolution kernels share.

Output ``o`` of an axis takes tap ``k`` from pixel ``o*stride + k*dilation - pad``.  Everything here
follows from that line, once for rows and once for columns.

The classes derive from `nl.NKIObject` because the NKI compiler takes no others as kernel arguments;
they hold plain integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import nki.language as nl

STEP_MAX = 32_767  # elements between neighbours in an access pattern, int16 (architecture guide)


@dataclass(frozen=True)
class Tile(nl.NKIObject):
    """`size` neighbours, beginning with `start`."""

    start: int
    size: int


@dataclass(frozen=True)
class OutputTile(nl.NKIObject):
    """Outputs of the convolution that have a PSUM bank; images count from what is in SBUF."""

    images: Tile
    rows: Tile
    cols: Tile


@dataclass(frozen=True)
class Axis(nl.NKIObject):
    """Rows or columns of a convolution: `size` pixels and `taps` weights give `outputs` results.

    `pad` counts the zeros before the first pixel; those behind the last one follow from `outputs`.
    """

    size: int
    taps: int
    outputs: int
    stride: int
    dilation: int
    pad: int


@dataclass(frozen=True)
class Geometry(nl.NKIObject):
    """Sizes of a checked convolution.

    `C_in` and `C_out` count the channels of one group; the images have `G` times as many.
    """

    N: int
    G: int
    C_in: int
    C_out: int
    rows: Axis
    cols: Axis
    itemsize: int  # bytes of an element of x, w and y


@dataclass(frozen=True)
class Span(nl.NKIObject):
    """One axis of a window: which pixels it holds, and zeros where it leaves the image.

    The window has `size` places: `zeros_before`, then `x_size` pixels (from `x_start`, every
    `x_step`-th), then `zeros_after`.  Output ``o`` finds tap ``k`` at place
    ``(o - first_output)*output_step + (k - first_tap)*tap_step``.
    """

    first_output: int
    first_tap: int
    output_step: int
    tap_step: int
    size: int
    zeros_before: int
    zeros_after: int
    x_start: int
    x_size: int
    x_step: int


@dataclass(frozen=True)
class Window(nl.NKIObject):
    """Pixels of x in SBUF; `loads` are the rows (counted in pixels) that each transfer brings."""

    rows: Span
    cols: Span
    loads: tuple[Tile, ...]


def make_axis(
    size: int, taps: int, outputs: int, stride: int, dilation: int, pads: tuple[int, int]
) -> Axis:
    """Return an axis padded by `pads`, before and behind.

    A stride that leaves one output, or the dilation of one tap, can be any number, and has no
    effect: plans that count places in between get no larger one than the padded axis.
    """
    padded = size + sum(pads)
    return Axis(size, taps, outputs, min(stride, padded), min(dilation, padded), pads[0])


@lru_cache(maxsize=4096)
def tiles(size: int, size_max: int, start: int = 0) -> tuple[Tile, ...]:
    """Split `size` into full tiles of `size_max` and a rest."""
    return tuple(Tile(start + i, min(size_max, size - i)) for i in range(0, size, size_max))


@lru_cache(maxsize=4096)
def even_tiles(size: int, size_max: int, start: int = 0) -> tuple[Tile, ...]:
    """Split `size` into as few tiles as `size_max` allows, of nearly the same size."""
    return tiles(size, ceil_div(size, ceil_div(size, size_max)), start)


def ceil_div(a: int, b: int) -> int:
    """Return a/b, rounded up."""
    return -(-a // b)


def pixel_step(axis: Axis, num_taps: int) -> int:
    """Return the distance between the pixels that `num_taps` neighbouring taps reach.

    1x1 taps at stride 2 reach every second row: the rows between need not be loaded.
    """
    return gcd(axis.stride, axis.dilation) if num_taps > 1 else axis.stride


def span_size(axis: Axis, num_outputs: int, num_taps: int, step: int) -> int:
    """Return how many places the window of `num_outputs` outputs and `num_taps` taps has."""
    return ((num_outputs - 1) * axis.stride + (num_taps - 1) * axis.dilation) // step + 1


def make_span(axis: Axis, outputs: Tile, taps: Tile, step: int) -> Span:
    """Return the pixels that `taps` need for `outputs`, every `step`-th."""
    first = outputs.start * axis.stride + taps.start * axis.dilation - axis.pad
    size = span_size(axis, outputs.size, taps.size, step)
    before = min(size, max(0, ceil_div(-first, step)))
    end = max(before, min(size, ceil_div(axis.size - first, step)))
    return Span(
        first_output=outputs.start,
        first_tap=taps.start,
        output_step=axis.stride // step,
        tap_step=axis.dilation // step,
        size=size,
        zeros_before=before,
        zeros_after=size - end,
        x_start=first + before * step,
        x_size=end - before,
        x_step=step,
    )


def make_window(
    geometry: Geometry,
    outputs: tuple[Tile, Tile],
    taps: tuple[Tile, Tile],
    *,
    first_rows: int,
    load_bytes: int,
) -> Window:
    """Return the pixels that `taps` (rows, columns) need for `outputs` (rows, columns).

    Parameters
    ----------
    first_rows
        Output rows that are computed first; one transfer brings their pixels, so that nothing else
        has to be waited for.
    load_bytes
        Per partition, for the other transfers.
    """
    g = geometry
    step = pixel_step(g.rows, taps[0].size)
    rows = make_span(g.rows, outputs[0], taps[0], step)
    cols = make_span(g.cols, outputs[1], taps[1], 1)  # every column: single elements load slowly
    if rows.x_size == 0 or cols.x_size == 0:
        return Window(rows, cols, ())  # nothing but padding
    load_rows = ceil_div(load_bytes, cols.x_size * g.itemsize)
    first = span_size(g.rows, first_rows, taps[0].size, step) - rows.zeros_before
    first = min(max(first, 1), load_rows, rows.x_size)
    return Window(rows, cols, (Tile(0, first), *tiles(rows.x_size - first, load_rows, first)))


def tap_outputs(axis: Axis, outputs: Tile, tap: int) -> Tile:
    """Return those of `outputs` that find a tap inside the image; its size is 0 for none.

    A kernel calls it too: it holds to the Python of the compiler.
    """
    behind = axis.pad - tap * axis.dilation  # pixel of output o: o*stride - behind
    first = max(outputs.start, -(-behind // axis.stride))
    end = min(outputs.start + outputs.size, (axis.size - 1 + behind) // axis.stride + 1)
    return Tile(first, max(0, end - first))
