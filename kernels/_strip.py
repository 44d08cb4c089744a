"""Strips of the image in SBUF: which pixels lie where, and the instructions that bring them.

A strip holds the pixels that some outputs need, as [channels | images, rows, columns].  Output o
finds tap k of an axis at place

    (o*stride + k*dilation - pad - origin) / step

of that axis.  There are two kinds:

* trimmed: only pixels of the image, whole rows of it.  Rows lie side by side as in HBM, so that a
  transfer's runs are as long as the strip; a tap that leaves the image computes only the outputs
  that it reaches (`tap_outputs`).
* bordered: what lies outside the image has a place too, so that every tap reaches every output.
  Rows of the border are loaded, or zeroed; columns are copied on chip, or zeroed.

`make_side` plans an axis, once for rows and once for columns; `load_runs` and `fill_border` are for
kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._plan import Axis, Tile, ceil_div, pixel_step

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Run(nl.NKIObject):
    """`size` places from `place` on hold pixels from `pixel` on, every `step`-th."""

    place: int
    pixel: int
    size: int
    step: int


@dataclass(frozen=True)
class Side(nl.NKIObject):
    """One axis of a strip.

    Parameters
    ----------
    origin, step
        Pixel at place 0, which may lie outside the image; pixels from one place to the next.
    size
        Places.
    inside
        Places that hold the image's own pixels, where the mode puts them; of size 0 for none.
    border
        Places outside the image, in runs of pixels that `padding_mode` puts there.
    zeros
        Places outside the image that hold zeros.
    """

    origin: int
    step: int
    size: int
    inside: Run
    border: tuple[Run, ...]
    zeros: tuple[Tile, ...]

    def place(self, axis: Axis, output: int, tap: int) -> int:
        """Return where an output finds a tap."""
        return (output * axis.stride + tap * axis.dilation - axis.pad - self.origin) // self.step


def make_side(
    axis: Axis, outputs: Tile, mode: str | None, *, whole: bool = False, every: bool = False
) -> Side:
    """Return the places of an axis that `outputs` need for all taps.

    Parameters
    ----------
    mode
        None for a trimmed strip, else one of `PADDING_MODES`.
    whole
        All pixels of the axis, needed or not.  For columns: rows lie side by side then, and a
        border's pixels are there to be copied.
    every
        All pixels from the first that is needed to the last.
    """
    step = 1 if whole or every else pixel_step(axis, axis.taps)
    first = outputs.start * axis.stride - axis.pad
    last = first + (outputs.size - 1) * axis.stride + (axis.taps - 1) * axis.dilation
    if whole:
        first, last = min(first, 0), max(last, axis.size - 1)
    if mode is None:
        first += ceil_div(max(0, -first), step) * step
        last = min(last, axis.size - 1)
    size = max(0, (last - first) // step + 1)
    before = min(size, ceil_div(max(0, -first), step))
    end = max(before, min(size, ceil_div(axis.size - first, step)))
    inside = Run(before, first + before * step, end - before, step)
    outside = (Tile(0, before), Tile(end, size - end))
    zeros = tuple(part for part in outside if part.size > 0)
    if mode is None or mode == "zeros":
        return Side(first, step, size, inside, (), zeros)
    border = [run for part in zeros for run in _mapped(axis.size, mode, first, step, part)]
    return Side(first, step, size, inside, tuple(border), ())


def padding_pixel(size: int, mode: str, pixel: int) -> int:
    """Return the pixel of an axis that stands in for one outside the image."""
    if mode == "replicate":
        return min(max(pixel, 0), size - 1)
    if mode == "reflect":
        return -pixel if pixel < 0 else 2 * (size - 1) - pixel
    return pixel % size  # circular


def _mapped(size: int, mode: str, origin: int, step: int, part: Tile) -> list[Run]:
    """Return the places of a border in runs of pixels that are `step` apart."""
    runs: list[Run] = []
    for place in range(part.start, part.start + part.size):
        pixel = origin + place * step
        if not 0 <= pixel < size:
            pixel = padding_pixel(size, mode, pixel)
        last = runs[-1] if runs else None
        if last is not None and pixel == last.pixel + last.size * step:
            runs[-1] = Run(last.place, last.pixel, last.size + 1, step)
        else:
            runs.append(Run(place, pixel, 1, step))
    return runs


def load_run(x_sb: nl.NkiTensor, x_hbm: nl.NkiTensor, rows: Run, cols: Run) -> None:
    """x_sb[:, :, rows, cols] = x_hbm: one transfer.

    Shapes
    ------
    x_sb   (ci, n, rows, cols)  SBUF
    x_hbm  (ci, n, H, W)        HBM, a view
    """
    end = rows.pixel + (rows.size - 1) * rows.step + 1
    nisa.dma_copy(
        dst=x_sb[:, :, nl.ds(rows.place, rows.size), nl.ds(cols.place, cols.size)],
        src=x_hbm[:, :, rows.pixel : end : rows.step, nl.ds(cols.pixel, cols.size)],
        dge_mode=transfer_mode(x_hbm),
    )


def transfer_mode(hbm: nl.NkiTensor) -> nisa.dge_mode:
    """Descriptors made beforehand, unless the address moves with an on-chip loop."""
    return nisa.dge_mode.unknown if hbm.is_indirect() else nisa.dge_mode.none


def fill_border(x_sb: nl.NkiTensor, rows: Side, cols: Side) -> None:
    """Zero what `load_run` of `rows.inside` and `rows.border` leaves, and copy border columns.

    Shapes
    ------
    x_sb  (ci, n, rows, cols)  SBUF
    """
    for part in rows.zeros:
        nisa.memset(dst=x_sb[:, :, nl.ds(part.start, part.size), :], value=0)
    first = 0
    end = rows.size
    for part in rows.zeros:
        if part.start == 0:
            first = part.size
        else:
            end = part.start
    if end > first:
        filled = nl.ds(first, end - first)
        for part in cols.zeros:
            nisa.memset(dst=x_sb[:, :, filled, nl.ds(part.start, part.size)], value=0)
        for run in cols.border:
            source = run.pixel - cols.origin
            nisa.tensor_copy(
                dst=x_sb[:, :, filled, nl.ds(run.place, run.size)],
                src=x_sb[:, :, filled, nl.ds(source, run.size)],
            )
