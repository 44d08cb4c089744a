"""What a packing of im2col takes, in closed form: it ranks packings, and prices plans.

    start + the longest of TensorE, emptying PSUM and issuing transfers + end

or, if that is longer, what the DMA engines need for everything, and for y from the start on.  To
the start belong the way of the first rows and weights, on the chip a second time where shifts or
shared rows are copied, and what the second chunk is late; to the end the last chunk's store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import gcd

from nkiconv.kernels._im2col_plan import (
    IMAGE_BUFFERS,
    Im2colPlan,
    Packing,
    abreast,
    direct_shifts,
    engine_starts,
    joins,
    num_passes,
    packings,
    sizes,
    weights_way,
)
from nkiconv.kernels._plan import Geometry, ceil_div
from nkiconv.kernels._price import Price, Transfers, matmul_cycles, streamed_cycles
from nkiconv.simulate.hardware import Hardware

_BESIDE = 0.1  # of the DMA engines' time: whatever waits for a transfer waits for others too
_ESTIMATED = 32  # packings, by their first looks
_STARTS = 32  # partitions: engines can copy what begins at a multiple
_FED = 0.99  # of the columns of a matmul, for gaps between results


class Estimate:
    """Nanoseconds of a packing; `held` is the bytes of an element of x and w in SBUF."""

    def __init__(self, g: Geometry, k: Packing, hw: Hardware, held: int) -> None:
        self.g, self.k, self.hw, self.held = g, k, hw, held  # g with images abreast as one
        self.sizes = s = sizes(g, k)
        self.channels = min(g.C_in, hw.partitions)
        self.joined = joins(g, k)
        together = max(1, hw.partitions // g.C_out)
        self.p_rows = min(k.P, together)  # of y, beside each other in the first result
        self.outs = ceil_div(k.P, together) * ceil_div(g.C_out, hw.partitions)
        self.num_tiles = g.N * ceil_div(s.num_groups, s.each) * ceil_div(g.cols.outputs, s.columns)
        self.evictions = self.outs * (self.p_rows if self.joined else 1)  # of a tile
        rest = 2 if s.num_groups > s.head else 0  # the first chunk and the last one are small
        self.num_chunks = g.N * ceil_div(s.num_groups, s.chunk) + rest
        # transfers of y: a last group without all its rows has one of its own
        short = g.N * self.outs if g.rows.outputs % k.P else 0
        self.num_stores = self.num_chunks * (1 if self.joined else self.outs)
        self.num_stores += 0 if self.joined else short
        self.copied = k.G * k.J > k.S
        self.num_moves = k.G * (k.extra + 1) - 1 if self.copied else 0
        self.by_engine = 0  # of the moves
        if self.copied and k.G * k.J * self.channels > _STARTS:
            self.by_engine = sum(
                engine_starts(first * self.channels, min(k.S, k.J - level * k.S) * self.channels)
                for level in range(k.extra + 1)
                for first in range(level * k.S, k.G * k.J, k.J)
                if first > 0
            )
        self.issue = hw.dma_static_issue_ns
        self.way = hw.dma_static_start_ns + hw.dma_fill_ns + hw.dma_transfer_ns
        self.way += hw.dma_complete_ns + hw.dependency_ns
        self.evict_ghz = hw.scalar_ghz + (hw.vector_ghz if hw.generation > 2 else 0.0)
        self.row_ns = self._run_ns(s.x_width * g.itemsize)
        self.weights, self.w_bytes, spare = weights_way(g, k, s.entries, held)
        self.shifts = direct_shifts(g, k, s, spare)

    def total_ns(self) -> float:
        """Return the time of a launch, without the launch's own."""
        hw, s = self.hw, self.sizes
        tensor, loads, moves, stores = self.tensor_ns(), *self.dma_ns()
        columns = self.num_tiles / self.g.N / s.num_groups  # tiles of a group: of head / each
        first = tensor / self.num_tiles * max(1.0, s.head * columns)
        tile = min(s.each, s.num_groups) * s.columns
        per_tile = (tile + hw.engine_issue_cycles) * self.evictions / self.evict_ghz
        emptying = per_tile * self.num_tiles
        tail = (s.head * s.columns + hw.engine_issue_cycles) * self.evictions / self.evict_ghz
        compute = max(tensor + tail, emptying + first, self.rings_ns())
        copies = self.copies_ns()
        (x_start, start), end = self.start_ns(max(compute, copies)), self.end_ns()
        if self.g.N > 1:  # the second image's loads wait for its zeros
            x_start, start = x_start + self.way, start + self.way
        dma = loads + moves + stores
        return (
            max(
                start + max(compute, self.turns_ns(tensor)) + end,
                x_start + copies + end,
                dma + self.way + hw.dma_complete_ns,
                start + first + tail + stores + self.way,
            )
            + _BESIDE * dma
        )

    def tensor_ns(self) -> float:
        """Return TensorE's time; an array that is fed on few rows stays at its slow clock."""
        g, k, hw = self.g, self.k, self.hw
        passes = num_passes(g, k)
        matmuls = self.num_tiles * passes
        each = g.N * self.sizes.num_groups * g.cols.outputs * passes // matmuls
        wide = g.cols.stride * self.held > hw.wide_stride_bytes
        cycles = matmul_cycles(
            2 * each if wide else each, self.held, hw, self.p_rows * min(g.C_out, hw.partitions)
        )
        time_ns = matmuls * cycles / hw.tensor_ghz
        if hw.throttle_slowdown > 1:
            channels = g.C_in / ceil_div(g.C_in, hw.partitions)  # of a tile, on the mean
            rows = k.G * k.J * channels * _FED * each / (each + hw.matmul_gap_cycles)
            if rows < hw.throttle_busy_share * hw.throttle_slowdown * hw.partitions:
                return time_ns * hw.throttle_slowdown
            window_ns = hw.throttle_window_cycles / hw.tensor_ghz
            time_ns += min(time_ns, 1.5 * window_ns / hw.throttle_slowdown)
        return time_ns

    def dma_ns(self) -> tuple[float, float, float]:
        """Return all DMA engines' time for loads, for copies on the chip, and for y."""
        g, k, s, hw = self.g, self.k, self.sizes, self.hw
        loads = self.num_chunks * hw.dma_transfer_ns + self._bytes_ns(self.w_bytes)
        loads += g.N * g.C_in * g.rows.size * self.row_ns / hw.dma_engines
        moves = 0.0
        if self.copied:
            places = g.N * s.num_groups * k.row_step
            by_dma = self.num_moves - self.by_engine
            copies = (k.G * k.J - k.S) * self.channels * by_dma / self.num_moves
            moves = self.num_chunks * by_dma * hw.dma_transfer_ns
            moves += copies * self.num_chunks * hw.dma_descriptor_ns / hw.dma_engines
            moves += self._bytes_ns(copies * places * s.width * self.held)
        rows, line = g.N * g.C_out * g.rows.outputs, g.cols.outputs * g.itemsize
        apart = not self.joined and k.P > 1
        runs = rows if apart else self.num_chunks * self.outs * g.C_out
        run_bytes = line if apart else max(1, rows * line // runs)
        stores = self.num_stores * hw.dma_transfer_ns
        stores += runs * self._run_ns(max(run_bytes, hw.dma_hbm_write_bytes)) / hw.dma_engines
        return loads, moves, stores

    def copies_ns(self) -> float:
        """Return GpSimdE's time for copies on the chip."""
        elems = self.g.N * self.sizes.num_groups * self.k.row_step * self.sizes.width
        cycles = elems + self.num_chunks * self.hw.gpsimd_issue_cycles
        time_ns = self.by_engine * cycles / self.hw.gpsimd_ghz
        if self.by_engine and self.g.N > 1:  # in order: what an image waits for delays the next
            time_ns += self.g.N * (
                self.way + self._alone_ns(self.k.S, self.sizes.each, self.row_ns)
            )
        return time_ns

    def rings_ns(self) -> float:
        """Return the longest time that a ring issues transfers."""
        return max(self.num_chunks * max(2, self.num_moves), self.num_stores) * self.issue

    def turns_ns(self, tensor: float) -> float:
        """Return how long images take that wait for a buffer of x each."""
        N = self.g.N
        if N <= IMAGE_BUFFERS:
            return 0.0
        places = self.sizes.num_groups * self.k.row_step
        each = self.way + self._alone_ns(self.k.S, places, self.row_ns)
        return N / IMAGE_BUFFERS * (each + self._moves_ns(places) + tensor / N)

    def start_ns(self, compute: float) -> tuple[float, float]:
        """Return when the first matmul could begin so as not to wait for anything later.

        Once for what x needs, and once with the weights.
        """
        g, k, s = self.g, self.k, self.sizes
        need = (s.head - 1) * k.row_step + k.Q
        parts = 2 if g.rows.pad > 0 and k.S > 1 else 1  # phases with and without a row of zeros
        if self.shifts > 0:
            loads = self.shifts * parts
            x_ns = loads * self.issue + self.way + self._alone_ns(k.J, need, self.row_ns)
            if self.shifts < k.G:
                run = self._run_ns(need * s.width * self.held)
                x_ns += (k.G - 1) * self.issue + self.way + self._alone_ns(k.J, 1, run)
        else:
            loads = parts
            x_ns = loads * self.issue + self.way
            x_ns += self._alone_ns(k.S, need + k.extra, self.row_ns)
            x_ns += self._moves_ns(need)
        weights_ns = self.weights_ns(loads)
        size = min(s.each, s.num_groups - s.head)  # of the second chunk
        if self.copied and size > 0:
            second = (loads + 1) * self.issue + self.way
            second += self._alone_ns(k.S, size * k.row_step, self.row_ns)
            second += self._moves_ns(size * k.row_step)
            x_ns = max(x_ns, second - s.head / s.num_groups / g.N * compute)
        start = max(x_ns, weights_ns)
        return start if self.weights == "rows" else x_ns, start  # rows' loads are before images'

    def weights_ns(self, loads: int) -> float:
        """Return when the weights are in their places, with so many transfers issued before."""
        g, k, hw = self.g, self.k, self.hw
        C_out = k.U * g.C_out * self.held
        if self.weights == "zeros":
            whole = self._run_ns(self.sizes.entries * C_out)
            return (loads + 1) * self.issue + self.way + self._alone_ns(k.G * k.J, 1, whole)
        if self.weights == "rows":
            fills = self.p_rows * k.G
            line = self._alone_ns(g.rows.taps, 1, self._run_ns(C_out))
            return (loads + 1 + fills) * self.issue + self.way + line
        taps = self._run_ns(g.rows.taps * g.cols.taps * g.C_out // k.B * self.held)
        time_ns = self.issue + self.way + self._alone_ns(1, 1, taps)
        tiles = ceil_div(g.C_in, hw.partitions)
        fills = k.G * k.J * k.B * tiles
        channels = self.channels // k.B
        start = next(n for n in (32, 64, 128) if channels <= n)  # where engines can begin
        copies = tiles * ceil_div(k.G * k.J * k.B, start // gcd(start, channels))
        elems = copies * g.rows.taps * k.U * g.C_out // k.B * self.held / 4  # 2 bytes: a fast mode
        time_ns += (copies * hw.engine_issue_cycles + elems) / hw.vector_ghz
        if fills > copies:
            return time_ns + (fills - copies) * self.issue + self.way
        return time_ns + hw.vector_latency_ns

    def end_ns(self) -> float:
        """Return the time from the last result to its end in HBM."""
        g, k, s, hw = self.g, self.k, self.sizes, self.hw
        line = g.cols.outputs * g.itemsize
        partitions, runs, run_bytes = min(g.C_out, hw.partitions), 1, s.head * line
        if self.joined:
            run_bytes *= k.P
        elif k.P > 1:
            partitions, runs, run_bytes = partitions * self.p_rows, s.head, line
        each = self._run_ns(max(run_bytes, hw.dma_hbm_write_bytes))
        served = max(1.0, partitions / hw.dma_engine_partitions)
        time_ns = (1 if self.joined else self.outs) * self.issue + self.way
        return time_ns + runs * partitions / served * each + hw.tensor_latency_ns

    def _moves_ns(self, places: int) -> float:
        """Return the way of copies of so many places on the chip."""
        if not self.copied:
            return 0.0
        hw, elems = self.hw, places * self.sizes.width
        engine = self.by_engine * (elems + hw.gpsimd_issue_cycles) / hw.gpsimd_ghz
        if self.by_engine == self.num_moves:
            return engine + hw.vector_latency_ns
        run = self._run_ns(elems * self.held)
        by_dma = (self.num_moves - self.by_engine) * self.issue + self.way
        return max(engine, by_dma + self._alone_ns(self.k.S, 1, run))

    def _run_ns(self, num_bytes: float) -> float:
        """Return one DMA engine's time for a run."""
        hw = self.hw
        return max(hw.dma_shortest_ns, hw.dma_descriptor_ns + num_bytes / hw.dma_bytes_per_ns)

    def _alone_ns(self, slots: int, runs: int, run_ns: float) -> float:
        """Return the time of a transfer of runs for each partition of so many slots."""
        partitions = slots * self.channels
        return runs * run_ns * partitions / max(1.0, partitions / self.hw.dma_engine_partitions)

    def _bytes_ns(self, num_bytes: float) -> float:
        return num_bytes / self.hw.dma_bytes_per_ns / self.hw.dma_engines


def ranked(g: Geometry, hw: Hardware, held: int) -> Iterator[Packing]:
    """Yield packings, the quickest first; those that look slow at once come last as they are."""
    order = sorted(packings(g), key=lambda k: _screen_ns(g, k, hw, held))
    likely = order[:_ESTIMATED]
    yield from sorted(likely, key=lambda k: Estimate(abreast(g, k.B), k, hw, held).total_ns())
    yield from order[_ESTIMATED:]


def _screen_ns(g: Geometry, k: Packing, hw: Hardware, held: int) -> float:
    """Return a packing's time by TensorE, by copies on the chip, and by what is issued for it."""
    g = abreast(g, k.B)
    columns = g.N * ceil_div(g.rows.outputs, k.P) * g.cols.outputs * num_passes(g, k)
    time_ns = matmul_cycles(columns, held, hw) / hw.tensor_ghz
    rows = k.G * k.J * min(g.C_in, hw.partitions)
    if rows < hw.throttle_busy_share * hw.throttle_slowdown * hw.partitions:
        time_ns *= hw.throttle_slowdown
    copies = (k.G * k.J / k.S - 1) * g.N * g.C_in * g.rows.size * g.cols.size * held
    issued = k.G * (k.extra + 1) + (k.G * k.J if k.Q > 1 else 0)
    return time_ns + copies / hw.dma_aggregate_bytes_per_ns + issued * hw.dma_static_issue_ns


def price(plan: Im2colPlan, hw: Hardware) -> Price:
    """Return what a plan costs."""
    g, k, item = plan.geometry, plan.packing, plan.geometry.itemsize
    held = 2 if plan.fast else item
    chunks = Counter(chunk for image in plan.images for strip in image for chunk in strip.chunks)
    moved: Counter[tuple[int, int, bool, bool]] = Counter()  # descriptors, bytes, to HBM, on chip
    tiles = 0
    for chunk, times in chunks.items():
        for c_in in plan.c_in_tiles:
            for load in chunk.loads:
                moved[load.slots * c_in.size * load.size, plan.x_width * item, False, False] += (
                    times
                )
            for move in chunk.moves:
                moved[move.partitions, move.size * held, False, True] += times
        rows = chunk.full * k.P + chunk.rest
        run = rows if plan.joined or k.P == 1 else 1
        runs = ceil_div(rows * g.C_out, run)
        moved[runs, run * g.cols.outputs * item, True, False] += times
        if plan.epilogue.has_residual:
            moved[runs, run * g.cols.outputs * item, False, False] += times
        tiles += times * len(chunk.tiles)
    line = plan.rows * plan.entries * k.U * g.C_out * held
    moved[plan.rows, max(1, line // plan.rows), False, False] += len(plan.c_in_tiles)
    if plan.fills:
        moved[plan.fills[0].partitions, k.U * g.C_out // k.B * held, False, True] += len(plan.fills)
    transfers = tuple(Transfers(n, *how) for how, n in moved.items())
    out = plan.out_tiles[0]
    tiles *= len(plan.col_tiles) * len(plan.out_tiles)
    elems = g.N * ceil_div(g.rows.outputs, k.P) * g.cols.outputs * len(plan.out_tiles)
    if plan.joined:
        elems, tiles = elems * out.rows.size, tiles * out.rows.size
    shared = 2 if plan.on_both else 1
    each = ceil_div(plan.moving_columns, plan.num_matmuls)
    m = out.rows.size * out.channels.size
    made = Price(
        moving_columns=plan.moving_columns,
        matmuls=plan.num_matmuls,
        tensor_cycles=plan.num_matmuls * matmul_cycles(each, held, hw, m),
        transfers=transfers,
        scalar_elems=elems // shared,
        scalar_instructions=tiles // shared,
        vector_elems=elems - elems // shared,
        vector_instructions=tiles - tiles // shared,
        static_instructions=plan.num_matmuls + 2 * tiles + sum(t.count for t in transfers),
        streamed_cycles=streamed_cycles(plan.moving_columns, held, plan.rows, hw),
    )
    # The estimate knows more than these counts: what waits for what, and for how long.
    return replace(made, lead_ns=Estimate(g, k, hw, held).total_ns() - 1000 * made.estimate_us(hw))
