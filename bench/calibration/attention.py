"""Attention without a mask: y (S, 128) = softmax(q.T @ k) @ v.T, with q, k, v of (128, S).

three_phases  scores go to HBM, come back for the softmax, go out and come back as weights
fused         everything on chip, division by the sums after the second product

The published sources work on one tile of 128 rows after the other; their compiler unrolled these
loops, merged what was alike and put independent work between what depends on each other.  Here is
the program that their profiles show: tiles in groups, one reduction for a group's maxima, four
transposed tiles to a PSUM bank and one copy for them, copies shared by ScalarE and VectorE,
transposes ahead of the products that need them, q loaded by SyncE, k and v by GpSimdE, which also
stores y, scores stored by ScalarE.  Written anew; points.json names sources and profiles.
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl

_P, _N = 128, 512

_GROUP = 4  # tiles of rows that `fused` works on together, by its profiles
_IN_PSUM = 4  # pieces of a group's scores that stay in PSUM; VectorE and ScalarE read them there


_BY_GPSIMD = nisa.dge_mode.swdge


def _loaded(x_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """Load a whole array."""
    x_sb = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=x_sb, src=x_hbm, dge_mode=mode)
    return x_sb


def _inputs(
    q_hbm: nl.NkiTensor, k_hbm: nl.NkiTensor, v_hbm: nl.NkiTensor
) -> tuple[nl.NkiTensor, nl.NkiTensor, nl.NkiTensor]:
    """Load q, k and v."""
    q_sb = _loaded(q_hbm, nisa.dge_mode.hwdge)
    return q_sb, _loaded(k_hbm, _BY_GPSIMD), _loaded(v_hbm, _BY_GPSIMD)


def _turn(i: int) -> nisa.engine:
    """Return the engine of the i-th copy out of PSUM."""
    return nisa.engine.scalar if i % 2 == 0 else nisa.engine.vector


def _scores(q_sb: nl.NkiTensor, k_sb: nl.NkiTensor, i: int, j: int) -> nl.NkiTensor:
    """Return (128, 512) of q.T @ k in PSUM."""
    s_ps = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(
        dst=s_ps, stationary=q_sb[:, nl.ds(i * _P, _P)], moving=k_sb[:, nl.ds(j * _N, _N)]
    )
    return s_ps


def _maxima(pieces: list[nl.NkiTensor], tiles: int) -> nl.NkiTensor:
    """Return (128, tiles): minus the row maxima; `pieces` are those of the first tile, then on."""
    count = len(pieces) // tiles
    maxima_sb = nl.ndarray((_P, tiles, count), dtype=nl.float32, buffer=nl.sbuf)
    for i in range(len(pieces)):
        at = maxima_sb[:, i // count, i % count : i % count + 1]
        nisa.tensor_reduce(dst=at, op=nl.maximum, data=pieces[i], axis=1)
    low_sb = nl.ndarray((_P, tiles), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=low_sb, op=nl.maximum, data=maxima_sb, axis=2, negate=True)
    return low_sb


def _exponential(piece: nl.NkiTensor, low: nl.NkiTensor, sum_sb: nl.NkiTensor) -> nl.NkiTensor:
    """Return exp(piece - row maximum), and write its row sums."""
    piece_sb = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=piece_sb, op=nl.exp, data=piece, bias=low)
    nisa.tensor_reduce(dst=sum_sb, op=nl.add, data=piece_sb, axis=1)
    return piece_sb


def _inverse(sums_sb: nl.NkiTensor, tiles: int) -> nl.NkiTensor:
    """Return (128, tiles): one over the row sums (128, tiles, pieces)."""
    sum_sb = nl.ndarray((_P, tiles), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=sum_sb, op=nl.add, data=sums_sb, axis=2)
    inverse_sb = nl.ndarray((_P, tiles), dtype=nl.float32, buffer=nl.sbuf)
    nisa.reciprocal(dst=inverse_sb, data=sum_sb)
    return inverse_sb


def _transposed_v(v_sb: nl.NkiTensor) -> list[nl.NkiTensor]:
    """Return the (128, 128) tiles of v.T in float32."""
    tiles_sb = []
    for start in range(0, v_sb.shape[1], _N):
        t_sb = _transposed(v_sb[:, nl.ds(start, _N)], nisa.engine.scalar)
        for i in range(0, _N, _P):
            tiles_sb.append(t_sb[:, nl.ds(i, _P)])
    return tiles_sb


def _transposed(piece: nl.NkiTensor, engine: nisa.engine) -> nl.NkiTensor:
    """Return (128, 512) float32: four (128, 128) tiles, transposed; one bank, one copy."""
    t_ps = nl.ndarray((_P, _N), dtype=piece.dtype, buffer=nl.psum)
    for i in range(0, _N, _P):
        nisa.nc_transpose(
            dst=t_ps[:, nl.ds(i, _P)], data=piece[:, nl.ds(i, _P)], engine=nisa.engine.tensor
        )
    t_sb = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=t_sb, src=t_ps, engine=engine)
    return t_sb


def _weighted(p_sb: list[nl.NkiTensor], v_sb: list[nl.NkiTensor]) -> nl.NkiTensor:
    """Return 128 rows of p @ v.T in PSUM, from transposed pieces of p."""
    acc_ps = nl.ndarray((_P, _P), dtype=nl.float32, buffer=nl.psum)
    for i in range(len(v_sb)):
        nisa.nc_matmul(
            dst=acc_ps, stationary=p_sb[i // 4][:, nl.ds(i % 4 * _P, _P)], moving=v_sb[i]
        )
    return acc_ps


@nki.jit
def attention_three_phases(
    q_hbm: nl.NkiTensor, k_hbm: nl.NkiTensor, v_hbm: nl.NkiTensor
) -> nl.NkiTensor:
    """y, scores and weights by way of HBM."""
    size = q_hbm.shape[1]
    tiles, pieces = size // _P, size // _N
    y_hbm = nl.ndarray((size, _P), dtype=q_hbm.dtype, buffer=nl.shared_hbm)
    s_hbm = nl.ndarray((tiles, _P, size), dtype=nl.float32, buffer=nl.shared_hbm)
    q_sb, k_sb, v_sb = _inputs(q_hbm, k_hbm, v_hbm)
    for i in range(tiles):
        s_sb = nl.ndarray((_P, size), dtype=nl.float32, buffer=nl.sbuf)
        for j in range(pieces):
            s_ps = _scores(q_sb, k_sb, i, j)
            nisa.tensor_copy(dst=s_sb[:, nl.ds(j * _N, _N)], src=s_ps, engine=_turn(i + j))
        _store_scores(s_hbm[i], s_sb)
    v_t_sb = _transposed_v(v_sb)
    loaded = []
    for i in range(tiles):
        s_sb = _loaded(s_hbm[i], nisa.dge_mode.hwdge)
        for j in range(pieces):
            loaded.append(s_sb[:, nl.ds(j * _N, _N)])
    low_sb = _maxima(loaded, tiles)
    sums_sb = nl.ndarray((_P, tiles, pieces), dtype=nl.float32, buffer=nl.sbuf)
    e_sb = []
    for i in range(len(loaded)):
        tile, piece = i // pieces, i % pieces
        low = low_sb[:, tile : tile + 1]
        e_sb.append(_exponential(loaded[i], low, sums_sb[:, tile, piece : piece + 1]))
    inverse_sb = _inverse(sums_sb, tiles)
    for i in range(tiles):
        p_sb = nl.ndarray((_P, size), dtype=nl.float32, buffer=nl.sbuf)
        for j in range(pieces):
            nisa.tensor_scalar(
                dst=p_sb[:, nl.ds(j * _N, _N)], data=e_sb[i * pieces + j], op0=nl.multiply,
                operand0=inverse_sb[:, i : i + 1], engine=nisa.engine.vector,
            )  # fmt: skip
        _store_scores(s_hbm[i], p_sb)
    turned_sb = []
    for i in range(tiles):
        p_sb = _loaded(s_hbm[i], nisa.dge_mode.hwdge)
        for j in range(pieces):
            turned_sb.append(_transposed(p_sb[:, nl.ds(j * _N, _N)], nisa.engine.scalar))
        if i > 0:
            _product(y_hbm, turned_sb, v_t_sb, i - 1)
    _product(y_hbm, turned_sb, v_t_sb, tiles - 1)
    return y_hbm


def _store_scores(dst_hbm: nl.NkiTensor, src_sb: nl.NkiTensor) -> None:
    """Store a tile; ScalarE triggers it."""
    nisa.dma_copy(dst=dst_hbm, src=src_sb, dge_mode=nisa.dge_mode.hwdge, engine=nisa.engine.scalar)


def _product(
    y_hbm: nl.NkiTensor, turned_sb: list[nl.NkiTensor], v_t_sb: list[nl.NkiTensor], i: int
) -> None:
    """Multiply and store rows of tile i."""
    pieces = len(v_t_sb) * _P // _N
    acc_ps = _weighted(turned_sb[i * pieces : (i + 1) * pieces], v_t_sb)
    y_sb = nl.ndarray((_P, _P), dtype=y_hbm.dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=y_sb, src=acc_ps, engine=_turn(i))
    nisa.dma_copy(dst=y_hbm[nl.ds(i * _P, _P), :], src=y_sb, dge_mode=_BY_GPSIMD)


@nki.jit
def attention_fused(q_hbm: nl.NkiTensor, k_hbm: nl.NkiTensor, v_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """y, everything on chip, a group of tiles after the other."""
    size = q_hbm.shape[1]
    pieces = size // _N
    y_hbm = nl.ndarray((size, _P), dtype=q_hbm.dtype, buffer=nl.shared_hbm)
    q_sb, k_sb, v_sb = _inputs(q_hbm, k_hbm, v_hbm)
    v_t_sb = _transposed_v(v_sb)
    for group in range(0, size // _P, _GROUP):
        scores = []
        for i in range(_GROUP * pieces):
            s_ps = _scores(q_sb, k_sb, group + i // pieces, i % pieces)
            if i < _GROUP * pieces - _IN_PSUM:
                s_sb = nl.ndarray((_P, _N), dtype=nl.float32, buffer=nl.sbuf)
                nisa.tensor_copy(dst=s_sb, src=s_ps, engine=_turn(i))
                scores.append(s_sb)
            else:
                scores.append(s_ps)
        low_sb = _maxima(scores, _GROUP)
        sums_sb = nl.ndarray((_P, _GROUP, pieces), dtype=nl.float32, buffer=nl.sbuf)
        e_sb = []
        for i in range(len(scores)):
            tile, piece = i // pieces, i % pieces
            low = low_sb[:, tile : tile + 1]
            e_sb.append(_exponential(scores[i], low, sums_sb[:, tile, piece : piece + 1]))
        turned_sb = []
        for i in range(len(e_sb)):
            engine = nisa.engine.vector if i % 3 == 0 else nisa.engine.scalar
            turned_sb.append(_transposed(e_sb[i], engine))
        inverse_sb = _inverse(sums_sb, _GROUP)
        for i in range(_GROUP):
            acc_ps = _weighted(turned_sb[i * pieces : (i + 1) * pieces], v_t_sb)
            y_sb = nl.ndarray((_P, _P), dtype=y_hbm.dtype, buffer=nl.sbuf)
            nisa.tensor_scalar(
                dst=y_sb, data=acc_ps, op0=nl.multiply, operand0=inverse_sb[:, i : i + 1],
                engine=nisa.engine.vector,
            )  # fmt: skip
            rows = nl.ds((group + i) * _P, _P)
            nisa.dma_copy(dst=y_hbm[rows, :], src=y_sb, dge_mode=_BY_GPSIMD)
    return y_hbm
