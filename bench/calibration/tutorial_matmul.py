"""The four steps of the vendor's matmul tutorials, and a fifth: y (M, N) = a.T @ b.

tiled    loads both tiles again for every product
hoisted  loads 128 columns of a once for a row of results, 512 columns of b for each result
blocked  the same for 2 x 2 results at a time: a quarter of the loads of b
full     blocks of all three dimensions, 16 x 2 x 8 tiles; sums of a K block are added up in SBUF

grouped  2 x 2 or 4 x 2 results at a time in PSUM, loads inside the loop over K; found by a search
         that began with `tiled`

a is (K, M), b is (K, N).

trn1's tutorial used bfloat16 and an older dialect, trn2's float32 and today's; the steps are the
same.  Written anew; points.json names the pages.
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl

_P, _N = 128, 512  # edge of a stationary tile, columns of a moving one: as the tutorials

_FULL_M, _FULL_N, _FULL_K = 16, 2, 8  # tiles in a block, as the tutorials


def _loaded(
    src_hbm: nl.NkiTensor, row: int, column: int, columns: int, mode: nisa.dge_mode
) -> nl.NkiTensor:
    """Load (128, columns)."""
    tile_sb = nl.ndarray((_P, columns), dtype=src_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile_sb, src=src_hbm[nl.ds(row, _P), nl.ds(column, columns)], dge_mode=mode)
    return tile_sb


def _loaded_column(
    src_hbm: nl.NkiTensor, start: int, end: int, column: int, columns: int, mode: nisa.dge_mode
) -> list[nl.NkiTensor]:
    """Load rows `start` to `end` of some columns, 128 at a time."""
    tiles_sb = []
    for row in range(start, end, _P):
        tiles_sb.append(_loaded(src_hbm, row, column, columns, mode))
    return tiles_sb


def _store(
    y_hbm: nl.NkiTensor, acc_ps: nl.NkiTensor, row: int, column: int, mode: nisa.dge_mode
) -> None:
    """Copy a result out of PSUM and store it; the copy is VectorE's, as in the figures."""
    y_sb = nl.ndarray(acc_ps.shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=y_sb, src=acc_ps, engine=nisa.engine.vector)
    nisa.dma_copy(
        dst=y_hbm[nl.ds(row, acc_ps.shape[0]), nl.ds(column, acc_ps.shape[1])],
        src=y_sb,
        dge_mode=mode,
    )


@nki.jit
def matmul_tiled(a_hbm: nl.NkiTensor, b_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """y, two loads for every product of tiles."""
    depth, rows = a_hbm.shape
    columns = b_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=a_hbm.dtype, buffer=nl.shared_hbm)
    for m in range(0, rows, _P):
        for n in range(0, columns, _N):
            acc_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
            for k in range(0, depth, _P):
                a_sb = _loaded(a_hbm, k, m, _P, mode)
                b_sb = _loaded(b_hbm, k, n, _N, mode)
                nisa.nc_matmul(dst=acc_ps, stationary=a_sb, moving=b_sb)
            _store(y_hbm, acc_ps, m, n, mode)
    return y_hbm


@nki.jit
def matmul_hoisted(a_hbm: nl.NkiTensor, b_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """y, a's columns loaded once for a row of results."""
    depth, rows = a_hbm.shape
    columns = b_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=a_hbm.dtype, buffer=nl.shared_hbm)
    for m in range(0, rows, _P):
        a_sb = _loaded_column(a_hbm, 0, depth, m, _P, mode)
        for n in range(0, columns, _N):
            b_sb = _loaded_column(b_hbm, 0, depth, n, _N, mode)
            acc_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
            for i in range(len(a_sb)):
                nisa.nc_matmul(dst=acc_ps, stationary=a_sb[i], moving=b_sb[i])
            _store(y_hbm, acc_ps, m, n, mode)
    return y_hbm


@nki.jit
def matmul_blocked(a_hbm: nl.NkiTensor, b_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """y, 2 x 2 results for every load."""
    depth, rows = a_hbm.shape
    columns = b_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=a_hbm.dtype, buffer=nl.shared_hbm)
    for m in range(0, rows, 2 * _P):
        a_sb = []
        for bm in range(2):
            a_sb.append(_loaded_column(a_hbm, 0, depth, m + bm * _P, _P, mode))
        for n in range(0, columns, 2 * _N):
            b_sb = []
            for bn in range(2):
                b_sb.append(_loaded_column(b_hbm, 0, depth, n + bn * _N, _N, mode))
            for bm in range(2):
                for bn in range(2):
                    acc_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
                    for i in range(len(a_sb[bm])):
                        nisa.nc_matmul(dst=acc_ps, stationary=a_sb[bm][i], moving=b_sb[bn][i])
                    _store(y_hbm, acc_ps, m + bm * _P, n + bn * _N, mode)
    return y_hbm


@nki.jit
def matmul_full(a_hbm: nl.NkiTensor, b_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """y, blocks of all three dimensions; a column of blocks of y stays in SBUF."""
    depth, rows = a_hbm.shape
    columns = b_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=a_hbm.dtype, buffer=nl.shared_hbm)
    block_m, block_n, block_k = _FULL_M * _P, _FULL_N * _N, _FULL_K * _P
    for n in range(0, columns, block_n):
        sums_sb = []
        for _ in range(rows // _P):
            row_sb = []
            for _ in range(_FULL_N):
                sum_sb = nl.ndarray((_P, _N), dtype=a_hbm.dtype, buffer=nl.sbuf)
                nisa.memset(dst=sum_sb, value=0)
                row_sb.append(sum_sb)
            sums_sb.append(row_sb)
        for k in range(0, depth, block_k):
            b_sb = _loaded_column(b_hbm, k, k + block_k, n, block_n, mode)
            for m in range(0, rows, block_m):
                a_sb = _loaded_column(a_hbm, k, k + block_k, m, block_m, mode)
                for bn in range(_FULL_N):
                    for bm in range(_FULL_M):
                        acc_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
                        for i in range(_FULL_K):
                            nisa.nc_matmul(
                                dst=acc_ps,
                                stationary=a_sb[i][:, nl.ds(bm * _P, _P)],
                                moving=b_sb[i][:, nl.ds(bn * _N, _N)],
                            )
                        sum_sb = sums_sb[m // _P + bm][bn]
                        nisa.tensor_tensor(dst=sum_sb, data1=sum_sb, data2=acc_ps, op=nl.add)
        for i in range(rows // _P):
            packed_sb = nl.ndarray((_P, block_n), dtype=a_hbm.dtype, buffer=nl.sbuf)
            for bn in range(_FULL_N):
                nisa.tensor_copy(dst=packed_sb[:, nl.ds(bn * _N, _N)], src=sums_sb[i][bn])
            nisa.dma_copy(
                dst=y_hbm[nl.ds(i * _P, _P), nl.ds(n, block_n)], src=packed_sb, dge_mode=mode
            )
    return y_hbm


@nki.jit
def matmul_grouped(
    a_hbm: nl.NkiTensor,
    b_hbm: nl.NkiTensor,
    group: int,
    width: int,
    mode: nisa.dge_mode,
) -> nl.NkiTensor:
    """y, `group` x 2 results at a time; loads of a are of `width` columns."""
    depth, rows = a_hbm.shape
    columns = b_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=a_hbm.dtype, buffer=nl.shared_hbm)
    for m in range(0, rows, group * _P):
        for n in range(0, columns, 2 * _N):
            sums_ps = []
            for _ in range(2 * group):
                sums_ps.append(nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum))
            for k in range(0, depth, _P):
                b_sb = []
                for bn in range(2):
                    b_sb.append(_loaded(b_hbm, k, n + bn * _N, _N, mode))
                for start in range(0, group * _P, width):
                    a_sb = _loaded(a_hbm, k, m + start, width, mode)
                    for i in range(width // _P):
                        for bn in range(2):
                            nisa.nc_matmul(
                                dst=sums_ps[2 * (start // _P + i) + bn],
                                stationary=a_sb[:, nl.ds(i * _P, _P)],
                                moving=b_sb[bn],
                            )
            for i in range(2 * group):
                _store(y_hbm, sums_ps[i], m + i // 2 * _P, n + i % 2 * _N, mode)
    return y_hbm
