"""Blocks of a result that is pooled, and the pooling itself.

y[p, q] = max, or mean, over (kh, kw) of conv[p*stride_h + kh, q*stride_w + kw]

A kernel that pools computes, for each tile of pooled rows (or columns), the results of the
convolution that `conv_outputs` names, `evict`s them into one tile of SBUF, and calls `pool_block`:

    conv = conv_outputs(pool.rows, tile)                    which rows of the convolution
    conv_sb = nl.ndarray((co, n, conv.size, cols), ...)     y's dtype for "max", float32 for "avg"
    evict(conv_sb[:, :, some rows, :], acc_ps, ...)         once for each PSUM tile
    pool_block(y_sb, conv_sb, pool)                         y_sb (co, n, tile.size, pooled cols)

A maximum may be taken of rounded values, since rounding keeps order; a mean is taken in float32
and rounded once.  (PyTorch rounds the convolution's result to the dtype before it averages.)
"""

from __future__ import annotations

from dataclasses import dataclass

import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._plan import Tile


@dataclass(frozen=True)
class PoolAxis(nl.NKIObject):
    """Rows or columns of a pool: windows of `size`, `stride` apart; `outputs` of them fit."""

    size: int
    stride: int
    outputs: int


@dataclass(frozen=True)
class Pool(nl.NKIObject):
    """Windows over the convolution's result; `kind` is "max" or "avg"."""

    kind: str
    rows: PoolAxis
    cols: PoolAxis


def conv_outputs(axis: PoolAxis, pooled: Tile) -> Tile:
    """Return the convolution's rows (or columns) that a tile of pooled ones is made of."""
    return Tile(pooled.start * axis.stride, (pooled.size - 1) * axis.stride + axis.size)


def pool_block(y_sb: nl.NkiTensor, conv_sb: nl.NkiTensor, pool: Pool) -> None:
    """y_sb = the largest, or the mean, of each window of conv_sb: rows first, then columns.

    Shapes
    ------
    y_sb     (co, n, rows, cols)            as y, SBUF
    conv_sb  (co, n, conv rows, conv cols)  as y for "max", f32 for "avg", SBUF; windows begin at 0
    """
    rows = pool.rows
    cols = pool.cols
    row_end = (y_sb.shape[2] - 1) * rows.stride + 1
    col_end = (y_sb.shape[3] - 1) * cols.stride + 1
    op = nl.maximum
    if pool.kind == "avg":
        op = nl.add
    by_rows_sb = conv_sb[:, :, 0 : row_end : rows.stride, :]
    if rows.size > 1:
        shape = (y_sb.shape[0], y_sb.shape[1], y_sb.shape[2], conv_sb.shape[3])
        tall_sb = nl.ndarray(shape, dtype=conv_sb.dtype, buffer=nl.sbuf)
        for kh in range(1, rows.size):
            row_sb = conv_sb[:, :, kh : kh + row_end : rows.stride, :]
            nisa.tensor_tensor(dst=tall_sb, data1=by_rows_sb, data2=row_sb, op=op)
            by_rows_sb = tall_sb
    pooled_sb = by_rows_sb[:, :, :, 0 : col_end : cols.stride]
    if cols.size > 1:
        total_sb = y_sb
        if pool.kind == "avg":
            total_sb = nl.ndarray(y_sb.shape, dtype=nl.float32, buffer=nl.sbuf)
        for kw in range(1, cols.size):
            col_sb = by_rows_sb[:, :, :, kw : kw + col_end : cols.stride]
            nisa.tensor_tensor(dst=total_sb, data1=pooled_sb, data2=col_sb, op=op)
            pooled_sb = total_sb
    if pool.kind == "avg":
        share = 1.0 / (rows.size * cols.size)
        nisa.activation(dst=y_sb, op=nl.copy, data=pooled_sb, scale=share)
    elif cols.size == 1:
        nisa.tensor_copy(dst=y_sb, src=pooled_sb)
