"""Images pooled in HBM: y[p, i, j] = max, or mean, over a window of x[p].

For algorithms that do not pool in the same pass: their result goes through HBM once more.

Shapes
------
x_hbm  (planes, 1, H, W)  f32 f16 bf16  HBM
y_hbm  (planes, 1, P, Q)  as x          HBM

Loop nest
---------
for tile of <= 128 planes, strip of pooled rows:
    load the rows that its windows reach; pool them (_blocks.py); one store

Bytes limit it: x is read once, but for rows that two strips share, and y written once.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._blocks import Pool, conv_outputs, pool_block
from nkiconv.kernels._plan import Tile, ceil_div, even_tiles, tiles

_STRIP_BYTES = 16_384  # per partition: long transfers, few shared rows, several strips in flight


@dataclass(frozen=True)
class PoolStrip(nl.NKIObject):
    """Pooled rows that are made together, and the rows of x that they are made of."""

    pooled: Tile
    rows: Tile


@dataclass(frozen=True)
class PoolPlan(nl.NKIObject):
    """Everything that the kernel does."""

    pool: Pool
    planes: tuple[Tile, ...]
    width: int
    y_shape: tuple[int, int, int, int]
    strips: tuple[PoolStrip, ...]


def plan_pool(planes: int, width: int, pool: Pool, itemsize: int) -> PoolPlan:
    """Cut planes whose rows have `width` pixels into strips."""
    most = max(1, _STRIP_BYTES // (width * itemsize * pool.rows.stride))
    return PoolPlan(
        pool=pool,
        planes=tiles(planes, nl.tile_size.pmax),
        width=width,
        y_shape=(planes, 1, pool.rows.outputs, pool.cols.outputs),
        strips=tuple(
            PoolStrip(part, conv_outputs(pool.rows, part))
            for part in even_tiles(pool.rows.outputs, most)
        ),
    )


def bytes_moved(plan: PoolPlan, itemsize: int) -> int:
    """Return the bytes that cross HBM."""
    rows = sum(strip.rows.size for strip in plan.strips)
    planes, _, P, Q = plan.y_shape
    return planes * (rows * plan.width + P * Q) * itemsize


def vector_elems(plan: PoolPlan) -> int:
    """Return the elements per partition that VectorE works on."""
    pool = plan.pool
    tall = pool.rows.outputs * plan.width * (pool.rows.size - 1)
    wide = pool.rows.outputs * pool.cols.outputs * max(1, pool.cols.size - 1)
    return ceil_div(plan.y_shape[0], nl.tile_size.pmax) * (tall + wide)


@nki.jit
def pool_planes(x_hbm: nl.NkiTensor, plan: PoolPlan) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for planes in plan.planes:
        p = nl.ds(planes.start, planes.size)
        for strip in plan.strips:
            x_sb = nl.ndarray(
                (planes.size, 1, strip.rows.size, plan.width), dtype=x_hbm.dtype, buffer=nl.sbuf
            )
            nisa.dma_copy(
                dst=x_sb,
                src=x_hbm[p, :, nl.ds(strip.rows.start, strip.rows.size), :],
                dge_mode=nisa.dge_mode.none,
            )
            y_sb = nl.ndarray(
                (planes.size, 1, strip.pooled.size, plan.y_shape[3]),
                dtype=x_hbm.dtype,
                buffer=nl.sbuf,
            )
            pool_block(y_sb, x_sb, plan.pool)
            nisa.dma_copy(
                dst=y_hbm[p, :, nl.ds(strip.pooled.start, strip.pooled.size), :],
                src=y_sb,
                dge_mode=nisa.dge_mode.none,
            )
    return y_hbm
