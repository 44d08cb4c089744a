"""The events of a profile as the page draws them: gathered in one pass, merged where too many."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nkiconv.simulate.curves import Curve
from nkiconv.simulate.report._colours import OTHER, colour_of, shade
from nkiconv.simulate.report._lanes import LAUNCH, Launches, Rows, lane_rank
from nkiconv.simulate.report._protocol import ProfileLike

__all__ = ["TICKS_PER_US", "PageTimeline", "Total"]

TICKS_PER_US = 10_000  # 0.1 ns, a seventh of a cycle of the fastest engine clock (1.4 GHz)
_PATH = "critical path"
_MOST_PIECES = 60_000  # in the page, at about 12 bytes each; more events than that are merged
_MOST_MEETINGS = 5_000  # of engines at barriers; more are not drawn
_MOST_STEPS = 3_000  # of a curve; more are merged, the highest value kept
_MEETING = ("loop", "core_barrier")


@dataclass
class Total:
    """Events with something in common: how many, and the sum of their durations in ticks."""

    count: int = 0
    ticks: int = 0

    def add(self, ticks: int) -> None:
        """Count one more event."""
        self.count += 1
        self.ticks += ticks

    @property
    def us(self) -> float:
        """Sum of the durations in µs."""
        return self.ticks / TICKS_PER_US


@dataclass
class _Row:
    """Events of one row of the timeline as three numbers each: kind, start, end, in ticks."""

    kinds: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))

    def add(self, kind: int, start: int, end: int) -> None:
        self.kinds.append(kind)
        self.starts.append(start)
        self.ends.append(end)

    def merged(self, cell: int) -> tuple[_Row, dict[int, list[int]]]:
        """Make one piece of all short events that begin in the same cell of the time.

        Returns the pieces, and for those of several events how many and their ticks at work.
        A piece has the kind that takes most of it.
        """
        row, several = _Row(), dict[int, list[int]]()
        at, count = 0, len(self.kinds)
        while at < count:
            end = at + 1
            if self.ends[at] - self.starts[at] < cell:
                limit = (self.starts[at] // cell + 1) * cell
                while (
                    end < count
                    and self.starts[end] < limit
                    and self.ends[end] - self.starts[end] < cell
                ):
                    end += 1
            kind = self.kinds[at]
            if end - at > 1:
                ticks: dict[int, int] = {}
                for i in range(at, end):
                    took = self.ends[i] - self.starts[i]
                    ticks[self.kinds[i]] = ticks.get(self.kinds[i], 0) + took
                kind = max(ticks, key=lambda each: ticks[each])
                several[len(row.kinds)] = [end - at, sum(ticks.values())]
            row.add(kind, self.starts[at], self.ends[end - 1])
            at = end
        return row, several

    def chunks(self) -> Iterator[str]:
        """Kinds, gaps before and durations; small numbers, so that the page stays small."""
        yield f',"kinds":[{",".join(map(str, self.kinds))}]'
        before = (0, *self.ends[:-1])
        gaps = (start - end for start, end in zip(self.starts, before, strict=True))
        yield f',"gaps":[{",".join(map(str, gaps))}]'
        ticks = (end - start for start, end in zip(self.starts, self.ends, strict=True))
        yield f',"ticks":[{",".join(map(str, ticks))}]'


class PageTimeline:
    """The events, gathered in one pass for the drawing and for the tables."""

    def __init__(self) -> None:
        self.count = 0
        self.end = 0
        self.launches = Launches()
        self.spans: list[list[int]] = []  # per launch: first start, last end
        self.rows: dict[tuple[str, int], _Row] = {}
        self.kinds: dict[tuple[str, str, str, int, str], int] = {}
        self.meetings: list[int] = []  # start, end of each loop end or barrier
        self.by_opcode: dict[str, Total] = {}
        self.engines_of: dict[str, set[str]] = {}
        self.ranks: dict[str, dict[str, int]] = {}  # engine: opcodes in order of appearance

    def read(self, p: ProfileLike) -> None:
        """Take in every event of ``p``, and its critical path."""
        lanes: dict[str, Rows] = {}
        for event in p.events:
            start = round(event.start_us * TICKS_PER_US)
            end = round(event.end_us * TICKS_PER_US)
            engine = event.engine
            launch = self.launches.index(event)
            if launch == len(self.spans):
                self.spans.append([start, end])
            span = self.spans[launch]
            span[1] = max(span[1], end)
            self.count += 1
            self.end = max(self.end, end)
            row = lanes.setdefault(engine, Rows()).place(start, end)
            kind = self._kind(event.opcode, event.source, event.label, launch, engine)
            self.rows.setdefault((engine, row), _Row()).add(kind, start, end)
            if engine != LAUNCH:
                self.by_opcode.setdefault(event.opcode, Total()).add(end - start)
                self.engines_of.setdefault(event.opcode, set()).add(engine)
                if event.opcode in _MEETING:
                    self.meetings += (start, end)
        path = _Row()
        for cause, piece in p.path_events():
            what = f"{cause}: {piece.engine} {piece.label}"
            kind = self._kind(what, piece.source, piece.opcode, -1, cause)
            start, end = round(piece.start_us * TICKS_PER_US), round(piece.end_us * TICKS_PER_US)
            path.add(kind, start, end)
        if path.kinds:
            self.rows[_PATH, 0] = path

    def _kind(self, opcode: str, source: str, label: str, launch: int, engine: str) -> int:
        ranks = self.ranks.setdefault(engine, {})
        ranks.setdefault(opcode, len(ranks))
        return self.kinds.setdefault((opcode, source, label, launch, engine), len(self.kinds))

    def colour(self, engine: str, opcode: str) -> str:
        """Colour of an opcode on an engine; on the critical path, of a cause."""
        if engine == LAUNCH or ": " in opcode:
            return colour_of(engine)
        rank = self.ranks.get(engine, {}).get(opcode)
        return OTHER if rank is None else shade(engine, rank)

    def _merged(self) -> dict[tuple[str, int], tuple[_Row, dict[int, list[int]]]]:
        """Rows with few enough pieces in all, by merging in ever larger cells."""
        rows = {key: (row, dict[int, list[int]]()) for key, row in self.rows.items()}
        cell = max(1, self.end // 2**16)
        while sum(len(row.kinds) for row, _ in rows.values()) > _MOST_PIECES:
            rows = {key: row.merged(cell) for key, row in self.rows.items()}
            if cell > self.end:
                break
            cell *= 2
        return rows

    def chunks(self, curves: Sequence[Curve]) -> Iterator[str]:
        """The drawing's data as JSON, in pieces, with nothing in it that could end a script."""
        strings: dict[str, int] = {}
        colours: dict[str, int] = {}

        def number(text: str) -> int:
            return strings.setdefault(text, len(strings))

        yield f'{{"ticksPerUs":{TICKS_PER_US},"end":{self.end},"rows":['
        rows = self._merged()
        order = sorted(rows, key=lambda key: (key[0] != _PATH, lane_rank(key[0]), key))
        for i, key in enumerate(order):
            row, several = rows[key]
            yield ("," if i else "") + f'{{"engine":{number(key[0])}'
            yield from row.chunks()
            if several:
                flat = [n for at, each in several.items() for n in (at, *each)]
                yield f',"several":[{",".join(map(str, flat))}]'
            yield "}"
        names = self.launches.names
        launches = [[number(names[i]), *span] for i, span in enumerate(self.spans)]
        kinds = []
        for opcode, source, label, launch, engine in self.kinds:
            colour = colours.setdefault(self.colour(engine, opcode), len(colours))
            kinds.append([number(opcode), number(source), number(label), launch, colour])
        rest = {
            "launches": launches,
            "kinds": kinds,
            "curves": [_curve(curve, self.end) for curve in curves],
            "meetings": self.meetings if len(self.meetings) <= 2 * _MOST_MEETINGS else [],
            "strings": list(strings),
            "colours": list(colours),
        }
        yield "]," + _script_safe(json.dumps(rest, separators=(",", ":")))[1:]


def _curve(curve: Curve, end: int) -> dict[str, object]:
    """A curve's steps as gaps between them in ticks, and values of at most a tenth."""
    times = [round(us * TICKS_PER_US) for us in curve.times_us]
    values = [round(value, 1) for value in curve.values]
    cell = max(1, end // _MOST_STEPS)
    if len(times) > _MOST_STEPS:
        highest: dict[int, float] = {}
        level = 0.0
        for time, value in zip(times, values, strict=True):
            at = time // cell
            highest[at] = max(highest.get(at, level), value)
            level = value
            highest[at + 1] = level
        times, values = [at * cell for at in highest], list(highest.values())
    gaps = [after - before for before, after in zip([0, *times], times, strict=False)]
    return {
        "name": curve.name,
        "unit": curve.unit,
        "limit": curve.limit,
        "gaps": gaps,
        "values": [int(value) if value == int(value) else value for value in values],
    }


def _script_safe(text: str) -> str:
    """JSON text that an HTML parser reads as nothing but text; `json.dumps` left ASCII only."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
