"""Images with a border of their own pixels: reflect, replicate or circular.

y[p, i, j] = x[p, row(i - top), col(j - left)], the pixels that _border.py names

For algorithms that read zeros outside the image: they run on y without padding.

Shapes
------
x_hbm  (planes, H, W)                              f32 f16 bf16  HBM
y_hbm  (planes, top + H + bottom, left + W + right)  as x        HBM

Loop nest
---------
for tile of <= 128 planes, strip of rows:
    load the strip's rows, each from where it is in x; copy the border's columns in SBUF; one store

Bytes limit it: x is read and y written once.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._border import Run, runs
from nkiconv.kernels._plan import Tile, tiles

_STRIP_BYTES = 16_384  # per partition: long transfers, and several strips in flight


@dataclass(frozen=True)
class PadStrip(nl.NKIObject):
    """Padded rows that are in SBUF together, and where each comes from."""

    rows: Tile
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class PadPlan(nl.NKIObject):
    """Everything that the kernel does; `border` names the columns outside the image."""

    planes: tuple[Tile, ...]
    y_shape: tuple[int, int, int]
    left: int
    width: int
    strips: tuple[PadStrip, ...]
    border: tuple[Run, ...]

    @property
    def num_loads(self) -> int:
        """Transfers from HBM."""
        return len(self.planes) * sum(len(strip.runs) for strip in self.strips)


def plan_pad(
    shape: tuple[int, int, int],
    rows: tuple[int, int],
    cols: tuple[int, int],
    mode: str,
    itemsize: int,
) -> PadPlan:
    """Cut planes of a `shape` into strips; `rows` and `cols` are what is added on either side."""
    planes, height, width = shape
    y_shape = (planes, sum(rows) + height, cols[0] + width + cols[1])
    strip_rows = max(1, _STRIP_BYTES // (y_shape[2] * itemsize))
    strips = tuple(
        PadStrip(strip, runs(strip.start - rows[0], strip.size, height, mode))
        for strip in tiles(y_shape[1], strip_rows)
    )
    shown = (*runs(-cols[0], cols[0], width, mode), *_behind(width, cols, mode))
    return PadPlan(tiles(planes, nl.tile_size.pmax), y_shape, cols[0], width, strips, shown)


def _behind(width: int, cols: tuple[int, int], mode: str) -> tuple[Run, ...]:
    """Return the runs of the columns behind the image, in places of the padded row."""
    found = runs(width, cols[1], width, mode)
    return tuple(Run(run.place + cols[0] + width, run.pixel, run.size) for run in found)


@nki.jit
def pad_planes(x_hbm: nl.NkiTensor, plan: PadPlan) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    image = nl.ds(plan.left, plan.width)
    for planes in plan.planes:
        p = nl.ds(planes.start, planes.size)
        for strip in plan.strips:
            shape = (planes.size, strip.rows.size, plan.y_shape[2])
            strip_sb = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
            for run in strip.runs:
                nisa.dma_copy(
                    dst=strip_sb[:, nl.ds(run.place, run.size), image],
                    src=x_hbm[p, nl.ds(run.pixel, run.size), :],
                    dge_mode=nisa.dge_mode.none,
                )
            for run in plan.border:
                nisa.tensor_copy(
                    dst=strip_sb[:, :, nl.ds(run.place, run.size)],
                    src=strip_sb[:, :, nl.ds(plan.left + run.pixel, run.size)],
                )
            nisa.dma_copy(
                dst=y_hbm[p, nl.ds(strip.rows.start, strip.rows.size), :],
                src=strip_sb,
                dge_mode=nisa.dge_mode.none,
            )
    return y_hbm
