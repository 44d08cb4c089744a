"""Products with a root-mean-square norm before or after them, weights resident in SBUF.

rmsnorm_matmul      y = (x / rms(x)) @ w, norm over K; with a residual, x + z takes the place of x
matmul_add_rmsnorm  y = s / rms(s) * g with s = x @ w + z, norm over N

Each tile of 128 rows: norm, transposes of the K tiles on TensorE, then sums over K in one PSUM bank
for every 512 columns.  float32.  Written anew with the loops and instructions of the published
kernels; points.json names them.
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl

_P, _N = 128, 512


def _resident(w_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> list[nl.NkiTensor]:
    """Load w (K, N) as tiles of 128 rows."""
    tiles_sb = []
    for k in range(0, w_hbm.shape[0], _P):
        tile_sb = nl.ndarray((_P, w_hbm.shape[1]), dtype=w_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile_sb, src=w_hbm[nl.ds(k, _P), :], dge_mode=mode)
        tiles_sb.append(tile_sb)
    return tiles_sb


def _inverse_rms(x_sb: nl.NkiTensor) -> nl.NkiTensor:
    """Return (128, 1): 1 / sqrt(mean of squares)."""
    square_sb = nl.ndarray(x_sb.shape, dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=square_sb, op=nl.square, data=x_sb)
    sum_sb = nl.ndarray((_P, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=sum_sb, op=nl.add, data=square_sb, axis=1)
    inverse_sb = nl.ndarray((_P, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=inverse_sb, op=nl.rsqrt, data=sum_sb, scale=1.0 / x_sb.shape[1])
    return inverse_sb


def _transposed(x_sb: nl.NkiTensor) -> list[nl.NkiTensor]:
    """Return the (128, 128) tiles of x, transposed; a copy for each, on VectorE."""
    tiles_sb = []
    for k in range(0, x_sb.shape[1], _P):
        t_ps = nl.ndarray((_P, _P), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_transpose(dst=t_ps, data=x_sb[:, nl.ds(k, _P)], engine=nisa.engine.tensor)
        t_sb = nl.ndarray((_P, _P), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=t_sb, src=t_ps, engine=nisa.engine.vector)
        tiles_sb.append(t_sb)
    return tiles_sb


def _product(x_sb: list[nl.NkiTensor], w_sb: list[nl.NkiTensor], column: int) -> nl.NkiTensor:
    """Return (128, 512) of x @ w in PSUM."""
    acc_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
    for k in range(len(w_sb)):
        nisa.nc_matmul(dst=acc_ps, stationary=x_sb[k], moving=w_sb[k][:, nl.ds(column, _N)])
    return acc_ps


@nki.jit
def rmsnorm_matmul(
    x_hbm: nl.NkiTensor, z_hbm: nl.NkiTensor | None, w_hbm: nl.NkiTensor, mode: nisa.dge_mode
) -> nl.NkiTensor:
    """y (M, N); `z_hbm` is a residual of x's shape, or None."""
    rows, depth = x_hbm.shape
    columns = w_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.shared_hbm)
    w_sb = _resident(w_hbm, mode)
    for m in range(0, rows, _P):
        x_sb = nl.ndarray((_P, depth), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=x_sb, src=x_hbm[nl.ds(m, _P), :], dge_mode=mode)
        if z_hbm is not None:
            z_sb = nl.ndarray((_P, depth), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=z_sb, src=z_hbm[nl.ds(m, _P), :], dge_mode=mode)
            sum_sb = nl.ndarray((_P, depth), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_tensor(dst=sum_sb, data1=x_sb, data2=z_sb, op=nl.add)
            x_sb = sum_sb
        inverse_sb = _inverse_rms(x_sb)
        scaled_sb = nl.ndarray((_P, depth), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=scaled_sb, data=x_sb, op0=nl.multiply, operand0=inverse_sb,
            engine=nisa.engine.vector,
        )  # fmt: skip
        t_sb = _transposed(scaled_sb)
        for n in range(0, columns, _N):
            acc_ps = _product(t_sb, w_sb, n)
            y_sb = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(dst=y_sb, src=acc_ps, engine=nisa.engine.scalar)
            nisa.dma_copy(dst=y_hbm[nl.ds(m, _P), nl.ds(n, _N)], src=y_sb, dge_mode=mode)
    return y_hbm


@nki.jit
def matmul_add_rmsnorm(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    z_hbm: nl.NkiTensor,
    g_hbm: nl.NkiTensor,
    mode: nisa.dge_mode,
) -> nl.NkiTensor:
    """y (M, N), with z (M, N) and g (1, N)."""
    rows, depth = x_hbm.shape
    columns = w_hbm.shape[1]
    y_hbm = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.shared_hbm)
    g_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=g_sb, src=g_hbm.broadcast(0, _P), dge_mode=mode)
    w_sb = _resident(w_hbm, mode)
    for m in range(0, rows, _P):
        x_sb = nl.ndarray((_P, depth), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=x_sb, src=x_hbm[nl.ds(m, _P), :], dge_mode=mode)
        t_sb = _transposed(x_sb)
        s_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
        for n in range(0, columns, _N):
            acc_ps = _product(t_sb, w_sb, n)
            z_sb = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=z_sb, src=z_hbm[nl.ds(m, _P), nl.ds(n, _N)], dge_mode=mode)
            nisa.tensor_tensor(dst=s_sb[:, nl.ds(n, _N)], data1=acc_ps, data2=z_sb, op=nl.add)
        inverse_sb = _inverse_rms(s_sb)
        scaled_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(
            dst=scaled_sb, data=s_sb, op0=nl.multiply, operand0=inverse_sb,
            engine=nisa.engine.vector,
        )  # fmt: skip
        y_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=y_sb, data1=scaled_sb, data2=g_sb, op=nl.multiply)
        nisa.dma_copy(dst=y_hbm[nl.ds(m, _P), :], src=y_sb, dge_mode=mode)
    return y_hbm
