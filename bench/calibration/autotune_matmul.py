"""Matmuls of 2048 x 2048 bfloat16 as a search for fast ones published them.

resident       everything is loaded first, results go through one PSUM bank, all stores come last:
               matmuls wait for the bank to be emptied
resident_t     the same, both operands loaded by transposing DMA
k_blocks       blocks of 4 x 1 x 8 tiles, sums of the two K blocks in SBUF, one PSUM bank
split          the same blocks, a PSUM bank and a buffer for the sum of each result

The published kernels also set PSUM to zero before each sum, on GpSimdE by their profiles.  The
first matmul overwrites it anyway, and the simulator refuses GpSimdE in PSUM: not repeated here.
Written anew in the published loop order; points.json names the files.
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl

_P, _N = 128, 512


def _rows(count: int, width: int, dtype: str) -> list[nl.NkiTensor]:
    """Return `count` tiles (128, width) in SBUF."""
    tiles_sb = []
    for _ in range(count):
        tiles_sb.append(nl.ndarray((_P, width), dtype=dtype, buffer=nl.sbuf))
    return tiles_sb


def _load_tiles(src_hbm: nl.NkiTensor, width: int, transposed: bool) -> list[list[nl.NkiTensor]]:
    """Load all of a matrix, or of its transpose, as rows of tiles (128, width)."""
    rows = src_hbm.shape[1] if transposed else src_hbm.shape[0]
    columns = src_hbm.shape[0] if transposed else src_hbm.shape[1]
    tiles_sb = []
    for row in range(0, rows, _P):
        row_sb = _rows(columns // width, width, src_hbm.dtype)
        for i in range(columns // width):
            if transposed:
                src = src_hbm[nl.ds(i * width, width), nl.ds(row, _P)]
                nisa.dma_transpose(dst=row_sb[i], src=src)
            else:
                nisa.dma_copy(dst=row_sb[i], src=src_hbm[nl.ds(row, _P), nl.ds(i * width, width)])
        tiles_sb.append(row_sb)
    return tiles_sb


def _product(
    a_sb: list[list[nl.NkiTensor]], b_sb: list[list[nl.NkiTensor]], dtype: str
) -> list[list[nl.NkiTensor]]:
    """Return tiles of a.T @ b in SBUF; all sums go through the same PSUM bank."""
    acc_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
    y_sb = []
    for m in range(len(a_sb[0])):
        row_sb = _rows(len(b_sb[0]), _N, dtype)
        for n in range(len(b_sb[0])):
            for k in range(len(a_sb)):
                nisa.nc_matmul(
                    dst=acc_ps, stationary=a_sb[k][m], moving=b_sb[k][n], accumulate=k > 0
                )
            nisa.tensor_copy(dst=row_sb[n], src=acc_ps)
        y_sb.append(row_sb)
    return y_sb


def _store_tiles(y_hbm: nl.NkiTensor, y_sb: list[list[nl.NkiTensor]]) -> None:
    """Store tiles (128, 512) one by one."""
    for m in range(len(y_sb)):
        for n in range(len(y_sb[m])):
            nisa.dma_copy(dst=y_hbm[nl.ds(m * _P, _P), nl.ds(n * _N, _N)], src=y_sb[m][n])


@nki.jit
def matmul_resident(a_hbm: nl.NkiTensor, b_hbm: nl.NkiTensor, transposed: bool) -> nl.NkiTensor:
    """y = a.T @ b, or a @ b.T where `transposed`."""
    rows = a_hbm.shape[0] if transposed else a_hbm.shape[1]
    columns = b_hbm.shape[0] if transposed else b_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=a_hbm.dtype, buffer=nl.shared_hbm)
    a_sb = _load_tiles(a_hbm, _P, transposed)
    b_sb = _load_tiles(b_hbm, _N, transposed)
    _store_tiles(y_hbm, _product(a_sb, b_sb, a_hbm.dtype))
    return y_hbm


@nki.jit
def matmul_k_blocks(a_hbm: nl.NkiTensor, b_hbm: nl.NkiTensor, split: bool) -> nl.NkiTensor:
    """y = a.T @ b in blocks of 512 x 512 x 1024.

    `split` as the hand-written kernel: a PSUM bank and a sum of its own for each result, no copy
    before the store.  Otherwise one of each is used again and again, and results are copied once
    more before they are stored.
    """
    depth, rows = a_hbm.shape
    columns = b_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=a_hbm.dtype, buffer=nl.shared_hbm)
    block_m, block_k = 4 * _P, 8 * _P
    for n in range(0, columns, _N):
        sums_sb = _rows(rows // _P, _N, a_hbm.dtype)
        for sum_sb in sums_sb:
            nisa.memset(dst=sum_sb, value=0)
        for k in range(0, depth, block_k):
            b_sb = _rows(8, _N, b_hbm.dtype)
            for i in range(8):
                nisa.dma_copy(dst=b_sb[i], src=b_hbm[nl.ds(k + i * _P, _P), nl.ds(n, _N)])
            for m in range(0, rows, block_m):
                a_sb = _rows(8, block_m, a_hbm.dtype)
                for i in range(8):
                    nisa.dma_copy(dst=a_sb[i], src=a_hbm[nl.ds(k + i * _P, _P), nl.ds(m, block_m)])
                _add_block(sums_sb[m // _P : m // _P + 4], a_sb, b_sb, split)
        for i in range(rows // _P):
            y_sb = sums_sb[i]
            if not split:
                y_sb = nl.ndarray((_P, _N), dtype=a_hbm.dtype, buffer=nl.sbuf)
                nisa.tensor_copy(dst=y_sb, src=sums_sb[i])
            nisa.dma_copy(dst=y_hbm[nl.ds(i * _P, _P), nl.ds(n, _N)], src=y_sb)
    return y_hbm


def _add_block(
    sums_sb: list[nl.NkiTensor], a_sb: list[nl.NkiTensor], b_sb: list[nl.NkiTensor], split: bool
) -> None:
    """Add a K block's product to four results."""
    acc_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
    part_sb = nl.ndarray((_P, _N), dtype=sums_sb[0].dtype, buffer=nl.sbuf)
    for m in range(len(sums_sb)):
        if split and m > 0:
            acc_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
            part_sb = nl.ndarray((_P, _N), dtype=sums_sb[0].dtype, buffer=nl.sbuf)
        for i in range(len(a_sb)):
            nisa.nc_matmul(
                dst=acc_ps,
                stationary=a_sb[i][:, nl.ds(m * _P, _P)],
                moving=b_sb[i],
                accumulate=i > 0,
            )
        nisa.tensor_copy(dst=part_sb, src=acc_ps)
        nisa.tensor_tensor(dst=sums_sb[m], data1=sums_sb[m], data2=part_sb, op=nl.add)
