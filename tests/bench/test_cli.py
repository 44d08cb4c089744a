"""The command line as a whole: exit codes, one line for every mistake, any terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from nkiconv.bench.cli import run
from nkiconv.simulate import CapacityError

TINY = "1x1-s1-p0-c1-k1-1x1"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that a refused command prints."""
    assert run(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("nkiconv: error: ")
    return lines[0]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    bare = capsys.readouterr().out
    assert run(["--help"]) == 0
    assert capsys.readouterr().out == bare
    for command in (
        "check",
        "filter",
        "findings",
        "profile",
        "bench",
        "doctor",
        "explain",
        "tables",
    ):
        assert f"\n  {command} " in bare
        assert run([command, "--help"]) == 0
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("nkiconv ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["polish"], "polish"),
        (["check", "--fast"], "--fast"),
        (["check", "--only"], "--only"),
        (["check", "--only", "no such case"], "no such case"),
        (["check", "--algorithm", "magic"], "there are: direct, naive"),
        (["check", "--target", "trn9"], "trn9"),
        (["check", "--json", "no/such/folder/x.json"], "no directory"),
        (["profile", "--case", "3x3-s1-p1-c64-k128-28x29"], "3x3-s1-p1-c64-k128-28x28"),
        (["profile", "--case", TINY, "--stride", "2"], "--stride"),
        (["profile", "--c-in", "0"], "--c-in is 0"),
        (["profile", "--kernel", "9", "--h", "2", "--padding", "1"], "conv2d"),
        (["profile", "--stride", "0"], "stride"),
        (["profile", "--padding", "-1"], "padding"),
        (["profile", "--algorithm", "magic"], "magic"),
        (["profile", "--dtype", "int8"], "int8"),
        (["profile", "--case", TINY, "--trace", "/"], "directory"),
        (["bench", "--suite", "coffee"], "there are: simulator"),
        (["bench", "--repeat", "0"], "repeat"),
        (["findings", "--size", "1"], "size"),
        (["filter", "a.png", "b.png"], "b.png"),
    ],
)
def test_every_mistake_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, *arguments)


def test_errors_of_the_package_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise CapacityError("two\nlines")

    monkeypatch.setattr("nkiconv.bench.doctor.examine", fail)
    assert refusal(capsys, "doctor").endswith("two lines")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, typer.Abort])  # older typer: the second
def test_ctrl_c(
    kind: type[BaseException],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt() -> None:
        raise kind

    monkeypatch.setattr("nkiconv.bench.doctor.examine", interrupt)
    assert run(["doctor"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_nobody_expected_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("nkiconv.bench.doctor.examine", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run(["doctor"])


def test_profile_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("trace.json", "page.html", "numbers.json")]
    options = [
        part for option, path in zip(("--trace", "--html", "--json"), files, strict=True)
        for part in (option, str(path))
    ]  # fmt: skip
    assert run(["profile", "--case", TINY, "--target", "trn2", *options]) == 0
    assert "trn2" in capsys.readouterr().out
    assert json.loads(files[0].read_text())
    assert "<html" in files[1].read_text()
    numbers = json.loads(files[2].read_text())
    assert (numbers["case"], numbers["target"], numbers["macs"]) == (TINY, "trn2", 1)


def test_profile_of_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"--n": 2, "--c-in": 3, "--h": 6, "--w": 5, "--c-out": 4, "--kernel": 2, "--padding": 0}
    arguments = [str(part) for item in sizes.items() for part in item]
    assert run(["profile", *arguments, "--dtype", "bfloat16", "--algorithm", "naive"]) == 0
    assert "2x2-s1-p0-c3-k4-6x5-n2, bfloat16, algorithm naive" in capsys.readouterr().out


# --- Real processes ------------------------------------------------------------------------------


def process(*command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        env=os.environ | {"COLUMNS": "80"} | environment,
        check=False,
    )


@pytest.mark.parametrize("columns", [80, 50])
def test_a_terminal_without_utf_8(columns: int) -> None:
    done = process(
        "-m", "nkiconv.bench", "check", "--only", TINY,
        PYTHONIOENCODING="ascii", COLUMNS=str(columns),
    )  # fmt: skip
    text = done.stdout.decode("ascii")
    assert done.returncode == 0
    assert text.endswith("6 passed, 0 failed\n")
    assert "\\x" not in text  # nothing had to be escaped: every sign has its ASCII spelling
    assert max(len(line) for line in text.splitlines()) <= columns


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_packages(missing: str) -> None:
    program = (
        f"import sys; sys.modules['{missing}'] = None; sys.argv = ['nkiconv', 'check'];"
        "from nkiconv.bench.cli import main; main()"
    )
    done = process("-c", program)
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert "pip install 'nkiconv[cli]'" in done.stderr.decode()


@pytest.mark.parametrize("unbuffered", ["", "1"])  # the last flush finds out, or the first print
def test_a_reader_that_leaves_early(unbuffered: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "nkiconv.bench", "doctor"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_wrong_choice_of_simulator_is_one_line() -> None:
    done = process("-m", "nkiconv.bench", "doctor", NKICONV_SIMULATOR="bad")
    assert done.returncode == 2
    assert done.stderr.decode().startswith('nkiconv: error: NKICONV_SIMULATOR is "bad"')
    assert done.stderr.decode().count("\n") == 1
