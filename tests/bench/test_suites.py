"""`nkiconv bench --suite`: works, judgement, JSON, the baseline's gate, tables and the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from nkiconv.bench.cli import _times_numpy, run
from nkiconv.bench.errors import UserError
from nkiconv.bench.plans import find_layer
from nkiconv.bench.suites import measure
from nkiconv.bench.suites.compare import compare
from nkiconv.bench.suites.measure import BenchRow, run_trials, trials_of
from nkiconv.bench.suites.page import html_page
from nkiconv.bench.suites.report import Report, environment, load
from nkiconv.bench.suites.tables import verdicts
from nkiconv.bench.suites.works import SUITES, select_works

SMALL = ["bench", "--suite", "small", "--repeat", "1"]
TINY = [*SMALL, "--only", "tiny", "--dtype", "bf16"]


@pytest.fixture(scope="module")
def rows() -> list[BenchRow]:
    works = [*select_works(["small"], "tiny"), *select_works(["scaling"], "batch 2")]
    return list(run_trials(trials_of(works, ["trn1", "trn2"], ["bfloat16"]), 1, lambda name: None))


def report_of(rows: list[BenchRow], **changed: Any) -> Report:
    return replace(Report(environment(), tuple(rows)), **changed)


# --- Works ----------------------------------------------------------------------------------------


def test_every_suite_has_works_of_different_names() -> None:
    for name, make in SUITES.items():
        names = [work.name for work in make()]
        assert names
        assert len(set(names)) == len(names)
        assert {work.suite for work in make()} == {name}
    assert select_works(["all"]) == [work for make in SUITES.values() for work in make()]


def test_the_classic_layer_has_the_sizes_that_its_name_says() -> None:
    layer = SUITES["classic"]()[0].layer
    assert (layer.N, layer.C_in, layer.size, layer.C_out) == (8, 64, (32, 32), 128)
    assert layer.out == (32, 32)
    assert SUITES["classic"]()[0].bias
    assert [work.layer.size for work in SUITES["small"]()][::2] == [(4, 4), (8, 8), (16, 16)]


def test_sizes_of_a_row_are_those_that_plan_takes(rows: list[BenchRow]) -> None:
    layers = {work.name: work.layer for work in SUITES["small"]()}
    for row in rows:
        if row.suite == "small":
            assert replace(find_layer(row.sizes), name=row.name) == layers[row.name]


# --- Judgement ------------------------------------------------------------------------------------


def test_rows_hold_what_they_say(rows: list[BenchRow]) -> None:
    pytest.importorskip("torch")
    assert len(rows) == 6
    for row in rows:
        m = row.modelled
        assert m is not None
        assert not row.problem
        assert m.body_us >= m.floor_us > 0
        assert m.gflop_per_s == pytest.approx(row.flop / m.body_us / 1e3)
        assert m.mfu == pytest.approx(m.gflop_per_s / m.peak_gflop_per_s)
        assert sum(m.time_us.values()) == pytest.approx(m.body_us + m.launch_us)
        assert row.host is not None
        assert row.host.repeats == 1
    of_trn1, of_trn2 = rows[0], rows[1]
    assert of_trn1.host == of_trn2.host  # the host runs once for all targets


def test_peak_is_the_documented_one() -> None:
    # trn2: 128 x 128 products a cycle at 2.4 GHz; float32 in four passes
    from nkiconv.simulate.hardware import HARDWARE

    assert measure._peak_gflop_per_s(HARDWARE["trn2"], "bfloat16") == pytest.approx(78_643.2)
    assert measure._peak_gflop_per_s(HARDWARE["trn2"], "float32") == pytest.approx(19_660.8)


def test_a_wrong_result_has_no_times_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    right = measure.conv2d

    def wrong(x: Any, w: Any, bias: Any, **options: Any) -> Any:
        y = np.array(right(x, w, bias, **options))
        if options["groups"] == 1:
            y[0, 0, 0, 0] += 1
        return y

    monkeypatch.setattr(measure, "conv2d", wrong)
    path = tmp_path / "rows.json"
    assert run([*TINY, "--json", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "1 of 1024 results are wrong" in printed
    assert "2 rows, 1 right, 1 wrong" in printed
    bad, good = json.loads(path.read_text("utf-8"))["rows"]
    assert bad["modelled"] is None
    assert bad["host"] is None
    assert good["modelled"] is not None


def test_an_error_is_a_row_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("out of silicon")

    monkeypatch.setattr(measure, "conv2d", broken)
    assert run(TINY) == 1
    assert "RuntimeError: out of silicon" in capsys.readouterr().out


def test_a_wrong_pytorch_has_no_time_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    (trial, *_) = trials_of(select_works(["small"], "tiny"), ["trn1"], ["bfloat16"])
    operands = measure._Operands.of(trial.work, trial.dtype)
    real = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *args, **options: real(
        *args, **options
    ) * 2)  # fmt: skip
    host, problem = measure._hosted(operands, 1)
    assert host is None
    assert "of its allowance" in problem


def test_without_torch_there_is_no_host_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(TINY) == 0
    printed = capsys.readouterr().out
    assert "2 rows have no time of PyTorch: torch is not installed" in printed
    assert "torch missing" in printed


def test_a_filter_is_judged_by_the_bound() -> None:
    pytest.importorskip("matplotlib")
    trials = trials_of(select_works(["filters"], "identity"), ["trn2"], ["bfloat16"])
    (row,) = run_trials(trials, 1, lambda name: None)
    assert not row.problem
    assert row.error_ratio is not None
    operands = measure._Operands.of(trials[0].work, "bfloat16")
    right = operands.wanted.astype(operands.x.dtype)
    assert operands.judge(right)[1] == ""
    right[0, 0, 0, 0] = 300
    assert "of its allowance" in operands.judge(right)[1]
    assert "the result is" in operands.judge(right[:1])[1]


# --- JSON and baseline ----------------------------------------------------------------------------


def test_json_follows_its_schema_and_comes_back(rows: list[BenchRow], tmp_path: Path) -> None:
    report = report_of(rows)
    content = json.loads(json.dumps(report.to_dict()))
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content), "utf-8")
    assert load(path) == report
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(Path(measure.__file__).with_name("schema.json").read_text("utf-8"))
    jsonschema.validate(content, schema)
    content["rows"][0]["modelled"]["body_ps"] = -1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_schema_names_every_field(rows: list[BenchRow]) -> None:
    schema = json.loads(Path(measure.__file__).with_name("schema.json").read_text("utf-8"))
    content = report_of(rows).to_dict()
    assert set(content) == set(schema["required"])
    row: Any = content["rows"][0]  # type: ignore[index]
    for name, values in (("row", row), ("modelled", row["modelled"]), ("host", row["host"])):
        if values is not None:
            assert set(schema["$defs"][name]["properties"]) == set(values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no JSON"),
        ("[1]", "is no report"),
        ('{"rows": []}', "is no report"),
        ('{"schema": "nkiconv-bench", "version": 0}', "an older form, version 0"),
        ('{"schema": "nkiconv-bench", "version": 2}', "another form, version 2"),
        ('{"schema": "nkiconv-bench", "version": 1}', "is damaged"),
        (
            '{"schema": "nkiconv-bench", "version": 1, "complete": true, "environment": {},'
            ' "rows": []}',
            "is damaged",
        ),
    ],
)
def test_a_bad_baseline_is_one_line_and_nothing_runs(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text, "utf-8")
    out = tmp_path / "out.json"
    assert run([*TINY, "--baseline", str(path), "--json", str(out)]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert words in line
    assert not printed.out
    assert not out.exists()


def test_rows_of_a_baseline_are_checked(rows: list[BenchRow], tmp_path: Path) -> None:
    content: Any = json.loads(json.dumps(report_of(rows).to_dict()))
    for change in ({"modelled": 3}, {"modelled": {}}, {"extra": 1}):
        damaged = json.loads(json.dumps(content))
        damaged["rows"][0] |= change
        path = tmp_path / "run.json"
        path.write_text(json.dumps(damaged), "utf-8")
        with pytest.raises(UserError, match="is damaged"):
            load(path)
    content["rows"][0]["modelled"]["body_ps"] = 0
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match="body_ps 0"):
        load(path)


def test_the_gate_stops_a_regression_put_in_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    assert run([*TINY, "--json", str(path)]) == 0
    assert run([*TINY, "--baseline", str(path)]) == 0
    assert "0 of 2 rows are worse" in capsys.readouterr().out
    content = json.loads(path.read_text("utf-8"))
    before = content["rows"][0]["modelled"]
    before["body_ps"] = round(before["body_ps"] / 1.1)  # so that now it is a tenth slower
    before["dma_transfers"] += 1
    content["rows"].append(content["rows"][1] | {"name": "gone"})
    path.write_text(json.dumps(content), "utf-8")
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    command = [*TINY, "--baseline", str(path), "--json", str(out), "--markdown", str(page)]
    assert run(command) == 1
    printed = capsys.readouterr().out
    assert "1 of 2 rows are worse by more than 0.5%, 0 better; 0 new, 1 not run" in printed
    assert "WORSE" in printed
    assert "+10.0%" in printed
    assert "dma_transfers" in printed
    assert json.loads(out.read_text("utf-8"))["baseline"]["regressions"] == 1
    assert "+10.0%" in page.read_text("utf-8")
    assert run([*TINY, "--baseline", str(path), "--tolerance", "11"]) == 0


def test_a_row_that_became_wrong_is_a_regression(rows: list[BenchRow]) -> None:
    broken = [replace(rows[0], modelled=None, problem="wrong"), *rows[1:]]
    found = compare(report_of(rows), broken, 0.01)
    assert [each.name for each in found.regressions] == [rows[0].name]
    better = compare(report_of(broken), rows, 0.01)  # there is nothing to compare it with
    assert (len(better.changes), better.new, better.regressions) == (len(rows) - 1, 1, ())


def test_a_baseline_of_other_rows_is_refused(
    rows: list[BenchRow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(report_of(rows).to_dict()), "utf-8")
    assert run([*TINY, "--target", "trn3", "--baseline", str(path)]) == 2
    assert "no row of this run" in capsys.readouterr().err


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX has them")
def test_ctrl_c_leaves_a_valid_part(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    program = (
        "import sys, nkiconv.bench.suites.measure as m\n"
        "from nkiconv.bench.cli import run\n"
        "real, count = m._simulated, [0]\n"
        "def slow(trial, operands):\n"
        "    import time\n"
        "    count[0] += 1\n"
        "    if count[0] == 3:\n"
        "        print('third', file=sys.stderr, flush=True); time.sleep(60)\n"
        "    return real(trial, operands)\n"
        "m._simulated = slow\n"
        f"sys.exit(run({[*SMALL, '--json', str(path)]!r}))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    deadline = time.monotonic() + 120
    while "third" not in process.stderr.readline():
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopped before the end" in printed
    part = load(path)
    assert not part.complete
    assert len(part.rows) == 2


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "coffee"], "there are: simulator"),
        (["--suite", "small", "--suite", "micro"], "runs alone"),
        (["--suite", "micro", "--only", "x"], "--only goes with suites of convolutions"),
        (["--baseline", "x.json"], "--baseline goes with suites of convolutions"),
        (["--suite", "small", "--profile"], "--profile"),
        (["--suite", "small", "--only", "no such thing"], "no such thing"),
        (["--suite", "small", "--dtype", "int8"], "int8"),
        (["--suite", "small", "--device", "abacus"], "no device 'abacus'"),
        (["--device", "neuron"], "missing here"),
        (["--device", "neuron", "--suite", "small"], "suite layers only"),
        (["--device", "neuron", "--html", "x.html"], "--html"),
        (["--device", "neuron", "--target", "trn1", "--target", "trn2"], "one --target"),
        (["--suite", "small", "--target", "trn9"], "trn9"),
        (["--suite", "small", "--repeat", "0"], "repeat"),
        (["--suite", "small", "--tolerance", "-1"], "tolerance"),
        (["--suite", "small", "--html", "no/such/folder/x.html"], "no directory"),
        (["--suite", "small", "--markdown", "/"], "directory"),
        (["--suite", "small", "--baseline", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert words in line
    assert not printed.out


def test_threads_of_blas_are_left_alone_only_where_numpy_is_timed() -> None:
    assert _times_numpy(["bench"])
    assert _times_numpy(["bench", "--suite", "speed"])
    assert not _times_numpy(["bench", "--suite=small"])
    assert not _times_numpy(["bench", "--suite", "classic", "--repeat", "3"])
    assert not _times_numpy(["check"])


def test_layers_on_a_device_are_shown_and_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from nkiconv.bench.device import run as on_device

    right = on_device.DeviceRow(
        "a layer", "bfloat16", "trn1", "direct", wrong="", runs=100, device_p50_us=50.0,
        device_p99_us=60.0, host_p50_us=80.0, host_p99_us=90.0, modelled_us=55.0, mfu=0.5,
    )  # fmt: skip
    wrong = on_device.DeviceRow("another", "bfloat16", "trn1", "direct", wrong="2 elements differ")
    asked: list[int] = []

    def run_on_device(trials: Any, runs: int, announce: Any) -> Any:
        asked.append(runs)
        yield from (right, wrong)

    monkeypatch.setattr(on_device, "require_device", lambda: None)
    monkeypatch.setattr(on_device, "run_on_device", run_on_device)
    path = tmp_path / "measured.json"
    assert run(["bench", "--device", "neuron", "--only", "VGG", "--json", str(path)]) == 1
    printed = capsys.readouterr().out
    assert asked == [100]
    assert "1.10" in printed  # 55 / 50
    assert "another bfloat16: 2 elements differ" in printed
    content = json.loads(path.read_text("utf-8"))
    assert content["complete"]
    assert content["rows"][0]["modelled_over_measured"] == pytest.approx(1.1)


# --- Tables and the page --------------------------------------------------------------------------


def test_tables_fit_and_markdown_has_every_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = tmp_path / "page.md"
    assert run([*TINY, "--markdown", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("host: "))
    text = page.read_text("utf-8")
    assert text.count("| tiny, 4x4") == 2
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_the_page_loads_nothing_and_holds_every_plot(rows: list[BenchRow]) -> None:
    bad = replace(rows[1], modelled=None, host=None, problem="<script>alert(1)</script>")
    report = report_of([rows[0], bad, *rows[2:]], complete=False)
    slower = [replace(row, modelled=row.modelled and replace(
        row.modelled, body_ps=row.modelled.body_ps // 2
    )) for row in rows]  # fmt: skip
    page = html_page(report, compare(report_of(slower), report.rows, 0.01), "nkiconv bench <x>")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "Not complete" in page
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    # trn1: two suites, roofline, scaling; trn2 the same; and the changes
    assert len(svgs) == 9
    for svg in svgs:
        ElementTree.fromstring(svg)
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(set(ids)) == len(ids)


def test_a_busy_machine_is_told(rows: list[BenchRow]) -> None:
    pytest.importorskip("torch")
    where = replace(environment(), cpus=2, load_average=2.5)
    assert any("was busy" in line for line in verdicts(report_of(rows, environment=where), None))
    calm = report_of(rows, environment=replace(where, load_average=1.0))
    assert not any("was busy" in line for line in verdicts(calm, None))


def test_a_page_without_any_right_result_is_still_a_page(rows: list[BenchRow]) -> None:
    bad = [replace(row, modelled=None, host=None, problem="wrong") for row in rows]
    page = html_page(report_of(bad), None, "nkiconv bench")
    assert "<svg" not in page
    assert "6 wrong" in page
    assert "Not complete" in html_page(report_of([], complete=False), None, "nkiconv bench")


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_script_runs_in_a_browser(rows: list[BenchRow], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    press = "<script>document.querySelectorAll('.sortable th button')[6].click()</script></body>"
    text = html_page(report_of(rows), None, "nkiconv bench")
    page.write_text(text.replace("</body>", press), "utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    table = done.stdout[done.stdout.index('class="sortable"') :]
    assert 'aria-sort="ascending"' in table
    body = table[table.index("<tbody>") : table.index("</tbody>")]
    found = [
        float(re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL)[6].replace(",", ""))
        for row in body.split("</tr>")[:-1]
    ]
    assert found == sorted(found)
    assert len(found) == 3
