"""The kernels of the ladder: each is the one before it with one fault less.

    y[co, oh, ow] = sum over (ci, kh, kw) of w[co, ci, kh, kw] * x[ci, oh + kh, ow + kw]

One image, 3x3 taps, stride 1, no padding, channels in tiles of exactly 128: all that would hide the
point is left out.  The functions are long-winded on purpose, so that the difference between two
neighbours is what is learned, and stand apart from nkiconv.kernels: those are for use, these for
reading.

Shapes
------
x_hbm  (C_in, H, W)            HBM
w_hbm  (C_out, C_in, KH, KW)   HBM, as PyTorch has it; of all but the first (C_in, KH, KW, C_out)
y_hbm  (C_out, OH, OW)         HBM
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl

_P = 128  # partitions, and rows and columns of TensorE's array
_BANK = 512  # float32 results that a PSUM bank holds per partition
_PIECE = 128  # columns of a matmul, as long as nobody thought about it


def _transposed_weights(w_hbm: nl.NkiTensor, co: int, ci: int, kh: int, kw: int) -> nl.NkiTensor:
    """w_sb (ci, co) of one tap, by way of TensorE: single elements loaded, then transposed."""
    raw_sb = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=raw_sb, src=w_hbm[co : co + _P, ci : ci + _P, kh, kw])
    w_ps = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=w_ps, data=raw_sb, engine=nisa.engine.tensor)
    w_sb = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=w_sb, src=w_ps)
    return w_sb


def _store_one_by_one(y_hbm: nl.NkiTensor, acc_ps: nl.NkiTensor, co: int, first: int) -> None:
    """y_hbm[co, oh, ow] = acc_ps, a transfer for each output."""
    OW = y_hbm.shape[2]
    y_sb = nl.ndarray(acc_ps.shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=y_sb, src=acc_ps)
    for i in range(acc_ps.shape[1]):
        oh = (first + i) // OW
        ow = (first + i) % OW
        nisa.dma_copy(dst=y_hbm[co : co + _P, oh, ow : ow + 1], src=y_sb[:, i : i + 1])


@nki.jit
def naive(x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """Six faults at once."""
    C_in, H, W = x_hbm.shape
    C_out, _, KH, KW = w_hbm.shape
    OH = H - KH + 1
    OW = W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for co in range(0, C_out, _P):
        for first in range(0, OH * OW, _BANK):
            size = min(_BANK, OH * OW - first)
            acc_ps = nl.ndarray((_P, size), dtype=nl.float32, buffer=nl.psum)
            for ci in range(0, C_in, _P):
                for kh in range(KH):
                    for kw in range(KW):
                        x_sb = nl.ndarray((_P, H, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(dst=x_sb, src=x_hbm[ci : ci + _P, :, :])
                        w_sb = _transposed_weights(w_hbm, co, ci, kh, kw)
                        columns_sb = nl.ndarray((_P, size), dtype=x_hbm.dtype, buffer=nl.sbuf)
                        for i in range(size):
                            ih = (first + i) // OW + kh
                            iw = (first + i) % OW + kw
                            nisa.tensor_copy(
                                dst=columns_sb[:, i : i + 1], src=x_sb[:, ih, iw : iw + 1]
                            )
                        for start in range(0, size, _PIECE):
                            end = min(start + _PIECE, size)
                            nisa.nc_matmul(
                                dst=acc_ps[:, start:end],
                                stationary=w_sb,
                                moving=columns_sb[:, start:end],
                                accumulate=ci + kh + kw > 0,
                            )
            _store_one_by_one(y_hbm, acc_ps, co, first)
    return y_hbm


@nki.jit
def packed_weights(x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """The host brought weights into the order (C_in, KH, KW, C_out): no transposes."""
    C_in, H, W = x_hbm.shape
    _, KH, KW, C_out = w_hbm.shape
    OH = H - KH + 1
    OW = W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for co in range(0, C_out, _P):
        for first in range(0, OH * OW, _BANK):
            size = min(_BANK, OH * OW - first)
            acc_ps = nl.ndarray((_P, size), dtype=nl.float32, buffer=nl.psum)
            for ci in range(0, C_in, _P):
                for kh in range(KH):
                    for kw in range(KW):
                        x_sb = nl.ndarray((_P, H, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(dst=x_sb, src=x_hbm[ci : ci + _P, :, :])
                        w_sb = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(dst=w_sb, src=w_hbm[ci : ci + _P, kh, kw, co : co + _P])
                        columns_sb = nl.ndarray((_P, size), dtype=x_hbm.dtype, buffer=nl.sbuf)
                        for i in range(size):
                            ih = (first + i) // OW + kh
                            iw = (first + i) % OW + kw
                            nisa.tensor_copy(
                                dst=columns_sb[:, i : i + 1], src=x_sb[:, ih, iw : iw + 1]
                            )
                        for start in range(0, size, _PIECE):
                            end = min(start + _PIECE, size)
                            nisa.nc_matmul(
                                dst=acc_ps[:, start:end],
                                stationary=w_sb,
                                moving=columns_sb[:, start:end],
                                accumulate=ci + kh + kw > 0,
                            )
            _store_one_by_one(y_hbm, acc_ps, co, first)
    return y_hbm


@nki.jit
def stored_at_once(x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """A tile of results leaves in one transfer."""
    C_in, H, W = x_hbm.shape
    _, KH, KW, C_out = w_hbm.shape
    OH = H - KH + 1
    OW = W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for co in range(0, C_out, _P):
        for first in range(0, OH * OW, _BANK):
            size = min(_BANK, OH * OW - first)
            acc_ps = nl.ndarray((_P, size), dtype=nl.float32, buffer=nl.psum)
            for ci in range(0, C_in, _P):
                for kh in range(KH):
                    for kw in range(KW):
                        x_sb = nl.ndarray((_P, H, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(dst=x_sb, src=x_hbm[ci : ci + _P, :, :])
                        w_sb = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(dst=w_sb, src=w_hbm[ci : ci + _P, kh, kw, co : co + _P])
                        columns_sb = nl.ndarray((_P, size), dtype=x_hbm.dtype, buffer=nl.sbuf)
                        for i in range(size):
                            ih = (first + i) // OW + kh
                            iw = (first + i) % OW + kw
                            nisa.tensor_copy(
                                dst=columns_sb[:, i : i + 1], src=x_sb[:, ih, iw : iw + 1]
                            )
                        for start in range(0, size, _PIECE):
                            end = min(start + _PIECE, size)
                            nisa.nc_matmul(
                                dst=acc_ps[:, start:end],
                                stationary=w_sb,
                                moving=columns_sb[:, start:end],
                                accumulate=ci + kh + kw > 0,
                            )
            y_sb = nl.ndarray((_P, size), dtype=y_hbm.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=y_sb, src=acc_ps)
            y_flat = y_hbm.reshape((C_out, OH * OW))
            nisa.dma_copy(dst=y_flat[co : co + _P, first : first + size], src=y_sb)
    return y_hbm


@nki.jit
def read_in_place(x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """Tiles are whole rows, and the matmul reads them where they are: no copies."""
    C_in, H, W = x_hbm.shape
    _, KH, KW, C_out = w_hbm.shape
    OH = H - KH + 1
    OW = W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for co in range(0, C_out, _P):
        for oh in range(0, OH, _BANK // OW):
            rows = min(_BANK // OW, OH - oh)
            acc_ps = nl.ndarray((_P, rows, OW), dtype=nl.float32, buffer=nl.psum)
            for ci in range(0, C_in, _P):
                for kh in range(KH):
                    for kw in range(KW):
                        x_sb = nl.ndarray((_P, H, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(dst=x_sb, src=x_hbm[ci : ci + _P, :, :])
                        w_sb = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(dst=w_sb, src=w_hbm[ci : ci + _P, kh, kw, co : co + _P])
                        for row in range(0, rows, _PIECE // OW):
                            end = min(row + _PIECE // OW, rows)
                            nisa.nc_matmul(
                                dst=acc_ps[:, row:end, :],
                                stationary=w_sb,
                                moving=x_sb[:, oh + kh + row : oh + kh + end, kw : kw + OW],
                                accumulate=ci + kh + kw > 0,
                            )
            y_sb = nl.ndarray((_P, rows, OW), dtype=y_hbm.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=y_sb, src=acc_ps)
            nisa.dma_copy(dst=y_hbm[co : co + _P, oh : oh + rows, :], src=y_sb)
    return y_hbm


@nki.jit
def needed_rows(x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """Only the rows that a tile needs are loaded."""
    C_in, H, W = x_hbm.shape
    _, KH, KW, C_out = w_hbm.shape
    OH = H - KH + 1
    OW = W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for co in range(0, C_out, _P):
        for oh in range(0, OH, _BANK // OW):
            rows = min(_BANK // OW, OH - oh)
            acc_ps = nl.ndarray((_P, rows, OW), dtype=nl.float32, buffer=nl.psum)
            for ci in range(0, C_in, _P):
                for kh in range(KH):
                    for kw in range(KW):
                        x_sb = nl.ndarray((_P, rows, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(
                            dst=x_sb, src=x_hbm[ci : ci + _P, oh + kh : oh + kh + rows, :]
                        )
                        w_sb = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.sbuf)
                        nisa.dma_copy(dst=w_sb, src=w_hbm[ci : ci + _P, kh, kw, co : co + _P])
                        for row in range(0, rows, _PIECE // OW):
                            end = min(row + _PIECE // OW, rows)
                            nisa.nc_matmul(
                                dst=acc_ps[:, row:end, :],
                                stationary=w_sb,
                                moving=x_sb[:, row:end, kw : kw + OW],
                                accumulate=ci + kh + kw > 0,
                            )
            y_sb = nl.ndarray((_P, rows, OW), dtype=y_hbm.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=y_sb, src=acc_ps)
            nisa.dma_copy(dst=y_hbm[co : co + _P, oh : oh + rows, :], src=y_sb)
    return y_hbm


@nki.jit
def loaded_once(x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """x and w are loaded once; a tap is an offset into what is there."""
    C_in, H, W = x_hbm.shape
    _, KH, KW, C_out = w_hbm.shape
    OH = H - KH + 1
    OW = W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    x_sbs = []
    w_sbs = []
    for ci in range(0, C_in, _P):
        x_sb = nl.ndarray((_P, H, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x_sb, src=x_hbm[ci : ci + _P, :, :])
        x_sbs.append(x_sb)
        w_sb = nl.ndarray((_P, KH, KW, C_out), dtype=w_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=w_sb, src=w_hbm[ci : ci + _P, :, :, :])
        w_sbs.append(w_sb)
    for co in range(0, C_out, _P):
        for oh in range(0, OH, _BANK // OW):
            rows = min(_BANK // OW, OH - oh)
            acc_ps = nl.ndarray((_P, rows, OW), dtype=nl.float32, buffer=nl.psum)
            for ci in range(0, C_in, _P):
                for kh in range(KH):
                    for kw in range(KW):
                        x_sb = x_sbs[ci // _P]
                        w_sb = w_sbs[ci // _P][:, kh, kw, co : co + _P]
                        top = oh + kh
                        for row in range(0, rows, _PIECE // OW):
                            end = min(row + _PIECE // OW, rows)
                            nisa.nc_matmul(
                                dst=acc_ps[:, row:end, :],
                                stationary=w_sb,
                                moving=x_sb[:, top + row : top + end, kw : kw + OW],
                                accumulate=ci + kh + kw > 0,
                            )
            y_sb = nl.ndarray((_P, rows, OW), dtype=y_hbm.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=y_sb, src=acc_ps)
            nisa.dma_copy(dst=y_hbm[co : co + _P, oh : oh + rows, :], src=y_sb)
    return y_hbm


@nki.jit
def full_banks(x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """A matmul fills a whole bank: all rows of results that 512 columns hold."""
    C_in, H, W = x_hbm.shape
    _, KH, KW, C_out = w_hbm.shape
    OH = H - KH + 1
    OW = W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    x_sbs = []
    w_sbs = []
    for ci in range(0, C_in, _P):
        x_sb = nl.ndarray((_P, H, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x_sb, src=x_hbm[ci : ci + _P, :, :])
        x_sbs.append(x_sb)
        w_sb = nl.ndarray((_P, KH, KW, C_out), dtype=w_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=w_sb, src=w_hbm[ci : ci + _P, :, :, :])
        w_sbs.append(w_sb)
    for co in range(0, C_out, _P):
        for oh in range(0, OH, _BANK // OW):
            rows = min(_BANK // OW, OH - oh)
            acc_ps = nl.ndarray((_P, rows, OW), dtype=nl.float32, buffer=nl.psum)
            for ci in range(0, C_in, _P):
                for kh in range(KH):
                    for kw in range(KW):
                        x_sb = x_sbs[ci // _P]
                        w_sb = w_sbs[ci // _P][:, kh, kw, co : co + _P]
                        top = oh + kh
                        nisa.nc_matmul(
                            dst=acc_ps,
                            stationary=w_sb,
                            moving=x_sb[:, top : top + rows, kw : kw + OW],
                            accumulate=ci + kh + kw > 0,
                        )
            y_sb = nl.ndarray((_P, rows, OW), dtype=y_hbm.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=y_sb, src=acc_ps)
            nisa.dma_copy(dst=y_hbm[co : co + _P, oh : oh + rows, :], src=y_sb)
    return y_hbm
