"""A profile as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nkiconv.simulate.errors import NkiconvError
from nkiconv.simulate.report._files import open_report
from nkiconv.simulate.report._lanes import LAUNCH, Launches, Rows, lane_rank
from nkiconv.simulate.report._protocol import ProfileLike
from nkiconv.simulate.report._summary import (
    engine_rows,
    facts,
    instruction_rows,
    kernel_names,
    microseconds,
    percent,
)

__all__ = ["write_html"]

_TEMPLATE = Path(__file__).with_name("profile.html.j2")
_TICKS_PER_US = 10_000  # 0.1 ns, a seventh of a cycle of the fastest engine clock (1.4 GHz)
_COLOURS = 8  # opcodes with a colour of their own on the page, the most frequent ones
_FIRST_LINES = 25  # source lines shown before the rest is folded away


def write_html(p: ProfileLike, path: str | os.PathLike[str]) -> None:
    """Write the page: modelled times, a timeline to zoom into, and tables.

    Raises
    ------
    NkiconvError
        jinja2 is not installed, or ``path`` cannot be written.  Nothing half-written stays behind,
        and an older file is kept.
    """
    try:
        import jinja2
    except ImportError as error:
        raise NkiconvError(
            "save_html: the page is made with jinja2, which is not installed; "
            "pip install 'nkiconv[cli]' installs it",
            code="report.jinja2",
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(us=microseconds, percent=percent)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    with open_report(path, "save_html") as stream:
        timeline = _Timeline()
        timeline.read(p)
        stream.writelines(template.generate(_context(p, timeline)))


@dataclass
class _Total:
    """Events with something in common: how many, and the sum of their durations in ticks."""

    count: int = 0
    ticks: int = 0

    def add(self, ticks: int) -> None:
        self.count += 1
        self.ticks += ticks

    @property
    def us(self) -> float:
        return self.ticks / _TICKS_PER_US


@dataclass
class _Row:
    """Events of one row of the timeline as three numbers each: kind, gap before it, duration.

    Gaps and durations are in ticks.  They are small numbers, so the page stays small: about 12
    bytes per event.
    """

    kinds: array[int] = field(default_factory=lambda: array("q"))
    gaps: array[int] = field(default_factory=lambda: array("q"))
    ticks: array[int] = field(default_factory=lambda: array("q"))
    end: int = 0

    def add(self, kind: int, start: int, end: int) -> None:
        self.kinds.append(kind)
        self.gaps.append(start - self.end)
        self.ticks.append(end - start)
        self.end = end


class _Timeline:
    """The events, gathered in one pass for the drawing and for the tables."""

    def __init__(self) -> None:
        self.count = 0
        self.end = 0
        self.launches = Launches()
        self.spans: list[list[int]] = []  # per launch: first start, last end
        self.rows: dict[tuple[str, int], _Row] = {}
        self.kinds: dict[tuple[str, str, str, int], int] = {}  # opcode, source, label, launch
        self.by_line: dict[tuple[str, str], _Total] = {}  # source, engine
        self.by_opcode: dict[str, _Total] = {}
        self.engines_of: dict[str, set[str]] = {}

    def read(self, p: ProfileLike) -> None:
        """Take in every event of ``p``."""
        lanes: dict[str, Rows] = {}
        for event in p.events:
            start = round(event.start_us * _TICKS_PER_US)
            end = round(event.end_us * _TICKS_PER_US)
            engine = event.engine
            launch = self.launches.index(event)
            if launch == len(self.spans):
                self.spans.append([start, end])
            span = self.spans[launch]
            span[1] = max(span[1], end)
            self.count += 1
            self.end = max(self.end, end)
            row = lanes.setdefault(engine, Rows()).place(start, end)
            what = (event.opcode, event.source, event.label, launch)
            kind = self.kinds.setdefault(what, len(self.kinds))
            self.rows.setdefault((engine, row), _Row()).add(kind, start, end)
            if engine != LAUNCH:
                self.by_line.setdefault((event.source, engine), _Total()).add(end - start)
                self.by_opcode.setdefault(event.opcode, _Total()).add(end - start)
                self.engines_of.setdefault(event.opcode, set()).add(engine)

    def chunks(self, colours: dict[str, int]) -> Iterator[str]:
        """The drawing's data as JSON, in pieces, with nothing in it that could end a script."""
        strings: dict[str, int] = {}

        def number(text: str) -> int:
            return strings.setdefault(text, len(strings))

        yield f'{{"ticksPerUs":{_TICKS_PER_US},"end":{self.end},"rows":['
        order = sorted(self.rows, key=lambda key: (lane_rank(key[0]), key))
        for i, key in enumerate(order):
            row = self.rows[key]
            yield ("," if i else "") + f'{{"engine":{number(key[0])}'
            for name, values in (("kinds", row.kinds), ("gaps", row.gaps), ("ticks", row.ticks)):
                yield f',"{name}":[{",".join(map(str, values))}]'
            yield "}"
        names = self.launches.names
        launches = [[number(names[i]), *span] for i, span in enumerate(self.spans)]
        kinds = [
            [number(opcode), number(source), number(label), launch, colours.get(opcode, _COLOURS)]
            for opcode, source, label, launch in self.kinds
        ]
        rest = {"launches": launches, "kinds": kinds, "strings": list(strings)}
        yield "]," + _script_safe(json.dumps(rest, separators=(",", ":")))[1:]


def _script_safe(text: str) -> str:
    """JSON text that an HTML parser reads as nothing but text; `json.dumps` left ASCII only."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _context(p: ProfileLike, timeline: _Timeline) -> dict[str, object]:
    """Every value the template uses."""
    from markupsafe import Markup  # comes with jinja2

    counts = instruction_rows(p)
    colours = {opcode: i for i, (opcode, _) in enumerate(counts[:_COLOURS])}
    nothing = _Total()
    instructions = [
        {
            "opcode": opcode,
            "colour": colours.get(opcode, _COLOURS),
            "engines": ", ".join(sorted(timeline.engines_of.get(opcode, ()), key=lane_rank)),
            "count": count,
            "us": timeline.by_opcode.get(opcode, nothing).us,
        }
        for opcode, count in counts
    ]
    lines = [
        {
            "source": source or "(no source line)",
            "engine": engine,
            "count": total.count,
            "us": total.us,
            "share": total.us / p.body_us if p.body_us > 0 else 0.0,
        }
        for (source, engine), total in sorted(
            timeline.by_line.items(), key=lambda item: (-item[1].ticks, item[0])
        )
    ]
    return {
        "p": p,
        "kernels": kernel_names(p),
        "facts": facts(p),
        "engines": engine_rows(p),
        "instructions": instructions,
        "first_lines": lines[:_FIRST_LINES],
        "other_lines": lines[_FIRST_LINES:],
        "num_events": timeline.count,
        "end_us": timeline.end / _TICKS_PER_US,
        # Markup: already safe inside a script element, where HTML escapes would break the JSON.
        "timeline": (Markup(text) for text in timeline.chunks(colours)),
    }
