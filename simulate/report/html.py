"""A profile as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from nkiconv.simulate.errors import NkiconvError
from nkiconv.simulate.report._colours import colour_of
from nkiconv.simulate.report._files import open_report
from nkiconv.simulate.report._lanes import lane_rank
from nkiconv.simulate.report._protocol import ProfileLike
from nkiconv.simulate.report._roofline import roofline_svg
from nkiconv.simulate.report._summary import (
    engine_rows,
    error_rows,
    facts,
    instruction_rows,
    kernel_names,
    lost_rows,
    microseconds,
    percent,
    roofline_rows,
    time_rows,
)
from nkiconv.simulate.report._timeline import TICKS_PER_US, PageTimeline, Total

__all__ = ["write_html"]

_HERE = Path(__file__).parent
_FIRST_PARTS = 12  # of the critical path, shown before the rest is folded away
_FIRST_LINES = 25  # source lines likewise
_MOST_PARTS = 1_000  # of the critical path, in the page at all


def write_html(p: ProfileLike, path: str | os.PathLike[str]) -> None:
    """Write the page: modelled times, a timeline to zoom into, the source, and tables.

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
    template = environment.from_string(_read("profile.html.j2"))
    with open_report(path, "save_html") as stream:
        timeline = PageTimeline()
        timeline.read(p)
        stream.writelines(template.generate(_context(p, timeline)))


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _context(p: ProfileLike, timeline: PageTimeline) -> dict[str, object]:
    """Every value the template uses."""
    from markupsafe import Markup  # comes with jinja2

    whole = p.body_us if p.body_us > 0 else 1.0
    parts = [
        {
            "source": part.source or "(no source line)",
            "what": f"{part.engine} {part.what}",
            "opcode": part.opcode,
            "kind": part.kind,
            "colour": colour_of(part.kind),
            "count": part.count,
            "us": part.us,
            "share": part.us / whole,
        }
        for part in p.critical_path[:_MOST_PARTS]
    ]
    lines = [
        {
            "source": line.source or "(no source line)",
            "engine": line.engine,
            "count": line.count,
            "busy_us": line.busy_us,
            "path_us": line.path_us,
            "share": line.path_us / whole,
        }
        for line in p.lines
    ]
    listings = _listings(p)
    return {
        "p": p,
        "kernels": kernel_names(p),
        "facts": facts(p),
        "causes": [(*row, colour_of(row[0])) for row in time_rows(p)],
        "error_rows": error_rows(p),
        "bound_share": p.time_us.get(p.bound, 0.0) / p.latency_us if p.latency_us > 0 else 0.0,
        "advice": p.advice,
        "engines": _engines(p),
        "roofline": roofline_rows(p),
        "instructions": _instructions(p, timeline),
        "first_parts": parts[:_FIRST_PARTS],
        "other_parts": parts[_FIRST_PARTS:],
        "first_lines": lines[:_FIRST_LINES],
        "other_lines": lines[_FIRST_LINES:],
        "listings": listings,
        "num_events": timeline.count,
        "end_us": timeline.end / TICKS_PER_US,
        # Markup: files of this package, and what is already safe inside a script element, where
        # HTML escapes would break the JSON.
        "style": Markup(_read("profile.css")),
        "script": Markup(_read("profile.js")),
        "roof": Markup(roofline_svg(p.roofline)),
        "timeline": (Markup(text) for text in timeline.chunks(p.curves)),
    }


def _instructions(p: ProfileLike, timeline: PageTimeline) -> list[dict[str, object]]:
    nothing = Total()
    rows: list[dict[str, object]] = []
    for opcode, count in instruction_rows(p):
        engines = sorted(timeline.engines_of.get(opcode, ()), key=lane_rank)
        rows.append(
            {
                "opcode": opcode,
                "colours": list(dict.fromkeys(timeline.colour(name, opcode) for name in engines)),
                "engines": ", ".join(engines),
                "count": count,
                "us": timeline.by_opcode.get(opcode, nothing).us,
            }
        )
    return rows


def _engines(p: ProfileLike) -> list[dict[str, object]]:
    """Each engine's time: work, then what it waited for; the shares add up to one."""
    whole = p.body_us if p.body_us > 0 else 1.0
    return [
        {
            "name": name,
            "us": busy_us,
            "share": share,
            "colour": colour_of(name),
            "waits": [(cause, us, us / whole) for cause, us in lost_rows(p, name)],
        }
        for name, busy_us, share in engine_rows(p)
    ]


def _listings(p: ProfileLike) -> list[dict[str, object]]:
    """The kernels' source, each line with its time on the critical path and on the engines."""
    on_path: defaultdict[str, float] = defaultdict(float)
    busy: defaultdict[str, float] = defaultdict(float)
    engines: defaultdict[str, list[str]] = defaultdict(list)
    counts: defaultdict[str, int] = defaultdict(int)
    for line in p.lines:
        on_path[line.source] += line.path_us
        busy[line.source] += line.busy_us
        counts[line.source] += line.count
        engines[line.source].append(line.engine)
    most = max(on_path.values(), default=0.0) or 1.0
    by_file: dict[str, list[dict[str, object] | None]] = {}
    for listing in p.listings:
        rows = by_file.setdefault(listing.file, [])
        if rows:
            rows.append(None)  # lines are left out between two functions
        for number, text in enumerate(listing.lines, listing.first):
            place = f"{listing.file}:{number}"
            rows.append(
                {
                    "place": place,
                    "number": number,
                    "text": text,
                    "timed": place in counts,
                    "path_us": on_path.get(place, 0.0),
                    "bar": 100 * on_path.get(place, 0.0) / most,
                    "busy_us": busy.get(place, 0.0),
                    "engines": ", ".join(sorted(set(engines.get(place, ())), key=lane_rank)),
                    "count": counts.get(place, 0),
                }
            )
    return [{"file": file, "rows": rows} for file, rows in by_file.items()]
