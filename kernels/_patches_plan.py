"""How a convolution whose patches tile the image is cut: lines of patches, K tiles, visits.

A *line* is a row of patches: KH rows of the image, all channels.  Lines lie on partitions, with a
line in `pieces` where there are few, so that TensorE turns up to 128 patches at a time: the patches
that have the same place in each piece.  A *K tile* is some rows (ci, kh) of every patch with their
KW pixels, at most 128 values.

A *block* is the lines that are loaded and turned together, a *visit* one PSUM bank of its patches
and some tiles of output channels that one transfer stores.  The first block is summed up K tile by
K tile as they arrive, for as many banks as PSUM has; every other block is turned in between the
matmuls of the block before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

import nki.language as nl

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._matmul_plan import Box, Dealt, deal, split
from nkiconv.kernels._plan import Geometry, Tile, ceil_div, even_tiles
from nkiconv.kernels._price import Price, Transfers, matmul_cycles, transfer_ns
from nkiconv.simulate.hardware import Hardware, hardware

_SUMS = 6  # PSUM banks that are summed up while patches arrive; two turn patches
_STORE_BYTES = 8192  # of a visit's results per partition
_RESULTS = 3  # visits whose results are in SBUF: computed, stored, and one between
_PART = 1024  # patches of a block that is a part of a large image
_SHORT = 256  # patches: matmuls of half as many still pay
_BETWEEN_NS = 700  # latencies from a transpose by way of a copy to a matmul
_ZEROS_NS = 300  # until there are zeros to turn


@dataclass(frozen=True)
class Load(nl.NKIObject):
    """One transfer of a K tile: rows `kh` of channel `ci`, at `row` of the tile.

    `pieces` of each line from piece `piece` on, `width` pixels of each.
    """

    row: int
    ci: int
    kh: int
    size: int
    piece: int
    pieces: int
    width: int


@dataclass(frozen=True)
class Turn(nl.NKIObject):
    """Places of a piece whose patches share a PSUM bank on their way, and how they are copied.

    `pieces[i]` pieces have a patch at place `start + i`.  The first `full` pieces have all of them
    and are copied together; a shorter last piece has `rest`, copied by themselves.
    """

    start: int
    pieces: tuple[int, ...]
    full: int
    rest: int


@dataclass(frozen=True)
class Visit(nl.NKIObject):
    """Patches of a block that share a PSUM bank, and the tiles of channels stored with them."""

    box: Box
    part: Tile


@dataclass(frozen=True)
class Block(nl.NKIObject):
    """Lines `rows` of `images`, each in `pieces` of `step` patches.

    `first` are visits that are summed up while K tiles arrive, none where there is only one;
    `visits` are the others.
    """

    images: Tile
    rows: Tile
    pieces: int
    step: int
    loads: tuple[tuple[Load, ...], ...]
    turns: tuple[Turn, ...]
    first: tuple[Visit, ...]
    visits: tuple[Visit, ...]

    @property
    def lines(self) -> int:
        """How many lines of patches."""
        return self.images.size * self.rows.size

    @property
    def tiles(self) -> int:
        """How many tiles of results `visits` have."""
        return sum(visit.part.size for visit in self.visits)


@dataclass(frozen=True)
class PatchesPlan(nl.NKIObject):
    """Everything that the kernel does, decided beforehand.

    `k_tiles` are rows (ci, kh) of a patch.  `stream` tiles of channels have their weights loaded K
    tile by K tile.  TensorE turns zeros `warm_up` times while it waits for the first pixels.
    """

    geometry: Geometry
    epilogue: Epilogue
    moving_dtype: str
    y_shape: tuple[int, int, int, int]
    k_tiles: tuple[Tile, ...]
    m: Dealt
    stream: int
    blocks: tuple[Block, ...]
    warm_up: int
    takes_turns: bool
    num_matmuls: int
    num_transposes: int
    moving_columns: int
    hbm_bytes: int
    sbuf_bytes: int

    @property
    def k_rows(self) -> int:
        """Contracted values of the largest K tile."""
        return self.k_tiles[0].size * self.geometry.cols.taps


def make_plans(
    g: Geometry, epilogue: Epilogue, moving_dtype: str
) -> Iterator[tuple[PatchesPlan, Price]]:
    """Yield the plans that fit SBUF, each with its price."""
    for images, rows, pieces in _sizes(g):
        plan = make_plan(g, epilogue, moving_dtype, images, rows, pieces)
        if plan.sbuf_bytes <= nl.tile_size.sbuf_fmax_bytes:
            yield plan, _price(plan, hardware())


def _sizes(g: Geometry) -> list[tuple[int, int, int]]:
    """Return images and lines of a block, and pieces of a line, that are worth a look."""
    pmax = nl.tile_size.pmax
    OH, OW = g.rows.outputs, g.cols.outputs
    found = set()
    for parts in (1, 2, 4, 8, 16, 32, 64):
        # parts of an image where there is but one, so that it starts sooner, or where it is large
        if parts > 1 and (_PART * parts > OH * OW if g.N > 1 or parts > 4 else parts > OH):
            break
        rows = ceil_div(OH, max(parts, ceil_div(OH, pmax)))
        most = pmax // rows if rows == OH else 1
        while most > 0:
            images = ceil_div(g.N, ceil_div(g.N, most))
            lines = images * rows
            # all that fit, or half as many: fewer instructions, or longer runs
            wishes = {pmax // lines, ceil_div(pmax // 2, lines), 1 if g.N == 1 else pmax // lines}
            for wish in wishes:
                step = ceil_div(OW, min(wish, OW, pmax // lines))
                found.add((images, rows, ceil_div(OW, step)))
            most //= 2
    return sorted(found)


def make_plan(
    g: Geometry, epilogue: Epilogue, moving_dtype: str, images: int, rows: int, pieces: int
) -> PatchesPlan:
    """Return the plan with blocks of so many images, lines of each, and pieces of a line."""
    hw = hardware()
    pmax = nl.tile_size.pmax
    OH, OW, KW = g.rows.outputs, g.cols.outputs, g.cols.taps
    itemsize = 4 if moving_dtype == "float32" else 2
    k_tiles = even_tiles(g.C_in * g.rows.taps, pmax // KW)
    m = deal(g.C_out, ceil_div(g.C_out, pmax))
    step = ceil_div(OW, pieces)
    loads = tuple(_loads(k, g.rows.taps, (OW, KW), pieces, step) for k in k_tiles)
    boxes = [(n, r) for n in even_tiles(g.N, images) for r in even_tiles(OH, rows)]
    stream = max(1, min(m.tiles, _SUMS // len(_boxes(boxes[0][0].size, boxes[0][1].size * OW))))
    known: dict[tuple[int, int, bool, bool], Block] = {}
    blocks = []
    for i, (n, r) in enumerate(boxes):
        kind = (n.size, r.size, i == 0, i == len(boxes) - 1)
        if kind not in known:
            lines = n.size * r.size
            bank = nl.tile_size.psum_bank_fmax * 4 // itemsize
            summed = stream if i == 0 and len(k_tiles) > 1 else 0
            first, visits = _visits(
                n.size, r.size * OW, m.tiles, g.itemsize, summed, is_last=kind[3]
            )
            turns = _turns(OW, pieces, step, bank // (lines * pieces))
            known[kind] = Block(n, r, pieces, step, loads, turns, first, visits)
        blocks.append(replace(known[kind], images=n, rows=r))
    patches = g.N * OH * OW
    tiles_visited = [sum(v.part.size for v in (*b.first, *b.visits)) for b in blocks]
    x_bytes = g.N * g.C_in * OH * g.rows.taps * OW * KW * g.itemsize
    w_bytes = len(k_tiles) * k_tiles[0].size * KW * m.tiles * m.partitions * itemsize
    y_bytes = patches * g.C_out * g.itemsize
    vectors = 4 * g.C_out * (epilogue.has_bias + epilogue.has_scale)
    return PatchesPlan(
        geometry=g,
        epilogue=epilogue,
        moving_dtype=moving_dtype,
        y_shape=(g.N, g.C_out, OH, OW),
        k_tiles=k_tiles,
        m=m,
        stream=stream,
        blocks=tuple(blocks),
        warm_up=_warm_up(blocks[0], g.itemsize, hw),
        takes_turns=hw.generation > 2,
        num_matmuls=len(k_tiles) * sum(tiles_visited),
        num_transposes=len(blocks) * len(k_tiles) * step,
        moving_columns=patches * len(k_tiles) * m.tiles,
        hbm_bytes=x_bytes + w_bytes + y_bytes * (1 + epilogue.has_residual) + vectors,
        sbuf_bytes=_sbuf_bytes(blocks, k_tiles, m, epilogue, itemsize, g),
    )


def _sbuf_bytes(
    blocks: list[Block],
    k_tiles: tuple[Tile, ...],
    m: Dealt,
    epilogue: Epilogue,
    itemsize: int,
    g: Geometry,
) -> int:
    """Return what weights, two blocks of x, two that are turned, and results in flight need."""
    block = blocks[0]
    patches = block.lines * g.cols.outputs
    rows = sum(k.size for k in k_tiles)
    visits = [v for b in blocks[:_RESULTS] for v in (*b.first, *b.visits)]
    largest = max(v.box.size * v.part.size for v in visits)
    results = largest * min(_RESULTS, len(visits))
    blocks_held = min(2, len(blocks))
    return (
        len(k_tiles) * m.tiles * m.partitions * itemsize
        + blocks_held * (rows * block.step * g.cols.taps + len(k_tiles) * patches) * itemsize
        + results * g.itemsize * (1 + epilogue.has_residual)
        + 4 * m.tiles * (epilogue.has_bias + epilogue.has_scale)
        + epilogue.scratch_bytes
        + 2 * nl.tile_size.pmax  # zeros to warm up with
        + 64
    )


def _warm_up(block: Block, itemsize: int, hw: Hardware) -> int:
    """Return how many tiles of zeros TensorE turns until the first pixels are there."""
    if hw.throttle_slowdown == 1:
        return 0
    wait_ns = hw.dma_static_start_ns + hw.dma_fill_ns + hw.dma_complete_ns + hw.dependency_ns
    wait_ns += _arrival_ns(block, 1, itemsize, hw)
    columns = hw.partitions + hw.matmul_gap_cycles
    return ceil((wait_ns - _ZEROS_NS) * hw.tensor_ghz / (columns * hw.throttle_slowdown))


def _load_transfers(block: Block, loads: tuple[Load, ...], itemsize: int) -> list[Transfers]:
    return [
        Transfers(1, load.pieces * block.lines * load.size, load.width * itemsize) for load in loads
    ]


def _arrival_ns(block: Block, k_tiles: int, itemsize: int, hw: Hardware) -> float:
    """Return how long the first K tiles are on their way.

    A transfer to few partitions has few of the DMA engines.
    """
    shares, longest = 0.0, 0.0
    for loads in block.loads[:k_tiles]:
        for t in _load_transfers(block, loads, itemsize):
            share = transfer_ns(t, hw)
            shares += share
            engines = max(1.0, block.lines * block.pieces / hw.dma_engine_partitions)
            longest = max(longest, share * hw.dma_engines / engines)
    return max(shares, longest)


def turn_cycles(patches: int, k_rows: int, itemsize: int, hw: Hardware) -> int:
    """Return TensorE's cycles to turn so many patches."""
    rows = max(patches, min(hw.matmul_min_cycles, k_rows))
    each = hw.float32_matmul_row_cycles if itemsize == 4 else 1
    return rows * each + hw.matmul_gap_cycles


def _turning_cycles(plan: PatchesPlan, block: Block, itemsize: int, hw: Hardware) -> int:
    """Return TensorE's cycles to turn a block's patches for one K tile."""
    counts = Counter(pieces for turn in block.turns for pieces in turn.pieces)
    return sum(
        count * turn_cycles(pieces * block.lines, plan.k_rows, itemsize, hw)
        for pieces, count in counts.items()
    )


def _summing_cycles(
    plan: PatchesPlan, visits: tuple[Visit, ...], itemsize: int, hw: Hardware
) -> int:
    """Return TensorE's cycles for one K tile of some visits."""
    return sum(
        visit.part.size * matmul_cycles(visit.box.size, itemsize, hw, plan.m.partitions)
        for visit in visits
    )


def _stall_ns(plan: PatchesPlan, turning: int, summing: int, itemsize: int, hw: Hardware) -> float:
    """Return how long TensorE waits between the K tiles of the first block, and between blocks.

    The last two tiles of a block hide what turning the next one takes; with one K tile, all do.
    """
    block, K, others = plan.blocks[0], len(plan.k_tiles), len(plan.blocks) - 1
    patches = block.lines * plan.geometry.cols.outputs
    if K == 1:
        copied = patches / len(block.turns) + hw.engine_issue_cycles
        wait = _BETWEEN_NS + copied / hw.scalar_ghz
        summed = _summing_cycles(plan, block.visits, itemsize, hw) / hw.tensor_ghz
        turned = turning / hw.tensor_ghz
        first = wait - turned if others else wait  # the second block is turned meanwhile
        return max(0.0, first) + others * max(0.0, wait - turned - summed)
    last = 2 * K * _summing_cycles(plan, block.visits, itemsize, hw) / max(1, block.tiles)
    between = others * max(0.0, 2 * _BETWEEN_NS - last / hw.tensor_ghz)
    if not block.first:
        return between
    loads_ns = sum(
        transfer_ns(t, hw)
        for loads in block.loads
        for t in _load_transfers(block, loads, plan.geometry.itemsize)
    )
    weights = Transfers(1, plan.k_rows, plan.stream * plan.m.partitions * itemsize)
    arrives = loads_ns / K + transfer_ns(weights, hw)
    stall = (K - 1) * max(0.0, arrives - (turning + summing) / hw.tensor_ghz)
    if others and not block.visits:  # the next block is turned with nothing between
        copying = (patches + len(block.turns) * hw.engine_issue_cycles) / hw.scalar_ghz
        stall += K * max(0.0, copying - turning / hw.tensor_ghz)
    return stall + between


def _price(plan: PatchesPlan, hw: Hardware) -> Price:
    """Return what a plan costs."""
    g, m, K = plan.geometry, plan.m, len(plan.k_tiles)
    itemsize = 4 if plan.moving_dtype == "float32" else 2
    plane = g.rows.outputs * g.cols.outputs
    turning = summing = copied = copies = emptied = evictions = 0
    transfers = []
    blocks = {(b.lines, b.first, b.visits): b for b in plan.blocks}
    kinds = Counter((b.lines, b.first, b.visits) for b in plan.blocks)
    for kind, block in blocks.items():
        count, visits = kinds[kind], (*block.first, *block.visits)
        turning += count * K * _turning_cycles(plan, block, itemsize, hw)
        summing += count * K * _summing_cycles(plan, visits, itemsize, hw)
        copied += count * K * block.lines * g.cols.outputs
        copies += count * K * sum(1 + (turn.rest > 0) for turn in block.turns)
        for loads in block.loads:
            for t in _load_transfers(block, loads, g.itemsize):
                transfers.append(replace(t, count=count))
        for visit in visits:
            tiles = visit.part.size
            emptied += count * tiles * visit.box.size
            evictions += count * tiles
            runs, pixels = visit.box.images.size * m.partitions, visit.box.cols.size
            if pixels == plane:
                pixels *= tiles
            else:
                runs *= tiles
            stores = count * (1 + plan.epilogue.has_residual)
            transfers.append(Transfers(stores, runs, pixels * g.itemsize, to_hbm=True))
    last, block = transfers[-1], plan.blocks[0]
    weights = m.partitions * itemsize
    transfers.append(Transfers(K, plan.k_rows, plan.stream * weights))
    begins = _arrival_ns(block, 2, g.itemsize, hw) + transfer_ns(transfers[-1], hw)
    if m.tiles > plan.stream:
        transfers.append(Transfers(m.tiles - plan.stream, plan.k_rows, K * weights))
    stall = _stall_ns(
        plan,
        _turning_cycles(plan, block, itemsize, hw),
        _summing_cycles(plan, block.first, itemsize, hw),
        itemsize,
        hw,
    )
    # Rows in use on the mean.  A clock that is up stays up with half of what it takes to rise.
    rows = turning * block.lines * block.pieces + summing * plan.k_rows
    rows //= turning + summing
    enough = 1.3 * hw.throttle_busy_share * hw.partitions
    if plan.warm_up > 0 and min(rows, block.lines * block.pieces) > enough:
        rows = hw.partitions
    by_vector = 0.5 if plan.takes_turns else 0.0
    elems, instructions = copied + emptied, copies + evictions
    cycles = turning + summing + round(stall * hw.tensor_ghz)
    return Price(
        moving_columns=plan.moving_columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=cycles,
        transfers=tuple(transfers),
        scalar_elems=int(elems * (1 - by_vector)),
        scalar_instructions=int(instructions * (1 - by_vector)),
        vector_elems=int(elems * by_vector),
        vector_instructions=int(instructions * by_vector),
        last_store_bytes=last.descriptors * last.run_bytes,
        static_instructions=plan.num_matmuls
        + plan.num_transposes
        + plan.warm_up
        + instructions
        + sum(t.count for t in transfers)
        + _instructions_beside(plan, evictions),
        lead_ns=begins,
        streamed_cycles=cycles * rows / hw.partitions,
    )


def _instructions_beside(plan: PatchesPlan, evictions: int) -> int:
    """Return the instructions that take no time worth a price, so that a program's length holds."""
    e, m = plan.epilogue, plan.m
    vectors = (e.has_scale + e.has_bias) * (1 + (m.rest > 0))
    streamed = plan.stream - 1  # the first K tile's weights, tile by tile
    visits = [visit for block in plan.blocks for visit in (*block.first, *block.visits)]
    rests = sum(visit.part.start < m.rest for visit in visits)  # stored by themselves
    zeros = int(plan.warm_up > 0)
    return (
        2  # ScalarE's table
        + zeros
        + vectors
        + streamed
        + rests * (1 + e.has_residual)
        + evictions * (e.instructions - 1)
    )


@lru_cache(maxsize=4096)
def _loads(k: Tile, KH: int, cols: tuple[int, int], pieces: int, step: int) -> tuple[Load, ...]:
    """Return the transfers of a K tile; a shorter last piece has its own.

    `cols` are OW and KW.
    """
    OW, KW = cols
    last = OW - (pieces - 1) * step
    found, row = [], k.start
    while row < k.start + k.size:
        ci, kh = divmod(row, KH)
        size = min(KH - kh, k.start + k.size - row)
        at = row - k.start
        if last == step:
            found.append(Load(at, ci, kh, size, 0, pieces, step * KW))
        else:
            found.append(Load(at, ci, kh, size, 0, pieces - 1, step * KW))
            found.append(Load(at, ci, kh, size, pieces - 1, 1, last * KW))
        row += size
    return tuple(found)


@lru_cache(maxsize=1024)
def _turns(OW: int, pieces: int, step: int, most: int) -> tuple[Turn, ...]:
    """Return the places of a piece in as many parts as PSUM banks ask for."""
    found = []
    last = OW - (pieces - 1) * step
    for part in even_tiles(step, most):
        counts = tuple(
            pieces if place < last else pieces - 1
            for place in range(part.start, part.start + part.size)
        )
        if last == step:
            found.append(Turn(part.start, counts, pieces, 0))
        else:
            rest = sum(count == pieces for count in counts)
            found.append(Turn(part.start, counts, pieces - 1, rest))
    return tuple(found)


@lru_cache(maxsize=1024)
def _boxes(images: int, patches: int) -> tuple[Box, ...]:
    """Cut a block's patches into PSUM banks."""
    whole = Box(Tile(0, images), Tile(0, 1), Tile(0, patches))
    return tuple(split(whole, nl.tile_size.psum_bank_fmax))


@lru_cache(maxsize=1024)
def _visits(
    images: int, patches: int, m_tiles: int, itemsize: int, stream: int, *, is_last: bool
) -> tuple[tuple[Visit, ...], tuple[Visit, ...]]:
    """Return a block's visits: those summed up while it arrives, and the others.

    The images of the very last box are cut in two, and its channels ever finer: what is stored last
    should be little.
    """
    first, others = [], []
    boxes = _boxes(images, patches)
    for i, box in enumerate(boxes):
        done = stream if i < _SUMS else 0
        if done:
            first.append(Visit(box, Tile(0, done)))
        if done == m_tiles:
            continue
        most = max(1, _STORE_BYTES // (box.size * itemsize))
        parts = even_tiles(m_tiles - done, most, done)
        if is_last and i == len(boxes) - 1:
            if box.images.size > 1 and box.size >= _SHORT:
                half, box = split(box, ceil_div(box.images.size, 2) * box.cols.size)
                others += [Visit(half, part) for part in parts]
            parts = (*parts[:-1], *_halves(parts[-1]))
        others += [Visit(box, part) for part in parts]
    return tuple(first), tuple(others)


def _halves(tile: Tile) -> tuple[Tile, ...]:
    """Return half of a tile, half of the rest, and so on."""
    parts, start, size = [], tile.start, tile.size
    while size > 1:
        parts.append(Tile(start, ceil_div(size, 2)))
        start, size = start + ceil_div(size, 2), size // 2
    return (*parts, Tile(start, size))


def turns_due(i: int, block: Block, turns: int, k_tiles: int, is_first: bool) -> int:
    """Return how many parts of the next block to have turned before tile `i` of a block.

    With one K tile all of them: while they are turned, this block's own are copied.  Else a share,
    and all before the last tile, which hides the copies; of the first block's followers none before
    its second tile, as their pixels may still be on their way.  A kernel calls it too: it holds to
    the Python of the compiler.
    """
    if k_tiles == 1:
        return turns
    if is_first:
        return min(turns, turns * max(0, i - 1) // max(1, block.tiles - 2))
    return turns * (i + 1) // block.tiles
