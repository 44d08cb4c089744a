"""conv2d with bias and max-pool, as three authors of a course assignment wrote it.

y[co, oh, ow] = bias[co] + sum over (ci, kh, kw) of w[co, ci, kh, kw] x[ci, oh + kh, ow + kw],
then the largest of each pool x pool window; no padding, stride 1.

rows      weights loaded whole and transposed on TensorE once; image rows loaded KH times each
tiles     weights loaded tile by tile and transposed tap by tap, a tile of output channels ahead of
          the products; image once for each tile of output channels
gathered  weights copied tap by tap, element by element, inside HBM, loaded by transposing DMA, and
          copied to their place on the chip, elements KH KW apart

One image.  Written anew with the loops, tiles and instructions of the published kernels and of
their profiles; points.json names both.
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl

_P = 128
_BANK = 512  # float32 results in a PSUM bank


def _transpose(t_sb: nl.NkiTensor, w_sb: nl.NkiTensor, engine: nisa.engine) -> None:
    """t (128, 128) = w transposed on TensorE, copied out by `engine`."""
    w_ps = nl.ndarray((_P, _P), dtype=w_sb.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=w_ps, data=w_sb, engine=nisa.engine.tensor)
    nisa.tensor_copy(dst=t_sb, src=w_ps, engine=engine)


def _bias_columns(bias_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """Return (128, channel tiles): a column for each tile of output channels."""
    count = bias_hbm.shape[0] // _P
    bias_sb = nl.ndarray((_P, count), dtype=bias_hbm.dtype, buffer=nl.sbuf)
    for i in range(count):
        nisa.dma_copy(dst=bias_sb[:, i : i + 1], src=bias_hbm[nl.ds(i * _P, _P), :], dge_mode=mode)
    return bias_sb


def _pooled(y_sb: nl.NkiTensor) -> nl.NkiTensor:
    """Return (128, rows/2, columns/2): largest over pairs of rows, then over pairs of columns."""
    _, rows, columns = y_sb.shape
    pairs_sb = nl.ndarray((_P, rows // 2, columns), dtype=y_sb.dtype, buffer=nl.sbuf)
    by_rows = y_sb.reshape_dim(1, (rows // 2, 2)).permute((0, 1, 3, 2))
    nisa.tensor_reduce(dst=pairs_sb, op=nl.maximum, data=by_rows, axis=3)
    pooled_sb = nl.ndarray((_P, rows // 2, columns // 2), dtype=y_sb.dtype, buffer=nl.sbuf)
    by_columns = pairs_sb.reshape_dim(2, (columns // 2, 2))
    nisa.tensor_reduce(dst=pooled_sb, op=nl.maximum, data=by_columns, axis=3)
    return pooled_sb


@nki.jit
def conv_rows(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    bias_hbm: nl.NkiTensor,
    pool: int,
    mode: nisa.dge_mode,
) -> nl.NkiTensor:
    """y (C_out, OH, OW): strips of as many pairs of rows as a PSUM bank holds."""
    C_in, H, W = x_hbm.shape
    C_out, _, KH, KW = w_hbm.shape
    OH, OW = H - KH + 1, W - KW + 1
    y_hbm = nl.ndarray((C_out, OH // pool, OW // pool), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    w_sb = []
    for co in range(0, C_out, _P):
        raw_sb = nl.ndarray((_P, C_in, KH, KW), dtype=w_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=raw_sb, src=w_hbm[nl.ds(co, _P), :, :, :], dge_mode=mode)
        taps_sb = []
        for ci in range(0, C_in, _P):
            for kh in range(KH):
                for kw in range(KW):
                    tap = raw_sb[:, nl.ds(ci, _P), kh, kw]
                    t_sb = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.sbuf)
                    _transpose(t_sb, tap, nisa.engine.scalar)
                    taps_sb.append(t_sb)
        w_sb.append(taps_sb)
    bias_sb = _bias_columns(bias_hbm, mode)
    rows = 2 * min(_BANK // (2 * W), OH // 2)
    for oh in range(0, OH, rows):
        x_sb = []
        for _ in range(C_in // _P):
            x_sb.append(nl.ndarray((_P, KH, rows, W), dtype=x_hbm.dtype, buffer=nl.sbuf))
        for row in range(rows):
            for i in range(len(x_sb)):
                nisa.dma_copy(
                    dst=x_sb[i][:, :, row, :],
                    src=x_hbm[nl.ds(i * _P, _P), nl.ds(oh + row, KH), :],
                    dge_mode=mode,
                )
        for co in range(len(w_sb)):
            acc_ps = nl.ndarray((_P, rows, OW), dtype=nl.float32, buffer=nl.psum)
            for kh in range(KH):
                for kw in range(KW):
                    for i in range(len(x_sb)):
                        nisa.nc_matmul(
                            dst=acc_ps,
                            stationary=w_sb[co][(i * KH + kh) * KW + kw],
                            moving=x_sb[i][:, kh, :, nl.ds(kw, OW)],
                        )
            y_sb = nl.ndarray((_P, rows, OW), dtype=x_hbm.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=y_sb, src=acc_ps, engine=nisa.engine.scalar)
            column = bias_sb[:, co : co + 1].expand_dim(2)
            wide = column.broadcast(1, rows).broadcast(2, OW)
            nisa.tensor_tensor(dst=y_sb, data1=y_sb, data2=wide, op=nl.add)
            out_sb = _pooled(y_sb) if pool == 2 else y_sb
            nisa.dma_copy(
                dst=y_hbm[nl.ds(co * _P, _P), nl.ds(oh // pool, rows // pool), :],
                src=out_sb,
                dge_mode=mode,
            )
    return y_hbm


@nki.jit
def conv_tiles(
    x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor, bias_hbm: nl.NkiTensor, mode: nisa.dge_mode
) -> nl.NkiTensor:
    """y (C_out, OH, OW): each tap's weights are copied, transposed, and copied to their place.

    In the order of the published profiles, whose compiler did the transposes of a tile of output
    channels first, and then all products of that tile.
    """
    C_in, H, W = x_hbm.shape
    C_out, _, KH, KW = w_hbm.shape
    OH, OW = H - KH + 1, W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    bias_sb = _bias_columns(bias_hbm, mode)
    x_sb, raw_sb = [], []
    for co in range(0, C_out, _P):
        for ci in range(0, C_in, _P):
            tile_sb = nl.ndarray((_P, H, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile_sb, src=x_hbm[nl.ds(ci, _P), :, :], dge_mode=mode)
            x_sb.append(tile_sb)
            tile_sb = nl.ndarray((_P, _P, KH, KW), dtype=w_hbm.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile_sb, src=w_hbm[nl.ds(co, _P), nl.ds(ci, _P), :, :], dge_mode=mode)
            raw_sb.append(tile_sb)
    blocks = C_in // _P
    taps_sb, w_sb = [], []
    for i in range(blocks):
        taps_sb.append(_taps(raw_sb[i]))
        w_sb.append(_turned(taps_sb[i], KH, KW))
    for co in range(C_out // _P):
        # The next tile's taps are copied before this one's result, and turned after its products.
        for i in range(len(taps_sb), min((co + 2) * blocks, len(raw_sb))):
            taps_sb.append(_taps(raw_sb[i]))
        acc_ps = nl.ndarray((_P, OH, OW), dtype=nl.float32, buffer=nl.psum)
        for i in range(co * blocks, (co + 1) * blocks):
            for kh in range(KH):
                for kw in range(KW):
                    nisa.nc_matmul(
                        dst=acc_ps,
                        stationary=w_sb[i][:, :, kh, kw],
                        moving=x_sb[i][:, nl.ds(kh, OH), nl.ds(kw, OW)],
                    )
        y_sb = nl.ndarray((_P, OH, OW), dtype=x_hbm.dtype, buffer=nl.sbuf)
        wide = bias_sb[:, co : co + 1].expand_dim(2).broadcast(1, OH).broadcast(2, OW)
        nisa.tensor_tensor(dst=y_sb, data1=acc_ps, data2=wide, op=nl.add)
        nisa.dma_copy(dst=y_hbm[nl.ds(co * _P, _P), :, :], src=y_sb, dge_mode=mode)
        for i in range(len(w_sb), len(taps_sb)):
            w_sb.append(_turned(taps_sb[i], KH, KW))
    return y_hbm


def _taps(raw_sb: nl.NkiTensor) -> list[nl.NkiTensor]:
    """Return the (co, ci) tiles of w (co, ci, KH, KW); ScalarE copies two of nine."""
    _, _, KH, KW = raw_sb.shape
    taps_sb = []
    for i in range(KH * KW):
        tap_sb = nl.ndarray((_P, _P), dtype=raw_sb.dtype, buffer=nl.sbuf)
        engine = nisa.engine.scalar if i % 4 == 3 else nisa.engine.vector
        nisa.tensor_copy(dst=tap_sb, src=raw_sb[:, :, i // KW, i % KW], engine=engine)
        taps_sb.append(tap_sb)
    return taps_sb


def _turned(taps_sb: list[nl.NkiTensor], KH: int, KW: int) -> nl.NkiTensor:
    """Return w (ci, co, KH, KW); ScalarE and VectorE share the copies out of PSUM."""
    w_sb = nl.ndarray((_P, _P, KH, KW), dtype=taps_sb[0].dtype, buffer=nl.sbuf)
    for i in range(KH * KW):
        engine = nisa.engine.scalar if i % 2 else nisa.engine.vector
        _transpose(w_sb[:, :, i // KW, i % KW], taps_sb[i], engine)
    return w_sb


@nki.jit
def conv_gathered(
    x_hbm: nl.NkiTensor, w_hbm: nl.NkiTensor, bias_hbm: nl.NkiTensor, mode: nisa.dge_mode
) -> nl.NkiTensor:
    """y (C_out, OH, OW): two DMAs for the weights of each tap, the first element by element."""
    C_in, H, W = x_hbm.shape
    C_out, _, KH, KW = w_hbm.shape
    OH, OW = H - KH + 1, W - KW + 1
    y_hbm = nl.ndarray((C_out, OH, OW), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    blocks = C_in // _P
    w_sb = nl.ndarray((_P, C_out // _P * C_in, KH, KW), dtype=w_hbm.dtype, buffer=nl.sbuf)
    for co in range(0, C_out, _P):
        for ci in range(0, C_in, _P):
            first = co * blocks + ci
            for kh in range(KH):
                for kw in range(KW):
                    tap_hbm = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.hbm)
                    nisa.dma_copy(
                        dst=tap_hbm, src=w_hbm[nl.ds(co, _P), nl.ds(ci, _P), kh, kw], dge_mode=mode
                    )
                    tap_sb = nl.ndarray((_P, _P), dtype=w_hbm.dtype, buffer=nl.sbuf)
                    nisa.dma_transpose(dst=tap_sb, src=tap_hbm, dge_mode=mode)
                    nisa.tensor_copy(dst=w_sb[:, nl.ds(first, _P), kh, kw], src=tap_sb)
    rows = min(_BANK // OW, OH)
    for co in range(C_out // _P):
        y_sb = nl.ndarray((_P, OH, OW), dtype=x_hbm.dtype, buffer=nl.sbuf)
        bias_sb = nl.ndarray((_P, 1), dtype=bias_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=bias_sb, src=bias_hbm[nl.ds(co * _P, _P), :], dge_mode=mode)
        for oh in range(0, OH, rows):
            acc_ps = nl.ndarray((_P, rows, OW), dtype=nl.float32, buffer=nl.psum)
            for ci in range(blocks):
                x_sb = nl.ndarray((_P, rows + KH - 1, W), dtype=x_hbm.dtype, buffer=nl.sbuf)
                nisa.dma_copy(
                    dst=x_sb,
                    src=x_hbm[nl.ds(ci * _P, _P), nl.ds(oh, rows + KH - 1), :],
                    dge_mode=mode,
                )
                for kh in range(KH):
                    for kw in range(KW):
                        nisa.nc_matmul(
                            dst=acc_ps,
                            stationary=w_sb[:, nl.ds((co * blocks + ci) * _P, _P), kh, kw],
                            moving=x_sb[:, nl.ds(kh, rows), nl.ds(kw, OW)],
                        )
            wide = bias_sb.expand_dim(2).broadcast(1, rows).broadcast(2, OW)
            nisa.tensor_tensor(dst=y_sb[:, nl.ds(oh, rows), :], data1=acc_ps, data2=wide, op=nl.add)
        nisa.dma_copy(dst=y_hbm[nl.ds(co * _P, _P), :, :], src=y_sb, dge_mode=mode)
    return y_hbm
