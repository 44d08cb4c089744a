"""Where everything that a command prints or writes goes through.

Two promises are kept here: a terminal that is not UTF-8 gets ASCII in place of our few signs, and
a file is either written whole or not touched.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from nkiconv.bench.errors import UserError

__all__ = [
    "check_writable",
    "counter",
    "new_table",
    "say",
    "say_table",
    "say_tables",
    "spinner",
    "tolerant_streams",
    "width_for",
    "write_bytes",
    "write_json",
]

_ASCII = str.maketrans({"µ": "u", "×": "x", "≤": "<=", "≥": ">=", "–": "-", "…": "..."})


def tolerant_streams() -> None:
    """Keep a sign that the terminal cannot show from ending the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _speaks_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "ascii").lower().startswith("utf")


def plain(text: str, stream: TextIO | None = None) -> str:
    """`text`, with our signs spelt in ASCII where `stream` (default: stdout) is not UTF-8."""
    return text if _speaks_unicode(stream or sys.stdout) else text.translate(_ASCII)


def say(text: str) -> None:
    """Print `text` as it stands: no wrapping, no markup."""
    print(plain(text))


def new_table(*headings: str, numbers: frozenset[str] | None = None) -> Table:
    """Return an empty table that fits 80 columns if its cells are short.

    Parameters
    ----------
    headings
        The first column folds where the terminal is too narrow; the others keep their width.
    numbers
        Headings of the columns that are set to the right.
    """
    table = Table(
        box=SIMPLE_HEAD,
        padding=0,  # the box has a space between columns
        show_edge=False,
    )
    for position, heading in enumerate(headings):
        right = numbers is not None and heading in numbers
        table.add_column(
            plain(heading),
            justify="right" if right else "left",
            overflow="fold",  # the default ends in a sign that is not ASCII
            no_wrap=position > 0,
        )
    return table


def cell(text: str, style: str = "") -> str:
    """One table cell: `text` literally, in colour where the terminal has any."""
    inner = escape(plain(text))
    return f"[{style}]{inner}[/{style}]" if style else inner


def width_for(wanted: int) -> int:
    """Return the terminal's columns, or `wanted` where there is none and COLUMNS is not set."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return Console().width
    return wanted


def say_table(table: Table, caption: str = "", *, width: int | None = None) -> None:
    """Print a table to stdout, as wide as the terminal (80 columns where there is none).

    `caption` is set below it, in lines that fit the same width.
    """
    console = Console(highlight=False, emoji=False, width=width)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        print(line.rstrip())
    if caption:
        print()
        for line in textwrap.wrap(plain(caption), min(console.width, 80) - 1):
            print(line)


def say_tables(tables: Sequence[tuple[Table, str]], *, width: int | None = None) -> None:
    """Print tables, each with its caption, an empty line between them."""
    for position, (table, caption) in enumerate(tables):
        if position:
            print()
        say_table(table, caption, width=width)


@contextmanager
def counter(total: int, what: str) -> Iterator[Callable[[str], None]]:
    """Progress bar on stderr; nothing at all where stderr is not a terminal.

    Yields
    ------
    announce
        To be called before each of the `total` steps with its name.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name: None
        return
    with Progress(
        TextColumn(what),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=total)
        started = 0

        def announce(name: str) -> None:
            nonlocal started
            progress.update(task, completed=started, description=escape(plain(name, sys.stderr)))
            started += 1

        yield announce


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Say on stderr, while it lasts, what takes so long; nothing where it is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    # "line" is the spinner that every terminal can show
    with console.status(escape(plain(text, sys.stderr)), spinner="line"):
        yield


def check_writable(path: Path) -> None:
    """Refuse, before anything long is computed, a path that cannot become a file.

    Raises
    ------
    UserError
        The path is a directory, its directory does not exist, or it may not be written to.
    """
    try:
        if path.is_dir():
            raise UserError(f"cannot write {str(path)!r}: it is a directory")
        if not path.parent.is_dir():
            raise UserError(f"cannot write {str(path)!r}: no directory {str(path.parent)!r}")
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write {str(path)!r}: no permission for its directory")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: first beside its place, then moved there.

    Raises
    ------
    UserError
        The file cannot be written; what was at `path` before is still there.
    """
    check_writable(path)
    if path.exists() and not path.is_file():  # a device or a pipe, such as /dev/stdout
        path.write_bytes(content)
        return
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())
