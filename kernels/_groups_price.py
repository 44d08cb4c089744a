"""What plans of grouped and depthwise convolutions cost, in closed form.

    time = until the first matmul + the longest of TensorE's, the engines' and the operands' work
         + from the last matmul to the end of the last store

or, where they take longer, the transfers.  Until the first matmul, pixels arrive lane after lane,
weights arrive and the first operands are built of them and the mask.  After the last one, a tile is
emptied and each lane stored: few partitions have few DMA engines, so that takes a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from nkiconv.kernels._groups import (
    Batch,
    GroupedPlan,
    GroupedPlans,
    Piece,
    Strip,
    build_rate,
    piece_rows,
    stored_rows,
    takes_turns,
)
from nkiconv.kernels._plan import ceil_div
from nkiconv.kernels._price import (
    Price,
    Transfers,
    alone_ns,
    matmul_cycles,
    streamed_cycles,
    transfer_ns,
)
from nkiconv.simulate.hardware import Hardware, hardware


def price_of(plan: GroupedPlans) -> Price:
    """Return what the sections cost, one after the other."""
    hw = hardware()
    prices = [_section_price(section, hw) for section in plan.sections]
    first_ns, ready_ns = _first_ns(plan, hw)
    return Price(
        moving_columns=sum(p.moving_columns for p in prices),
        matmuls=sum(p.matmuls for p in prices),
        tensor_cycles=sum(p.tensor_cycles for p in prices),
        streamed_cycles=sum(p.streamed_cycles for p in prices),
        transfers=tuple(t for p in prices for t in p.transfers),
        scalar_elems=sum(p.scalar_elems for p in prices),
        scalar_instructions=sum(p.scalar_instructions for p in prices),
        vector_elems=sum(p.vector_elems for p in prices),
        vector_instructions=sum(p.vector_instructions for p in prices),
        gpsimd_elems=sum(p.gpsimd_elems for p in prices),
        gpsimd_instructions=sum(p.gpsimd_instructions for p in prices),
        first_ns=first_ns,
        last_ns=_last_ns(plan.sections[-1], hw),
        built_ns=ready_ns + sum(p.built_ns for p in prices) + _unbuilt_ns(plan, prices[-1], hw),
        static_instructions=sum(p.static_instructions for p in prices),
    )


def _section_price(plan: GroupedPlan, hw: Hardware) -> Price:
    """Return what a section costs without its ends."""
    g, held = plan.geometry, plan.held_bytes
    blocks = plan.groups[0].size * plan.lanes
    k, m = blocks * g.C_in, blocks * g.C_out
    transfers: list[Transfers] = []
    vectors = plan.epilogue.has_scale + plan.epilogue.has_bias
    for size, count in Counter(groups.size for groups in plan.groups).items():
        weights = _weights(plan, size)
        transfers.append(Transfers(count, weights.descriptors, weights.run_bytes))
        if vectors:
            few = Transfers(count * vectors, plan.lanes * size * g.C_out, 4 * plan.planes)
            transfers.append(few)
        for part in plan.parts:
            lanes = sum(batch.lanes for batch in part.batches) // plan.bands
            for strip in part.strips:
                transfers += _strip_transfers(strip, plan, size, count * lanes)
    evicted = tiles = rounds = 0
    for part in plan.parts:
        times = len(plan.groups) * len(part.batches)
        for together in (r for s in part.strips for block in s.blocks for r in block.rounds):
            rounds += times
            tiles += times * len(together)
            evicted += times * sum(t.images.size * t.rows.size * t.cols.size for t in together)
    times = len(plan.groups) if plan.resident else rounds
    rate = build_rate(held, hw)
    by_vector = [times * chunk.taps.size * m * rate for chunk in plan.chunks if chunk.on_vector]
    by_gpsimd = [
        times * chunk.taps.size * m * max(1.0, rate) for chunk in plan.chunks if not chunk.on_vector
    ]
    vector_ns = (sum(by_vector) + times * len(by_vector) * hw.engine_issue_cycles) / hw.vector_ghz
    gpsimd_ns = (sum(by_gpsimd) + times * len(by_gpsimd) * hw.gpsimd_issue_cycles) / hw.gpsimd_ghz
    built_ns = max(vector_ns, gpsimd_ns)
    if takes_turns(held, hw):
        built_ns = vector_ns + gpsimd_ns
    wide = 2 if g.cols.stride * held > hw.wide_stride_bytes else 1
    each = ceil_div(wide * plan.moving_columns, plan.num_matmuls)
    return Price(
        moving_columns=plan.moving_columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=plan.num_matmuls * matmul_cycles(each, held, hw, m),
        streamed_cycles=streamed_cycles(wide * plan.moving_columns, held, k, hw),
        transfers=tuple(transfers),
        scalar_elems=evicted // 2,
        scalar_instructions=ceil_div(tiles, 2),
        vector_elems=evicted // 2 + round(sum(by_vector)),
        vector_instructions=tiles // 2 + times * len(by_vector),
        gpsimd_elems=round(sum(by_gpsimd)),
        gpsimd_instructions=times * len(by_gpsimd),
        built_ns=built_ns,
        static_instructions=plan.num_matmuls
        + tiles
        + times * len(plan.chunks)
        + sum(t.count for t in transfers)
        + 8,
    )


def _unbuilt_ns(plan: GroupedPlans, price: Price, hw: Hardware) -> float:
    """Return how long matmuls go on when all operands are built; `price` is the last section's."""
    section = plan.sections[-1]
    waited = hw.vector_latency_ns + hw.dependency_ns
    if not section.resident:
        return waited
    strips = [strip for part in section.parts for strip in part.strips]
    tiles = sum(len(together) for s in strips for block in s.blocks for together in block.rounds)
    # A plane's operands are built while its first tile is computed.
    share = max(0.0, 1 / section.planes - 1 / tiles)
    return waited + share * price.tensor_cycles / hw.tensor_ghz / len(section.groups)


def _first_ns(plan: GroupedPlans, hw: Hardware) -> tuple[float, float]:
    """Return when the first matmul has its operands, and when the first one of these is built."""
    section = plan.sections[0]
    g = section.geometry
    strip, batch = section.parts[0].strips[0], section.parts[0].batches[0]
    around = hw.dma_static_start_ns + hw.dma_complete_ns
    weights = _weights(section, section.groups[0].size)
    arrived = around + alone_ns(weights, weights.descriptors, hw)
    mask = plan.mask_groups * g.C_out
    masked = 3 * (mask + hw.gpsimd_issue_cycles) / hw.gpsimd_ghz + hw.vector_latency_ns
    m = section.lanes * section.groups[0].size * g.C_out
    built = section.chunks[0].taps.size * m * build_rate(section.held_bytes, hw) / hw.vector_ghz
    ready = max(arrived, masked) + hw.dependency_ns
    operands = ready + built + hw.vector_latency_ns
    loads = [
        _load(section, piece, strip, lane % section.bands, section.groups[0].size)
        for piece in _first_pieces(strip)
        for lane in range(batch.lanes)
    ]
    loads = [load for load in loads if load.descriptors]
    if not loads:
        return operands + hw.dependency_ns, ready
    partitions = section.groups[0].size * g.C_in
    share = transfer_ns(weights, hw) + sum(transfer_ns(load, hw) for load in loads)
    pixels = around + max(
        len(loads) * hw.dma_static_issue_ns + alone_ns(loads[-1], partitions, hw),
        hw.dma_fill_ns + share,
    )
    return max(operands, pixels) + hw.dependency_ns, ready


def _first_pieces(strip: Strip) -> Iterator[Piece]:
    """Yield the transfers that bring the first tile's pixels, for one lane."""
    tile = strip.blocks[0].rounds[0][0]
    end = tile.images.start + tile.images.size
    for piece in strip.pieces:
        if piece.places.start == 0 and piece.planes.start == 0 and piece.images.start < end:
            yield piece


def _last_ns(plan: GroupedPlan, hw: Hardware) -> float:
    """Return how long the end takes from the last matmul on."""
    g = plan.geometry
    strip, batch = plan.parts[-1].strips[-1], plan.parts[-1].batches[-1]
    together = strip.blocks[-1].rounds[-1]
    scalar = vector = 0.0
    for i, tile in enumerate(together):
        if i + 1 < len(together) and plan.resident:
            continue  # emptied while the next one is computed
        elems = tile.images.size * tile.rows.size * tile.cols.size
        if i % 2:
            vector += (elems + hw.engine_issue_cycles) / hw.vector_ghz
        else:
            scalar += (elems + hw.engine_issue_cycles) / hw.scalar_ghz
    emptied = scalar + vector if hw.generation < 3 else max(scalar, vector)
    latency = hw.vector_latency_ns if len(together) % 2 == 0 else hw.scalar_latency_ns
    stores = list(_stores(plan, strip, batch))
    partitions = plan.groups[-1].size * g.C_out
    issued = (len(stores) - 1) * hw.dma_static_issue_ns + alone_ns(stores[-1], partitions, hw)
    stored = max(issued, hw.dma_fill_ns + sum(transfer_ns(store, hw) for store in stores))
    start = hw.tensor_latency_ns + hw.dependency_ns + emptied + latency + hw.dependency_ns
    return start + hw.dma_static_start_ns + stored + hw.dma_complete_ns


def _weights(plan: GroupedPlan, groups: int) -> Transfers:
    """Return the transfer of a block's weights."""
    g = plan.geometry
    run = plan.planes * len(plan.taps) * g.C_out * plan.held_bytes
    return Transfers(1, plan.lanes * groups * g.C_in, run)


def _load(plan: GroupedPlan, piece: Piece, strip: Strip, band: int, groups: int) -> Transfers:
    """Return the transfer of a piece for one lane; without descriptors if it brings nothing."""
    g = plan.geometry
    rows = piece_rows(piece, strip.bands[band].inside)
    pixels = plan.cols.inside.size
    run = _Run(piece.images.size, piece.planes.size, rows.size, g.rows.size, pixels)
    split = rows.step > 1 or len(plan.cols.zeros) > 0
    if not rows.size:
        return Transfers(0, 0, 1)
    return run.transfers(1, groups * g.C_in, g.itemsize, split=split)


def _stores(plan: GroupedPlan, strip: Strip, batch: Batch) -> Iterator[Transfers]:
    """Yield the transfers that store the last block of a strip, lane after lane."""
    g = plan.geometry
    block = strip.blocks[-1]
    for lane in range(batch.lanes):
        stored = stored_rows(block, lane % plan.bands, plan).size
        run = _Run(block.images.size, block.planes.size, stored, g.rows.outputs, g.cols.outputs)
        if stored:
            yield run.transfers(1, plan.groups[-1].size * g.C_out, g.itemsize, to_hbm=True)


def _strip_transfers(
    strip: Strip, plan: GroupedPlan, groups: int, count: int
) -> Iterator[Transfers]:
    """Yield the transfers of a strip for a block of so many groups, each `count` times."""
    g = plan.geometry
    for band in range(plan.bands):
        for piece in strip.pieces:
            load = _load(plan, piece, strip, band, groups)
            if load.descriptors:
                yield Transfers(count, load.descriptors, load.run_bytes)
        for block in strip.blocks:
            stored = stored_rows(block, band, plan).size
            run = _Run(block.images.size, block.planes.size, stored, g.rows.outputs, g.cols.outputs)
            if stored and plan.epilogue.has_residual:
                yield run.transfers(count, groups * g.C_out, g.itemsize)
            if stored:
                yield run.transfers(count, groups * g.C_out, g.itemsize, to_hbm=True)


@dataclass(frozen=True)
class _Run:
    """What a transfer moves per partition: rows of a plane that has `height`."""

    images: int
    planes: int
    rows: int
    height: int
    cols: int

    def transfers(
        self, count: int, channels: int, itemsize: int, *, split: bool = False, to_hbm: bool = False
    ) -> Transfers:
        """Return the transfers; `split` where rows are apart on either side."""
        elems = self.images * self.planes * self.rows * self.cols
        run = self.rows * self.cols
        if split:
            run = self.cols
        elif self.rows == self.height:
            run *= self.planes
        return Transfers(count, channels * elems // run, run * itemsize, to_hbm)
