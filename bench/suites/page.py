"""A run as one HTML page that loads nothing: plots, verdicts and every number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nkiconv.bench.errors import UserError
from nkiconv.bench.suites.compare import Comparison
from nkiconv.bench.suites.measure import BenchRow
from nkiconv.bench.suites.report import Report
from nkiconv.bench.suites.tables import environment_line, verdicts
from nkiconv.bench.tables import SHORT_DTYPE
from nkiconv.simulate.report._colours import colour_of

__all__ = ["check_installed", "html_page"]

_HERE = Path(__file__).parent


def check_installed() -> None:
    """Refuse, before anything runs, to make a page without what makes it.

    Raises
    ------
    UserError
        jinja2 or matplotlib is not installed.
    """
    for name in ("jinja2", "matplotlib"):
        try:
            __import__(name)
        except ImportError:
            raise UserError(f"--html needs {name}: pip install 'nkiconv[cli]'") from None


def html_page(report: Report, found: Comparison | None, command: str) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_read("page.html.j2"))
    return template.render(_context(report, found, command))


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _context(report: Report, found: Comparison | None, command: str) -> dict[str, object]:
    """Every value that the template uses; SVG, style and script are ours, and stand as they are."""
    from markupsafe import Markup  # comes with jinja2

    from nkiconv.bench.suites import plots

    targets = []
    for target in dict.fromkeys(row.target for row in report.rows):
        rows = [row for row in report.rows if row.target == target]
        right = [row for row in rows if row.modelled]
        suites = [
            (suite, Markup(plots.time_plot(members, f"time-{target}-{suite}")))
            for suite in dict.fromkeys(row.suite for row in right)
            if (members := [row for row in right if row.suite == suite])
        ]
        grown = [row for row in right if row.series]
        targets.append(
            {
                "name": target,
                "rows": list(enumerate(rows, 1)),
                "suites": suites,
                "roofline": Markup(plots.roofline_plot(rows, f"roof-{target}")) if right else "",
                "scaling": Markup(plots.scaling_plot(grown, f"grow-{target}")) if grown else "",
            }
        )
    changes = Markup(plots.changes_plot(found, "changes")) if found is not None else ""
    dtypes = dict.fromkeys(row.dtype for row in report.rows)
    return {
        "report": report,
        "found": found,
        "command": command,
        "where": environment_line(report.environment),
        "verdicts": list(verdicts(report, found)),
        "wrong": sum(bool(row.problem) for row in report.rows),
        "targets": targets,
        "changes": changes,
        "changed": [each for each in found.changes if each.change or each.counts] if found else [],
        "best": _best(report.rows),
        "dtypes": [(SHORT_DTYPE[name], plots.DTYPE_COLOURS[name]) for name in dtypes],
        "causes": [(name, colour_of(name)) for name in plots.CAUSES],
        "short": SHORT_DTYPE,
        "style": Markup(_read("page.css")),
        "script": Markup(_read("page.js")),
    }


def _best(rows: Sequence[BenchRow]) -> BenchRow | None:
    """Return the row that uses TensorE best."""
    right = [row for row in rows if row.modelled]
    return max(right, key=lambda row: row.modelled.mfu if row.modelled else 0.0, default=None)
