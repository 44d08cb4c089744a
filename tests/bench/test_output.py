"""Tables and terminals: widths, signs, and where progress goes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nkiconv.bench.output import cell, counter, new_table, say_table
from nkiconv.bench.tables import _percent, _short

pty = pytest.importorskip("pty", reason="pseudo-terminals are a thing of Unix")

TINY = "1x1-s1-p0-c1-k1-1x1"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0.00"),
        (0.996, "1.00"),
        (1.004, "1.00"),
        (9.99, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (882.0, "882"),
        (1e9, "1e+09"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_short_numbers(value: float | None, text: str) -> None:
    assert _short(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.0%"), (0.0994, "9.9%"), (0.0996, "10%"), (1.0, "100%")]
)
def test_short_shares(share: float, text: str) -> None:
    assert _percent(share) == text


def test_markup_in_a_cell_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table("[bold]a", "b")
    table.add_row(cell("[red]x[/red] :smile:", "green"), cell("\\[y]"))
    say_table(table)
    assert "[red]x[/red] :smile:" in capsys.readouterr().out


def test_no_progress_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with counter(2, "working") as announce:
        announce("one")
        announce("two")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_progress_on_a_terminal_is_on_stderr(encoding: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nkiconv.bench", "check", "--only", TINY]
    environment = os.environ | {"TERM": "xterm", "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert process.stdout is not None
        table = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    assert b"checking" in shown
    assert b"6/6" in shown or b"5/6" in shown
    assert TINY.encode() in table
    assert b"\x1b" not in table  # no colours in what is piped away
    if encoding == "ascii":
        shown.decode("ascii")
        table.decode("ascii")
