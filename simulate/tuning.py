"""What to change in a kernel, with the number behind it and what it would bring at most.

A rule looks at the figures of a profile and says nothing, or one sentence.  What a change would
bring is taken from the critical path: a cause cannot cost more than the time that it holds there.
All gains are modelled, each on its own; those of several changes do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nkiconv.simulate.explain import (
    COMPLETION,
    FEW_ENGINES,
    FIRST,
    ISSUE,
    LOOP,
    PORT,
    REUSE,
    START_UP,
    TABLE,
    TRANSFER,
    WORK,
)

_LEAST_SHARE = 0.02
"""Of the latency; advice that would bring less is not given."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers that rules look at; times are modelled, in µs.

    Attributes
    ----------
    latency_us, body_us, launches
        As in `Profile`; kernels launched.
    path
        Time on the critical path by engine or DMA ring, and name of the piece.
    busy, lost
        By engine, as ``engine_busy_us`` and ``lost_us`` of `Profile`.
    matmuls, moving_columns, macs, float32_macs
        Of matmuls that do arithmetic, transposes left out of the last two.
    tensor_clocked_us
        What TensorE's instructions take at its full clock, one after the other.
    array_cells, columns_at_most, issue_columns
        Cells of TensorE's array; columns a matmul can stream; columns' time that a matmul takes
        at least.
    transfers, dma_bytes, dma_bytes_per_ns
        DMA transfers, bytes that they move from and to HBM, and the HBM bandwidth.
    inputs
        By name of the kernel's parameter: bytes read, and bytes that it has.
    table_loads
        Activation tables that ScalarE loaded.
    instructions, fixed_us
        By engine: instructions, and what each takes at least.
    sbuf_peak_bytes, sbuf_bytes
        Per partition: used at most, and there.
    """

    latency_us: float
    body_us: float
    launches: int
    launch_us: float
    path: Mapping[tuple[str, str], float]
    busy: Mapping[str, float]
    lost: Mapping[str, Mapping[str, float]]
    matmuls: int
    moving_columns: int
    macs: int
    float32_macs: int
    tensor_clocked_us: float
    array_cells: int
    columns_at_most: int
    issue_columns: int
    transfers: int
    dma_bytes: int
    dma_bytes_per_ns: float
    inputs: Mapping[str, tuple[int, int]]
    table_loads: int
    instructions: Mapping[str, int]
    fixed_us: Mapping[str, float]
    sbuf_peak_bytes: int
    sbuf_bytes: int


@dataclass(frozen=True, slots=True)
class Advice:
    """One line of advice.

    Attributes
    ----------
    rule
        Name of the rule.
    finding
        What was seen, with its number.
    change
        What to change.
    gain_us
        What the change would bring at most; modelled.
    """

    rule: str
    finding: str
    change: str
    gain_us: float

    def __str__(self) -> str:
        return f"{self.finding}: {self.change} (at most {self.gain_us:,.1f} µs, modelled)"


_Found = tuple[str, str, float]

_RINGS = ("DMA load", "DMA store", "DMA local")


def _on_rings(f: Figures, *names: str) -> float:
    return sum(f.path.get((ring, name), 0.0) for ring in _RINGS for name in names)


def _by_overlap(f: Figures, waits: float) -> float:
    """No overlap makes a kernel quicker than its busiest engine."""
    return min(waits, f.body_us - max(f.busy.values()))


def _few_columns(f: Figures) -> _Found | None:
    """Each matmul costs as much as a few dozen columns, whatever it streams."""
    if not f.matmuls:
        return None
    mean = f.moving_columns / f.matmuls
    if mean >= f.columns_at_most / 2:
        return None
    spent = f.path.get(("TensorE", WORK), 0.0)
    worth = mean / max(mean, f.issue_columns)
    idle = f.lost["TensorE"].get(FIRST, 0.0) / f.body_us
    return (
        f"moving operand averages {mean:,.0f} of {f.columns_at_most} columns; TensorE is "
        f"{100 * idle:.0f} % idle in start-up",
        "stream more pixels or rows with each matmul",
        spent * (1 - worth * (mean / (mean + 6))),
    )


def _empty_array(f: Figures) -> _Found | None:
    """Cells that hold no weight multiply nothing."""
    if not f.moving_columns or not f.macs:
        return None
    used = f.macs / (f.moving_columns * f.array_cells)
    if used >= 0.5:
        return None
    return (
        f"matmuls fill {100 * used:.1f} % of TensorE's array",
        "contract over more partitions (several taps or channels at once), or tile the array",
        f.path.get(("TensorE", WORK), 0.0) * (1 - used),
    )


def _slow_clock(f: Figures) -> _Found | None:
    """TensorE's clock is lowered while its array is poorly fed."""
    busy = f.busy.get("TensorE", 0.0)
    if busy < 1.15 * f.tensor_clocked_us or not f.tensor_clocked_us:
        return None
    return (
        f"TensorE runs below its clock: its work takes {busy / f.tensor_clocked_us:.1f} times as "
        "long",
        "keep it fed: contract over more partitions, and leave fewer gaps between matmuls",
        f.path.get(("TensorE", WORK), 0.0) * (1 - f.tensor_clocked_us / busy),
    )


def _late_start(f: Figures) -> _Found | None:
    """What TensorE waits for before its first matmul is not hidden behind anything."""
    waits = f.lost["TensorE"].get(FIRST, 0.0)
    if not f.matmuls or waits < 0.1 * f.body_us:
        return None
    return (
        f"TensorE is {100 * waits / f.body_us:.0f} % idle in start-up, {waits:,.1f} µs before its "
        "first matmul",
        "load what the first matmul needs first, in a small piece, and the rest behind it",
        _by_overlap(f, waits),
    )


def _small_transfers(f: Figures) -> _Found | None:
    """A transfer costs the same to issue, start and complete whether it is short or long."""
    fixed = _on_rings(f, ISSUE, START_UP, COMPLETION)
    if not f.transfers or fixed < 0.1 * f.body_us or f.transfers < 4:
        return None
    size = f.dma_bytes / f.transfers
    return (
        f"{f.transfers:,} DMA transfers of {size / 1024:,.1f} KiB each; their issue, start and end "
        f"take {100 * fixed / f.body_us:.0f} % of the critical path",
        "move more with each transfer, or start it earlier than its data is needed",
        fixed * (1 - 2 / f.transfers),
    )


def _short_rows(f: Figures) -> _Found | None:
    """DMA engines pay for every contiguous run of bytes, however short."""
    flows, busy = _on_rings(f, TRANSFER), f.busy.get("DMA", 0.0)
    if not busy or not f.dma_bytes:
        return None
    rate = f.dma_bytes / busy / 1e3
    if rate >= 0.5 * f.dma_bytes_per_ns:
        return None
    return (
        f"DMA engines move {rate:,.0f} of {f.dma_bytes_per_ns:,.0f} GB/s while they work",
        "make the contiguous runs longer (512 B or more), in HBM and in SBUF",
        flows * (1 - rate / f.dma_bytes_per_ns),
    )


def _few_partitions(f: Figures) -> _Found | None:
    """Each DMA engine serves some partitions of a tile; the others have nothing to do."""
    idle, busy = f.lost["DMA"].get(FEW_ENGINES, 0.0), f.busy.get("DMA", 0.0)
    if idle < 0.1 * f.body_us:
        return None
    return (
        f"transfers of few partitions leave DMA engines idle for {idle:,.1f} µs",
        "load and store tiles of 128 partitions",
        _on_rings(f, TRANSFER) * idle / (idle + busy),
    )


def _shared_port(f: Figures) -> _Found | None:
    """VectorE shares ports to SBUF and PSUM with GpSimdE and ScalarE."""
    waits = {name: f.lost[name].get(PORT, 0.0) for name in ("VectorE", "ScalarE", "GpSimdE")}
    most = max(waits, key=lambda name: waits[name])
    if waits[most] < 0.05 * f.body_us:
        return None
    return (
        f"{most} waits {waits[most]:,.1f} µs for a port that another engine holds",
        "give the work of both to one engine, or to engines that share no port",
        _by_overlap(f, waits[most]),
    )


def _read_again(f: Figures) -> _Found | None:
    """An input that is read several times costs DMA time each time."""
    extra = {name: read - size for name, (read, size) in f.inputs.items() if read >= 1.5 * size}
    if not extra:
        return None
    worst = max(extra, key=lambda name: (extra[name], name))
    read, size = f.inputs[worst]
    loads = sum(us for (engine, _), us in f.path.items() if engine == "DMA load")
    read_bytes = sum(read for read, _ in f.inputs.values())
    return (
        f"{worst} is read {read / size:,.1f} times over, {extra[worst] / 2**20:,.2f} MiB too much",
        "load it once and use views of it in SBUF",
        loads * sum(extra.values()) / read_bytes,
    )


def _tables(f: Figures) -> _Found | None:
    """ScalarE loads a table each time that the function changes; idle time before hides some."""
    spent = f.path.get(("ScalarE", TABLE), 0.0)
    if f.table_loads < 2:
        return None
    return (
        f"ScalarE waits for an activation table {f.table_loads:,} times",
        "run the instructions of one function one after the other",
        spent * (1 - 1 / f.table_loads),
    )


def _no_spare_buffer(f: Figures) -> _Found | None:
    """A load into memory that is still read cannot run ahead."""
    waits = f.lost["DMA"].get(REUSE, 0.0)
    free = 1 - f.sbuf_peak_bytes / f.sbuf_bytes
    if waits < 0.1 * f.body_us or free < 0.25:
        return None
    return (
        f"loads wait {waits:,.1f} µs for tiles that are still read, and {100 * free:.0f} % of SBUF "
        "is free",
        "allocate the tile inside the loop, or rotate two or more",
        _by_overlap(f, waits),
    )


def _float32(f: Figures) -> _Found | None:
    """A float32 matmul takes four times as long as one of bfloat16."""
    if not f.macs or f.float32_macs < 0.5 * f.macs:
        return None
    share = f.float32_macs / f.macs
    return (
        f"{100 * share:.0f} % of the multiplications are of float32, at a quarter of the rate",
        "multiply in bfloat16 if its 8 bits are enough; sums stay in float32",
        f.path.get(("TensorE", WORK), 0.0) * share * 0.75,
    )


def _launches(f: Figures) -> _Found | None:
    """Each launch costs the same, whatever it computes."""
    if f.launch_us < 0.3 * f.latency_us:
        return None
    if f.launches > 1:
        return (
            f"{f.launches:,} launches take {100 * f.launch_us / f.latency_us:.0f} % of the latency",
            "put the work into one launch",
            f.launch_us * (1 - 1 / f.launches),
        )
    return (
        f"the launch takes {100 * f.launch_us / f.latency_us:.0f} % of the latency",
        "give a launch more work, such as more images",
        f.launch_us,
    )


def _one_sided(f: Figures) -> _Found | None:
    """Copies and element-wise work run on several engines."""
    works = {name: f.busy.get(name, 0.0) for name in ("VectorE", "ScalarE", "GpSimdE")}
    most = max(works, key=lambda name: works[name])
    if works[most] < 0.5 * f.body_us:
        return None
    other = min(("VectorE", "ScalarE"), key=lambda name: works[name])
    if other == most or works[other] > 0.3 * works[most]:
        return None
    return (
        f"{most} works {100 * works[most] / f.body_us:.0f} % of the time, {other} "
        f"{100 * works[other] / f.body_us:.0f} %",
        f"give {other} a part of the copies and element-wise operations",
        f.path.get((most, WORK), 0.0) * (1 - works[other] / works[most]) / 2,
    )


def _tiny_instructions(f: Figures) -> _Found | None:
    """An engine needs some sixty cycles for an instruction before the first element."""
    worst: _Found | None = None
    for engine in ("VectorE", "ScalarE", "GpSimdE"):
        count, busy = f.instructions.get(engine, 0), f.busy.get(engine, 0.0)
        spent = f.path.get((engine, WORK), 0.0)
        if count < 16 or busy <= 0:
            continue
        share = min(1.0, count * f.fixed_us[engine] / busy)
        if share < 0.5 or (worst is not None and spent * share <= worst[2]):
            continue
        worst = (
            f"{count:,} instructions on {engine} of {1e3 * busy / count:,.0f} ns each, of which "
            f"{1e3 * f.fixed_us[engine]:,.0f} ns are fixed",
            "work on more elements with each instruction",
            spent * share,
        )
    return worst


def _loops(f: Figures) -> _Found | None:
    """All engines meet at the end of an iteration of an on-chip loop."""
    spent = f.path.get(("SyncE", LOOP), 0.0)
    if not spent:
        return None
    return (
        f"iterations of on-chip loops end {f.instructions.get('SyncE', 0):,} times",
        "do more in an iteration, or unroll the loop with Python's range",
        spent,
    )


RULES: Mapping[str, Callable[[Figures], _Found | None]] = {
    "few columns": _few_columns,
    "empty array": _empty_array,
    "slow clock": _slow_clock,
    "late start": _late_start,
    "small transfers": _small_transfers,
    "short rows": _short_rows,
    "few partitions": _few_partitions,
    "shared port": _shared_port,
    "read again": _read_again,
    "activation tables": _tables,
    "no spare buffer": _no_spare_buffer,
    "float32": _float32,
    "launches": _launches,
    "one-sided": _one_sided,
    "tiny instructions": _tiny_instructions,
    "loops": _loops,
}


def advise(f: Figures) -> tuple[Advice, ...]:
    """Apply all rules; what would bring most stands first."""
    found = []
    for name, rule in RULES.items():
        answer = rule(f)
        if answer is not None and answer[2] >= _LEAST_SHARE * f.latency_us:
            found.append(Advice(name, *answer))
    return tuple(sorted(found, key=lambda each: (-each.gain_us, each.rule)))
