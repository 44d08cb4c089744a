"""``profile``: what the timing model saw while a function ran its kernels.

All times are modelled, from the facts in `hardware`; nothing here is measured on a device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, TypeVar, overload

from nkiconv.simulate.dtypes import PACKED_TYPES
from nkiconv.simulate.embedded import embedded_twin
from nkiconv.simulate.errors import NkiconvError
from nkiconv.simulate.hardware import Hardware, use_target
from nkiconv.simulate.placement import Placement
from nkiconv.simulate.program import Program
from nkiconv.simulate.schedule import Timeline, schedule
from nkiconv.simulate.trace import LANES, Lane

R = TypeVar("R")

_ENGINES = (Lane.TENSOR, Lane.VECTOR, Lane.SCALAR, Lane.GPSIMD)
_DMA = (Lane.DMA_LOAD, Lane.DMA_STORE, Lane.DMA_LOCAL)

_BOUND_SHARE = 0.6
"""A resource that works for this share of the body or more is what holds the kernel back."""


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


class Events(Sequence[Event]):
    """The events of all launches, in order of start; unpacked when they are first asked for."""

    def __init__(self, launches: tuple[Launch, ...]) -> None:
        self._launches = launches
        self._events: list[Event] | None = None

    def _all(self) -> list[Event]:
        if self._events is None:
            events: list[Event] = []
            clock_us = 0.0
            for launch in self._launches:
                hw = launch.program.hardware
                kernel = launch.program.kernel
                begin = clock_us + hw.launch_before_us
                body_us = launch.timeline.body_ps / 1e6
                after = begin + body_us + hw.launch_after_us
                events.append(Event("launch", "start", clock_us, begin, "", "", kernel))
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
                clock_us = after
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
        The resource that held the kernels back: an engine, ``"DMA bandwidth"``, ``"DMA issue"``,
        ``"launch"``, or ``"dependencies"`` where none was busy most of the time.
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
    events
        Every instruction on the timeline.
    """

    target: str
    kernels: tuple[str, ...]
    latency_us: float
    launch_us: float
    bound: str
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
    events: Sequence[Event] = field(repr=False, compare=False)

    @property
    def body_us(self) -> float:
        """Modelled time without launch cost."""
        return self.latency_us - self.launch_us

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
    launches = tuple(
        Launch(p, where, schedule(p.trace, p.allocations, where, p.hardware, p.core_count))
        for p, where in finished
    )
    return result, summarise(launches, finished[0][0].hardware)


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
    issue_us = (
        max(sum(_busiest(launch.timeline.issue_ps, lane) for launch in launches) for lane in Lane)
        / 1e6
    )
    cores = max(launch.program.core_count for launch in launches)
    programs = [launch.program for launch in launches]
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
    return Profile(
        target=hw.target,
        kernels=tuple(program.kernel for program in programs),
        latency_us=latency_us,
        launch_us=launch_us,
        bound=_bound(busy_us, issue_us, body_us, launch_us),
        engine_busy_us=busy_us,
        mfu=sum(_peak_us(kind, macs, hw) for kind, macs in macs_by_type.items())
        / latency_us
        / cores,
        mbu=(read + written) / hw.hbm_bytes_per_ns / 1e3 / latency_us / cores,
        macs=sum(program.macs for program in programs),
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
        events=Events(launches),
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


def _bound(busy_us: dict[str, float], issue_us: float, body_us: float, launch_us: float) -> str:
    if launch_us > body_us:
        return "launch"
    candidates = {
        **{name: us for name, us in busy_us.items() if name != "DMA"},
        "DMA bandwidth": busy_us["DMA"],
        "DMA issue": issue_us,
    }
    name = max(candidates, key=lambda key: candidates[key])
    return name if candidates[name] >= _BOUND_SHARE * body_us else "dependencies"
