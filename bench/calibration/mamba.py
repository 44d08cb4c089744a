"""The state-space sum of Mamba in three steps of the vendor's tutorial.

y[c, t] = sum over n of C[n, t] h_n[c, t],
h_n[c, t] = exp(delta[c, t] A[c, n]) h_n[c, t - 1] + delta[c, t] u[c, t] B[n, t]

reload   delta and u are loaded for every state
reuse    they are loaded once for 128 channels
tiled    as reuse, with the sequence in pieces of 512 inside the loop over states

Rows of B and C are spread over the 128 partitions by a product with ones, the old compiler's way of
broadcasting across partitions: it kept TensorE busy in published profiles of such kernels.  Written
anew in the tutorial's loop order; points.json names the page.
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl

_P, _N = 128, 512


def _loaded(src_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """Load a view of two dimensions."""
    x_sb = nl.ndarray(src_hbm.shape, dtype=src_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=x_sb, src=src_hbm, dge_mode=mode)
    return x_sb


def _zeros(columns: int) -> nl.NkiTensor:
    """Return (128, columns) of zeros."""
    x_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=x_sb, value=0)
    return x_sb


def _times_row(x_sb: nl.NkiTensor, row_sb: nl.NkiTensor, ones_sb: nl.NkiTensor) -> nl.NkiTensor:
    """Return x (128, columns) times a row (1, columns)."""
    columns = row_sb.shape[1]
    y_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
    for start in range(0, columns, _N):
        part = nl.ds(start, min(_N, columns - start))
        row_ps = nl.ndarray((_P, min(_N, columns - start)), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul(dst=row_ps, stationary=ones_sb, moving=row_sb[:, part])
        nisa.tensor_tensor(dst=y_sb[:, part], data1=x_sb[:, part], data2=row_ps, op=nl.multiply)
    return y_sb


def _state(
    sum_sb: nl.NkiTensor,
    delta_sb: nl.NkiTensor,
    u_sb: nl.NkiTensor,
    a_sb: nl.NkiTensor,
    b_hbm: nl.NkiTensor,
    c_hbm: nl.NkiTensor,
    first: float | nl.NkiTensor,
    ones_sb: nl.NkiTensor,
    mode: nisa.dge_mode,
) -> nl.NkiTensor:
    """Add one state's part to a piece of y; return h of the piece."""
    columns = delta_sb.shape[1]
    decay_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=decay_sb, op=nl.exp, data=delta_sb, scale=a_sb)
    b_sb = _loaded(b_hbm, mode)
    input_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=input_sb, data1=delta_sb, data2=u_sb, op=nl.multiply)
    driven_sb = _times_row(input_sb, b_sb, ones_sb)
    h_sb = nl.ndarray((_P, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor_scan(
        dst=h_sb, data0=decay_sb, data1=driven_sb, initial=first, op0=nl.multiply, op1=nl.add
    )
    c_sb = _loaded(c_hbm, mode)
    part_sb = _times_row(h_sb, c_sb, ones_sb)
    nisa.tensor_tensor(dst=sum_sb, data1=sum_sb, data2=part_sb, op=nl.add)
    return h_sb


@nki.jit
def mamba_whole(
    delta_hbm: nl.NkiTensor,
    u_hbm: nl.NkiTensor,
    a_hbm: nl.NkiTensor,
    b_hbm: nl.NkiTensor,
    c_hbm: nl.NkiTensor,
    reload: bool,
    mode: nisa.dge_mode,
) -> nl.NkiTensor:
    """y (channels, T), the whole sequence at once; `reload` loads delta and u for each state."""
    channels, length = delta_hbm.shape
    y_hbm = nl.ndarray((channels, length), dtype=nl.float32, buffer=nl.shared_hbm)
    ones_sb = nl.ndarray((1, _P), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=ones_sb, value=1)
    for start in range(0, channels, _P):
        rows = nl.ds(start, _P)
        sum_sb = _zeros(length)
        delta_sb = _loaded(delta_hbm[rows, :], mode)
        u_sb = _loaded(u_hbm[rows, :], mode)
        for n in range(a_hbm.shape[1]):
            if reload and n > 0:
                delta_sb = _loaded(delta_hbm[rows, :], mode)
                u_sb = _loaded(u_hbm[rows, :], mode)
            a_sb = _loaded(a_hbm[rows, n : n + 1], mode)
            _state(
                sum_sb, delta_sb, u_sb, a_sb, b_hbm[n : n + 1, :], c_hbm[n : n + 1, :], 0.0,
                ones_sb, mode,
            )  # fmt: skip
        nisa.dma_copy(dst=y_hbm[rows, :], src=sum_sb, dge_mode=mode)
    return y_hbm
