"""Kernels that stream arrays through SBUF: what DMA can do, with little arithmetic beside it.

vector_add     c = a + b, in tiles of (128, width)
exponential    y = exp(x), one tile
silu           y = x * sigmoid(x), one activation a tile
silu_composed  the same as x * 1 / (1 + exp(-x)): four instructions a half tile
adamw          theta' = 0.99999 theta - 0.001 (9 m + g) / sqrt(999 v + g g)
rotate         rotary embedding: y0 = x0 cos - x1 sin, y1 = x0 sin + x1 cos, each half a tile
rotate_whole   the same from whole tiles of x, whose second half is copied to the first partitions

Written anew after published kernels, with their loops, tiles and instructions; points.json names
the repositories.
"""

from __future__ import annotations

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def vector_add(
    a_hbm: nl.NkiTensor, b_hbm: nl.NkiTensor, width: int, mode: nisa.dge_mode
) -> nl.NkiTensor:
    """c (128, columns) = a + b; two loads, one addition and one store a tile."""
    pmax, columns = a_hbm.shape
    c_hbm = nl.ndarray(a_hbm.shape, dtype=a_hbm.dtype, buffer=nl.shared_hbm)
    for start in range(0, columns, width):
        a_sb = nl.ndarray((pmax, width), dtype=a_hbm.dtype, buffer=nl.sbuf)
        b_sb = nl.ndarray((pmax, width), dtype=a_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=a_sb, src=a_hbm[:, nl.ds(start, width)], dge_mode=mode)
        nisa.dma_copy(dst=b_sb, src=b_hbm[:, nl.ds(start, width)], dge_mode=mode)
        c_sb = nl.ndarray((pmax, width), dtype=a_hbm.dtype, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=c_sb, data1=a_sb, data2=b_sb, op=nl.add)
        nisa.dma_copy(dst=c_hbm[:, nl.ds(start, width)], src=c_sb, dge_mode=mode)
    return c_hbm


@nki.jit
def exponential(x_hbm: nl.NkiTensor) -> nl.NkiTensor:
    """y = exp(x): one load, one activation, one store."""
    y_hbm = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    x_sb = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
    y_sb = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=x_sb, src=x_hbm)
    nisa.activation(dst=y_sb, op=nl.exp, data=x_sb)
    nisa.dma_copy(dst=y_hbm, src=y_sb)
    return y_hbm


@nki.jit
def silu(x_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """y (128, tiles, width) = x * sigmoid(x), a tile at a time."""
    pmax, tiles, width = x_hbm.shape
    y_hbm = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for i in range(tiles):
        x_sb = nl.ndarray((pmax, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        y_sb = nl.ndarray((pmax, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x_sb, src=x_hbm[:, i, :], dge_mode=mode)
        nisa.activation(dst=y_sb, op=nl.silu, data=x_sb)
        nisa.dma_copy(dst=y_hbm[:, i, :], src=y_sb, dge_mode=mode)
    return y_hbm


@nki.jit
def silu_composed(x_hbm: nl.NkiTensor, mode: nisa.dge_mode) -> nl.NkiTensor:
    """y (128, tiles, width) = x / (1 + exp(-x)): loads of `width`, arithmetic on halves.

    ScalarE adds as well: by the published counters it is active for two instructions a half tile.
    """
    pmax, tiles, width = x_hbm.shape
    half = width // 2
    y_hbm = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    one_sb = nl.ndarray((pmax, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=one_sb, value=1.0)
    for i in range(tiles):
        x_sb = nl.ndarray((pmax, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        y_sb = nl.ndarray((pmax, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x_sb, src=x_hbm[:, i, :], dge_mode=mode)
        for start in range(0, width, half):
            part = nl.ds(start, half)
            e_sb = nl.ndarray((pmax, half), dtype=nl.float32, buffer=nl.sbuf)
            d_sb = nl.ndarray((pmax, half), dtype=nl.float32, buffer=nl.sbuf)
            r_sb = nl.ndarray((pmax, half), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(dst=e_sb, op=nl.exp, data=x_sb[:, part], scale=-1.0)
            nisa.activation(dst=d_sb, op=nl.copy, data=e_sb, bias=one_sb)
            nisa.reciprocal(dst=r_sb, data=d_sb)
            nisa.tensor_tensor(dst=y_sb[:, part], data1=x_sb[:, part], data2=r_sb, op=nl.multiply)
        nisa.dma_copy(dst=y_hbm[:, i, :], src=y_sb, dge_mode=mode)
    return y_hbm


@nki.jit
def adamw(
    theta_hbm: nl.NkiTensor,
    g_hbm: nl.NkiTensor,
    m_hbm: nl.NkiTensor,
    v_hbm: nl.NkiTensor,
    mode: nisa.dge_mode,
) -> nl.NkiTensor:
    """theta' of all (128, tiles, width): four loads, six instructions, one store a tile."""
    pmax, tiles, width = theta_hbm.shape
    y_hbm = nl.ndarray(theta_hbm.shape, dtype=nl.float32, buffer=nl.shared_hbm)
    for i in range(tiles):
        loaded = []
        for x_hbm in (theta_hbm, g_hbm, m_hbm, v_hbm):
            x_sb = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=x_sb, src=x_hbm[:, i, :], dge_mode=mode)
            loaded.append(x_sb)
        theta_sb, g_sb, m_sb, v_sb = loaded
        square_sb = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=square_sb, op=nl.square, data=g_sb)
        second_sb = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
        nisa.scalar_tensor_tensor(
            dst=second_sb, data=v_sb, op0=nl.multiply, operand0=999.0, op1=nl.add,
            operand1=square_sb,
        )  # fmt: skip
        scale_sb = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=scale_sb, op=nl.rsqrt, data=second_sb)
        first_sb = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
        nisa.scalar_tensor_tensor(
            dst=first_sb, data=m_sb, op0=nl.multiply, operand0=9.0, op1=nl.add, operand1=g_sb
        )
        step_sb = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
        nisa.scalar_tensor_tensor(
            dst=step_sb, data=first_sb, op0=nl.multiply, operand0=0.001, op1=nl.multiply,
            operand1=scale_sb,
        )  # fmt: skip
        y_sb = nl.ndarray((pmax, width), dtype=nl.float32, buffer=nl.sbuf)
        nisa.scalar_tensor_tensor(
            dst=y_sb, data=theta_sb, op0=nl.multiply, operand0=0.99999, op1=nl.subtract,
            operand1=step_sb,
        )  # fmt: skip
        nisa.dma_copy(dst=y_hbm[:, i, :], src=y_sb, dge_mode=mode)
    return y_hbm


@nki.jit
def rotate(
    x_hbm: nl.NkiTensor,
    cos_hbm: nl.NkiTensor,
    sin_hbm: nl.NkiTensor,
    width: int,
    mode: nisa.dge_mode,
) -> nl.NkiTensor:
    """y (2 half, columns): four loads, six products and sums, two stores a tile of `width`."""
    half, columns = cos_hbm.shape
    y_hbm = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for start in range(0, columns, width):
        part = nl.ds(start, width)
        loaded = []
        for src in (x_hbm[0:half], x_hbm[half : 2 * half], cos_hbm, sin_hbm):
            tile_sb = nl.ndarray((half, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile_sb, src=src[:, part], dge_mode=mode)
            loaded.append(tile_sb)
        x0_sb, x1_sb, cos_sb, sin_sb = loaded
        y0_sb = _combined(x0_sb, cos_sb, x1_sb, sin_sb, nl.subtract)
        nisa.dma_copy(dst=y_hbm[0:half, part], src=y0_sb, dge_mode=mode)
        y1_sb = _combined(x1_sb, cos_sb, x0_sb, sin_sb, nl.add)
        nisa.dma_copy(dst=y_hbm[half : 2 * half, part], src=y1_sb, dge_mode=mode)
    return y_hbm


@nki.jit
def rotate_whole(
    x_hbm: nl.NkiTensor,
    cos_hbm: nl.NkiTensor,
    sin_hbm: nl.NkiTensor,
    width: int,
    mode: nisa.dge_mode,
) -> nl.NkiTensor:
    """y (2 half, columns): three loads, a copy, six products and sums, one store a tile."""
    half, columns = cos_hbm.shape
    y_hbm = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    for start in range(0, columns, width):
        part = nl.ds(start, width)
        x_sb = nl.ndarray((2 * half, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=x_sb, src=x_hbm[:, part], dge_mode=mode)
        cos_sb = nl.ndarray((half, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=cos_sb, src=cos_hbm[:, part], dge_mode=mode)
        sin_sb = nl.ndarray((half, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=sin_sb, src=sin_hbm[:, part], dge_mode=mode)
        x0_sb = x_sb[0:half, :]
        x1_sb = nl.ndarray((half, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.activation(dst=x1_sb, op=nl.copy, data=x_sb[half : 2 * half, :])
        y_sb = nl.ndarray((2 * half, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
        parts = []
        for a_sb, b_sb in ((x0_sb, cos_sb), (x1_sb, cos_sb), (x0_sb, sin_sb), (x1_sb, sin_sb)):
            product_sb = nl.ndarray((half, width), dtype=x_hbm.dtype, buffer=nl.sbuf)
            nisa.tensor_tensor(dst=product_sb, data1=a_sb, data2=b_sb, op=nl.multiply)
            parts.append(product_sb)
        nisa.tensor_tensor(dst=y_sb[0:half, :], data1=parts[0], data2=parts[3], op=nl.subtract)
        nisa.tensor_tensor(dst=y_sb[half : 2 * half, :], data1=parts[1], data2=parts[2], op=nl.add)
        nisa.dma_copy(dst=y_hbm[:, part], src=y_sb, dge_mode=mode)
    return y_hbm


def _combined(
    a_sb: nl.NkiTensor, b_sb: nl.NkiTensor, c_sb: nl.NkiTensor, d_sb: nl.NkiTensor, op: object
) -> nl.NkiTensor:
    """Return (a b) op (c d)."""
    first_sb = nl.ndarray(a_sb.shape, dtype=a_sb.dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=first_sb, data1=a_sb, data2=b_sb, op=nl.multiply)
    second_sb = nl.ndarray(a_sb.shape, dtype=a_sb.dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=second_sb, data1=c_sb, data2=d_sb, op=nl.multiply)
    y_sb = nl.ndarray(a_sb.shape, dtype=a_sb.dtype, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=y_sb, data1=first_sb, data2=second_sb, op=op)
    return y_sb
