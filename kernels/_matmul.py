"""Matrix products of an image's channels, in tiles: what `matmul` and the pointwise kernel share.

y[n, m, r, q] = act(scale[m] * z + bias[m] + residual[n, m, r, q])
z = sum over k of w[k, m] * x[n, k, r*s_r, q*s_q]

Shapes
------
x  (N, K, H, W)                  f32 f16 bf16  HBM
w  (partitions, T_m, T_k, M')    as x, or bf16 for f32  HBM, arranged (_matmul_plan.py)
y  (N, M, R, Q)                  as x          HBM

Neighbouring channels share a partition: partition p has k = p*T_k + t in tile t.  A transfer then
moves T_k planes in one run, which is what makes planes of 7x7 pixels cheap, and no instruction is
spent on it: the order is that of the weights.  `_matmul_plan` says which parts are in SBUF when.

Few channels leave rows and columns of the array idle.  Then `stack` pieces of an image share it,
with the weights as blocks on the stationary operand's diagonal.
"""

from __future__ import annotations

import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._epilogue import evict, load_table
from nkiconv.kernels._matmul_plan import Box, Group, MatmulPlan
from nkiconv.kernels._plan import Tile
from nkiconv.kernels._strip import transfer_mode


def multiply(
    y: nl.NkiTensor,
    x: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual: nl.NkiTensor | None,
    plan: MatmulPlan,
) -> None:
    """Write y, visit by visit; each multiplies a group of pixels by a chunk of weights."""
    load_table(plan.epilogue)
    scale_sb, bias_sb = None, None
    x_sbs: list[nl.NkiTensor] = []
    w_sbs: list[nl.NkiTensor] = []
    for i_visit in range(len(plan.visits)):
        visit = plan.visits[i_visit]
        group, chunk = plan.groups[visit.i_group], plan.chunks[visit.i_chunk]
        if visit.load_x:  # first, since stacked weights have to wait for zeros
            _keep(x_sbs, visit.i_group, load_moving(x, group, plan))
        if visit.load_w:
            w_sb = load_stationary(w_hbm, chunk, visit.loads, plan)
            _keep(w_sbs, visit.i_chunk, w_sb)
        if i_visit == 0:
            scale_sb = load_vector(scale_hbm, plan)
            bias_sb = load_vector(bias_hbm, plan)
        for part in visit.parts:
            residual_sb = None
            if residual is not None:
                residual_sb = _result_tile(residual.dtype, group, part, plan)
                copy_results(residual, residual_sb, group.box, part, plan, False)
            y_sb = _result_tile(y.dtype, group, part, plan)
            for tile in group.tiles:
                for i_m in range(part.start, part.start + part.size):
                    i_w = i_m - chunk.start
                    acc_ps = accumulate(
                        w_sbs[visit.i_chunk], x_sbs[visit.i_group], tile, i_w, i_m, plan
                    )
                    _evict(y_sb, acc_ps, scale_sb, bias_sb, residual_sb, tile, i_m, part, plan)
            copy_results(y, y_sb, group.box, part, plan, True)


def _keep(tensors: list[nl.NkiTensor], i: int, tensor: nl.NkiTensor) -> None:
    """tensors[i] = tensor; each is loaded after those before it, perhaps again later."""
    if i < len(tensors):
        tensors[i] = tensor
    else:
        tensors.append(tensor)


def load_stationary(
    w_hbm: nl.NkiTensor, chunk: Tile, loads: tuple[Tile, ...], plan: MatmulPlan
) -> nl.NkiTensor:
    """w_sb (k, tile of m, tile of k, m): the chunk's weights, on the diagonal where stacked."""
    k, m = w_hbm.shape[0], w_hbm.shape[3]
    shape = (k * plan.stack, chunk.size, w_hbm.shape[2], m * plan.stack)
    w_sb = nl.ndarray(shape, dtype=w_hbm.dtype, buffer=nl.sbuf)
    if plan.stack > 1:
        _zero(w_sb)
    for load in loads:
        i_w = load.start - chunk.start
        for i in range(plan.stack):
            nisa.dma_copy(
                dst=w_sb[nl.ds(i * k, k), nl.ds(i_w, load.size), :, nl.ds(i * m, m)],
                src=w_hbm[:, nl.ds(load.start, load.size), :, :],
                dge_mode=nisa.dge_mode.none,
            )
    return w_sb


def _zero(w_sb: nl.NkiTensor) -> None:
    """Zero a tensor, half of it on each of two engines."""
    half = w_sb.shape[1] // 2
    if half > 0:
        nisa.memset(dst=w_sb[:, 0:half, :, :], value=0.0, engine=nisa.engine.gpsimd)
    nisa.memset(dst=w_sb[:, half : w_sb.shape[1], :, :], value=0.0, engine=nisa.engine.vector)


def load_moving(x: nl.NkiTensor, group: Group, plan: MatmulPlan) -> nl.NkiTensor:
    """x_sb (k, images, tile of k, rows, cols): the group's pixels, cast where w is bfloat16."""
    k = plan.k
    images, rows, cols = group.box.images, group.x_rows, group.x_cols
    shape = (plan.stack * k.partitions, images.size, k.tiles, rows.size, cols.size)
    x_sb = nl.ndarray(shape, dtype=plan.moving_dtype, buffer=nl.sbuf)
    if plan.stack > 1:
        nisa.dma_copy(
            dst=x_sb,
            src=_stacked(x, 1, images, Tile(0, 1), cols, plan),
            dge_mode=nisa.dge_mode.none,
        )
        return x_sb
    end = rows.start + (rows.size - 1) * plan.x_row_step + 1
    pixels = x[
        nl.ds(images.start, images.size), :, rows.start : end : plan.x_row_step,
        nl.ds(cols.start, cols.size),
    ]  # fmt: skip
    dealt = pixels[:, 0 : k.full * k.tiles, :, :].reshape_dim(1, (k.full, k.tiles))
    nisa.dma_copy(
        dst=x_sb[0 : k.full, :, :, :, :],
        src=dealt.permute((1, 0, 2, 3, 4)),
        dge_mode=transfer_mode(x),
    )
    if k.rest > 0:
        nisa.dma_copy(
            dst=x_sb[k.full : k.full + 1, :, 0 : k.rest, :, :],
            src=pixels[:, k.full * k.tiles : k.size, :, :],
            dge_mode=transfer_mode(x),
        )
    return x_sb


def _stacked(
    tensor: nl.NkiTensor, num_tiles: int, images: Tile, chunk: Tile, pixels: Tile, plan: MatmulPlan
) -> nl.NkiTensor:
    """View (piece, partition, images, tile of channels, pixels) of x or y."""
    C, P = tensor.shape[1], tensor.shape[3]
    return tensor.ap(
        [
            [plan.stack_step, plan.stack],
            [num_tiles * P, C // num_tiles],
            [C * P, images.size],
            [P, chunk.size],
            [1, pixels.size],
        ],
        offset=images.start * C * P + chunk.start * P + pixels.start,
    )


def load_vector(vector_hbm: nl.NkiTensor | None, plan: MatmulPlan) -> nl.NkiTensor | None:
    """vector_sb (m, tile of m) of a number for each channel of y, or None."""
    if vector_hbm is None:
        return None
    m = plan.m
    vector_sb = nl.ndarray((plan.stack * m.partitions, m.tiles), dtype=nl.float32, buffer=nl.sbuf)
    dealt = m.full * m.tiles
    for i in range(plan.stack):
        nisa.dma_copy(
            dst=vector_sb[nl.ds(i * m.partitions, m.full), :],
            src=vector_hbm[0:dealt, :].reshape((m.full, m.tiles)),
            dge_mode=nisa.dge_mode.none,
        )
    if m.rest > 0:
        nisa.dma_copy(
            dst=vector_sb[m.full : m.full + 1, 0 : m.rest],
            src=vector_hbm[dealt : m.size, :].reshape((1, m.rest)),
            dge_mode=nisa.dge_mode.none,
        )
    return vector_sb


def accumulate(
    w_sb: nl.NkiTensor, x_sb: nl.NkiTensor, tile: Box, i_w: int, i_m: int, plan: MatmulPlan
) -> nl.NkiTensor:
    """acc_ps (m, images, rows, cols) = sum over k of w_sb (k, m).T @ x_sb (k, images, rows, cols).

    `tile` counts from the group's first pixel, `i_w` from the first tile of w_sb.
    """
    row = tile.rows.start * plan.row_step
    row_end = row + (tile.rows.size - 1) * plan.row_step + 1
    col = tile.cols.start * plan.col_step
    col_end = col + (tile.cols.size - 1) * plan.col_step + 1
    m_size = plan.stack * plan.m.rows[i_m]
    shape = (m_size, tile.images.size, tile.rows.size, tile.cols.size)
    acc_ps = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    for i_k in range(plan.k.tiles):
        k_size = plan.stack * plan.k.rows[i_k]
        nisa.nc_matmul(
            dst=acc_ps,
            stationary=w_sb[0:k_size, i_w, i_k, 0:m_size],
            moving=x_sb[
                0:k_size, nl.ds(tile.images.start, tile.images.size), i_k,
                row : row_end : plan.row_step, col : col_end : plan.col_step,
            ],
            accumulate=i_k > 0,
        )  # fmt: skip
    return acc_ps


def _result_tile(dtype: str, group: Group, part: Tile, plan: MatmulPlan) -> nl.NkiTensor:
    """Return a fresh tensor (m, images, tile of m, rows, cols)."""
    box = group.box
    partitions = plan.stack * plan.m.partitions
    shape = (partitions, box.images.size, part.size, box.rows.size, box.cols.size)
    return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf)


def _evict(
    y_sb: nl.NkiTensor,
    acc_ps: nl.NkiTensor,
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    residual_sb: nl.NkiTensor | None,
    tile: Box,
    i_m: int,
    part: Tile,
    plan: MatmulPlan,
) -> None:
    """y_sb[m, tile] = act(scale*acc_ps + bias + residual_sb[m, tile]), by two engines in turn."""
    m = slice(0, acc_ps.shape[0])
    images = nl.ds(tile.images.start, tile.images.size)
    rows = nl.ds(tile.rows.start, tile.rows.size)
    cols = nl.ds(tile.cols.start, tile.cols.size)
    i = i_m - part.start
    scale = None
    if scale_sb is not None:
        scale = scale_sb[m, i_m : i_m + 1]
    bias = None
    if bias_sb is not None:
        bias = bias_sb[m, i_m : i_m + 1]
    added = None
    if residual_sb is not None:
        added = residual_sb[m, images, i, rows, cols]
    on_vector = plan.takes_turns and (i_m + tile.turn) % 2 == 1
    evict(y_sb[m, images, i, rows, cols], acc_ps, scale, bias, added, plan.epilogue, on_vector)


def copy_results(
    y: nl.NkiTensor, y_sb: nl.NkiTensor, box: Box, part: Tile, plan: MatmulPlan, store: bool
) -> None:
    """Copy the box's pixels of the part's channels: y = y_sb, or y_sb = y."""
    m = plan.m
    images = nl.ds(box.images.start, box.images.size)
    if plan.stack > 1:
        _copy_pieces(y, y_sb, box, part, plan, store)
        return
    pixels = y[
        images, :, nl.ds(box.rows.start, box.rows.size), nl.ds(box.cols.start, box.cols.size)
    ]
    dealt = pixels[:, 0 : m.full * m.tiles, :, :].reshape_dim(1, (m.full, m.tiles))
    dealt = dealt[:, :, nl.ds(part.start, part.size), :, :]
    _copy(dealt.permute((1, 0, 2, 3, 4)), y_sb[0 : m.full, :, :, :, :], store)
    rest = min(part.start + part.size, m.rest) - part.start
    if rest > 0:
        first = m.full * m.tiles + part.start
        last_sb = y_sb[m.full : m.full + 1, :, 0:rest, :, :]
        _copy(pixels[:, nl.ds(first, rest), :, :], last_sb, store)


def _copy_pieces(
    y: nl.NkiTensor, y_sb: nl.NkiTensor, box: Box, part: Tile, plan: MatmulPlan, store: bool
) -> None:
    """As `copy_results`, of a box in each of the stacked pieces.

    A piece ends with some of the next one's first pixels; only the last piece stores them.
    """
    cols, step = box.cols, plan.stack_step
    own = max(0, min(cols.start + cols.size, step) - cols.start)
    if not store:
        own = cols.size
    if own > 0:
        mine = _stacked(y, plan.m.tiles, box.images, part, Tile(cols.start, own), plan)
        _copy(mine, y_sb[:, :, :, :, 0:own], store)
    if own < cols.size:
        first = (plan.stack - 1) * plan.m.partitions
        pixels = y[:, :, :, nl.ds(_last_pixel(cols.start + own, plan), cols.size - own)]
        dealt = pixels[nl.ds(box.images.start, box.images.size), :, :, :]
        dealt = dealt.reshape_dim(1, (plan.m.full, plan.m.tiles)).permute((1, 0, 2, 3, 4))
        last_sb = y_sb[nl.ds(first, plan.m.partitions), :, :, :, own : cols.size]
        _copy(dealt[:, :, nl.ds(part.start, part.size), :, :], last_sb, store)


def _last_pixel(col: int, plan: MatmulPlan) -> int:
    """Return which pixel of the image a column of the last stacked piece is."""
    return (plan.stack - 1) * plan.stack_step + col


def _copy(hbm: nl.NkiTensor, sb: nl.NkiTensor, store: bool) -> None:
    """hbm = sb, or sb = hbm."""
    if store:
        nisa.dma_copy(dst=hbm, src=sb, dge_mode=transfer_mode(hbm))
    else:
        nisa.dma_copy(dst=sb, src=hbm, dge_mode=transfer_mode(hbm))
