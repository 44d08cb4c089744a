"""The direct path with a pool at its end: the convolution's result never leaves SBUF.

y[n, co, p, q] = max, or mean, over (i, j) of conv[n, co, p*ps + i, q*ps + j]
conv           = act(scale[co]*acc + bias[co] + residual[n, co, oh, ow])
acc            = sum over (ci, t) of w[ci, t, co] * x[n, ci, oh*s + kh*d - pad, ow*s + kw*d - pad]

with t = kh*KW + kw, the padding outside x, and all this once for each of G groups of channels.

Shapes
------
x_hbm         (N, G*C_in, H, W)          f32 f16 bf16  HBM
w_hbm         (G, C_in, KH*KW, C_out)    as x          HBM, packed
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

from nkiconv.kernels._algorithm import Candidate, NotSuited, Operands, Problem
from nkiconv.kernels._arguments import Array
from nkiconv.kernels._blocks import Pool, conv_outputs, pool_block
from nkiconv.kernels._epilogue import Epilogue, evict
from nkiconv.kernels._plan import Geometry, Tile, ceil_div, even_tiles, tiles
from nkiconv.kernels._price import Price, Transfers, matmul_cycles
from nkiconv.kernels._stages import Launch
from nkiconv.kernels._strip import Run, Side, fill_border, load_run, make_side
from nkiconv.kernels._weights import PackedWeights
from nkiconv.simulate.hardware import hardware

NAME = "direct"

_LOAD_BYTES = 4096  # per partition: where the DMA rate levels off (vendor's DMA bandwidth guide)
_COPIES = 2  # of what is loaded or computed again and again
_STEP_MAX = 32_767  # elements between neighbours in an access pattern, int16 (architecture guide)


@dataclass(frozen=True)
class OutputTile(nl.NKIObject):
    """Outputs of the convolution that have a PSUM bank."""

    images: Tile
    rows: Tile
    cols: Tile


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
    epilogue's.
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
    sbuf_bytes: int | None = None,
) -> PooledPlan:
    """Cut a convolution and its pool into sections that fit SBUF beside the weights.

    Parameters
    ----------
    sbuf_bytes
        SBUF to use per partition; None takes all that the current target has.

    Raises
    ------
    NotSuited
        The smallest section does not fit, or rows are too far apart for an access pattern.
    """
    limit = nl.tile_size.sbuf_fmax_bytes if sbuf_bytes is None else sbuf_bytes
    fit = _Fit(geometry, epilogue, pool, padding_mode)
    if geometry.rows.stride * fit.cols.size > _STEP_MAX:
        raise NotSuited(
            f"rows of {fit.cols.size} pixels are too far apart for an access pattern (at most "
            f"{_STEP_MAX} elements)"
        )
    num_tiles = ceil_div(geometry.C_out, nl.tile_size.pmax)
    smallest = 0
    for parts in range(1, num_tiles + 1):
        block = ceil_div(num_tiles, parts)
        found: list[tuple[float, int, tuple[Section, ...]]] = []
        for sections in fit.all_sections():
            needed = fit.sbuf_bytes(sections, block)
            smallest = needed if smallest == 0 else min(smallest, needed)
            if needed <= limit:
                found.append((fit.cost_ns(sections), needed, sections))
        if found:
            _, needed, sections = min(found, key=lambda one: one[0])
            return fit.plan(sections, block, needed)
    raise NotSuited(
        f"with a pool, weights and the smallest strip need {smallest} B of SBUF per partition, "
        f"which has {limit}; weights would have to be streamed"
    )


class _Fit:
    """A problem, and what sections of it need."""

    def __init__(self, g: Geometry, epilogue: Epilogue, pool: Pool, padding_mode: str) -> None:
        self.conv_cols = conv_outputs(pool.cols, Tile(0, pool.cols.outputs)).size
        self.g = replace(g, cols=replace(g.cols, outputs=self.conv_cols))
        self.epilogue = epilogue
        self.pool = pool
        self.mode = padding_mode
        self.cols = make_side(self.g.cols, Tile(0, self.conv_cols), padding_mode, whole=True)
        self.c_in_tiles = tiles(g.C_in, nl.tile_size.pmax)

    def all_sections(self) -> Iterator[tuple[Section, ...]]:
        """Yield ways to cut the work: whole images, several if they are small, then rows."""
        g, pool = self.g, self.pool
        whole = conv_outputs(pool.rows, Tile(0, pool.rows.outputs)).size * self.conv_cols
        at_once = min(g.N, max(1, nl.tile_size.psum_bank_fmax // whole))
        every_row = Tile(0, pool.rows.outputs)
        if at_once > 1:
            for images in {4 * at_once, 2 * at_once, at_once}:
                yield tuple(self._section(n, every_row) for n in even_tiles(g.N, min(g.N, images)))
        last = 0
        for parts in range(1, pool.rows.outputs + 1):
            size = ceil_div(pool.rows.outputs, parts)
            if size != last:
                yield tuple(
                    self._section(Tile(n, 1), rows)
                    for n in range(g.N)
                    for rows in even_tiles(pool.rows.outputs, size)
                )
            last = size

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
            for n in even_tiles(images.size, max(1, bank // whole), images.start):
                yield OutputTile(n, conv, Tile(0, self.conv_cols))
            return
        for cols in even_tiles(self.conv_cols, bank):
            for rows in even_tiles(conv.size, max(1, bank // cols.size), conv.start):
                yield OutputTile(images, rows, cols)

    def sbuf_bytes(self, sections: tuple[Section, ...], block_tiles: int) -> int:
        """Return the SBUF bytes per partition of sections and as many tiles of output channels."""
        g, e, pool = self.g, self.epilogue, self.pool
        channels = min(block_tiles * nl.tile_size.pmax, g.C_out)
        rounds = g.G * ceil_div(g.C_out, channels)
        weights = len(self.c_in_tiles) * g.rows.taps * g.cols.taps * channels * g.itemsize
        vectors = 4 * block_tiles * (e.has_bias + e.has_scale)
        item = _conv_itemsize(pool, g.itemsize)
        # two neighbours are in SBUF together; the first is as large as any
        first = sections[0]
        x = len(self.c_in_tiles) * first.images.size * first.rows.size * self.cols.size
        conv = first.images.size * first.conv.size * self.conv_cols
        tall = first.images.size * first.pooled.size * self.conv_cols if pool.rows.size > 1 else 0
        y = first.images.size * first.pooled.size * pool.cols.outputs
        mean = y * 4 if pool.kind == "avg" else 0
        streamed = (
            (x + y + conv * e.has_residual) * g.itemsize + (conv + tall) * item + mean + vectors
        )
        resident = weights * (1 if rounds == 1 else _COPIES) + e.scratch_bytes
        return resident + _COPIES * streamed

    def cost_ns(self, sections: tuple[Section, ...]) -> float:
        """Return what the choice of sections changes: columns, and the last one's pooling."""
        g, hw = self.g, hardware()
        taps = g.rows.taps * g.cols.taps * len(self.c_in_tiles)
        cycles = sum(
            matmul_cycles(t.images.size * t.rows.size * t.cols.size, g.itemsize, hw)
            for section in sections
            for t in section.tiles
        )
        last = sections[-1]
        tail = last.images.size * last.conv.size * self.conv_cols
        rounds = g.G * ceil_div(g.C_out, nl.tile_size.pmax)
        issue = len(sections) * hw.dma_static_issue_ns
        return rounds * taps * cycles / hw.tensor_ghz + tail / hw.vector_ghz + issue

    def plan(self, sections: tuple[Section, ...], block_tiles: int, sbuf_bytes: int) -> PooledPlan:
        """Return the plan of these sections."""
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
            sections=sections,
            sbuf_bytes=sbuf_bytes,
        )


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
            dge_mode=nisa.dge_mode.none,
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
            nisa.dma_copy(dst=vector_sb, src=vector_hbm[channels, :], dge_mode=nisa.dge_mode.none)
        vector_sbs.append(vector_sb)
    return vector_sbs


def _load_pixels(
    x_hbm: nl.NkiTensor, group: int, section: Section, plan: PooledPlan
) -> list[nl.NkiTensor]:
    """x_sb (ci, n, rows, cols) of each tile of input channels, the first rows of all first."""
    images = nl.ds(section.images.start, section.images.size)
    x_sbs = []
    for c_in in plan.c_in_tiles:
        shape = (c_in.size, section.images.size, section.rows.size, plan.cols.size)
        x_sbs.append(nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.sbuf))
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
        dge_mode=nisa.dge_mode.none,
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
    images = nl.ds(tile.images.start - section.images.start, tile.images.size)
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
        dge_mode=nisa.dge_mode.none,
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
    conv_dtype = x_hbm.dtype
    if plan.pool.kind == "avg":
        conv_dtype = nl.float32
    for group in range(plan.geometry.G):
        for c_outs in plan.c_out_blocks:
            w_sbs = _load_weights(w_hbm, group, c_outs, plan)
            scale_sbs = _load_vectors(scale_hbm, group, c_outs, plan)
            bias_sbs = _load_vectors(bias_hbm, group, c_outs, plan)
            for section in plan.sections:
                x_sbs = _load_pixels(x_hbm, group, section, plan)
                for i_out in range(len(c_outs)):
                    c_out = c_outs[i_out]
                    residual_sb = _load_residual(residual_hbm, group, section, c_out, plan)
                    shape = (c_out.size, section.images.size, section.conv.size, plan.conv_cols)
                    conv_sb = nl.ndarray(shape, dtype=conv_dtype, buffer=nl.sbuf)
                    loaded = Tile(c_out.start - c_outs[0].start, c_out.size)
                    for tile in section.tiles:
                        acc_ps = _accumulate(w_sbs, x_sbs, section, loaded, tile, plan)
                        images = nl.ds(tile.images.start - section.images.start, tile.images.size)
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
    return y_hbm


def plans(problem: Problem) -> Iterator[Candidate]:
    """Yield the one plan that `plan_pooled` makes.

    Raises
    ------
    NotSuited
        Another precision; or weights and strips do not fit together.
    """
    pool = problem.epilogue.pool
    if pool is None:
        raise NotSuited("there is no pool")
    if problem.precision != "exact":
        raise NotSuited("with a pool it has no faster float32")
    plan = plan_pooled(problem.geometry, problem.epilogue, pool, padding_mode=problem.padding_mode)
    why = f"a matmul per tap and tile, taps read in place, {pool.kind}imum taken in SBUF"
    if pool.kind == "avg":
        why = "a matmul per tap and tile, taps read in place, means taken in SBUF"
    yield Candidate(NAME, plan, _price(plan), why)


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
    transfers = [
        Transfers(walks * len(plan.c_in_tiles), per_in, ceil_div(
            g.rows.taps * g.cols.taps * g.C_out * item, len(plan.c_out_blocks)))
    ]  # fmt: skip
    for section in plan.sections:
        n = section.images.size
        for run in section.loads:
            run_bytes = run.size * plan.cols.inside.size * item
            transfers.append(Transfers(walks * len(plan.c_in_tiles), per_in * n, run_bytes))
        if e.has_residual:
            run_bytes = section.conv.size * plan.conv_cols * item
            transfers.append(Transfers(rounds, per_tile * n, run_bytes))
        run_bytes = section.pooled.size * pool.cols.outputs * item
        transfers.append(Transfers(rounds, per_tile * n, run_bytes, to_hbm=True))
    steps = rounds * len(plan.sections)
    pooling = tall * (pool.rows.size - 1) + y * max(1, pool.cols.size - 1)
    evictions = rounds * sum(len(s.tiles) for s in plan.sections)
    return Price(
        moving_columns=plan.moving_columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=plan.num_matmuls * matmul_cycles(columns, item, hw, per_tile),
        transfers=tuple(transfers),
        scalar_elems=rounds * conv,
        scalar_instructions=evictions,
        vector_elems=rounds * (pooling + conv * e.has_residual),
        vector_instructions=steps * (pool.rows.size + pool.cols.size - 1),
        first_load_bytes=per_in * plan.sections[0].loads[0].size * plan.cols.inside.size * item
        if plan.sections[0].loads
        else 0,
        static_instructions=plan.num_matmuls + evictions + steps * (pool.rows.size + pool.cols.size)
        + sum(t.count for t in transfers),
    )  # fmt: skip


def pack(w: PackedWeights, plan: PooledPlan) -> Array:
    """Return the weights as `pack_weights` made them."""
    return w.array


def run(launch: Launch, operands: Operands, plan: PooledPlan) -> Any:
    """Launch the kernel; return y."""
    o = operands
    return launch(conv2d_pooled, o.x, o.w, o.scale, o.bias, o.residual, plan)
