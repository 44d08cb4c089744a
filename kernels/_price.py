"""What a plan costs, estimated in closed form from counts: good for ranking plans, not for more.

    time = start + max over resources of their work + end

The resources are TensorE, the engines that empty PSUM (ScalarE and VectorE), the DMA engines, and
the rings that issue transfers.  `nkiconv.simulate.profile` has the timeline itself; a test compares
the two rankings.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from nkiconv.simulate.hardware import Hardware, hardware


@dataclass(frozen=True)
class Transfers:
    """Like transfers: `count` of them, each of `descriptors` runs of `run_bytes`.

    `to_hbm` writes to HBM; with `on_chip` neither end is in HBM.
    """

    count: int
    descriptors: int
    run_bytes: int
    to_hbm: bool = False
    on_chip: bool = False

    @property
    def bytes(self) -> int:
        """Bytes moved by all of them."""
        return self.count * self.descriptors * self.run_bytes


@dataclass(frozen=True)
class Price:
    """Counts of a plan, and the estimate made of them.

    Parameters
    ----------
    moving_columns
        Columns streamed through TensorE, a float32 column counted once.
    tensor_cycles
        TensorE's cycles for them, with the passes of the dtype and the least cycles of a matmul.
    transfers
        All transfers.
    scalar_elems, vector_elems, gpsimd_elems
        Elements per partition that the engine works on, all instructions together.
    scalar_instructions, vector_instructions, gpsimd_instructions
        How many these are.
    first_load_bytes
        What has to arrive before the first matmul.
    last_store_bytes
        What is stored after the last one.
    static_instructions
        What a compiler sees: on-chip loops counted once.
    lead_ns
        Work before the first load.
    looped_ns
        The time of all iterations one after the other, where on-chip loops run them; else 0.
    streamed_cycles
        Cycles of those in which columns stream, times the share of the array's rows in use: fed
        little, it stays at its slow clock.  0 where `tensor_cycles` counts that already.
    first_ns, last_ns
        From the start to the first matmul, and from the end of the last one to the end of the last
        store, where the plan knows that better than by what is loaded and stored: then both bytes
        are 0.
    built_ns
        From the start to the end of the last matmul at least, for what it waits for: operands that
        are built, or stores before.
    """

    moving_columns: int
    matmuls: int
    tensor_cycles: int
    transfers: tuple[Transfers, ...]
    scalar_elems: int = 0
    scalar_instructions: int = 0
    vector_elems: int = 0
    vector_instructions: int = 0
    gpsimd_elems: int = 0
    gpsimd_instructions: int = 0
    first_load_bytes: int = 0
    last_store_bytes: int = 0
    static_instructions: int = 0
    lead_ns: float = 0.0
    streamed_cycles: float = 0.0
    first_ns: float = 0.0
    last_ns: float = 0.0
    built_ns: float = 0.0
    looped_ns: float = 0.0

    @property
    def hbm_bytes(self) -> int:
        """Bytes that cross HBM."""
        return sum(t.bytes for t in self.transfers if not t.on_chip)

    @property
    def num_transfers(self) -> int:
        """How many transfers."""
        return sum(t.count for t in self.transfers)

    def estimate_us(self, hw: Hardware | None = None) -> float:
        """Return microseconds without launch; None takes the target in force."""
        if self.looped_ns:
            return self.looped_ns / 1000
        hw = hw or hardware()
        moved = (
            sum(t.count * transfer_ns(t, hw) for t in self.transfers),
            self._longest_ring() * hw.dma_static_issue_ns,
        )
        gpsimd = self.gpsimd_elems + self.gpsimd_instructions * hw.gpsimd_issue_cycles
        engines = (
            _engine_ns(self.scalar_elems, self.scalar_instructions, hw.scalar_ghz, hw),
            _engine_ns(self.vector_elems, self.vector_instructions, hw.vector_ghz, hw),
            gpsimd / hw.gpsimd_ghz,
        )
        tensor = self._tensor_ns(max(*moved, *engines, self.built_ns), hw)
        rate = hw.memory_bytes_per_ns
        ends = (self.first_load_bytes + self.last_store_bytes) / rate
        fixed = 2 * (hw.dma_static_start_ns + hw.dma_complete_ns + hw.dma_fill_ns)
        fixed += ends + hw.tensor_latency_ns
        within = max(tensor, *engines) + fixed
        if self.first_ns:
            fixed = hw.dma_static_start_ns + hw.dma_complete_ns + hw.dma_fill_ns
            within = max(self.first_ns + max(tensor, *engines), self.built_ns) + self.last_ns
        return (max(within, max(moved) + fixed) + self.lead_ns) / 1000

    def _longest_ring(self) -> int:
        """Return the transfers of the ring that issues the most: of loads, stores, or on chip."""
        counts = Counter[tuple[bool, bool]]()
        for t in self.transfers:
            counts[t.to_hbm, t.on_chip] += t.count
        return max(counts.values(), default=0)

    def _tensor_ns(self, others_ns: float, hw: Hardware) -> float:
        """Return TensorE's time at the clock that it has, where others take so long."""
        fast = self.tensor_cycles / hw.tensor_ghz
        slow = fast * hw.throttle_slowdown
        if hw.throttle_slowdown == 1:
            return fast
        # The clock is slow until the array has been fed for a while.
        fed_ns = self.streamed_cycles / hw.tensor_ghz
        if 0 < fed_ns < hw.throttle_busy_share * max(slow, others_ns):
            return slow
        return fast + min(fast, 1.5 * hw.throttle_window_cycles / hw.tensor_ghz / 2)


def _engine_ns(elems: int, instructions: int, ghz: float, hw: Hardware) -> float:
    return (elems + instructions * hw.engine_issue_cycles) / ghz


def transfer_ns(t: Transfers, hw: Hardware) -> float:
    """Return what share of all DMA engines' time one transfer takes."""
    return max(
        hw.dma_transfer_ns + t.descriptors * _descriptor_ns(t, hw) / hw.dma_engines,
        t.descriptors * t.run_bytes / hw.dma_aggregate_bytes_per_ns,
    )


def alone_ns(t: Transfers, partitions: int, hw: Hardware) -> float:
    """Return how long one transfer takes by itself: few partitions have few DMA engines."""
    engines = max(1.0, partitions / hw.dma_engine_partitions)
    runs = math.ceil(t.descriptors / engines)
    alone = hw.dma_transfer_ns + runs * _descriptor_ns(t, hw)
    return hw.dma_fill_ns + max(alone, transfer_ns(t, hw))


def _descriptor_ns(t: Transfers, hw: Hardware) -> float:
    moved = max(t.run_bytes, hw.dma_hbm_write_bytes) if t.to_hbm else t.run_bytes
    if t.run_bytes <= 4:  # single elements
        return hw.dma_element_ns
    return max(hw.dma_shortest_ns, hw.dma_descriptor_ns + moved / hw.dma_bytes_per_ns)


def streamed_cycles(columns: int, itemsize: int, rows: float, hw: Hardware) -> float:
    """Return the cycles in which columns stream, times the share of the array's rows in use."""
    passes = hw.float32_matmul_passes * hw.float32_matmul_row_cycles if itemsize == 4 else 1
    return columns * passes * rows / hw.partitions


def matmul_cycles(columns: int, itemsize: int, hw: Hardware, weights: int = 128) -> int:
    """Return TensorE's cycles for one matmul of so many moving columns."""
    if itemsize < 4:
        return max(columns, hw.matmul_min_cycles) + hw.matmul_gap_cycles
    rows = hw.float32_matmul_row_cycles * columns
    load = round(hw.float32_weight_load_cycles * weights)
    return hw.float32_matmul_passes * (max(rows, load) + hw.matmul_gap_cycles)
