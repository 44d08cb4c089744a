"""Every number about the chips, with unit, generation, source and status.

The rest of the package takes chip numbers from here and from nowhere else.  ``documented`` is what
the vendor's guides state; ``measured`` was read off hardware by others and published; ``assumed``
is a guess that a measurement should replace.  Where a measurement contradicts a guide, the
measurement stands.

Sources
-------
Vendor documentation, read in the state of Neuron SDK 2.32 (August 2026): *A2*, *A3*, *A4* are the
NKI architecture guides of Trainium/Inferentia2, Trainium2 and Trainium3; *perf guide*, *DMA guide*
are the NKI deep dives; *isa* is the page of an instruction, *isa 2.26* that of SDK 2.26, the last
whose pages estimated the cost.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum

from nkiconv.simulate.errors import ConstraintError

TARGETS = ("trn1", "trn2", "trn3")
"""Names of the targets; ``trn1`` is also Inferentia2."""

TARGET_VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"

_ALIASES = {
    "trn1": "trn1",
    "inf2": "trn1",
    "gen2": "trn1",
    "trn2": "trn2",
    "gen3": "trn2",
    "trn3": "trn3",
    "gen4": "trn3",
}


class Status(Enum):
    """How well a number is known."""

    DOCUMENTED = "documented"
    MEASURED = "measured"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Fact:
    """One number about one generation."""

    name: str
    value: float
    unit: str
    target: str
    source: str
    status: Status


@dataclass(frozen=True, slots=True)
class Hardware:
    """The facts of one generation, by name; units are in `FACTS`."""

    target: str
    generation: int
    partitions: int
    sbuf_partition_bytes: int
    sbuf_usable_bytes: int
    psum_banks: int
    psum_bank_bytes: int
    psum_align_bytes: int
    sbuf_align_bytes: int
    stationary_max_columns: int
    moving_max_columns: int
    matmul_result_banks: int
    tile_min_size: int
    double_row_products: int
    mx_products: int
    bn_stats_max_elems: int
    search_min_elems: int
    search_max_elems: int
    range_index_max: int
    quadrant_partitions: int
    free_dims_max: int
    stride_max_elems: int
    count_max_elems: int
    program_max_instructions: int
    tensor_peak_ghz: float
    tensor_ghz: float
    vector_ghz: float
    scalar_ghz: float
    gpsimd_ghz: float
    matmul_min_cycles: int
    matmul_gap_cycles: int
    tile_issue_cycles: int
    float32_matmul_passes: int
    float32_matmul_row_cycles: int
    float32_weight_load_cycles: float
    weight_load_columns: int
    throttle_slowdown: int
    throttle_window_cycles: int
    throttle_busy_share: float
    tensor_latency_ns: float
    tensor_throttled_latency_ns: float
    vector_latency_ns: float
    scalar_latency_ns: float
    scalar_sbuf_ns: float
    engine_issue_cycles: int
    scalar_table_cycles: int
    gpsimd_issue_cycles: int
    gpsimd_core_partitions: int
    gather_index_cycles: int
    gather_word_bytes: int
    n_gather_group_elems: int
    nonzero_elem_cycles: int
    exponential_elems_per_cycle: int
    topk_elem_cycles: int
    random_elems_per_cycle: int
    vector_xorwow_states: int
    vector_xorwow_generation: int
    quantize_elems_per_cycle: int
    scalar_table_load_ns: float
    float32_pair_cycles: float
    tensor_scalar_extra_cycles: int
    narrow_stride_ns: float
    reciprocal_cycles: float
    scan_cycles: float
    cumulative_cycles: float
    reduce_extra_cycles: int
    predicated_copy_cycles: float
    select_reduce_cycles: float
    bn_aggr_tuple_cycles: float
    dependency_ns: float
    wide_stride_bytes: int
    hbm_bytes_per_ns: float
    hbm_pair_bytes_per_ns: float
    dma_engines: int
    dma_engine_partitions: int
    dma_bytes_per_ns: float
    dma_aggregate_bytes_per_ns: float
    dma_descriptor_ns: float
    dma_shortest_ns: float
    dma_element_ns: float
    dma_hbm_write_bytes: int
    dma_transfer_ns: float
    dma_fill_ns: float
    dma_transpose_hbm_share: float
    dma_transpose_sbuf_share: float
    dma_transpose_elems: int
    dma_static_issue_ns: float
    dma_static_start_ns: float
    dma_hardware_issue_ns: float
    dma_hardware_start_ns: float
    dma_software_issue_ns: float
    dma_software_start_ns: float
    dma_complete_ns: float
    core_barrier_ns: float
    loop_iteration_ns: float
    register_access_ns: float
    launch_before_us: float
    launch_after_us: float
    launch_unbenchmarked_us: float

    @property
    def memory_bytes_per_ns(self) -> float:
        """Between HBM and SBUF, sustained: HBM's rate or that of all DMA engines, the lower one."""
        return min(self.hbm_bytes_per_ns, self.dma_aggregate_bytes_per_ns)


def _facts() -> Iterator[Fact]:
    documented, measured, assumed = Status.DOCUMENTED, Status.MEASURED, Status.ASSUMED

    def each(
        name: str,
        unit: str,
        values: tuple[float, float, float],
        source: str,
        status: Status | tuple[Status, Status, Status],
    ) -> Iterator[Fact]:
        marks = status if isinstance(status, tuple) else (status,) * 3
        for target, value, mark in zip(TARGETS, values, marks, strict=True):
            yield Fact(name, value, unit, target, source, mark)

    def same(name: str, unit: str, value: float, source: str, status: Status) -> Iterator[Fact]:
        # A measurement of trn2 that stands in for the other generations is a guess there.
        marks = (assumed, measured, assumed) if status is measured else (status,) * 3
        yield from each(name, unit, (value,) * 3, source, marks)

    # Memories and limits of operands.
    yield from each("generation", "NeuronCore version", (2, 3, 4), "isa nc_version", documented)
    yield from same("partitions", "partitions", 128, "A2, A3, A4: SBUF and PSUM", documented)
    yield from each(
        "sbuf_partition_bytes",
        "B/partition",
        (192 * 1024, 224 * 1024, 256 * 1024),
        "A2, A3, A4: SBUF size",
        documented,
    )
    yield from each(
        "sbuf_usable_bytes",
        "B/partition",
        (180_224, 212_984, 245_752),
        "limits of nl.tile_size as published in aws-neuron/nkipy, HardwareConstants.h",
        documented,
    )
    yield from same("psum_banks", "banks", 8, "A2: PSUM", documented)
    yield from same("psum_bank_bytes", "B/partition", 2048, "A2: PSUM", documented)
    yield from same("psum_align_bytes", "B", 4, "no public figure; PSUM adds 4-byte words", assumed)
    yield from same("sbuf_align_bytes", "B", 1, "no public figure", assumed)
    yield from same("stationary_max_columns", "columns", 128, "isa nc_matmul", documented)
    yield from same(
        "moving_max_columns",
        "columns",
        512,
        "nl.tile_size.gemm_moving_fmax; 512 on trn3 too in the MXFP deep dive",
        documented,
    )
    yield from each(
        "matmul_result_banks",
        "PSUM banks",
        (1, 1, 8),
        "isa nc_matmul: 512 columns, on trn3 4096 of float32 or 8192 of bfloat16",
        documented,
    )
    yield from each(
        "tile_min_size", "rows or columns", (64, 32, 32), "isa nc_matmul: tiling mode", documented
    )
    yield from each(
        "double_row_products",
        "products/cell/cycle",
        (1, 2, 2),
        "A3: double FP8; isa nc_matmul: not on trn1, also on trn3",
        documented,
    )
    yield from each(
        "mx_products",
        "products/cell/cycle",
        (1, 1, 4),
        "A4: quad MXFP8/MXFP4; trn1 and trn2 lack the instruction",
        (assumed, assumed, documented),
    )
    yield from same("bn_stats_max_elems", "elements", 512, "isa bn_stats", documented)
    yield from same("search_min_elems", "elements", 8, "isa max8, nc_find_index8", documented)
    yield from same("search_max_elems", "elements", 16_384, "isa max8, nc_find_index8", documented)
    yield from same("range_index_max", "elements", 2**24, "isa range_select", documented)
    yield from same("quadrant_partitions", "partitions", 32, "isa nc_stream_shuffle", documented)
    yield from same("free_dims_max", "dimensions", 4, "access pattern deep dive", documented)
    yield from same("stride_max_elems", "elements", 32_767, "A2: int16 stride", documented)
    yield from same("count_max_elems", "elements", 65_535, "A2: uint16 size", documented)

    yield from same(
        "program_max_instructions",
        "instructions",
        5_000_000,
        "compiler's threshold, as its error XTP002 prints it (aws-neuron-sdk issue 819); "
        "NCC_EBVF030 and NCC_EVRF007 name none",
        measured,
    )

    # Engine clocks and cycle rules.
    yield from each(
        "tensor_peak_ghz", "GHz", (2.8, 2.4, 2.4), "A2, A3, A4: engine tables", documented
    )
    yield from each(
        "tensor_ghz",
        "GHz",
        (2.45, 2.4, 2.4),
        "rate under load; trn1's best published matmuls sustain 0.87 of its 2.8 GHz",
        (measured, documented, documented),
    )
    yield from each("vector_ghz", "GHz", (1.12, 0.96, 1.2), "A2, A3, A4", documented)
    yield from each("scalar_ghz", "GHz", (1.4, 1.2, 1.2), "A2, A3, A4", documented)
    yield from each("gpsimd_ghz", "GHz", (1.4, 1.2, 1.2), "A2, A3, A4", documented)
    yield from same("matmul_min_cycles", "cycles", 64, "A2: max(N, 64) cycles a matmul", documented)
    yield from same(
        "matmul_gap_cycles",
        "cycles",
        6,
        "trn2 profiles: 4 to 8 cycles between matmuls with changing weights",
        measured,
    )
    yield from same(
        "tile_issue_cycles",
        "cycles",
        64,
        "no public figure for matmuls on different tiles; the shortest matmul",
        assumed,
    )
    yield from same("float32_matmul_passes", "passes", 2, "trn2 profiles", measured)
    yield from same(
        "float32_matmul_row_cycles",
        "cycles/column/pass",
        2,
        "trn2 profiles; 2 passes of 2 are the documented factor 4",
        measured,
    )
    yield from same(
        "float32_weight_load_cycles",
        "cycles/column/pass",
        2,
        "trn2 profiles: float32 weights of 128 columns take about 256 cycles",
        measured,
    )
    yield from same(
        "weight_load_columns",
        "columns/cycle",
        4,
        "perf guide, fast weight load: 128 columns of 2 bytes in about 32 cycles",
        documented,
    )
    yield from each(
        "throttle_slowdown",
        "times",
        (1, 2, 2),
        "trn2 profiles: TensorE starts at half its clock, and falls back to it when poorly fed; "
        "trn1 is at its sustained rate (tensor_ghz) throughout",
        (assumed, measured, assumed),
    )
    yield from same(
        "throttle_window_cycles",
        "cycles",
        8192,
        "trn2 profiles: the clock is chosen anew every 3.413 us",
        measured,
    )
    yield from same(
        "throttle_busy_share",
        "share of the window",
        0.375,
        "inferred from trn2 profiles: columns streamed at full clock, weighted by the rows in use",
        assumed,
    )
    yield from each(
        "tensor_latency_ns",
        "ns",
        (133, 164, 164),
        "trn1 perf guide: 188 for an isolated matmul of 128 columns; trn2 profiles",
        (measured, measured, assumed),
    )
    yield from same(
        "tensor_throttled_latency_ns",
        "ns",
        204,
        "trn2 profiles: 200 to 205 at half clock",
        measured,
    )
    yield from each(
        "vector_latency_ns",
        "ns",
        (214, 155, 155),
        "trn1 perf guide and profile: 2000 and 8192 elements; trn2 profiles",
        (measured, measured, assumed),
    )
    yield from each(
        "scalar_latency_ns",
        "ns",
        (133, 158, 158),
        "trn1 perf guide: 159 for one element from SBUF; trn2 profiles, from PSUM",
        (measured, measured, assumed),
    )
    yield from same(
        "scalar_sbuf_ns",
        "ns",
        25,
        "trn2 profiles: ScalarE's instructions take 21 to 30 longer from SBUF than from PSUM",
        measured,
    )
    yield from same(
        "engine_issue_cycles", "cycles", 60, "A2: about 64 to issue; trn2 profiles: 60", measured
    )
    yield from same(
        "scalar_table_cycles",
        "cycles",
        180,
        "trn2 profiles: exp of 512 elements, 570 ns to the next from PSUM, 612 from SBUF",
        measured,
    )
    yield from same("gpsimd_issue_cycles", "cycles", 150, "isa iota, affine_select", documented)
    yield from same(
        "gpsimd_core_partitions", "partitions/core", 16, "isa local_gather: eight cores", documented
    )
    yield from same(
        "gather_index_cycles", "cycles", 28, "isa local_gather: the 28 of its cost C", documented
    )
    yield from same(
        "gather_word_bytes", "B", 4, "isa local_gather: the 4 of its cost C", documented
    )
    yield from same("n_gather_group_elems", "elements", 512, "isa nc_n_gather", documented)
    yield from same(
        "nonzero_elem_cycles", "cycles/element", 4, "isa topk, whose search is alike", assumed
    )
    yield from each(
        "exponential_elems_per_cycle",
        "elements/cycle",
        (1, 1, 4),
        "A4: four times ScalarE's rate, at the same clock; trn1 and trn2 lack the instruction",
        (assumed, assumed, documented),
    )
    yield from same("topk_elem_cycles", "cycles/element", 4, "isa topk: 4 n + K", documented)
    yield from each(
        "random_elems_per_cycle",
        "elements/cycle",
        (1, 1, 4),
        "A4: VectorE generates four words a lane and cycle; older ones: no public figure",
        (assumed, assumed, documented),
    )
    yield from same(
        "vector_xorwow_states", "states/lane", 4, "A4: XORWOW-based PRNG of VectorE", documented
    )
    yield from same(
        "vector_xorwow_generation", "NeuronCore version", 4, "A4: XORWOW-based PRNG", documented
    )
    yield from each(
        "quantize_elems_per_cycle",
        "elements/cycle",
        (1, 1, 4),
        "A4: MX quantization; trn1 and trn2 lack the instruction",
        (assumed, assumed, documented),
    )
    yield from same("scalar_table_load_ns", "ns", 1283, "published profiles", measured)
    yield from each(
        "float32_pair_cycles",
        "cycles/element",
        (2.02, 1, 1),
        "tensor_tensor of two float32 SBUF tiles: trn1 perf guide 2.02, trn2 profiles 1",
        (measured, measured, assumed),
    )
    yield from same(
        "tensor_scalar_extra_cycles",
        "cycles",
        60,
        "trn2 profiles: tensor_scalar takes 60 ns longer than a copy, of 128 and of 512 elements",
        measured,
    )
    yield from same(
        "narrow_stride_ns",
        "ns/element",
        4.4,
        "trn2 profiles: results of 2 bytes written 18 B apart and more, ScalarE and VectorE",
        measured,
    )
    yield from each(
        "reciprocal_cycles",
        "cycles/element",
        (2.5, 5.8, 8),
        "isa 2.26 reciprocal: 8; trn2 profiles: 5.8 of 4 and 8 elements. trn1: a published swiglu "
        "(NKIBench) keeps VectorE active for 2962 ns with each 512 elements, which leaves 2.0 to "
        "3.1 for the reciprocal, by which engine adds before it",
        (assumed, measured, documented),
    )
    yield from same("scan_cycles", "cycles/element", 2, "isa 2.26 tensor_tensor_scan", documented)
    yield from same(
        "cumulative_cycles",
        "cycles/element",
        2,
        "isa tensor_scalar_cumulative names no cost; as tensor_tensor_scan",
        assumed,
    )
    yield from same(
        "reduce_extra_cycles",
        "cycles",
        64,
        "isa 2.26 tensor_scalar_reduce, activation_reduce",
        documented,
    )
    yield from same(
        "predicated_copy_cycles",
        "cycles/element",
        2,
        "isa 2.26 tensor_copy_predicated: 1 where src and predicate lie in different memories",
        documented,
    )
    yield from same(
        "select_reduce_cycles",
        "cycles/element",
        2,
        "isa select_reduce names no cost; as tensor_copy_predicated",
        assumed,
    )
    yield from same("bn_aggr_tuple_cycles", "cycles/tuple", 13, "isa 2.26 bn_aggr", documented)
    yield from each(
        "dependency_ns",
        "ns",
        (30, 35, 35),
        "trn1 perf guide: 189 from start to start of a chain of 159; trn2 profiles: 34 to 40",
        (measured, measured, assumed),
    )
    yield from same("wide_stride_bytes", "B", 16, "A2: strides of 16 B halve bandwidth", documented)

    # DMA and HBM.
    yield from each(
        "hbm_bytes_per_ns",
        "B/ns/core",
        (410, 375, 590),
        "A2, A3, A4: bandwidth of the device over its cores",
        documented,
    )
    yield from each(
        "hbm_pair_bytes_per_ns",
        "B/ns/two cores",
        (820, 716, 1175),
        "shared by the cores of a launch on two: A2 and A4, as above; trn2: what profiles state as "
        "the HBM bandwidth of two cores",
        (documented, measured, documented),
    )
    yield from same("dma_engines", "engines", 16, "DMA overview", documented)
    yield from same(
        "dma_engine_partitions",
        "partitions/engine",
        8,
        "DMA overview: 128 partitions over 16 engines, four rows go through one",
        documented,
    )
    yield from each(
        "dma_bytes_per_ns",
        "B/ns/engine",
        (20.2, 27.2, 38.4),
        "trn1 perf guide: 32 KiB on one engine in 1810 ns, less what a transfer costs besides; "
        "trn2 profiles; DMA overview",
        (measured, measured, documented),
    )
    yield from each(
        "dma_aggregate_bytes_per_ns",
        "B/ns/core",
        (272, 375, 528),
        "DMA guide: 272, 368, 528 of all engines; trn2 profiles: 512 KiB in 1390 to 1450 ns",
        (documented, measured, documented),
    )
    yield from same("dma_descriptor_ns", "ns", 4.8, "trn2 profiles, rows of 256 B and up", measured)
    yield from same(
        "dma_shortest_ns", "ns", 10, "trn2 profiles: elements of 32 B, inferred", assumed
    )
    yield from same(
        "dma_element_ns", "ns", 50, "trn2 profiles: 42 to 55 for 2 to 4 B, inferred", assumed
    )
    yield from same(
        "dma_hbm_write_bytes",
        "B",
        512,
        "trn2 profiles: rows of 256 B take 22.4 ns to HBM, 14.3 to SBUF; as if they had 512 B",
        measured,
    )
    yield from same(
        "dma_transfer_ns",
        "ns/transfer",
        40,
        "trn2 profiles: tiles of 128 rows of 512 B arrive at 280 to 310 GB/s; semaphore and switch",
        measured,
    )
    yield from same(
        "dma_fill_ns",
        "ns",
        130,
        "trn2: 32 KiB on one engine in 1416 ns (DMA overview), on each in 1390 to 1450 (profiles)",
        measured,
    )
    yield from each(
        "dma_transpose_hbm_share",
        "share of DMA rate",
        (0.9, 0.9, 0.9),
        "A3, DMA Transpose: up to 90 % from HBM; trn1 transposes element by element",
        (assumed, documented, assumed),
    )
    yield from each(
        "dma_transpose_sbuf_share",
        "share of DMA rate",
        (0.5, 0.5, 0.5),
        "A3, DMA Transpose: up to 50 % from SBUF; trn1 transposes element by element",
        (assumed, documented, assumed),
    )
    yield from same(
        "dma_transpose_elems",
        "elements",
        16,
        "A3, DMA Transpose: blocks of 128 partitions and 16 elements",
        documented,
    )
    yield from each(
        "dma_static_issue_ns",
        "ns/transfer",
        (180, 90, 90),
        "trn1 vector-add benchmarks; trn2 profiles: 82 to 98",
        (measured, measured, assumed),
    )
    yield from each(
        "dma_static_start_ns",
        "ns",
        (250, 855, 855),
        "from trigger to first byte: profiles",
        (measured, measured, assumed),
    )
    yield from same(
        "dma_hardware_issue_ns",
        "ns/transfer",
        550,
        "trn2 profiles: 517 to 605; descriptor generation deep dive: about 600",
        measured,
    )
    yield from same(
        "dma_hardware_start_ns",
        "ns",
        1260,
        "trn2 profiles: 1190 to 1340 from trigger to first byte; DMA guide: about 1300",
        measured,
    )
    yield from same(
        "dma_software_issue_ns", "ns/transfer", 580, "trn2 profiles: GpSimdE's triggers", measured
    )
    yield from same(
        "dma_software_start_ns",
        "ns",
        1750,
        "trn2 profiles: 900 to 1200 until GpSimdE triggers, then 630 to 770 to the first byte",
        measured,
    )
    yield from each(
        "dma_complete_ns",
        "ns",
        (271, 300, 300),
        "last byte to a waiting engine's start, less dependency_ns: 301 on trn1, 330 to 340 on "
        "trn2 (profiles)",
        (measured, measured, assumed),
    )
    yield from same("core_barrier_ns", "ns", 1000, "no public figure; a write and a wait", assumed)
    yield from same(
        "loop_iteration_ns", "ns", 1000, "no public figure; all engines meet and branch", assumed
    )
    yield from same("register_access_ns", "ns", 1000, "no public figure; as a short DMA", assumed)
    yield from same("launch_before_us", "us", 13.0, "published profiles: 12.5 to 13", measured)
    yield from each(
        "launch_after_us",
        "us",
        (5.0, 2.6, 2.6),
        "published profiles; none of trn3",
        (measured, measured, assumed),
    )
    yield from each(
        "launch_unbenchmarked_us",
        "us",
        (3.0, 6.5, 6.5),
        "part of a launch that nki.benchmark leaves out: two attention kernels, profiled and "
        "benchmarked on trn2, 6.3 and 6.7; a kernel of one tile on trn1 takes 19",
        (assumed, measured, assumed),
    )


FACTS: tuple[Fact, ...] = tuple(_facts())


def _build(target: str) -> Hardware:
    whole = {f.name for f in dataclasses.fields(Hardware) if f.type == "int"}
    values = {
        f.name: int(f.value) if f.name in whole else f.value for f in FACTS if f.target == target
    }
    return Hardware(target=target, **values)  # type: ignore[arg-type]  # values are numbers by name


_HARDWARE = {target: _build(target) for target in TARGETS}

HARDWARE: Mapping[str, Hardware] = _HARDWARE

_override: ContextVar[str | None] = ContextVar("nkiconv_target", default=None)


@contextmanager
def altered_facts(changes: Mapping[tuple[str, str], float]) -> Iterator[None]:
    """Give facts other values inside the block, by target and name; for fits and what-if questions.

    Kernels that are running keep the facts that they started with.  Instructions remember their
    costs: call `sheet.forget_costs` at both ends of the block.
    """
    before = dict(_HARDWARE)
    for (target, name), value in changes.items():
        _HARDWARE[target] = dataclasses.replace(_HARDWARE[target], **{name: value})  # type: ignore[arg-type]  # numbers by name
    try:
        yield
    finally:
        _HARDWARE.update(before)


def resolve_target(name: object, *, op: str = "target") -> str:
    """Return the canonical name of a target or of one of its aliases.

    Raises
    ------
    ConstraintError
        The name is unknown.
    """
    found = _ALIASES.get(name) if isinstance(name, str) else None
    if found is None:
        raise ConstraintError(
            f"{op}: {name!r} is not a target; use one of {', '.join(_ALIASES)} "
            f"(as the vendor's {TARGET_VARIABLE})",
            code="setup.target",
        )
    return found


def current_target() -> str:
    """Return the target in force: `use_target`, else the environment, else ``trn1``."""
    chosen = _override.get()
    if chosen is not None:
        return chosen
    wish = os.environ.get(TARGET_VARIABLE, "")
    return resolve_target(wish, op=TARGET_VARIABLE) if wish else "trn1"


def hardware() -> Hardware:
    """Return the facts of the target in force."""
    return HARDWARE[current_target()]


@contextmanager
def use_target(name: str | None) -> Iterator[None]:
    """Simulate for this target inside the block; None leaves the target as it is."""
    if name is None:
        yield
        return
    token = _override.set(resolve_target(name, op="use_target"))
    try:
        yield
    finally:
        _override.reset(token)
