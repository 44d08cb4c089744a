"""How Sphinx builds the site from docs/: `sphinx-build -W docs out/site` from the root."""

from __future__ import annotations

from importlib import metadata
from typing import Any

project = "nkiconv"
author = "the nkiconv developers"
version = release = metadata.version("nkiconv")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"nkiconv {release}"
exclude_patterns = ["_build"]

myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to source files; tests/test_docs.py checks those

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the NumPy sections say more
napoleon_google_docstring = False
napoleon_custom_sections = [("Shapes", "notes_style"), ("Sources", "notes_style")]
nitpicky = False  # types in docstrings are prose

html_show_copyright = False


def _keep_shapes(
    app: Any, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Show the section Shapes, a table made of spaces, as it stands."""
    at = next((i for i, line in enumerate(lines[:-1]) if line == "Shapes"), None)
    if at is None or set(lines[at + 1]) != {"-"}:
        return
    end = next((i for i in range(at + 2, len(lines)) if not lines[i].strip()), len(lines))
    table = ["::", "", *(f"    {line}" for line in lines[at + 2 : end])]
    lines[at + 2 : end] = table


def setup(app: Any) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("autodoc-process-docstring", _keep_shapes, priority=100)  # before napoleon's 500
