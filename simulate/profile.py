"""``profile``: what the timing model saw while a function ran its kernels.

All times are modelled, from the facts in `hardware`; nothing here is measured on a device.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any, TypeVar, overload

from nkiconv.simulate.curves import Curve, curves
from nkiconv.simulate.dtypes import PACKED_TYPES
from nkiconv.simulate.embedded import embedded_twin
from nkiconv.simulate.error_bar import ErrorBar, error_bar
from nkiconv.simulate.errors import NkiconvError
from nkiconv.simulate.explain import (
    LAUNCH,
    LineTime,
    PathPart,
    Piece,
    add_up,
    critical_path,
    kind_of,
    line_times,
    lost_time,
    path_parts,
)
from nkiconv.simulate.hardware import Hardware, use_target
from nkiconv.simulate.listing import Listing, listings
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.program import Program
from nkiconv.simulate.resources import Cause
from nkiconv.simulate.roofline import Roofline
from nkiconv.simulate.schedule import Timeline, schedule
from nkiconv.simulate.trace import LANES, Lane
from nkiconv.simulate.tuning import Advice, Figures, advise

R = TypeVar("R")

_ENGINES = (Lane.TENSOR, Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD)
_DMA = (Lane.DMA_LOAD, Lane.DMA_STORE, Lane.DMA_LOCAL)


@dataclass(frozen=True, slots=True)
class Event:
    """One instruction on the timeline.

    Attributes
    ----------
    engine
        Compute engine, DMA ring, or ``"launch"``; those of a second core are marked.
    opcode
        Instruction.
    start_us, end_us
        Modelled, from the beginning of the first launch.
    source
        ``file.py:line`` of the kernel.
    label
        The instruction's ``name=``, or empty.
    kernel
        The launched kernel.
    """

    engine: str
    opcode: str
    start_us: float
    end_us: float
    source: str
    label: str
    kernel: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch: the program that ran, where its tensors lie, and when things happened."""

    program: Program
    placement: Placement
    timeline: Timeline

    @property
    def path(self) -> list[Piece]:
        """Pieces of its critical path in order of time, walked anew: they take much memory."""
        return critical_path(self.program.trace, self.timeline, self.program.hardware)


def _clock(launches: Sequence[Launch]) -> Iterator[tuple[Launch, float, float]]:
    """Yield each launch, when its first instruction can start, and when it is over (µs)."""
    clock_us = 0.0
    for launch in launches:
        hw = launch.program.hardware
        begin = clock_us + hw.launch_before_us
        clock_us = begin + launch.timeline.body_ps / 1e6 + hw.launch_after_us
        yield launch, begin, clock_us


class Events(Sequence[Event]):
    """The events of all launches, in order of start; unpacked when they are first asked for."""

    def __init__(self, launches: tuple[Launch, ...]) -> None:
        self._launches = launches
        self._events: list[Event] | None = None

    def _all(self) -> list[Event]:
        if self._events is None:
            events: list[Event] = []
            for launch, begin, after in _clock(self._launches):
                kernel = launch.program.kernel
                body_us = launch.timeline.body_ps / 1e6
                before = begin - launch.program.hardware.launch_before_us
                events.append(Event("launch", "start", before, begin, "", "", kernel))
                for step in launch.program.trace.steps():
                    events.append(
                        Event(
                            step.lane.label + (f" (core {step.core})" if step.core else ""),
                            step.opcode,
                            begin + launch.timeline.start_ps[step.index] / 1e6,
                            begin + launch.timeline.end_ps[step.index] / 1e6,
                            step.source,
                            step.label,
                            kernel,
                        )
                    )
                events.append(Event("launch", "end", begin + body_us, after, "", "", kernel))
            events.sort(key=lambda event: event.start_us)
            self._events = events
        return self._events

    def __len__(self) -> int:
        return sum(len(launch.program.trace) + 2 for launch in self._launches)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._all())


@dataclass(frozen=True)
class Profile:
    """What the timing model says about one or several kernel launches, one after the other.

    Attributes
    ----------
    target
        ``trn1``, ``trn2`` or ``trn3``.
    kernels
        Names of the launched kernels.
    latency_us
        Modelled time of all launches, launch cost included.
    launch_us
        The part of `latency_us` before and after the kernels' own instructions.
    bound
        What holds most of the critical path: ``"TensorE"``, ``"VectorE"``, ``"ScalarE"``,
        ``"GpSimdE"``, ``"DMA bandwidth"``, ``"DMA latency"`` (issue, start-up and completion of
        transfers), ``"dependency"`` (from a result to its waiter, barriers), or ``"launch"`` where
        launching takes longer than everything else together.
    time_us
        `latency_us` by these causes, along the critical path; the values add up to it.
    critical_path
        The critical path without the launches by source line, engine and part; longest first.
    engine_busy_us
        Time at work, of each compute engine and of the DMA engines; with two cores, of the busier.
    mfu
        Multiply-accumulates over what TensorE's documented peak for the dtype does in `latency_us`,
        on as many cores as the launch had.
    mbu
        HBM bytes over what the HBM bandwidth of those cores moves in `latency_us`.
    macs
        Multiply-accumulates of all matmuls, without transposes.
    moving_columns
        Columns that matmuls streamed through TensorE.
    hbm_read_bytes, hbm_write_bytes, dma_transfers
        What DMA moved, and in how many transfers.
    hbm_read_bytes_by_tensor
        `hbm_read_bytes` by tensor: the name of the kernel's parameter, or of the allocation.
    instructions, lane_instructions
        Executed instructions by opcode, and by engine or DMA ring.
    static_instructions
        Instructions that a compiler sees: the bodies of on-chip loops count once.
    sbuf_peak_bytes
        Most bytes per partition that were live in SBUF at once.
    psum_peak_banks
        Most PSUM banks that were live at once.
    roofline
        Attainable and attained rate at this arithmetic intensity.
    events
        Every instruction on the timeline.
    launches
        What all of this was computed from.
    """

    target: str
    kernels: tuple[str, ...]
    latency_us: float
    launch_us: float
    bound: str
    time_us: dict[str, float]
    critical_path: tuple[PathPart, ...]
    engine_busy_us: dict[str, float]
    mfu: float
    mbu: float
    macs: int
    moving_columns: int
    hbm_read_bytes: int
    hbm_write_bytes: int
    hbm_read_bytes_by_tensor: dict[str, int]
    dma_transfers: int
    instructions: dict[str, int]
    lane_instructions: dict[str, int]
    static_instructions: int
    sbuf_peak_bytes: int
    psum_peak_banks: int
    roofline: Roofline
    events: Sequence[Event] = field(repr=False, compare=False)
    launches: tuple[Launch, ...] = field(repr=False, compare=False)

    @property
    def body_us(self) -> float:
        """Modelled time without launch cost."""
        return self.latency_us - self.launch_us

    @cached_property
    def lost_us(self) -> dict[str, dict[str, float]]:
        """Modelled time that each engine of `engine_busy_us` waited, by cause.

        With its busy time this adds up to `body_us`.
        """
        return lost(self.launches)

    @cached_property
    def error_bar(self) -> ErrorBar:
        """How far `latency_us` may be off, by the kept calibration against published kernels."""
        path: defaultdict[str, float] = defaultdict(float)
        for part in self.critical_path:
            path[part.opcode] += part.us
        return error_bar(
            self.target,
            self.latency_us,
            self.bound,
            path,
            cores=max(it.program.core_count for it in self.launches),
            loops=any(it.program.repeated for it in self.launches),
        )

    @cached_property
    def lines(self) -> tuple[LineTime, ...]:
        """What each source line cost on each engine, modelled."""
        return line_times([(it.program, it.timeline) for it in self.launches], self.critical_path)

    @cached_property
    def advice(self) -> tuple[Advice, ...]:
        """What to change, and what it would bring at most; the most promising first."""
        return advise(_figures(self))

    @cached_property
    def curves(self) -> tuple[Curve, ...]:
        """SBUF, PSUM and HBM bandwidth over the modelled time."""
        return tuple(_curves(self.launches))

    @cached_property
    def listings(self) -> tuple[Listing, ...]:
        """Source text of the kernels' functions that executed instructions."""
        code = [each for it in self.launches for each in it.program.code()]
        return listings(dict.fromkeys(code))

    def path_events(self) -> Iterator[tuple[str, Event]]:
        """Yield the critical path of all launches in order of time, each piece with its kind."""
        for launch, begin, _ in _clock(self.launches):
            trace, kernel = launch.program.trace, launch.program.kernel
            for piece in launch.path:
                words = trace.words(piece.index)
                lane = Lane(words[1] % LANES)
                yield (
                    kind_of(piece.what, lane),
                    Event(
                        lane.label,
                        trace.name(words[0]),
                        begin + piece.start_ps / 1e6,
                        begin + piece.end_ps / 1e6,
                        trace.name(words[2]),
                        piece.what,
                        kernel,
                    ),
                )

    def table(self) -> str:
        """Return the profile as a text of at most 80 columns."""
        from nkiconv.simulate.report import profile_table

        return profile_table(self)

    def to_dict(self) -> dict[str, object]:
        """Return everything but the events, ready for JSON."""
        from nkiconv.simulate.report import profile_dict

        return profile_dict(self)

    def save_trace(self, path: str | PathLike[str]) -> None:
        """Write the timeline for Perfetto or Chrome's trace viewer.

        Raises
        ------
        NkiconvError
            The file cannot be written.
        """
        from nkiconv.simulate.report import write_trace

        write_trace(self, path)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write one self-contained page with the timeline.  Needs ``nkiconv[cli]``.

        Raises
        ------
        NkiconvError
            The file cannot be written, or jinja2 is missing.
        """
        from nkiconv.simulate.report import write_html

        write_html(self, path)


_collector: ContextVar[list[tuple[Program, Placement]] | None] = ContextVar(
    "nkiconv_collector", default=None
)


def report_launch(program: Program, placement: Placement) -> None:
    """Hand a finished launch to the `profile` call that encloses it, if there is one."""
    finished = _collector.get()
    if finished is not None:
        finished.append((program, placement))


@contextmanager
def _collecting() -> Iterator[list[tuple[Program, Placement]]]:
    finished: list[tuple[Program, Placement]] = []
    token = _collector.set(finished)
    try:
        yield finished
    finally:
        _collector.reset(token)
        outer = _collector.get()
        if outer is not None:  # a profile inside a profile: both see the launches
            outer.extend(finished)


def profile(
    fn: Callable[..., R], *args: Any, target: str | None = None, **kwargs: Any
) -> tuple[R, Profile]:
    """Run a function that launches kernels; return its result and what the timing model saw.

    Parameters
    ----------
    fn
        A host function such as `nkiconv.kernels.conv2d`, or an ``@nki.jit`` kernel.
    *args, **kwargs
        Passed on.
    target
        ``trn1``, ``trn2`` or ``trn3``; None for the target in force.

    Raises
    ------
    NkiconvError
        `fn` launched no kernel, or its launches were for different targets.
    """
    run = embedded_twin(fn)
    with use_target(target), _collecting() as finished:
        result = run(*args, **kwargs)
    if not finished:
        raise NkiconvError(
            f"profile: {getattr(fn, '__name__', fn)!r} launched no kernel, so there is nothing to "
            "time",
            code="profile.no_kernel",
        )
    targets = {program.hardware.target for program, _ in finished}
    if len(targets) > 1:
        raise NkiconvError(
            f"profile: kernels were launched for {sorted(targets)}; times of different targets do "
            "not add up, profile them one by one",
            code="profile.targets",
        )
    launches = tuple(_timed(program, where) for program, where in finished)
    return result, summarise(launches, finished[0][0].hardware)


def _timed(program: Program, where: Placement) -> Launch:
    trace, hw = program.trace, program.hardware
    timeline = schedule(trace, program.allocations, where, hw, program.core_count)
    return Launch(program, where, timeline)


def summarise(launches: tuple[Launch, ...], hw: Hardware) -> Profile:
    """Add up launches into a `Profile`."""
    body_ps = sum(launch.timeline.body_ps for launch in launches)
    launch_us = len(launches) * (hw.launch_before_us + hw.launch_after_us)
    body_us = body_ps / 1e6
    latency_us = body_us + launch_us
    busy_us = {
        lane.label: sum(_busiest(launch.timeline.busy_ps, lane) for launch in launches) / 1e6
        for lane in _ENGINES
    }
    busy_us["DMA"] = sum(_busiest(launch.timeline.busy_ps, *_DMA) for launch in launches) / 1e6
    cores = max(launch.program.core_count for launch in launches)
    programs = [launch.program for launch in launches]
    path = path_parts([(launch.program, launch.path) for launch in launches])
    time_us = add_up(path, launch_us)
    opcodes: Counter[str] = Counter()
    lanes: Counter[str] = Counter()
    macs_by_type: Counter[str] = Counter()
    read_by_tensor: Counter[str] = Counter()
    for program in programs:
        macs_by_type.update(program.macs_by_type)
        read_by_tensor.update(program.hbm_read_bytes_by_tensor)
        counts = Counter((words[0], words[1]) for _, words in program.trace.raw())
        for (opcode, lane), count in counts.items():
            opcodes[program.trace.name(opcode)] += count
            lanes[Lane(lane % LANES).label] += count
    read = sum(program.hbm_read_bytes for program in programs)
    written = sum(program.hbm_write_bytes for program in programs)
    macs = sum(program.macs for program in programs)
    peak_us_of_one = _peak_us("bfloat16", 1, hw)
    peak_us = sum(_peak_us(kind, count, hw) for kind, count in macs_by_type.items())
    return Profile(
        target=hw.target,
        kernels=tuple(program.kernel for program in programs),
        latency_us=latency_us,
        launch_us=launch_us,
        bound=_bound(time_us),
        time_us=time_us,
        critical_path=path,
        engine_busy_us=busy_us,
        mfu=peak_us / latency_us / cores,
        mbu=(read + written) / hw.hbm_bytes_per_ns / 1e3 / latency_us / cores,
        macs=macs,
        moving_columns=sum(program.moving_columns for program in programs),
        hbm_read_bytes=read,
        hbm_write_bytes=written,
        hbm_read_bytes_by_tensor=dict(read_by_tensor),
        dma_transfers=sum(program.dma_transfers for program in programs),
        instructions=dict(opcodes.most_common()),
        lane_instructions=dict(lanes.most_common()),
        static_instructions=sum(len(program.trace) - program.repeated for program in programs),
        sbuf_peak_bytes=max(launch.placement.sbuf_peak_bytes for launch in launches),
        psum_peak_banks=max(launch.placement.psum_peak_banks for launch in launches),
        roofline=Roofline(
            flops=2 * macs,
            hbm_bytes=read + written,
            # Of mixed dtypes: the rate of all matmuls together at the peak of each.
            peak_tflops=2e-6 * cores * (macs / peak_us if macs else 1 / peak_us_of_one),
            hbm_gb_per_s=hw.hbm_bytes_per_ns * cores,
            body_us=body_us,
        ),
        events=Events(launches),
        launches=launches,
    )


def _busiest(times_ps: tuple[int, ...], *lanes: Lane) -> int:
    """Return the time of the core that spent most of it on these lanes."""
    return max(
        sum(times_ps[first + lane] for lane in lanes) for first in range(0, len(times_ps), LANES)
    )


def _peak_us(kind: str, macs: int, hw: Hardware) -> float:
    """Return the time that `macs` take at TensorE's documented peak."""
    per_cell = 1.0
    if kind == "float32":
        per_cell = 1 / (hw.float32_matmul_passes * hw.float32_matmul_row_cycles)
    elif kind in PACKED_TYPES:
        per_cell = hw.mx_products
    elif kind.startswith("float8"):
        per_cell = hw.double_row_products
    per_cycle = hw.partitions * hw.stationary_max_columns * per_cell
    return macs / per_cycle / hw.tensor_peak_ghz / 1e3


def _bound(time_us: dict[str, float]) -> str:
    """Return what holds most of the time; the launch only where it holds more than all others."""
    others = {name: us for name, us in time_us.items() if name != LAUNCH}
    if time_us[LAUNCH] > sum(others.values()):
        return LAUNCH
    return max(others, key=lambda name: others[name])


def lost(launches: Sequence[Launch]) -> dict[str, dict[str, float]]:
    """Add up what each engine waited for, in µs."""
    total: dict[str, dict[str, float]] = {}
    for launch in launches:
        found = lost_time(launch.program.trace, launch.timeline, launch.program.hardware)
        for engine, causes in found.items():
            of_engine = total.setdefault(engine, {})
            for cause, ps in causes.items():
                of_engine[cause] = of_engine.get(cause, 0.0) + ps / 1e6
    return total


def _curves(launches: Sequence[Launch]) -> Iterator[Curve]:
    """Join the curves of all launches into one of each name."""
    joined: dict[str, Curve] = {}
    for launch, begin, _ in _clock(launches):
        program, line = launch.program, launch.timeline
        cores = program.core_count
        for curve in curves(program.trace, program.allocations, line, program.hardware, cores):
            whole = joined.setdefault(
                curve.name,
                Curve(curve.name, curve.unit, curve.limit, array("d", [0.0]), array("d", [0.0])),
            )
            whole.times_us.extend(begin + time for time in curve.times_us)
            whole.values.extend(curve.values)
            whole.times_us.append(begin + line.body_ps / 1e6)
            whole.values.append(0.0)
    yield from joined.values()


def _figures(p: Profile) -> Figures:
    """Collect what `advise` looks at."""
    hw = p.launches[0].program.hardware
    path: defaultdict[tuple[str, str], float] = defaultdict(float)
    for part in p.critical_path:
        path[part.engine, part.what] += part.us
    clocked_ps = sum(
        words[4]
        for it in p.launches
        for _, words in it.program.trace.raw()
        if words[1] % LANES == Lane.TENSOR
    )
    tables = sum(it.timeline.cause.count(Cause.TABLE) for it in p.launches)
    macs_by_type: Counter[str] = Counter()
    inputs: dict[str, tuple[int, int]] = {}
    for launch in p.launches:
        program = launch.program
        macs_by_type.update(program.macs_by_type)
        for made in program.allocations:
            read = program.hbm_read_bytes_by_tensor.get(made.name, 0)
            if made.line == "kernel argument" and read:
                before = inputs.get(made.name, (0, 0))
                # Each core has an SBUF of its own to load it into.
                size = made.free_bytes * program.core_count
                inputs[made.name] = (before[0] + read, before[1] + size)
    return Figures(
        latency_us=p.latency_us,
        body_us=p.body_us,
        launches=len(p.launches),
        launch_us=p.launch_us,
        path=path,
        busy=p.engine_busy_us,
        lost=p.lost_us,
        matmuls=sum(p.instructions.get(name, 0) for name in ("nc_matmul", "nc_matmul_mx")),
        moving_columns=p.moving_columns,
        macs=p.macs,
        float32_macs=macs_by_type["float32"],
        tensor_clocked_us=clocked_ps / 1e6,
        array_cells=hw.partitions * hw.stationary_max_columns,
        columns_at_most=hw.moving_max_columns,
        issue_columns=hw.matmul_min_cycles,
        transfers=p.dma_transfers,
        dma_bytes=p.hbm_read_bytes + p.hbm_write_bytes,
        dma_bytes_per_ns=hw.hbm_bytes_per_ns,
        inputs=inputs,
        table_loads=tables,
        instructions=p.lane_instructions,
        fixed_us={
            "VectorE": hw.engine_issue_cycles / hw.vector_ghz / 1e3,
            "ScalarE": hw.engine_issue_cycles / hw.scalar_ghz / 1e3,
            "GpSimdE": hw.gpsimd_issue_cycles / hw.gpsimd_ghz / 1e3,
        },
        sbuf_peak_bytes=p.sbuf_peak_bytes,
        sbuf_bytes=hw.sbuf_usable_bytes,
    )
