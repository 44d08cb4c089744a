"""conv2d by the direct path where neither weights nor image can stay in SBUF: both in parts.

conv2d_direct.py is for everything else, and simpler.

y[n, co, oh, ow] = act(bias[co] + residual[n, co, oh, ow]
    + sum over (ci, t) of w[ci, t, co] * x[n, ci, oh*s + kh*d - pad, ow*s + kw*d - pad])

with t = kh*KW + kw, zeros outside x, and all this once for each of G groups of channels.

Shapes
------
x_hbm         (N, G*C_in, H, W)          f32 f16 bf16  HBM
w_hbm         (G, C_in, KH*KW, C_out)    as x          HBM, packed
scale_hbm     (G*C_out, 1)               f32           HBM, or None
bias_hbm      (G*C_out, 1)               f32           HBM, or None
residual_hbm  (N, G*C_out, OH, OW)       as x          HBM, or None
y_hbm         (N, G*C_out, OH, OW)       as x          HBM

Loop nest
---------
for group, block of output channels:            weights are loaded once and stay in SBUF
    for image, strip of output rows:            its pixels are loaded once, zeros where they leave x
        for block of the strip, tile of <= 128 output channels:
            for tile of <= 128 input channels, tile of <= 512 outputs of the block, tap:
                acc (co, rows, cols) += w (ci, co).T @ x (ci, rows, cols)
            y = act(acc + bias)                 PSUM to SBUF on the scalar engine: the only rounding
            one store

The moving operand is a view of the strip: a tap is an offset into it, stride and dilation are
steps, and nothing is copied.  Weights or strips that do not fit SBUF are loaded inside the loops
instead (_fit.py says when).

The tensor engine limits large layers: N*G*OH*OW * KH*KW * ceil(C_in/128) * ceil(C_out/128) columns
of a cycle each, four in float32.  Many channels with few pixels are limited by loading the weights.

Longer than the guide value: a third is the plan, which also says what to do when something does not
fit.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul (tile sizes, accumulation mode), isa
activation, DMA bandwidth guide (bytes per partition), NKI access patterns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels import _looped
from nkiconv.kernels._algorithm import Candidate, Launch, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import Array
from nkiconv.kernels._epilogue import Epilogue, evict
from nkiconv.kernels._fit import Cut, best_cut
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._plan import Geometry, Span, Tile, Window, ceil_div, make_window, tiles
from nkiconv.kernels._price import Price, Transfers, matmul_cycles
from nkiconv.kernels._strip import transfer_mode
from nkiconv.kernels._weights import PackedWeights
from nkiconv.simulate.hardware import hardware

NAME = "direct"

_LOAD_BYTES = 4096  # per partition and transfer: the DMA rate levels off here, and the first matmul
# waits for the first transfer (vendor's DMA bandwidth guide)


@dataclass(frozen=True)
class Taps(nl.NKIObject):
    """Taps that are worked on together: `size` neighbours in w_hbm, and their pixels' window."""

    rows: Tile
    cols: Tile
    start: int
    size: int
    i_window: int


@dataclass(frozen=True)
class Block(nl.NKIObject):
    """Outputs that one store writes; the rows of each of `tiles` have a PSUM bank."""

    rows: Tile
    cols: Tile
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Strip(nl.NKIObject):
    """Outputs whose pixels are in SBUF together: one window, or one for each `Taps`."""

    blocks: tuple[Block, ...]
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class ChannelTile(nl.NKIObject):
    """The `index`-th tile of a `ChannelBlock`: from `start` in its group, `y_start` in y."""

    index: int
    start: int
    size: int
    w_start: int  # in the weights of the block
    y_start: int


@dataclass(frozen=True)
class ChannelBlock(nl.NKIObject):
    """Output channels of one group, counted within it, whose weights are in SBUF together.

    `x_start` is the group's first channel in x.
    """

    group: int
    x_start: int
    start: int
    size: int
    tiles: tuple[ChannelTile, ...]


@dataclass(frozen=True)
class StreamedPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    `num_output_tiles` counts the stores, `hbm_read_bytes` everything that is loaded, `sbuf_bytes`
    what a partition has to hold.
    """

    geometry: Geometry
    epilogue: Epilogue
    y_shape: tuple[int, int, int, int]
    c_in_tiles: tuple[Tile, ...]
    c_out_blocks: tuple[ChannelBlock, ...]
    all_taps: Tile
    taps: tuple[Taps, ...]
    strips: tuple[Strip, ...]
    weights_resident: bool
    x_resident: bool
    num_output_tiles: int
    num_matmuls: int
    hbm_read_bytes: int
    sbuf_bytes: int


def plan_streamed(
    geometry: Geometry,
    epilogue: Epilogue | None = None,
    *,
    sbuf_bytes: int | None = None,
) -> StreamedPlan:
    """Cut a convolution into parts that SBUF and PSUM hold.

    Parameters
    ----------
    sbuf_bytes
        SBUF to use per partition; None takes all that the current target has.

    Raises
    ------
    CapacityError
        Not even the smallest parts fit; needs less SBUF than any target has.
    """
    g = geometry
    epilogue = epilogue or Epilogue()
    limit = nl.tile_size.sbuf_fmax_bytes if sbuf_bytes is None else sbuf_bytes
    cut = best_cut(g, limit - epilogue.scratch_bytes, has_residual=epilogue.has_residual)
    pmax = nl.tile_size.pmax
    taps = _taps(g, cut)
    strips = tuple(
        _strip(g, cut, taps, rows, cols)
        for rows in tiles(g.rows.outputs, cut.strip[0])
        for cols in tiles(g.cols.outputs, cut.strip[1])
    )
    y_shape = (g.N, g.G * g.C_out, g.rows.outputs, g.cols.outputs)
    y_elems = y_shape[0] * y_shape[1] * y_shape[2] * y_shape[3]
    c_in_tiles = tiles(g.C_in, pmax)
    blocks = [block for strip in strips for block in strip.blocks]
    rounds = g.N * g.G * ceil_div(g.C_out, pmax)
    matmuls_per_tile = len(c_in_tiles) * g.rows.taps * g.cols.taps
    return StreamedPlan(
        geometry=g,
        epilogue=epilogue,
        y_shape=y_shape,
        c_in_tiles=c_in_tiles,
        c_out_blocks=tuple(
            _channel_block(g, group, block)
            for group in range(g.G)
            for block in tiles(g.C_out, cut.c_out_block)
        ),
        all_taps=Tile(0, g.rows.taps * g.cols.taps),
        taps=taps,
        strips=strips,
        weights_resident=cut.weights_resident,
        x_resident=cut.x_resident,
        num_output_tiles=rounds * len(blocks),
        num_matmuls=rounds * sum(len(block.tiles) for block in blocks) * matmuls_per_tile,
        hbm_read_bytes=cut.read_bytes
        + (4 * g.G * g.C_out * (epilogue.has_bias + epilogue.has_scale))
        + (y_elems * g.itemsize if epilogue.has_residual else 0),
        sbuf_bytes=cut.sbuf_bytes,
    )


def _channel_block(g: Geometry, group: int, block: Tile) -> ChannelBlock:
    """Return the block of output channels of a group."""
    return ChannelBlock(
        group=group,
        x_start=group * g.C_in,
        start=block.start,
        size=block.size,
        tiles=tuple(
            ChannelTile(
                index=i,
                start=tile.start,
                size=tile.size,
                w_start=tile.start - block.start,
                y_start=group * g.C_out + tile.start,
            )
            for i, tile in enumerate(tiles(block.size, nl.tile_size.pmax, block.start))
        ),
    )


def _taps(g: Geometry, cut: Cut) -> tuple[Taps, ...]:
    """Return the groups of taps that are loaded together: whole rows of taps, or parts of one."""
    parts = [
        (rows, cols)
        for rows in tiles(g.rows.taps, cut.taps[0])
        for cols in tiles(g.cols.taps, cut.taps[1])
    ]
    return tuple(
        Taps(
            rows=rows,
            cols=cols,
            start=rows.start * g.cols.taps + cols.start,
            size=rows.size * cols.size,
            i_window=0 if cut.x_resident else i,
        )
        for i, (rows, cols) in enumerate(parts)
    )


def _strip(g: Geometry, cut: Cut, taps: tuple[Taps, ...], rows: Tile, cols: Tile) -> Strip:
    """Return the strip of these outputs."""
    blocks = tuple(
        Block(
            rows=Tile(row_tiles[0].start, sum(tile.size for tile in row_tiles)),
            cols=block_cols,
            tiles=row_tiles,
        )
        for block_cols, row_tiles in cut.blocks(rows, cols)
    )
    every_tap = (Tile(0, g.rows.taps), Tile(0, g.cols.taps))
    groups = (every_tap,) if cut.x_resident else tuple((tap.rows, tap.cols) for tap in taps)
    windows = tuple(
        make_window(
            g, (rows, cols), group, first_rows=blocks[0].tiles[0].size, load_bytes=_LOAD_BYTES
        )
        for group in groups
    )
    return Strip(blocks, windows)


def _load_weights(
    w_hbm: nl.NkiTensor,
    group: int,
    c_in: Tile,
    taps: Tile | Taps,
    c_out: ChannelTile | ChannelBlock,
) -> nl.NkiTensor:
    """w_sb (ci, taps, co): stationary operands, as they lie in HBM."""
    w_sb = nl.ndarray((c_in.size, taps.size, c_out.size), dtype=w_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=w_sb,
        src=w_hbm[
            group,
            nl.ds(c_in.start, c_in.size),
            nl.ds(taps.start, taps.size),
            nl.ds(c_out.start, c_out.size),
        ],
        dge_mode=transfer_mode(w_hbm),
    )
    return w_sb


def _load_vectors(
    vector_hbm: nl.NkiTensor | None, c_outs: ChannelBlock
) -> list[nl.NkiTensor | None]:
    """vector_sb (co, 1) of each tile of output channels, or None."""
    vector_sbs: list[nl.NkiTensor | None] = []
    for c_out in c_outs.tiles:
        vector_sb = None
        if vector_hbm is not None:
            vector_sb = nl.ndarray((c_out.size, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(
                dst=vector_sb,
                src=vector_hbm[nl.ds(c_out.y_start, c_out.size), :],
                dge_mode=transfer_mode(vector_hbm),
            )
        vector_sbs.append(vector_sb)
    return vector_sbs


def _load_windows(
    x_hbm: nl.NkiTensor, n: int, x_start: int, c_ins: tuple[Tile, ...], window: Window
) -> list[nl.NkiTensor]:
    """x_sb (ci, rows, cols) of each tile of input channels, zero where the window leaves x.

    The transfers take the channel tiles in turn: the first outputs need the first rows of all.
    """
    rows = window.rows
    cols = window.cols
    x_sbs = []
    for c_in in c_ins:
        x_sb = nl.ndarray((c_in.size, rows.size, cols.size), dtype=x_hbm.dtype, buffer=nl.sbuf)
        _zero_border(x_sb, rows, cols)
        x_sbs.append(x_sb)
    for load in window.loads:
        row = rows.zeros_before + load.start
        x_row = rows.x_start + load.start * rows.x_step
        x_row_end = x_row + (load.size - 1) * rows.x_step + 1
        for i_ci in range(len(c_ins)):
            nisa.dma_copy(
                dst=x_sbs[i_ci][:, nl.ds(row, load.size), nl.ds(cols.zeros_before, cols.x_size)],
                src=x_hbm[
                    n,
                    nl.ds(x_start + c_ins[i_ci].start, c_ins[i_ci].size),
                    x_row : x_row_end : rows.x_step,
                    nl.ds(cols.x_start, cols.x_size),
                ],
                dge_mode=transfer_mode(x_hbm),
            )
    return x_sbs


def _zero_border(x_sb: nl.NkiTensor, rows: Span, cols: Span) -> None:
    """Zeros above, below, to the left and to the right of the image, where the window has such."""
    top = rows.zeros_before
    bottom = rows.size - rows.zeros_after
    left = cols.zeros_before
    right = cols.size - cols.zeros_after
    if top > 0:
        nisa.memset(dst=x_sb[:, 0:top, :], value=0)
    if bottom < rows.size:
        nisa.memset(dst=x_sb[:, bottom : rows.size, :], value=0)
    if bottom > top and left > 0:
        nisa.memset(dst=x_sb[:, top:bottom, 0:left], value=0)
    if bottom > top and right < cols.size:
        nisa.memset(dst=x_sb[:, top:bottom, right : cols.size], value=0)


def _stationary(
    w_hbm: nl.NkiTensor,
    w_sbs: list[nl.NkiTensor],
    group: int,
    c_out: ChannelTile,
    i_ci: int,
    taps: Taps,
    plan: StreamedPlan,
) -> nl.NkiTensor:
    """w_sb (ci, taps, co): a view of the resident weights, else loaded now."""
    if plan.weights_resident:
        return w_sbs[i_ci][:, nl.ds(taps.start, taps.size), nl.ds(c_out.w_start, c_out.size)]
    return _load_weights(w_hbm, group, plan.c_in_tiles[i_ci], taps, c_out)


def _moving(
    x_hbm: nl.NkiTensor,
    x_sbs: list[nl.NkiTensor],
    n: int,
    x_start: int,
    i_ci: int,
    window: Window,
    plan: StreamedPlan,
) -> nl.NkiTensor:
    """x_sb (ci, rows, cols): the resident window, else loaded now."""
    if plan.x_resident:
        return x_sbs[i_ci]
    return _load_windows(x_hbm, n, x_start, (plan.c_in_tiles[i_ci],), window)[0]


def _accumulators(block: Block, c_out: ChannelTile) -> list[nl.NkiTensor]:
    """acc_ps (co, rows, cols) of each tile of the block: a PSUM bank each."""
    acc_pss = []
    for rows in block.tiles:
        shape = (c_out.size, rows.size, block.cols.size)
        acc_pss.append(nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum))
    return acc_pss


def _accumulate(
    acc_pss: list[nl.NkiTensor],
    w_sb: nl.NkiTensor,
    x_sb: nl.NkiTensor,
    window: Window,
    block: Block,
    taps: Taps,
    is_first: bool,
) -> None:
    """acc_ps (co, rows, cols) += w_sb[:, tap, :].T @ x_sb[:, rows, cols], for each tile and tap."""
    down = window.rows
    across = window.cols
    for i_tile in range(len(block.tiles)):
        tile = block.tiles[i_tile]
        row_start = (tile.start - down.first_output) * down.output_step
        col_start = (block.cols.start - across.first_output) * across.output_step
        i_tap = 0
        for kh in range(taps.rows.start, taps.rows.start + taps.rows.size):
            row = row_start + (kh - down.first_tap) * down.tap_step
            row_end = row + (tile.size - 1) * down.output_step + 1
            for kw in range(taps.cols.start, taps.cols.start + taps.cols.size):
                col = col_start + (kw - across.first_tap) * across.tap_step
                col_end = col + (block.cols.size - 1) * across.output_step + 1
                nisa.nc_matmul(
                    dst=acc_pss[i_tile],
                    stationary=w_sb[:, i_tap, :],
                    moving=x_sb[
                        :, row : row_end : down.output_step, col : col_end : across.output_step
                    ],
                    accumulate=i_tap > 0 or not is_first,
                )
                i_tap = i_tap + 1


def _evict(
    y_hbm: nl.NkiTensor,
    acc_pss: list[nl.NkiTensor],
    scale_sb: nl.NkiTensor | None,
    bias_sb: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    n: int,
    c_out: ChannelTile,
    block: Block,
    plan: StreamedPlan,
) -> None:
    """y_hbm[n, co, rows, cols] = act(scale*acc_ps + bias + residual_hbm[n, co, rows, cols])."""
    shape = (c_out.size, block.rows.size, block.cols.size)
    channels = nl.ds(c_out.y_start, c_out.size)
    rows = nl.ds(block.rows.start, block.rows.size)
    cols = nl.ds(block.cols.start, block.cols.size)
    residual_sb = None
    if residual_hbm is not None:
        residual_sb = nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(
            dst=residual_sb, src=residual_hbm[n, channels, rows, cols],
            dge_mode=transfer_mode(residual_hbm),
        )  # fmt: skip
    y_sb = nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
    for i_tile in range(len(block.tiles)):
        tile = nl.ds(block.tiles[i_tile].start - block.rows.start, block.tiles[i_tile].size)
        residual = None
        if residual_sb is not None:
            residual = residual_sb[:, tile, :]
        evict(y_sb[:, tile, :], acc_pss[i_tile], scale_sb, bias_sb, residual, plan.epilogue, False)
    nisa.dma_copy(dst=y_hbm[n, channels, rows, cols], src=y_sb, dge_mode=transfer_mode(y_hbm))


@nki.jit
def conv2d_streamed(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: StreamedPlan,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_streamed_looped(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: LoopedPlan,
) -> nl.NkiTensor:
    """Return y_hbm by on-chip loops over parts (_looped.py)."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    operands = {
        "x": x_hbm, "w": w_hbm, "scale": scale_hbm, "bias": bias_hbm, "residual": residual_hbm,
        "y": y_hbm,
    }  # fmt: skip
    for piece in plan.pieces:
        _loop(operands, piece)
    return y_hbm


def _loop(operands: dict[str, Any], piece: Piece) -> None:
    """Convolve all parts of a piece."""
    if piece.iterations == 1:
        _convolve_part(take_part(operands, piece, []), piece.part)
        return
    table_sb = make_table(piece)

    def body(i: nl.VirtualRegister) -> None:
        _convolve_part(take_part(operands, piece, indices(table_sb, piece, i)), piece.part)

    nl.fori_loop(0, piece.iterations, body)


def _convolve_part(hbm: dict[str, Any], plan: StreamedPlan) -> None:
    _convolve(hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan)


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: StreamedPlan,
) -> None:
    """y_hbm = the convolution of all of x_hbm."""
    for c_outs in plan.c_out_blocks:
        w_sbs = []
        if plan.weights_resident:
            for c_in in plan.c_in_tiles:
                w_sbs.append(_load_weights(w_hbm, c_outs.group, c_in, plan.all_taps, c_outs))
        scale_sbs = _load_vectors(scale_hbm, c_outs)
        bias_sbs = _load_vectors(bias_hbm, c_outs)
        for n in range(plan.y_shape[0]):
            for strip in plan.strips:
                x_sbs = []
                if plan.x_resident:
                    window = strip.windows[0]
                    x_sbs = _load_windows(x_hbm, n, c_outs.x_start, plan.c_in_tiles, window)
                for block in strip.blocks:
                    for c_out in c_outs.tiles:
                        acc_pss = _accumulators(block, c_out)
                        for i_ci in range(len(plan.c_in_tiles)):
                            for taps in plan.taps:
                                window = strip.windows[taps.i_window]
                                w_sb = _stationary(
                                    w_hbm, w_sbs, c_outs.group, c_out, i_ci, taps, plan
                                )
                                x_sb = _moving(x_hbm, x_sbs, n, c_outs.x_start, i_ci, window, plan)
                                is_first = i_ci == 0 and taps.start == 0
                                _accumulate(acc_pss, w_sb, x_sb, window, block, taps, is_first)
                        scale_sb = scale_sbs[c_out.index]
                        bias_sb = bias_sbs[c_out.index]
                        _evict(
                            y_hbm, acc_pss, scale_sb, bias_sb, residual_hbm, n, c_out, block, plan
                        )


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield the plan that `plan_streamed` makes, or on-chip loops over such plans.

    Raises
    ------
    NotSuited
        Padding other than zeros, a faster float32, or a program that is too long even with loops.
    """
    if problem.padding_mode != "zeros":
        raise NotSuited(f'it has no padding_mode "{problem.padding_mode}"')
    if problem.precision != "exact":
        raise NotSuited("it has no faster float32")
    why = "a matmul per tap and tile, taps read in place"
    if _looped.least_matmuls(problem) <= _looped.MAX_INSTRUCTIONS:
        plan = plan_streamed(problem.geometry, problem.epilogue)
        price = _price(plan)
        if price.static_instructions <= _looped.MAX_INSTRUCTIONS:
            yield Candidate(NAME, plan, price, why)
            return

    def make(part: Problem, reserved_bytes: int) -> StreamedPlan:
        room = nl.tile_size.sbuf_fmax_bytes - reserved_bytes
        return plan_streamed(part.geometry, part.epilogue, sbuf_bytes=room)

    def w_shape(plan: StreamedPlan) -> tuple[int, ...]:
        g = plan.geometry
        return (g.G, g.C_in, g.rows.taps * g.cols.taps, g.C_out)

    loops = _looped.Loops(
        make,
        _price,
        w_shape,
        least=_looped.least_matmuls,
        rows=True,
        groups=1,
        channels=nl.tile_size.pmax,
    )
    cut = _looped.cut_into_parts(problem, loops)
    looped = LoopedPlan(cut.pieces, _looped.y_shape(problem))
    yield Candidate(NAME, looped, _looped.total(cut), f"{why}; {cut.why}")


class _Counts:
    """Instructions and transfers of a plan, in the order of the loop nest."""

    def __init__(self, plan: StreamedPlan) -> None:
        self.plan, self.g, self.e = plan, plan.geometry, plan.epilogue
        self.moved: Counter[tuple[int, int, bool]] = Counter()  # descriptors, bytes, to HBM
        self.memsets = self.evictions = self.elems = 0
        N = self.g.N
        for c_outs in plan.c_out_blocks:
            if plan.weights_resident:
                for c_in in plan.c_in_tiles:
                    self._weights(c_in.size, plan.all_taps.size, c_outs.size, 1)
            vectors = self.e.has_scale + self.e.has_bias
            for c_out in c_outs.tiles:
                self.moved[c_out.size, 4, False] += vectors
            for strip in plan.strips:
                if plan.x_resident:
                    for c_in in plan.c_in_tiles:
                        self._window(strip.windows[0], c_in.size, N)
                for c_out in c_outs.tiles:
                    self._blocks(strip, c_out.size)

    def _blocks(self, strip: Strip, channels: int) -> None:
        g, plan = self.g, self.plan
        num = len(strip.blocks) * g.N
        for taps in plan.taps:
            for c_in in plan.c_in_tiles:
                if not plan.weights_resident:
                    self._weights(c_in.size, taps.size, channels, num)
                if not plan.x_resident:
                    self._window(strip.windows[taps.i_window], c_in.size, num)
        for block in strip.blocks:
            rows, cols = block.rows.size, block.cols.size
            whole = cols == g.cols.outputs
            run = (channels, rows * cols) if whole else (channels * rows, cols)
            self.moved[run[0], run[1] * g.itemsize, True] += g.N
            if self.e.has_residual:
                self.moved[run[0], run[1] * g.itemsize, False] += g.N
            self.evictions += g.N * len(block.tiles)
            self.elems += g.N * rows * cols

    def _weights(self, channels: int, taps: int, c_out: int, times: int) -> None:
        if c_out == self.g.C_out:
            self.moved[channels, taps * c_out * self.g.itemsize, False] += times
        else:
            self.moved[channels * taps, c_out * self.g.itemsize, False] += times

    def _window(self, window: Window, channels: int, times: int) -> None:
        rows, cols = window.rows, window.cols
        for load in window.loads:
            run = cols.x_size * self.g.itemsize
            self.moved[channels * load.size, run, False] += times
        inside = rows.size > rows.zeros_before + rows.zeros_after
        self.memsets += times * (
            (rows.zeros_before > 0)
            + (rows.zeros_after > 0)
            + inside * ((cols.zeros_before > 0) + (cols.zeros_after > 0))
        )


def _price(plan: StreamedPlan) -> Price:
    """Return what a plan costs."""
    g = plan.geometry
    counts = _Counts(plan)
    columns = g.N * g.G * g.rows.outputs * g.cols.outputs * ceil_div(g.C_out, nl.tile_size.pmax)
    columns = columns * len(plan.c_in_tiles) * g.rows.taps * g.cols.taps
    each = ceil_div(columns, plan.num_matmuls)
    per_tile = min(g.C_out, nl.tile_size.pmax)
    transfers = tuple(
        Transfers(n, descriptors, run, to_hbm)
        for (descriptors, run, to_hbm), n in counts.moved.items()
        if n
    )
    return Price(
        moving_columns=columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=plan.num_matmuls * matmul_cycles(each, g.itemsize, hardware(), per_tile),
        transfers=transfers,
        scalar_elems=counts.elems,
        scalar_instructions=counts.evictions,
        static_instructions=plan.num_matmuls
        + sum(t.count for t in transfers)
        + counts.memsets
        + counts.evictions * plan.epilogue.instructions,
    )


def pack(w: PackedWeights, plan: StreamedPlan) -> Array:
    """Return the weights as `pack_weights` made them."""
    return w.array


def run(launch: Launch, operands: Operands, plan: StreamedPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    return launch(conv2d_streamed, o.x, o.w, o.scale, o.bias, o.residual, plan)
