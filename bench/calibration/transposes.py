"""Two ways of transposing a matrix through TensorE: y (N, M) = x (M, N) transposed.

by_tiles  loads (128, 128) at a time: one load, transpose, copy and store for each
by_rows   loads 128 whole rows, then works through their tiles: long descriptors on the way in

Both store (128, 128) at a time.  Written anew after published kernels; points.json names them.
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def transpose_by_tiles(x_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """y (N, M), a load for each tile."""
    rows, columns = x_hbm.shape
    y_hbm = nl.ndarray((columns, rows), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    edge = nl.tile_size.pmax
    for i in range(0, rows, edge):
        for j in range(0, columns, edge):
            x_sb = nl.ndarray((edge, edge), dtype=x_hbm.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=x_sb, src=x_hbm[nl.ds(i, edge), nl.ds(j, edge)], dge_mode=mode)
            _transpose_tile(y_hbm, x_sb, j, i, mode)
    return y_hbm


@nki.jit
def transpose_by_rows(x_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """y (N, M), a load for each 128 rows."""
    rows, columns = x_hbm.shape
    y_hbm = nl.ndarray((columns, rows), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    edge = nl.tile_size.pmax
    for i in range(0, rows, edge):
        rows_sb = nl.ndarray((edge, columns), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=rows_sb, src=x_hbm[nl.ds(i, edge), :], dge_mode=mode)
        for j in range(0, columns, edge):
            _transpose_tile(y_hbm, rows_sb[:, nl.ds(j, edge)], j, i, mode)
    return y_hbm


def _transpose_tile(
    y_hbm: nl.NkiTensor, x_sb: nl.NkiTensor, row: int, column: int, mode: nisa.dge_mode
) -> None:
    """y[row.., column..] = x transposed; the copy runs on ScalarE, as in the profiles."""
    edge = x_sb.shape[0]
    y_ps = nl.ndarray((edge, edge), dtype=x_sb.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=y_ps, data=x_sb, engine=nisa.engine.tensor)
    y_sb = nl.ndarray((edge, edge), dtype=x_sb.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=y_sb, src=y_ps, engine=nisa.engine.scalar)
    nisa.dma_copy(dst=y_hbm[nl.ds(row, edge), nl.ds(column, edge)], src=y_sb, dge_mode=mode)
