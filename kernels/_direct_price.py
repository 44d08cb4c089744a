"""What plans of the direct kernel cost, in closed form.

    time = until the first matmul + the longest of TensorE's and the engines' work
         + from the last matmul to the end of the last store

or, where they take longer, the transfers: loads come first, and stores begin when the first block
is computed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from nkiconv.kernels._direct_plan import QUADRANT, DirectPlan
from nkiconv.kernels._groups import full_tap
from nkiconv.kernels._price import Price, Transfers, alone_ns, streamed_cycles, transfer_ns
from nkiconv.simulate.hardware import hardware

_EDGES = 3  # of four, that a pack's taps leave, on the mean
_SINGLE_PRODUCT_SHARE = 0.08  # of TensorE's time, as 1x1 layers of ResNets show on the timeline


def price_of(plan: DirectPlan) -> Price:
    """Return what a plan costs."""
    g = plan.geometry
    item = g.itemsize
    held = 2 if plan.fast else item  # bytes of an element of x and w in SBUF
    moved: Counter[tuple[int, int, bool, bool]] = Counter()  # descriptors, bytes, to HBM, on chip
    stored: Counter[tuple[int, int]] = Counter()
    copies = copied = 0  # of packs, by VectorE and ScalarE in turn
    cleared = clearings = 0  # edges of them, by VectorE
    width = plan.cols.inside.size
    partitions, sources = plan.x_shape[0], len(plan.c_in_tiles)
    for step in plan.steps:
        section = plan.sections[step.section]
        n = section.images.size
        for load in step.loads:
            if not load.is_x:
                size = plan.c_out_blocks[step.block][load.i].size
                rows = plan.products[load.part.start].rows
                moved[rows, load.part.size * size * held, False, False] += g.G
                continue
            run = section.runs[load.part.start]
            partitions = plan.c_in_tiles[load.i].size
            if plan.interleaved_x:
                moved[partitions * n, sources * run.size * width * item, False, False] += g.G
            elif plan.cols.size == width and run.step == 1:  # rows side by side
                moved[partitions * n, run.size * width * item, False, False] += g.G
            else:
                moved[partitions * n * run.size, width * item, False, False] += g.G
        if step.x_back == 0 and section.carry:
            moved[partitions, section.carry * plan.cols.size * held, False, True] += g.G * sources
        for block in section.blocks if step.x_back == 0 else ():
            for group in plan.packs if block.cols.start == 0 else ():
                if group.channels % QUADRANT:
                    runs = group.channels * n * block.rows.size
                    moved[runs, g.cols.outputs * held, False, True] += g.G * len(group.taps)
                else:
                    copies += g.G * len(group.taps)
                    copied += g.G * len(group.taps) * n * block.rows.size * g.cols.outputs
                clearings += g.G * _EDGES
                cleared += g.G * n * (g.cols.outputs + block.rows.size)
        c_outs = plan.c_out_blocks[step.block]
        for block in section.blocks:
            run_bytes = block.rows.size * block.cols.size * item
            if plan.interleaved_y:
                runs = c_outs[0].size * block.images.size
                stored[runs, len(c_outs) * run_bytes] += g.G
            else:
                for c_out in c_outs:
                    stored[c_out.size * block.images.size, run_bytes] += g.G
    y_elems = g.N * g.rows.outputs * g.cols.outputs * g.G
    num_tiles = sum(len(c_outs) for c_outs in plan.c_out_blocks)
    tiles = g.G * num_tiles * sum(len(b.tiles) for s in plan.sections for b in s.blocks)
    by_scalar, by_vector = (0.5, 0.5) if plan.evict_on_both else (0.0, 1.0)
    hw = hardware()
    if plan.evict_on_both and hw.generation < 3:  # PSUM serves one of the two at a time
        by_vector += by_scalar * hw.vector_ghz / hw.scalar_ghz
    loads = [Transfers(n, *how) for how, n in moved.items()]
    stores = [Transfers(n, *how, to_hbm=True) for how, n in stored.items()]
    added = [replace(t, to_hbm=False) for t in stores] if plan.epilogue.has_residual else []
    transfers = (*loads, *stores, *added)
    # With one product a tile, TensorE and what empties PSUM take turns more than they overlap.
    every_pixel = g.rows.taps * g.cols.taps * g.rows.stride * g.cols.stride == 1
    alone = _SINGLE_PRODUCT_SHARE if every_pixel else 0.0
    first_ns, last_ns = _ends_ns(plan)
    emptied = by_vector * (y_elems * num_tiles + tiles * hw.engine_issue_cycles) / hw.vector_ghz
    tile_ns = max(plan.tensor_cycles / hw.tensor_ghz, emptied) / tiles
    mean_rows = sum(p.rows for p in plan.products) / len(plan.products)
    return Price(
        moving_columns=plan.moving_columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=plan.tensor_cycles,
        transfers=transfers,
        scalar_elems=round(by_scalar * y_elems * num_tiles) + copied // 2,
        scalar_instructions=round(by_scalar * tiles) + copies // 2,
        vector_elems=round(by_vector * y_elems * num_tiles) + copied // 2 + cleared,
        vector_instructions=round(by_vector * tiles) + copies // 2 + clearings,
        first_ns=first_ns,
        last_ns=last_ns,
        built_ns=_moved_ns(plan, (*loads, *stores), first_ns, tile_ns),
        static_instructions=plan.num_matmuls
        + tiles
        + copies
        + sum(t.count for t in transfers)
        + _epilogue_instructions(plan, tiles),
        streamed_cycles=streamed_cycles(plan.moving_columns, held, mean_rows, hw),
        lead_ns=alone * plan.tensor_cycles / hw.tensor_ghz,
    )


def weight_transfers(plan: DirectPlan) -> tuple[Transfers, ...]:
    """Return what the weights of a group take to load."""
    held = 2 if plan.fast else plan.geometry.itemsize
    return tuple(
        Transfers(
            1,
            plan.products[load.part.start].rows,
            load.part.size * plan.c_out_blocks[0][load.i].size * held,
        )
        for load in plan.steps[0].loads
        if not load.is_x
    )


def _epilogue_instructions(plan: DirectPlan, tiles: int) -> int:
    """Return the most instructions beside one per tile: PSUM emptied, vectors, borders."""
    e = plan.epilogue
    g = plan.geometry
    num = 1 + (e.has_scale + e.has_bias) * g.G * sum(map(len, plan.c_out_blocks))
    strips = sum(step.x_back == 0 for step in plan.steps) * g.G
    if plan.packs:
        blocks = sum(len(plan.sections[s.section].blocks) for s in plan.steps if s.x_back == 0)
        num += 4 * g.G * blocks * len(plan.packs)
    if not plan.trimmed:
        columns = len(plan.cols.zeros) + len(plan.cols.border)
        num += strips * len(plan.c_in_tiles) * (2 + columns)
    elif full_tap(g.rows) < 0 or full_tap(g.cols) < 0:
        num += tiles  # a product of zeros comes first, of which these are made
    return num + tiles * (e.instructions - 1)


def _moved_ns(
    plan: DirectPlan, transfers: tuple[Transfers, ...], first_ns: float, tile_ns: float
) -> float:
    """Return when the last matmul ends at the earliest, for the sake of loads and other stores.

    `tile_ns` is the time of a PSUM tile; stores begin when those of the first block are done.
    """
    hw = hardware()
    loads = sum(t.count * transfer_ns(t, hw) for t in transfers if not t.to_hbm and not t.on_chip)
    loaded = hw.dma_static_start_ns + hw.dma_complete_ns + hw.dma_fill_ns + loads
    if len(plan.sections) * plan.geometry.G > 1:
        loaded = 0.0  # the last section's work begins before all of it is loaded
    num_stores = sum(t.count for t in transfers if t.to_hbm)
    stored = sum(t.count * transfer_ns(t, hw) for t in transfers if t.to_hbm)
    c_outs = len(plan.c_out_blocks[0]) if plan.interleaved_y else 1
    first = c_outs * len(plan.sections[0].blocks[0].tiles) * tile_ns
    return max(loaded, first_ns + first + stored * (1 - 1 / num_stores))


def _ends_ns(plan: DirectPlan) -> tuple[float, float]:
    """Return how long the first matmul waits for its operands, and y's end for the last store."""
    g, hw = plan.geometry, hardware()
    held = 2 if plan.fast else g.itemsize
    loads = []  # of x, then of weights
    section, c_out = plan.sections[0], plan.c_out_blocks[0][0]
    if section.runs:
        runs = len(plan.c_in_tiles) if plan.interleaved_x else 1
        run = section.runs[0]
        rows, elems = run.size, runs * plan.cols.inside.size
        if plan.cols.size == plan.cols.inside.size and run.step == 1:
            rows, elems = 1, elems * rows
        channels = plan.c_in_tiles[0].size
        x = Transfers(1, channels * section.images.size * rows, elems * g.itemsize)
        loads.append((x, channels))
    for piece in [load.part for load in plan.steps[0].loads if not load.is_x][:1]:
        rows = plan.products[piece.start].rows
        loads.append((Transfers(1, rows, piece.size * c_out.size * held), rows))
    arrived = (
        max(
            i * hw.dma_static_issue_ns + alone_ns(load, partitions, hw)
            for i, (load, partitions) in enumerate(loads)
        )
        if loads
        else 0.0
    )
    arrived = max(arrived, hw.dma_fill_ns + sum(transfer_ns(load, hw) for load, _ in loads))
    block = plan.sections[-1].blocks[-1]
    c_outs = plan.c_out_blocks[-1]
    tile = block.tiles[-1]
    cycles = tile.images.size * tile.rows.size * tile.cols.size + hw.engine_issue_cycles
    emptied = cycles / hw.vector_ghz + hw.vector_latency_ns
    run_bytes = block.rows.size * block.cols.size * g.itemsize
    channels = c_outs[-1].size
    store = Transfers(
        1,
        channels * block.images.size,
        run_bytes * (len(c_outs) if plan.interleaved_y else 1),
        to_hbm=True,
    )
    stored = alone_ns(store, channels, hw)
    around = hw.dma_static_start_ns + hw.dma_complete_ns
    return (
        around + arrived + hw.dependency_ns,
        hw.tensor_latency_ns + 2 * hw.dependency_ns + emptied + around + stored,
    )
