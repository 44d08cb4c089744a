"""Timing on a device, with recorded output of the vendor's tools in their place."""

from __future__ import annotations

import json
import os
import stat
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from nkiconv.bench.device import measured, run, sdk
from nkiconv.bench.errors import UserError
from nkiconv.bench.layers import Layer, LayerTrial
from nkiconv.simulate import simulate_kernel

torch = pytest.importorskip("torch", reason="tensors of a device are torch's")

TINY = Layer(id=0, name="tiny", N=1, C_in=4, size=(6, 6), C_out=5, kernel=(3, 3), padding=(1, 1))

# What `neuron-explorer` does, as its documentation and the vendor's own test tools show it: capture
# writes a file for each execution, view prints one summary under a hash.
EXPLORER = """#!{python}
import json, pathlib, sys
words = sys.argv[1:]
log = pathlib.Path({log!r})
with log.open("a") as lines:
    print(json.dumps(words), file=lines)
if {fails!r}:
    sys.exit("nrt_init failed")
if words[0] == "capture":
    session = pathlib.Path(words[words.index("-s") + 1])
    for n in range(1, int(words[words.index("--num-exec") + 1]) + 1):
        session.with_name(f"{{session.stem}}_exec_{{n}}.ntff").write_text(str(n))
else:
    n = int(pathlib.Path(words[words.index("-s") + 1]).read_text())
    print(json.dumps({{"n_5d41": {{"total_time": (100 + n) * 1e-6, "hardware_flops": 1}}}}))
"""


@pytest.fixture
def explorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return _install(tmp_path, monkeypatch, fails=False)


def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> Path:
    log = tmp_path / "calls"
    tool = tmp_path / "neuron-explorer"
    tool.write_text(EXPLORER.format(python=sys.executable, log=str(log), fails=fails))
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put torch_neuronx.trace's stand-in in place: it runs the kernel in the simulator."""
    seen: dict[str, Any] = {}

    def trace(function: Any, inputs: Any, **options: Any) -> Any:
        seen["options"] = options
        (Path(options["compiler_workdir"]) / "graph.neff").write_text("")

        def compiled(*arguments: Any) -> Any:
            seen["calls"] = seen.get("calls", 0) + 1
            y = simulate_through(function, arguments)
            return y + 1 if seen.get("wrong") else y

        return compiled

    module = types.SimpleNamespace(trace=trace)
    monkeypatch.setitem(sys.modules, "torch_neuronx", module)  # type: ignore[arg-type]
    return seen


def simulate_through(function: Any, arguments: Any) -> Any:
    """Call the traced function with kernels that the simulator runs."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
    cells["call_kernel"].cell_contents = simulate_kernel
    return function(*arguments)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_is_checked_then_timed(dtype: str, explorer: Path, traced: dict[str, Any]) -> None:
    announced: list[str] = []
    (row,) = run.run_on_device([LayerTrial(TINY, "trn1", dtype)], 9, announced.append)
    assert announced == [f"tiny {dtype} trn1"]
    assert row.wrong == ""
    assert row.runs == 9  # the first of ten warms up
    assert row.device_p50_us == pytest.approx(106)  # executions 2 to 10: 102 to 110 µs
    assert row.device_p99_us == pytest.approx(109.92)
    assert row.host_p50_us > 0
    assert row.modelled_over_measured == pytest.approx(row.modelled_us / 106)
    assert traced["options"]["compiler_args"] == ["--lnc=1"]
    assert traced["calls"] == 1 + 5 + 9  # compared, warmed up, timed
    calls = [json.loads(line) for line in explorer.read_text().splitlines()]
    assert calls[0][0] == "capture"
    assert calls[0][-2:] == ["--num-exec", "10"]
    assert all("summary-json" in call for call in calls[1:])


def test_a_wrong_result_has_no_times(explorer: Path, traced: dict[str, Any]) -> None:
    traced["wrong"] = True
    (row,) = run.run_on_device([LayerTrial(TINY, "trn1", "float32")], 3, lambda _: None)
    assert "180 elements differ" in row.wrong
    assert row.device_p50_us == row.host_p50_us == 0
    assert row.modelled_over_measured is None
    assert not explorer.exists()


def test_report_is_plain(explorer: Path, traced: dict[str, Any]) -> None:
    rows = run.run_on_device([LayerTrial(TINY, "trn2", "float32")], 2, lambda _: None)
    data = json.loads(json.dumps(run.report(rows)))
    assert data["schema"] == run.SCHEMA
    assert data["rows"][0]["target"] == "trn2"
    assert data["versions"]["torch"] == metadata.version("torch")
    assert data["versions"]["neuronx-cc"] == "not installed"


def test_failure_of_the_profiler_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: dict[str, Any]
) -> None:
    _install(tmp_path, monkeypatch, fails=True)
    rows = run.run_on_device([LayerTrial(TINY, "trn1", "float32")], 2, lambda _: None)
    with pytest.raises(UserError, match=r"^neuron-explorer capture failed: nrt_init failed$"):
        list(rows)


def test_no_neff_and_strange_summaries(
    tmp_path: Path, explorer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no graph\.neff"):
        sdk.device_times_us(tmp_path, {}, 1)
    (tmp_path / "graph.neff").write_text("")
    monkeypatch.setattr(sdk, "_run", lambda command: "not JSON")
    with pytest.raises(UserError, match="wrote no profile_exec"):
        sdk.device_times_us(tmp_path, {}, 1)
    for n in (1, 2):
        (tmp_path / f"profile_exec_{n}.ntff").write_text(str(n))
    with pytest.raises(UserError, match="no total_time"):
        sdk.device_times_us(tmp_path, {}, 1)


def test_inputs_reach_the_profiler(tmp_path: Path, explorer: Path) -> None:
    (tmp_path / "graph.neff").write_text("")
    times = sdk.device_times_us(tmp_path, {"x": tmp_path / "x.npy"}, 1)
    assert times == [pytest.approx(102)]
    assert json.loads(explorer.read_text().splitlines()[0])[-2:] == ["x", str(tmp_path / "x.npy")]


def test_without_a_device_one_line_says_what_is_missing() -> None:
    with pytest.raises(UserError, match=r"^--device neuron: missing here: .*torch_neuronx") as e:
        run.require_device()
    assert "\n" not in str(e.value)
    assert "/dev/neuron0" in str(e.value)


def test_measured_times_stand_beside_modelled_ones(tmp_path: Path) -> None:
    row = {"layer": "3x3-s1-p1-c4-k5-6x6", "dtype": "float32", "target": "trn1", "wrong": ""}
    path = tmp_path / "measured.json"
    rows = [row | {"device_p50_us": 40.0}, row | {"device_p50_us": 0.0, "wrong": "all of it"}]
    path.write_text(json.dumps({"schema": run.SCHEMA, "rows": rows}))
    compared = list(measured.compare(measured.read_measured(path), lambda _: None))
    assert len(compared) == 1
    assert compared[0].ratio == compared[0].modelled_us / 40
    assert 18 < compared[0].modelled_us < 30  # the launch and little more
    made, legend = measured.comparison_table(compared)
    assert made.row_count == 1
    assert "Mean error" in legend


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot read"),
        ("[]", "has schema 'list'"),
        ('{"schema": "nkiconv-device-times/0"}', "has schema 'nkiconv-device-times/0'"),
        ('{"schema": "nkiconv-device-times/1", "rows": []}', "no row with a time"),
        ('{"schema": "nkiconv-device-times/1", "rows": [{}]}', "not complete"),
    ],
)
def test_files_that_are_no_report(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "measured.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        measured.read_measured(path)
