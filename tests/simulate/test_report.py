"""Reports of a made-up profile: the numbers arrive, the files are whole, nothing is executed.

One file for the table, the dictionary, the trace and the page, since all four read the same
made-up profile; that is why it is long.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nkiconv.simulate.curves import Curve
from nkiconv.simulate.error_bar import ErrorBar
from nkiconv.simulate.errors import NkiconvError
from nkiconv.simulate.explain import LineTime, PathPart
from nkiconv.simulate.listing import Listing
from nkiconv.simulate.report import profile_dict, profile_table, write_html, write_trace
from nkiconv.simulate.roofline import Roofline
from nkiconv.simulate.tuning import Advice

Write = Callable[["FakeProfile", Path | str], None]
WRITERS = pytest.mark.parametrize("write", [write_trace, write_html], ids=["trace", "html"])


@dataclass(frozen=True)
class FakeEvent:
    engine: str
    opcode: str
    start_us: float
    end_us: float
    source: str = ""
    label: str = ""
    kernel: str = "conv"


EVENTS = (
    FakeEvent("launch", "start", 0.0, 15.0),
    FakeEvent("DMA load", "dma_copy", 15.0, 17.0, "conv2d.py:10", "window"),
    FakeEvent("DMA load", "dma_copy", 15.5, 17.5, "conv2d.py:10", "window"),  # overlaps the first
    FakeEvent("DMA load", "dma_copy", 17.0, 19.25, "conv2d.py:10", "window"),  # fits after it
    FakeEvent("TensorE", "nc_matmul", 17.5, 17.8571, "conv2d.py:20"),
    FakeEvent("TensorE", "nc_matmul", 17.8571, 18.2142, "conv2d.py:20"),
    FakeEvent("DMA store", "dma_copy", 18.5, 20.0, "conv2d.py:30"),
    FakeEvent("launch", "end", 20.0, 22.0),
)


LINES = (
    LineTime("conv2d.py:10", "DMA load", 3, 2.25, 700.0),
    LineTime("conv2d.py:20", "TensorE", 2, 0.72, 500.0),
    LineTime("conv2d.py:30", "DMA store", 1, 1.5, 0.0),
)
PARTS = (
    PathPart("conv2d.py:10", "DMA load", "dma_copy", "DMA latency", "start-up", 700.0, 3),
    PathPart("conv2d.py:20", "TensorE", "nc_matmul", "TensorE", "work", 500.0, 2),
    PathPart("conv2d.py:30", "DMA store", "dma_copy", "DMA bandwidth", "transfer", 19.567, 1),
)
ROOFLINE = Roofline(3_699_376_128, 3_670_016, 91.75, 410.0, 1219.567)
CURVES = (
    Curve("SBUF", "B/partition", 1000.0, array("d", [0.0, 15.0, 20.0]), array("d", [0, 600, 0])),
    Curve("HBM", "GB/s", 410.0, array("d", [0.0, 16.0, 17.0]), array("d", [0, 123.25, 0])),
)
PATH = (
    ("DMA latency", FakeEvent("DMA load", "dma_copy", 15.0, 17.5, "conv2d.py:10", "start-up")),
    ("TensorE", FakeEvent("TensorE", "nc_matmul", 17.5, 18.2, "conv2d.py:20", "work")),
)


@dataclass(frozen=True)
class FakeProfile:
    target: str = "trn1"
    latency_us: float = 1234.567
    launch_us: float = 15.0
    body_us: float = 1219.567
    error_bar: ErrorBar = field(
        default_factory=lambda: ErrorBar(0.052, 0.149, 38, ("no kernel was measured on trn9",))
    )
    bound: str = "DMA latency"
    time_us: dict[str, float] = field(
        default_factory=lambda: {
            "TensorE": 500.0,
            "VectorE": 0.0,
            "DMA latency": 700.0,
            "DMA bandwidth": 19.567,
            "launch": 15.0,
        }
    )
    critical_path: tuple[PathPart, ...] = PARTS
    lost_us: dict[str, dict[str, float]] = field(
        default_factory=lambda: {"TensorE": {"results of DMA load": 600.0, "after its last": 9.787}}
    )
    roofline: Roofline = ROOFLINE
    advice: tuple[Advice, ...] = (Advice("rule", "rows of 4 B", "make them longer", 321.0),)
    lines: tuple[LineTime, ...] = LINES
    curves: tuple[Curve, ...] = CURVES
    listings: tuple[Listing, ...] = (Listing("conv2d.py", 9, ("def k(x):", "    load(x)")),)
    engine_busy_us: dict[str, float] = field(
        default_factory=lambda: {"DMA": 97.25, "TensorE": 609.78, "GpSimdE": 0.0}
    )
    mfu: float = 0.713
    mbu: float = 0.082
    macs: int = 1_849_688_064
    hbm_read_bytes: int = 3 * 2**20
    hbm_write_bytes: int = 2**19
    hbm_read_bytes_by_tensor: dict[str, int] = field(default_factory=lambda: {"x_hbm": 2**20})
    lane_instructions: dict[str, int] = field(default_factory=lambda: {"TensorE": 1})
    dma_transfers: int = 69
    instructions: dict[str, int] = field(
        default_factory=lambda: {"tensor_copy": 7, "nc_matmul": 216, "memset": 7}
    )
    static_instructions: int = 412
    sbuf_peak_bytes: int = 98_560
    psum_peak_banks: int = 6
    moving_columns: int = 216 * 448
    kernels: tuple[str, ...] = ("conv",)
    events: Iterable[FakeEvent] = EVENTS
    path: tuple[tuple[str, FakeEvent], ...] = PATH

    def path_events(self) -> tuple[tuple[str, FakeEvent], ...]:
        return self.path


# --- table --------------------------------------------------------------------------------------


# fmt: off
TABLE_NUMBERS = (
    "1,234.57 µs", "1,219.57 µs", "15.00 µs", "71.3 %", "8.2 %", "1,849,688,064", "3.000 MiB",
    "0.500 MiB", "69", "412", "448.0", "96.25 KiB", "6 banks", "609.78 µs", "50.0 %", "216",
)
# fmt: on


@pytest.mark.parametrize("number", TABLE_NUMBERS)
def test_table_holds_the_number(number: str) -> None:
    assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d.,])", profile_table(FakeProfile()))


def test_table_calls_every_time_modelled() -> None:
    headed = False  # below a heading that says it
    times = 0
    for line in profile_table(FakeProfile()).splitlines():
        headed = ", modelled (" in line or (headed and bool(line))
        if "µs" in line:
            times += 1
            assert headed or "modelled" in line
    assert times == 16


def test_table_orders_engines_and_instructions() -> None:
    text = profile_table(FakeProfile())
    busy = text[text.index("engine busy") :]
    assert re.findall(r"^  (\w+) +\[", busy, re.M) == ["TensorE", "GpSimdE", "DMA"]
    counts = text[text.index("instructions executed\n") :]
    assert re.findall(r"^  (\w+)", counts, re.M) == ["nc_matmul", "memset", "tensor_copy"]


@pytest.mark.parametrize(
    ("busy", "marks"), [(0.0, 0), (0.001, 1), (609.78, 14), (1219.567, 30), (9e9, 30)]
)
def test_bar_length_is_the_share_of_the_body(busy: float, marks: int) -> None:
    text = profile_table(FakeProfile(engine_busy_us={"TensorE": busy}))
    bar = re.search(r"\[([#.]{30})\]", text[text.index("engine busy") :])
    assert bar is not None
    assert bar[1].count("#") == marks


def test_table_fits_80_columns_whatever_the_names() -> None:
    long = "a_kernel_name_" * 12
    text = profile_table(
        FakeProfile(
            latency_us=98_765_432_109.87,
            body_us=98_765_432_000.0,
            kernels=(long, "b", "b", "\x1b[31mred\n"),
            bound=long,
            time_us={long: 98_765_432_109.87},
            critical_path=(PathPart(long, long, long, long, long, 98_765_432_109.87, 1),) * 9,
            engine_busy_us={long: 98_765_432_109.87},
            lost_us={long: {long: 98_765_432_109.87}},
            advice=(Advice("rule", long, long, 98_765_432_109.87),) * 20,
            instructions={long: 10**14},
            hbm_read_bytes=10**17,
            moving_columns=0,
        )
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "b x 2, ?[31mred?" in " ".join(text.split())
    assert "no matmul" in text
    assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) == {"\n"}


def test_table_of_a_run_that_launched_nothing() -> None:
    nothing = FakeProfile(
        latency_us=0.0, launch_us=0.0, body_us=0.0, kernels=(), instructions={}, advice=(),
        critical_path=(), time_us={}, roofline=Roofline(0, 0, 91.75, 410.0, 0.0),
    )  # fmt: skip
    text = profile_table(nothing)
    for line in ("none launched", "nothing was executed", "no matmul", "no rule found anything"):
        assert line in text


def test_table_explains() -> None:
    text = profile_table(FakeProfile())
    for line in (
        r"  DMA latency +\[#{17}\.{13}\] +700\.00 µs +56\.7 %",
        r"  launch +\[#\.{29}\] +15\.00 µs +1\.2 %",
        r"  conv2d\.py:10 +DMA load start-up +700\.00 µs +57\.4 %",
        r"  TensorE +results of DMA load 600\.00 µs; after its last 9\.79 µs",
        r"  FLOP per byte of HBM +1,008\.0 \(ridge at 223\.8\)",
        r"  attained, modelled +3\.03 of 91\.75 TFLOP/s",  # 3.70e9 FLOP in 1219.567 µs
        r"  at the roof, modelled +40\.32 µs, limited by TensorE",  # 3.70e9 / 91.75e12
        r"  share of the roof, modelled +3\.3 %",
        r"  \* rows of 4 B: make them longer \(at most 321\.0 µs, modelled\)",
    ):
        assert re.search(f"^{line}$", text, re.M), line
    assert "VectorE" not in text  # it took no time


def test_table_adds_up_what_it_leaves_out() -> None:
    part = PathPart("k.py:1", "TensorE", "nc_matmul", "TensorE", "work", 10.0, 1)
    text = profile_table(FakeProfile(critical_path=(part,) * 11, body_us=110.0))
    assert re.search(r"^  3 other parts +30\.00 µs +27\.3 %$", text, re.M)


# --- dictionary ---------------------------------------------------------------------------------


def test_dict_is_json_with_every_field_but_the_events() -> None:
    profile = FakeProfile()
    as_dict = json.loads(json.dumps(profile_dict(profile)))
    fields = set(vars(profile)) - {"events", "path", "curves", "listings"}
    assert set(as_dict) == fields | {"timing"}
    assert as_dict.pop("timing") == "modelled"
    assert as_dict.pop("kernels") == ["conv"]
    assert as_dict.pop("roofline")["limit"] == "TensorE"
    assert as_dict.pop("error_bar")["outside"] == ["no kernel was measured on trn9"]
    for name in ("critical_path", "advice", "lines"):
        assert as_dict.pop(name) == [asdict(each) for each in getattr(profile, name)]
        fields.remove(name)
    assert as_dict == {
        name: getattr(profile, name) for name in fields - {"kernels", "roofline", "error_bar"}
    }


# --- trace --------------------------------------------------------------------------------------


def read_trace(
    path: Path,
) -> tuple[list[tuple[str, str, float, float, dict[str, str]]], dict[str, int]]:
    """``X`` events as (process, lane, ts, dur, args), and each lane's sort index."""
    trace = json.loads(path.read_text("utf-8"))
    assert trace["displayTimeUnit"] == "ns"
    assert "modelled" in trace["otherData"]["note"]
    processes: dict[int, str] = {}
    lanes: dict[tuple[int, int], str] = {}
    order: dict[str, int] = {}
    events = []
    for entry in trace["traceEvents"]:
        if entry["ph"] == "C":
            continue
        pid, tid, arguments = entry["pid"], entry["tid"], entry["args"]
        if entry["ph"] == "X" and processes[pid] != "memory, HBM, critical path":
            lane = lanes[pid, tid]  # named before its first event
            events.append((processes[pid], lane, entry["ts"], entry["dur"], arguments))
        elif entry["ph"] == "X":
            assert lanes[pid, tid] == "critical path"
        elif entry["name"] == "process_name":
            processes[pid] = arguments["name"]
        elif entry["name"] == "thread_name":
            lanes[pid, tid] = arguments["name"]
        elif entry["name"] == "thread_sort_index":
            order[lanes[pid, tid]] = arguments["sort_index"]
    assert len({tid for _, tid in lanes}) == len(lanes)  # unique across processes
    return events, order


def test_trace_has_each_event_once_with_its_times(tmp_path: Path) -> None:
    write_trace(FakeProfile(), str(tmp_path / "trace.json"))
    events, _ = read_trace(tmp_path / "trace.json")
    assert [(ts, dur) for _, _, ts, dur, _ in events] == [
        pytest.approx((e.start_us, e.end_us - e.start_us), abs=1e-6) for e in EVENTS
    ]
    assert [a for *_, a in events] == [{"source": e.source, "label": e.label} for e in EVENTS]


def test_trace_lanes_do_not_overlap_and_are_ordered(tmp_path: Path) -> None:
    write_trace(FakeProfile(), tmp_path / "trace.json")
    events, order = read_trace(tmp_path / "trace.json")
    lanes = [lane for _, lane, *_ in events]
    loads = ["DMA load", "DMA load (2)", "DMA load"]
    assert lanes == ["launch", *loads, "TensorE", "TensorE", "DMA store", "launch"]
    expected = ["launch", "DMA load", "DMA load (2)", "DMA store", "TensorE"]
    assert sorted(order, key=order.__getitem__) == expected


def test_trace_has_counters_and_the_critical_path(tmp_path: Path) -> None:
    write_trace(FakeProfile(), tmp_path / "trace.json")
    entries = json.loads((tmp_path / "trace.json").read_text("utf-8"))["traceEvents"]
    steps = [(e["name"], e["ts"], e["args"]) for e in entries if e["ph"] == "C"]
    assert steps == [
        ("SBUF (B/partition)", 0.0, {"B/partition": 0.0}),
        ("SBUF (B/partition)", 15.0, {"B/partition": 600.0}),
        ("SBUF (B/partition)", 20.0, {"B/partition": 0.0}),
        ("HBM (GB/s)", 0.0, {"GB/s": 0.0}),
        ("HBM (GB/s)", 16.0, {"GB/s": 123.25}),
        ("HBM (GB/s)", 17.0, {"GB/s": 0.0}),
    ]
    pieces = [e for e in entries if e["ph"] == "X" and e["name"] in ("TensorE: work",)]
    assert [(e["ts"], e["dur"], e["args"]) for e in pieces] == [
        (
            17.5,
            pytest.approx(0.7),
            {"engine": "TensorE", "instruction": "nc_matmul", "source": "conv2d.py:20"},
        )
    ]


def test_lanes_of_a_second_core_come_below_those_of_the_first(tmp_path: Path) -> None:
    events = [
        FakeEvent(engine, "x", 0.0, 1.0)
        for engine in ("TensorE (core 1)", "SyncE", "DMA load (core 1)", "TensorE", "DMA load")
    ]
    write_trace(FakeProfile(events=events), tmp_path / "trace.json")
    _, order = read_trace(tmp_path / "trace.json")
    expected = ["DMA load", "TensorE", "SyncE", "DMA load (core 1)", "TensorE (core 1)"]
    assert sorted(order, key=order.__getitem__) == expected


def test_trace_has_a_process_per_launch(tmp_path: Path) -> None:
    launches = [
        FakeEvent("launch", "start", 0.0, 1.0),
        FakeEvent("TensorE", "nc_matmul", 1.0, 2.0),
        FakeEvent("launch", "end", 2.0, 2.5),
        FakeEvent("launch", "start", 2.5, 3.0),
        FakeEvent("TensorE", "nc_matmul", 3.0, 4.0),
        FakeEvent("VectorE", "memset", 4.0, 5.0, kernel="other"),
    ]
    write_trace(FakeProfile(events=launches), tmp_path / "trace.json")
    events, _ = read_trace(tmp_path / "trace.json")
    names = [process for process, *_ in events]
    assert names == ["conv"] * 3 + ["conv (launch 2)"] * 2 + ["other"]


def test_trace_is_streamed(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    sizes = []

    def many() -> Iterator[FakeEvent]:
        for i in range(3000):
            if i % 1000 == 999:
                sizes.append(max(f.stat().st_size for f in tmp_path.iterdir()))
            yield FakeEvent("TensorE", "nc_matmul", i, i + 1)

    write_trace(FakeProfile(events=many()), file)
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    assert len(read_trace(file)[0]) == 3000


# --- page ---------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text of each table row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.data = ""
        self._inside = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self._inside = tag
        if tag == "script" and dict(attrs).get("type") == "application/json":
            self._inside = "data"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "tr", "table"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif self._inside not in ("script", "style"):
            self.text += data
            if self.rows and self._inside in ("td", "th", "span", "i"):
                self.rows[-1][-1] += data


def drawn(page: Page) -> list[tuple[str, str, str, float, float]]:
    """Events of the timeline, decoded as the page's script does."""
    data = json.loads(page.data)
    found = []
    for row in data["rows"]:
        if data["strings"][row["engine"]] == "critical path":
            continue
        time = 0
        for kind, gap, ticks in zip(row["kinds"], row["gaps"], row["ticks"], strict=True):
            assert gap >= 0
            start, time = time + gap, time + gap + ticks
            opcode, source, *_ = data["kinds"][kind]
            names = (data["strings"][i] for i in (row["engine"], opcode, source))
            found.append((*names, start / data["ticksPerUs"], time / data["ticksPerUs"]))
    return sorted(found, key=lambda event: event[3])


def test_page_holds_the_numbers(tmp_path: Path) -> None:
    write_html(FakeProfile(), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "Modelled, not measured." in page.text
    for number in ("1,234.57 µs", "1,219.57 µs", "15.00 µs", "71.3 %", "8.2 %", "TensorE"):
        assert number in page.text
    words = " ".join(page.text.replace("\n", " ").split())
    assert "TensorE 609.78 µs 50.0 % results of DMA load 600.00 µs · after its last" in words
    assert "DMA latency 56.7 % 700.00 µs" in words
    assert "rows of 4 B: make them longer (at most 321.00 µs, modelled)" in words
    assert ["Attained, modelled", "3.03 of 91.75 TFLOP/s"] in page.rows
    assert ["MACs", "1,849,688,064"] in page.rows
    assert ["HBM read", "3.000 MiB (3,145,728 bytes)"] in page.rows
    assert ["nc_matmul", "TensorE", "216", "0.71 µs"] in page.rows


def test_page_lists_the_critical_path_and_the_source_lines(tmp_path: Path) -> None:
    write_html(FakeProfile(), tmp_path / "page.html")
    rows = Page(tmp_path / "page.html").rows
    start = rows.index(
        ["Source line", "Spent on", "Instruction", "Pieces", "Modelled time", "Share"]
    )
    assert rows[start + 1] == [
        "conv2d.py:10", "DMA load start-up", "dma_copy", "3", "700.00 µs", "57.4 %"
    ]  # fmt: skip
    start = rows.index(["Path", "", "Busy", "Line", "Source"])
    assert rows[start + 1 : start + 3] == [
        ["", "", "", "9", ""],  # the text stands in an element of its own
        ["700.00 µs", "", "2.25 µs", "10", ""],
    ]
    assert "    load(x)" in Page(tmp_path / "page.html").text
    start = rows.index(["Source line", "Engine", "Instructions", "Busy", "Path"])
    assert rows[start + 1 :] == [
        ["conv2d.py:10", "DMA load", "3", "2.25 µs", "700.00 µs"],
        ["conv2d.py:20", "TensorE", "2", "0.72 µs", "500.00 µs"],
        ["conv2d.py:30", "DMA store", "1", "1.50 µs", "0.00 µs"],
    ]


def test_page_folds_the_lines_beyond_the_first(tmp_path: Path) -> None:
    lines = tuple(LineTime(f"k.py:{i}", "TensorE", 1, 1.0, 1.0) for i in range(30))
    write_html(FakeProfile(lines=lines, critical_path=()), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "5 more lines" in page.text
    assert sum(row[0].startswith("k.py:") for row in page.rows) == 30


def test_page_separates_functions_of_one_file(tmp_path: Path) -> None:
    listings = (Listing("k.py", 1, ("def a():",)), Listing("k.py", 7, ("def b():",)))
    write_html(FakeProfile(listings=listings), tmp_path / "page.html")
    rows = Page(tmp_path / "page.html").rows
    start = rows.index(["Path", "", "Busy", "Line", "Source"])
    assert [row[3] for row in rows[start + 1 : start + 4]] == ["1", "⋮", "7"]


def test_page_merges_events_where_there_are_too_many(tmp_path: Path) -> None:
    """Of 100,000 events in pairs, one piece for each cell of the time; nothing gets lost."""
    events = [
        FakeEvent("TensorE", "nc_matmul" if i % 3 else "nc_transpose", i, i + 0.5, "k.py:1")
        for i in range(100_000)
    ]
    write_html(FakeProfile(events=events), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 2**20
    data = json.loads(Page(tmp_path / "page.html").data)
    (row,) = (r for r in data["rows"] if data["strings"][r["engine"]] == "TensorE")
    pieces = len(row["kinds"])
    assert pieces <= 60_000
    several = {row["several"][i]: row["several"][i + 1 : i + 3] for i in range(0, pieces * 3, 3)}
    assert sum(count for count, _ in several.values()) == 100_000 - (pieces - len(several))
    assert all(ticks == count * 5000 for count, ticks in several.values())  # 0.5 µs each
    assert sum(row["gaps"]) + sum(row["ticks"]) == (100_000 - 1) * 10_000 + 5000


def test_page_merges_steps_of_a_curve_and_keeps_the_highest(tmp_path: Path) -> None:
    times, values = array("d", range(50_000)), array("d", [i % 7 for i in range(50_000)])
    curve = Curve("SBUF", "B/partition", 10.0, times, values)
    event = FakeEvent("TensorE", "nc_matmul", 0.0, 50_000.0)
    write_html(FakeProfile(events=(event,), curves=(curve,)), tmp_path / "page.html")
    (drawn_curve,) = json.loads(Page(tmp_path / "page.html").data)["curves"]
    assert len(drawn_curve["gaps"]) == len(drawn_curve["values"]) < 4000
    assert set(drawn_curve["values"][1:-2]) == {6}  # each cell of 16 steps has a 6


def test_page_draws_each_event_once(tmp_path: Path) -> None:
    write_html(FakeProfile(), tmp_path / "page.html")
    assert drawn(Page(tmp_path / "page.html")) == [
        (e.engine, e.opcode, e.source, e.start_us, e.end_us) for e in EVENTS
    ]  # exact: the events lie on whole ticks of 0.1 ns


def test_page_loads_nothing(tmp_path: Path) -> None:
    write_html(FakeProfile(), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", text)
    for tag, attributes in Page(tmp_path / "page.html").tags:
        assert "src" not in attributes, tag
        assert attributes.get("href", "data:,") == "data:,", tag
    assert "default-src 'none'" in text


def test_page_escapes_every_name(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;"
    event = FakeEvent(evil, evil, 0.0, 1.0, evil, evil, evil)
    profile = FakeProfile(
        target=evil,
        bound=evil,
        kernels=(evil,),
        engine_busy_us={evil: 1.0},
        instructions={evil: 1},
        events=(event,),
        lost_us={evil: {evil: 1.0}},
        advice=(Advice(evil, evil, evil, 1.0),),
        lines=(LineTime(evil, evil, 1, 1.0, 1.0),),
        critical_path=(PathPart(evil, evil, evil, evil, evil, 1.0, 1),),
        listings=(Listing(evil, 1, (evil,)),),
        curves=(Curve(evil, evil, 1.0, array("d", [0.0]), array("d", [1.0])),),
        path=((evil, event),),
    )
    write_html(profile, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert [tag for tag, _ in page.tags].count("script") == 2  # the data and the drawing
    assert "img" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 15
    assert not set("<>&") & set(page.data)  # nothing that could end the script element
    assert drawn(page) == [(evil, evil, evil, 0.0, 1.0)]


def test_page_without_events(tmp_path: Path) -> None:
    write_html(FakeProfile(events=(), body_us=0.0, kernels=(), path=()), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "No event was recorded." in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_page_without_jinja2_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(NkiconvError, match=r"jinja2.*pip install 'nkiconv\[cli\]'"):
        write_html(FakeProfile(), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


# --- files --------------------------------------------------------------------------------------


@WRITERS
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/out", "there is no directory"),
        ("folder", "it is a directory"),
        ("file/out", "there is no directory"),
        ("nul\0out", "null character"),
        ("x" * 300, "name too long"),
    ],
    ids=["missing-directory", "is-a-directory", "below-a-file", "null-character", "too-long"],
)
def test_unwritable_path_is_one_clear_line(
    write: Write, path: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NkiconvError) as caught:
        write(FakeProfile(), tmp_path / path)
    message = str(caught.value)
    assert repr(str(tmp_path / path)) in message
    assert reason.lower() in message.lower()
    assert "\n" not in message
    assert sorted(tmp_path.rglob("*")) == before


@WRITERS
def test_failure_half_way_leaves_the_old_file_alone(write: Write, tmp_path: Path) -> None:
    def breaks() -> Iterator[FakeEvent]:
        yield from EVENTS
        raise KeyError("half way")

    file = tmp_path / "report"
    file.write_text("old")
    with pytest.raises(KeyError, match="half way"):
        write(replace(FakeProfile(), events=breaks()), file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@WRITERS
def test_file_is_replaced_through_a_link(write: Write, tmp_path: Path) -> None:
    file, link = tmp_path / "real", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    write(FakeProfile(), link)
    assert link.is_symlink()
    assert "modelled" in file.read_text("utf-8")
    assert sorted(tmp_path.iterdir()) == [link, file]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@WRITERS
def test_pipe_is_written_not_replaced(write: Write, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # a reader, so that opening cannot block
    try:
        write(FakeProfile(), pipe)
        assert b"modelled" in os.read(reader, 2**16)
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@WRITERS
def test_bytes_that_are_no_utf8_survive(write: Write, tmp_path: Path) -> None:
    event = FakeEvent("TensorE", "nc_matmul", 0.0, 1.0, "caf\udce9.py:1")
    write(FakeProfile(events=(event,)), tmp_path / "report")
    assert r"\udce9.py:1" in (tmp_path / "report").read_text("utf-8")
