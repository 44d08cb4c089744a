"""A profile as a trace file for Perfetto or ``chrome://tracing``.

Sources
-------
google/perfetto issue 4280, read 2026-11-21: ``X`` events that overlap on one thread without nesting
are not shown, hence `Rows`.  Pull request 3273, same date: ``thread_sort_index`` is respected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import chain

from nkiconv.simulate.report._files import open_report
from nkiconv.simulate.report._lanes import Launches, Rows, lane_rank
from nkiconv.simulate.report._protocol import ProfileLike
from nkiconv.simulate.report._summary import profile_dict

__all__ = ["write_trace"]

_PS_PER_US = 1_000_000
_COUNTERS = 1_000_000  # process of what belongs to no launch; more launches than that there are not
_PATH_THREAD = 1_000_000_000  # above all others
_ROWS_PER_LANE = 10_000  # spacing of the sort keys of two lanes; only an ordering


def write_trace(p: ProfileLike, path: str | os.PathLike[str]) -> None:
    """Write the modelled timeline as trace JSON: a process per launch, a thread per engine.

    A further process has the critical path, and counters of SBUF, PSUM and HBM bandwidth.
    Times are rounded to 1 ps.  Events of one engine or DMA ring that overlap take further threads,
    ``DMA load (2)`` and so on.  The events are streamed, never held together.

    Raises
    ------
    NkiconvError
        ``path`` cannot be written.  Nothing half-written stays behind, and an older file is kept.
    """
    head = {"note": "modelled, not measured", "profile": profile_dict(p)}
    with open_report(path, "save_trace") as stream:
        stream.write('{"displayTimeUnit":"ns",\n')
        stream.write(f'"otherData":{json.dumps(head)},\n"traceEvents":[')
        separator = "\n"
        for entry in chain(_entries(p), _counters(p), _path(p)):
            stream.write(separator + entry)
            separator = ",\n"
        stream.write("\n]}\n")


def _counters(p: ProfileLike) -> Iterator[str]:
    """JSON text of each step of the curves, as counters of a process of their own."""
    yield _metadata("process_name", _COUNTERS, 0, name="memory, HBM, critical path")
    yield _metadata("process_sort_index", _COUNTERS, 0, sort_index=_COUNTERS)
    for curve in p.curves:
        name, unit = json.dumps(f"{curve.name} ({curve.unit})"), json.dumps(curve.unit)
        before = None
        for time, value in zip(curve.times_us, curve.values, strict=True):
            if value == before:
                continue
            before = value
            yield (
                f'{{"ph":"C","pid":{_COUNTERS},"name":{name},"ts":{round(time, 6)!r},'
                f'"args":{{{unit}:{round(value, 3)!r}}}}}'
            )


def _path(p: ProfileLike) -> Iterator[str]:
    """JSON text of the critical path, a thread of its own beside the counters."""
    named = False
    for kind, piece in p.path_events():
        if not named:
            yield _metadata("thread_name", _COUNTERS, _PATH_THREAD, name="critical path")
            named = True
        start, end = round(piece.start_us * _PS_PER_US), round(piece.end_us * _PS_PER_US)
        arguments = {"engine": piece.engine, "instruction": piece.opcode, "source": piece.source}
        yield (
            f'{{"ph":"X","pid":{_COUNTERS},"tid":{_PATH_THREAD},"ts":{start / _PS_PER_US!r},'
            f'"dur":{(end - start) / _PS_PER_US!r},"name":{json.dumps(f"{kind}: {piece.label}")},'
            f'"args":{json.dumps(arguments)}}}'
        )


def _entries(p: ProfileLike) -> Iterator[str]:
    """JSON text of each trace event; a thread is named just before its first event."""
    launches = Launches()
    rows: dict[tuple[int, str], Rows] = {}
    threads: dict[tuple[int, str, int], int] = {}
    ends: dict[tuple[str, str, str], str] = {}  # few distinct ones: much quicker than json.dumps
    for event in p.events:
        new_launch_at = len(launches.names)
        launch = launches.index(event)
        pid = launch + 1
        if launch == new_launch_at:
            yield _metadata("process_name", pid, 0, name=launches.names[launch])
            yield _metadata("process_sort_index", pid, 0, sort_index=pid)
        start = round(event.start_us * _PS_PER_US)
        end = round(event.end_us * _PS_PER_US)
        lane = rows.setdefault((launch, event.engine), Rows())
        row = lane.place(start, end)
        key = (launch, event.engine, row)
        tid = threads.get(key)
        if tid is None:
            # Unique in the whole file: some viewers know a thread by this number alone.
            tid = threads[key] = len(threads) + 1
            name = event.engine if row == 0 else f"{event.engine} ({row + 1})"
            sort_index = lane_rank(event.engine) * _ROWS_PER_LANE + row
            yield _metadata("thread_name", pid, tid, name=name)
            yield _metadata("thread_sort_index", pid, tid, sort_index=sort_index)
        what = (event.opcode, event.source, event.label)
        rest = ends.get(what)
        if rest is None:
            arguments = json.dumps({"source": event.source, "label": event.label})
            rest = ends[what] = f'"name":{json.dumps(event.opcode)},"args":{arguments}}}'
        yield (
            f'{{"ph":"X","pid":{pid},"tid":{tid},"ts":{start / _PS_PER_US!r},'
            f'"dur":{(end - start) / _PS_PER_US!r},{rest}'
        )


def _metadata(kind: str, pid: int, tid: int, **arguments: str | int) -> str:
    return json.dumps({"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": arguments})
