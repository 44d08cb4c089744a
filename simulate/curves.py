"""What a program holds in SBUF and PSUM, and moves from and to HBM, over the modelled time."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from nkiconv.simulate.hardware import Hardware
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.schedule import Timeline
from nkiconv.simulate.trace import HEADER, OPERAND, Trace

_BINS = 1000
"""Over which HBM bandwidth is averaged, for each launch."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity that changes in steps.

    Attributes
    ----------
    name, unit
        Such as ``"SBUF"`` and ``"B/partition"``; of a second core, marked.
    limit
        The most that the hardware has of it.
    times_us, values
        From each time on, this value; modelled.
    """

    name: str
    unit: str
    limit: float
    times_us: array[float]
    values: array[float]


def curves(
    trace: Trace, allocations: Sequence[Allocation], line: Timeline, hw: Hardware, cores: int
) -> list[Curve]:
    """Return SBUF, PSUM and HBM of each core, the last one only once, in µs of the timeline."""
    first, last = _live(trace, len(allocations), line)
    found = []
    for core in range(cores):
        for space, name, unit, limit in (
            ("sbuf", "SBUF", "B/partition", hw.sbuf_usable_bytes),
            ("psum", "PSUM", "banks", hw.psum_banks),
        ):
            changes: defaultdict[int, int] = defaultdict(int)
            for made in allocations:
                if made.space != space or made.core != core or last[made.number] < 0:
                    continue
                size = made.free_bytes
                if space == "psum":
                    size = -(-size // hw.psum_bank_bytes)
                changes[first[made.number]] += size
                changes[last[made.number]] -= size
            mark = f" (core {core})" if core else ""
            found.append(_stepped(name + mark, unit, limit, changes))
    found.append(_bandwidth(trace, line, hw, cores))
    return found


def _live(trace: Trace, count: int, line: Timeline) -> tuple[list[int], list[int]]:
    """Return when each tensor is first and last in use, in picoseconds; -1 where never."""
    first, last = [-1] * count, [-1] * count
    for index, words in trace.raw():
        start, end = line.start_ps[index], line.end_ps[index]
        for at in range(HEADER, len(words), OPERAND):
            number = words[at]
            if first[number] < 0 or start < first[number]:
                first[number] = start
            if end > last[number]:
                last[number] = end
    return first, last


def _stepped(name: str, unit: str, limit: float, changes: dict[int, int]) -> Curve:
    times, values = array("d", [0.0]), array("d", [0.0])
    level = 0
    for when in sorted(changes):
        if changes[when]:
            level += changes[when]
            times.append(when / 1e6)
            values.append(level)
    return Curve(name, unit, limit, times, values)


def _bandwidth(trace: Trace, line: Timeline, hw: Hardware, cores: int) -> Curve:
    """Spread the bytes of each transfer evenly over the time that it takes the DMA engines.

    One that shares them is drawn as if it had waited first and then had them alone.
    """
    width = max(1, -(-line.body_ps // _BINS))
    moved = [0.0] * (line.body_ps // width + 1)
    complete = round(hw.dma_complete_ns * 1000)
    for index, size in trace.hbm_moves():
        end = line.end_ps[index] - complete
        # Of few partitions it takes longer than its share of the DMA engines' time.
        alone = min(trace.words(index)[5], end - line.begin_ps[index])
        start = end - max(1, line.work_ps[index], alone)
        rate = size / (end - start)
        for at in range(start // width, min(len(moved) - 1, (end - 1) // width) + 1):
            inside = min(end, (at + 1) * width) - max(start, at * width)
            moved[at] += rate * inside
    times = array("d", [at * width / 1e6 for at in range(len(moved))])
    values = array("d", [each / width * 1e3 for each in moved])  # B/ps to GB/s
    return Curve("HBM", "GB/s", hw.hbm_bytes_per_ns * cores, times, values)
