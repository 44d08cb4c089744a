"""The direct path with a pool at its end: the convolution's result never leaves SBUF.

y[n, co, p, q] = max, or mean, over (i, j) of conv[n, co, p*ps + i, q*ps + j]
conv           = act(scale[co]*acc + bias[co] + residual[n, co, oh, ow])
acc            = sum over (ci, t) of w[ci, t, co] * x[n, ci, oh*s + kh*d - pad, ow*s + kw*d - pad]

with t = kh*KW + kw, the padding outside x, and all this once for each of G groups of channels.

Shapes
------
x_hbm         (N, G*C_in, H, W)          f32 f16 bf16  HBM
w_hbm         (G, C_in, KH*KW, C_out)    as x or bf16  HBM, packed
scale_hbm     (G*C_out, 1)               f32           HBM, or None
bias_hbm      (G*C_out, 1)               f32           HBM, or None
residual_hbm  (N, G*C_out, OH, OW)       as x          HBM, or None
y_hbm         (N, G*C_out, P, Q)         as x          HBM

Loop nest
---------
for group, block of output channels:            weights are loaded once and stay in SBUF
    for section = some images, or pooled rows of one:
        load its pixels, with their border
        for tile of <= 128 output channels:
            for tile of <= 512 outputs of the convolution, tile of <= 128 input channels, tap:
                acc (co, n, rows, cols) += w (ci, co).T @ x (ci, n, rows, cols)
            conv = act(scale*acc + bias + residual)     rounded to y's dtype, a mean's not
            y = pool(conv); one store

Rows and columns that no window reaches are not computed.  Windows that overlap share rows between
sections, which are computed twice: sections are as high as that and the last one's pooling, which
nothing overlaps, ask for.

The tensor engine limits it, as without the pool.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul (tile sizes, accumulation mode), isa
tensor_tensor, NKI access patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels import _looped
from nkiconv.kernels._algorithm import Candidate, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import DTYPES, Array
from nkiconv.kernels._blocks import Pool, conv_outputs, pool_block
from nkiconv.kernels._epilogue import Epilogue, evict
from nkiconv.kernels._looped import LoopedPlan, Piece, indices, make_table, take_part
from nkiconv.kernels._plan import Geometry, OutputTile, Tile, ceil_div, even_tiles, tiles
from nkiconv.kernels._price import Price, Transfers, matmul_cycles
from nkiconv.kernels._stages import Launch
from nkiconv.kernels._strip import Run, Side, fill_border, load_run, make_side, transfer_mode
from nkiconv.kernels._weights import PackedWeights
from nkiconv.simulate.hardware import hardware

NAME = "direct"

_LOAD_BYTES = 4096  # per partition: where the DMA rate levels off (vendor's DMA bandwidth guide)
_COPIES = 2  # of what is loaded or computed again and again
_STEP_MAX = 32_767  # elements between neighbours in an access pattern, int16 (architecture guide)


@dataclass(frozen=True)
class Section(nl.NKIObject):
    """Pooled rows whose pixels are in SBUF together, of some images.

    `conv` are the rows of the convolution that they need, `loads` the runs of pixels.
    """

    images: Tile
    pooled: Tile
    conv: Tile
    rows: Side
    loads: tuple[Run, ...]
    tiles: tuple[OutputTile, ...]


@dataclass(frozen=True)
class PooledPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    `conv_cols` counts the columns of the convolution that some window reaches; `pool` is the
    epilogue's; `fast`: the weights are bfloat16, and x becomes it when it is loaded.
    """

    geometry: Geometry
    epilogue: Epilogue
    pool: Pool
    y_shape: tuple[int, int, int, int]
    c_in_tiles: tuple[Tile, ...]
    c_out_blocks: tuple[tuple[Tile, ...], ...]
    cols: Side
    conv_cols: int
    sections: tuple[Section, ...]
    fast: bool
    sbuf_bytes: int

    @property
    def num_matmuls(self) -> int:
        """Matmuls of the whole kernel."""
        g = self.geometry
        rounds = g.G * sum(len(block) for block in self.c_out_blocks)
        taps = g.rows.taps * g.cols.taps * len(self.c_in_tiles)
        return rounds * taps * sum(len(section.tiles) for section in self.sections)

    @property
    def moving_columns(self) -> int:
        """Columns that TensorE streams."""
        g = self.geometry
        rounds = g.G * sum(len(block) for block in self.c_out_blocks)
        taps = g.rows.taps * g.cols.taps * len(self.c_in_tiles)
        outputs = sum(s.images.size * s.conv.size for s in self.sections) * self.conv_cols
        return rounds * taps * outputs


def plan_pooled(
    geometry: Geometry,
    epilogue: Epilogue,
    pool: Pool,
    *,
    padding_mode: str = "zeros",
    fast: bool = False,
    sbuf_bytes: int | None = None,
) -> PooledPlan:
    """Cut a convolution and its pool into sections that fit SBUF beside the weights.

    Parameters
    ----------
    fast
        Operands of float32 become bfloat16 on their way to SBUF.
    sbuf_bytes
        SBUF to use per partition; None takes all that the current target has.

    Raises
    ------
    NotSuited
        The smallest section does not fit, or rows are too far apart for an access pattern.
    """
    limit = nl.tile_size.sbuf_fmax_bytes if sbuf_bytes is None else sbuf_bytes
    fit = _Fit(geometry, epilogue, pool, padding_mode, fast)
    if geometry.rows.stride * fit.cols.size > _STEP_MAX:
        raise NotSuited(
            f"rows of {fit.cols.size} pixels are too far apart for an access pattern (at most "
            f"{_STEP_MAX} elements)"
        )
    num_tiles = ceil_div(geometry.C_out, nl.tile_size.pmax)
    sizes = list(fit.section_sizes())
    for parts in range(1, num_tiles + 1):
        block = ceil_div(num_tiles, parts)
        fits = [size for size in sizes if fit.sbuf_bytes(*size, block) <= limit]
        if fits:
            return fit.plan(*min(fits, key=lambda size: fit.cost_ns(*size)), block)
    smallest = min(fit.sbuf_bytes(*size, 1) for size in sizes)
    raise NotSuited(
        f"with a pool, weights and the smallest strip need {smallest} B of SBUF per partition, "
        f"which has {limit}; weights would have to be streamed"
    )


class _Fit:
    """A problem, and what sections of it need."""

    def __init__(
        self, g: Geometry, epilogue: Epilogue, pool: Pool, padding_mode: str, fast: bool
    ) -> None:
        self.fast = fast
        self.conv_cols = conv_outputs(pool.cols, Tile(0, pool.cols.outputs)).size
        self.g = replace(g, cols=replace(g.cols, outputs=self.conv_cols))
        self.epilogue = epilogue
        self.pool = pool
        self.mode = padding_mode
        self.cols = make_side(self.g.cols, Tile(0, self.conv_cols), padding_mode, whole=True)
        self.c_in_tiles = tiles(g.C_in, nl.tile_size.pmax)

    def section_sizes(self) -> Iterator[tuple[int, int]]:
        """Yield images and pooled rows of a section, the most first: several images if small."""
        outputs = self.pool.rows.outputs
        whole = self._conv(outputs) * self.conv_cols
        at_once = min(self.g.N, max(1, nl.tile_size.psum_bank_fmax // whole))
        if at_once > 1:
            for times in (4, 2, 1):
                yield min(self.g.N, times * at_once), outputs
        last, parts = 0, 1
        while last != 1:
            size = ceil_div(outputs, parts)
            if size != last:
                yield 1, size
            last, parts = size, parts + 1 + parts // 4

    def _conv(self, pooled_rows: int) -> int:
        return conv_outputs(self.pool.rows, Tile(0, pooled_rows)).size

    def _sections(self, images: int, pooled_rows: int) -> tuple[Section, ...]:
        every = even_tiles(self.pool.rows.outputs, pooled_rows)
        made: dict[tuple[int, Tile], Section] = {}
        found = []
        for n in even_tiles(self.g.N, images):
            for rows in every:
                key = (n.size, rows)
                if key not in made:
                    made[key] = self._section(n, rows)
                found.append(replace(made[key], images=n))
        return tuple(found)

    def _section(self, images: Tile, pooled: Tile) -> Section:
        conv = conv_outputs(self.pool.rows, pooled)
        side = make_side(self.g.rows, conv, self.mode)
        row_elems = max(1, self.cols.inside.size) * self.g.itemsize
        most = ceil_div(_LOAD_BYTES, row_elems)
        runs = (side.inside, *side.border) if self.cols.inside.size > 0 else side.border
        loads = tuple(
            Run(run.place + part.start, run.pixel + part.start * run.step, part.size, run.step)
            for run in runs
            for part in tiles(run.size, most)
        )
        return Section(images, pooled, conv, side, loads, tuple(self._tiles(images, conv)))

    def _tiles(self, images: Tile, conv: Tile) -> Iterator[OutputTile]:
        bank = nl.tile_size.psum_bank_fmax
        whole = conv.size * self.conv_cols
        if images.size > 1 or whole <= bank:
            for n in even_tiles(images.size, max(1, bank // whole)):
                yield OutputTile(n, conv, Tile(0, self.conv_cols))
            return
        for cols in even_tiles(self.conv_cols, bank):
            for rows in even_tiles(conv.size, max(1, bank // cols.size), conv.start):
                yield OutputTile(Tile(0, 1), rows, cols)

    def sbuf_bytes(self, images: int, pooled_rows: int, block_tiles: int) -> int:
        """Return the SBUF bytes per partition for such sections and tiles of output channels."""
        g, e, pool = self.g, self.epilogue, self.pool
        channels = min(block_tiles * nl.tile_size.pmax, g.C_out)
        rounds = g.G * ceil_div(g.C_out, channels)
        weights = len(self.c_in_tiles) * g.rows.taps * g.cols.taps * channels * g.itemsize
        vectors = 4 * block_tiles * (e.has_bias + e.has_scale)
        item = _conv_itemsize(pool, g.itemsize)
        conv_rows = self._conv(pooled_rows)
        first = Tile(0, _sizes(pool.rows.outputs, pooled_rows)[0][0])  # none is larger
        places = make_side(self.g.rows, conv_outputs(pool.rows, first), self.mode).size
        x = len(self.c_in_tiles) * images * places * self.cols.size
        conv = images * conv_rows * self.conv_cols
        tall = images * pooled_rows * self.conv_cols if pool.rows.size > 1 else 0
        y = images * pooled_rows * pool.cols.outputs
        mean = y * 4 if pool.kind == "avg" else 0
        streamed = (
            (x + y + conv * e.has_residual) * g.itemsize + (conv + tall) * item + mean + vectors
        )
        resident = weights * (1 if rounds == 1 else _COPIES) + e.scratch_bytes
        return resident + _COPIES * streamed

    def cost_ns(self, images: int, pooled_rows: int) -> float:
        """Return what the choice of sections changes: columns, and the last one's pooling."""
        g, hw = self.g, hardware()
        taps = g.rows.taps * g.cols.taps * len(self.c_in_tiles)
        cycles, tail = 0, 0
        for size, count in _sizes(self.pool.rows.outputs, pooled_rows):
            conv_rows = self._conv(size)
            for n, times in _sizes(g.N, images):
                tail = n * conv_rows * self.conv_cols
                for columns, tiles_of_it in self._columns(n, conv_rows):
                    each = matmul_cycles(columns, 2 if self.fast else g.itemsize, hw)
                    cycles += count * times * tiles_of_it * each
        rounds = g.G * ceil_div(g.C_out, nl.tile_size.pmax)
        sections = ceil_div(self.pool.rows.outputs, pooled_rows) * ceil_div(g.N, images)
        issue = sections * hw.dma_static_issue_ns
        return rounds * taps * cycles / hw.tensor_ghz + tail / hw.vector_ghz + issue

    def _columns(self, images: int, conv_rows: int) -> Iterator[tuple[int, int]]:
        """Yield the columns of a section's tiles, and how many have so many, as `_tiles` cuts."""
        bank = nl.tile_size.psum_bank_fmax
        whole = conv_rows * self.conv_cols
        if images > 1 or whole <= bank:
            for n, count in _sizes(images, max(1, bank // whole)):
                yield n * whole, count
            return
        for cols, across in _sizes(self.conv_cols, bank):
            for rows, down in _sizes(conv_rows, max(1, bank // cols)):
                yield rows * cols, across * down

    def plan(self, images: int, pooled_rows: int, block_tiles: int) -> PooledPlan:
        """Return the plan of such sections."""
        g, pool = self.g, self.pool
        c_outs = tiles(g.C_out, nl.tile_size.pmax)
        return PooledPlan(
            geometry=g,
            epilogue=self.epilogue,
            pool=pool,
            y_shape=(g.N, g.G * g.C_out, pool.rows.outputs, pool.cols.outputs),
            c_in_tiles=self.c_in_tiles,
            c_out_blocks=tuple(
                c_outs[part.start : part.start + part.size]
                for part in tiles(len(c_outs), block_tiles)
            ),
            cols=self.cols,
            conv_cols=self.conv_cols,
            sections=self._sections(images, pooled_rows),
            fast=self.fast,
            sbuf_bytes=self.sbuf_bytes(images, pooled_rows, block_tiles),
        )


def _sizes(size: int, size_max: int) -> tuple[tuple[int, int], ...]:
    """Return the sizes of `even_tiles`, the full one and the rest, and how many there are."""
    full = ceil_div(size, ceil_div(size, size_max))
    rest = size % full
    return ((full, size // full), (rest, 1)) if rest else ((full, size // full),)


def _conv_itemsize(pool: Pool, itemsize: int) -> int:
    """Return the bytes of an element of the convolution's result: a mean sums in float32."""
    return 4 if pool.kind == "avg" else itemsize


def _load_weights(
    w_hbm: nl.NkiTensor, group: int, c_outs: tuple[Tile, ...], plan: PooledPlan
) -> list[nl.NkiTensor]:
    """w_sb (ci, taps, co) of each tile of input channels."""
    start = c_outs[0].start
    size = c_outs[-1].start + c_outs[-1].size - start
    w_sbs = []
    for c_in in plan.c_in_tiles:
        w_sb = nl.ndarray((c_in.size, w_hbm.shape[2], size), dtype=w_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(
            dst=w_sb,
            src=w_hbm[group, nl.ds(c_in.start, c_in.size), :, nl.ds(start, size)],
            dge_mode=transfer_mode(w_hbm),
        )
        w_sbs.append(w_sb)
    return w_sbs


def _load_vectors(
    vector_hbm: nl.NkiTensor | None, group: int, c_outs: tuple[Tile, ...], plan: PooledPlan
) -> list[nl.NkiTensor | None]:
    """vector_sb (co, 1) of each tile of output channels, or None."""
    vector_sbs: list[nl.NkiTensor | None] = []
    for c_out in c_outs:
        vector_sb = None
        if vector_hbm is not None:
            vector_sb = nl.ndarray((c_out.size, 1), dtype=nl.float32, buffer=nl.sbuf)
            channels = nl.ds(group * plan.geometry.C_out + c_out.start, c_out.size)
            nisa.dma_copy(
                dst=vector_sb, src=vector_hbm[channels, :], dge_mode=transfer_mode(vector_hbm)
            )
        vector_sbs.append(vector_sb)
    return vector_sbs


def _load_pixels(
    x_hbm: nl.NkiTensor, group: int, section: Section, dtype: str, plan: PooledPlan
) -> list[nl.NkiTensor]:
    """x_sb (ci, n, rows, cols) of each tile of input channels, the first rows of all first."""
    images = nl.ds(section.images.start, section.images.size)
    x_sbs = []
    for c_in in plan.c_in_tiles:
        shape = (c_in.size, section.images.size, section.rows.size, plan.cols.size)
        x_sbs.append(nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf))
    for run in section.loads:
        for i in range(len(plan.c_in_tiles)):
            c_in = plan.c_in_tiles[i]
            channels = nl.ds(group * plan.geometry.C_in + c_in.start, c_in.size)
            pixels = x_hbm[images, channels, :, :].permute((1, 0, 2, 3))
            load_run(x_sbs[i], pixels, run, plan.cols.inside)
    for x_sb in x_sbs:
        fill_border(x_sb, section.rows, plan.cols)
    return x_sbs


def _load_residual(
    residual_hbm: nl.NkiTensor | None, group: int, section: Section, c_out: Tile, plan: PooledPlan
) -> nl.NkiTensor | None:
    """residual_sb (co, n, rows, cols) of the section's outputs, or None."""
    if residual_hbm is None:
        return None
    shape = (c_out.size, section.images.size, section.conv.size, plan.conv_cols)
    residual_sb = nl.ndarray(shape, dtype=residual_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(
        dst=residual_sb,
        src=residual_hbm[
            nl.ds(section.images.start, section.images.size),
            nl.ds(group * plan.geometry.C_out + c_out.start, c_out.size),
            nl.ds(section.conv.start, section.conv.size),
            nl.ds(0, plan.conv_cols),
        ].permute((1, 0, 2, 3)),
        dge_mode=transfer_mode(residual_hbm),
    )
    return residual_sb


def _accumulate(
    w_sbs: list[nl.NkiTensor],
    x_sbs: list[nl.NkiTensor],
    section: Section,
    c_out: Tile,
    tile: OutputTile,
    plan: PooledPlan,
) -> nl.NkiTensor:
    """acc_ps (co, n, rows, cols) = sum over input channels and taps of w_sb.T @ x_sb.

    `c_out` counts from the first channel of the weights in SBUF.
    """
    g = plan.geometry
    down = g.rows
    across = g.cols
    shape = (c_out.size, tile.images.size, tile.rows.size, tile.cols.size)
    acc_ps = nl.ndarray(shape, dtype=nl.float32, buffer=nl.psum)
    images = nl.ds(tile.images.start, tile.images.size)
    row_step = down.stride // section.rows.step
    for i in range(len(x_sbs)):
        for kh in range(down.taps):
            row = section.rows.place(down, tile.rows.start, kh)
            row_end = row + (tile.rows.size - 1) * row_step + 1
            for kw in range(across.taps):
                col = plan.cols.place(across, tile.cols.start, kw)
                col_end = col + (tile.cols.size - 1) * across.stride + 1
                nisa.nc_matmul(
                    dst=acc_ps,
                    stationary=w_sbs[i][:, kh * across.taps + kw, nl.ds(c_out.start, c_out.size)],
                    moving=x_sbs[i][:, images, row:row_end:row_step, col : col_end : across.stride],
                    accumulate=i + kh + kw > 0,
                )
    return acc_ps


def _pool_and_store(
    y_hbm: nl.NkiTensor,
    conv_sb: nl.NkiTensor,
    group: int,
    section: Section,
    c_out: Tile,
    plan: PooledPlan,
) -> None:
    """y_hbm = the pooled rows of a section, for a tile of output channels."""
    shape = (c_out.size, section.images.size, section.pooled.size, plan.pool.cols.outputs)
    y_sb = nl.ndarray(shape, dtype=y_hbm.dtype, buffer=nl.sbuf)
    pool_block(y_sb, conv_sb, plan.pool)
    nisa.dma_copy(
        dst=y_hbm[
            nl.ds(section.images.start, section.images.size),
            nl.ds(group * plan.geometry.C_out + c_out.start, c_out.size),
            nl.ds(section.pooled.start, section.pooled.size),
            :,
        ].permute((1, 0, 2, 3)),
        src=y_sb,
        dge_mode=transfer_mode(y_hbm),
    )


@nki.jit
def conv2d_pooled(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: PooledPlan,
) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    y_hbm = nl.ndarray(plan.y_shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    _convolve(y_hbm, x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm, plan)
    return y_hbm


@nki.jit
def conv2d_pooled_looped(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: LoopedPlan,
) -> nl.NkiTensor:
    """Return y_hbm by on-chip loops over parts (_looped.py); each one loads its weights."""
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


def _convolve_part(hbm: dict[str, Any], plan: PooledPlan) -> None:
    _convolve(hbm["y"], hbm["x"], hbm["w"], hbm["scale"], hbm["bias"], hbm["residual"], plan)


def _convolve(
    y_hbm: nl.NkiTensor,
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    plan: PooledPlan,
) -> None:
    """y_hbm = the pooled convolution of all of x_hbm."""
    conv_dtype = x_hbm.dtype
    if plan.pool.kind == "avg":
        conv_dtype = nl.float32
    for group in range(plan.geometry.G):
        for c_outs in plan.c_out_blocks:
            w_sbs = _load_weights(w_hbm, group, c_outs, plan)
            scale_sbs = _load_vectors(scale_hbm, group, c_outs, plan)
            bias_sbs = _load_vectors(bias_hbm, group, c_outs, plan)
            for section in plan.sections:
                x_sbs = _load_pixels(x_hbm, group, section, w_hbm.dtype, plan)
                for i_out in range(len(c_outs)):
                    c_out = c_outs[i_out]
                    residual_sb = _load_residual(residual_hbm, group, section, c_out, plan)
                    shape = (c_out.size, section.images.size, section.conv.size, plan.conv_cols)
                    conv_sb = nl.ndarray(shape, dtype=conv_dtype, buffer=nl.sbuf)
                    loaded = Tile(c_out.start - c_outs[0].start, c_out.size)
                    for tile in section.tiles:
                        acc_ps = _accumulate(w_sbs, x_sbs, section, loaded, tile, plan)
                        images = nl.ds(tile.images.start, tile.images.size)
                        rows = nl.ds(tile.rows.start - section.conv.start, tile.rows.size)
                        cols = nl.ds(tile.cols.start, tile.cols.size)
                        residual = None
                        if residual_sb is not None:
                            residual = residual_sb[:, images, rows, cols]
                        evict(
                            conv_sb[:, images, rows, cols], acc_ps, scale_sbs[i_out],
                            bias_sbs[i_out], residual, plan.epilogue, False,
                        )  # fmt: skip
                    _pool_and_store(y_hbm, conv_sb, group, section, c_out, plan)


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield the plan that `plan_pooled` makes, or on-chip loops over such plans.

    Raises
    ------
    NotSuited
        There is no pool, weights and strips do not fit together, or the program would be too long
        even with on-chip loops.
    """
    pool = problem.epilogue.pool
    if pool is None:
        raise NotSuited("there is no pool")
    why = f"a matmul per tap and tile, taps read in place, {pool.kind}imum taken in SBUF"
    if pool.kind == "avg":
        why = "a matmul per tap and tile, taps read in place, means taken in SBUF"
    if _looped.least_matmuls(problem) <= _looped.MAX_INSTRUCTIONS:
        plan = _plan_part(problem, 0)
        price = _price(plan)
        if price.static_instructions <= _looped.MAX_INSTRUCTIONS:
            yield Candidate(NAME, plan, price, why)
            return
    cut = _looped.cut_into_parts(
        problem,
        _looped.Loops(
            _plan_part,
            _price,
            _w_shape,
            least=_looped.least_matmuls,
            rows=True,
            groups=1,
            channels=nl.tile_size.pmax,
        ),
    )
    looped = LoopedPlan(cut.pieces, _looped.y_shape(problem))
    yield Candidate(NAME, looped, _looped.total(cut), f"{why}; {cut.why}")


def _plan_part(problem: Problem, reserved_bytes: int) -> PooledPlan:
    pool = problem.epilogue.pool
    if pool is None:
        raise NotSuited("there is no pool")
    return plan_pooled(
        problem.geometry,
        problem.epilogue,
        pool,
        padding_mode=problem.padding_mode,
        fast=problem.precision == "fast",
        sbuf_bytes=nl.tile_size.sbuf_fmax_bytes - reserved_bytes,
    )


def _w_shape(plan: PooledPlan) -> tuple[int, ...]:
    g = plan.geometry
    return (g.G, g.C_in, g.rows.taps * g.cols.taps, g.C_out)


def _price(plan: PooledPlan) -> Price:
    """Return what a plan costs."""
    g, e, pool = plan.geometry, plan.epilogue, plan.pool
    item = g.itemsize
    hw = hardware()
    rounds = g.G * sum(len(block) for block in plan.c_out_blocks)
    walks = g.G * len(plan.c_out_blocks)
    columns = ceil_div(plan.moving_columns, plan.num_matmuls)
    per_tile = min(g.C_out, nl.tile_size.pmax)
    per_in = min(g.C_in, nl.tile_size.pmax)
    conv = sum(s.images.size * s.conv.size for s in plan.sections) * plan.conv_cols
    y = g.N * pool.rows.outputs * pool.cols.outputs
    tall = g.N * pool.rows.outputs * plan.conv_cols
    block_bytes = ceil_div(g.rows.taps * g.cols.taps * g.C_out * item, len(plan.c_out_blocks))
    transfers = [Transfers(walks, c_in.size, block_bytes) for c_in in plan.c_in_tiles]
    vectors = e.has_bias + e.has_scale
    for c_out in tiles(g.C_out, nl.tile_size.pmax):
        transfers += [Transfers(g.G * vectors, c_out.size, 4)] * (vectors > 0)
    for section in plan.sections:
        n = section.images.size
        for run in section.loads:
            descriptors, run_bytes = run.size, plan.cols.inside.size * item
            if plan.cols.size == plan.cols.inside.size and run.step == 1:  # rows side by side
                descriptors, run_bytes = 1, run.size * run_bytes
            for c_in in plan.c_in_tiles:
                transfers.append(Transfers(walks, c_in.size * n * descriptors, run_bytes))
        for c_out in tiles(g.C_out, nl.tile_size.pmax):
            run_bytes = section.conv.size * plan.conv_cols * item
            if e.has_residual:
                transfers.append(Transfers(g.G, c_out.size * n, run_bytes))
            run_bytes = section.pooled.size * pool.cols.outputs * item
            transfers.append(Transfers(g.G, c_out.size * n, run_bytes, to_hbm=True))
    steps = rounds * len(plan.sections)
    pooling = tall * (pool.rows.size - 1) + y * max(1, pool.cols.size - 1)
    evictions = rounds * sum(len(s.tiles) for s in plan.sections)
    columns_beside = (*plan.cols.zeros, *plan.cols.border)
    borders = [(*section.rows.zeros, *columns_beside) for section in plan.sections]
    return Price(
        moving_columns=plan.moving_columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=plan.num_matmuls
        * matmul_cycles(columns, 2 if plan.fast else item, hw, per_tile),
        transfers=tuple(transfers),
        scalar_elems=rounds * conv,
        scalar_instructions=evictions,
        vector_elems=rounds * (pooling + conv * e.has_residual),
        vector_instructions=steps * (pool.rows.size + pool.cols.size - 1),
        first_load_bytes=per_in * plan.sections[0].loads[0].size * plan.cols.inside.size * item
        if plan.sections[0].loads
        else 0,
        static_instructions=plan.num_matmuls
        + evictions * e.instructions
        + steps * (pool.rows.size + pool.cols.size)
        + walks * len(plan.c_in_tiles) * sum(map(len, borders))
        + sum(t.count for t in transfers),
    )  # fmt: skip


def pack(w: PackedWeights, plan: PooledPlan) -> Array:
    """Return the weights as `pack_weights` made them, rounded to bfloat16 for a fast plan."""
    return w.array.astype(DTYPES["bfloat16"]) if plan.fast else w.array


def run(launch: Launch, operands: Operands, plan: PooledPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    return launch(conv2d_pooled, o.x, o.w, o.scale, o.bias, o.residual, plan)
