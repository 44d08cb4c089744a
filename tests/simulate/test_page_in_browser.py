"""The HTML page in headless Chromium: it draws, zooms and says nothing on the console.

The browser is driven through its debugging pipe: JSON messages that end in a null byte, on file
descriptors 3 and 4.  Without Chromium the tests skip.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nkiconv.kernels import conv2d
from nkiconv.simulate import Profile, profile
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import jit
from nkiconv.simulate.nki import language as nl

fcntl = pytest.importorskip("fcntl", reason="the pipes need POSIX")

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
_PATIENCE = 60.0  # seconds; only a browser that hangs needs them

pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="Chromium is not installed (Debian: apt install chromium), so no browser opens the page",
)


class Browser:
    """One headless Chromium with one tab."""

    def __init__(self, folder: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Above 4, so that none is overwritten by being copied there.
        high = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (to_browser, from_browser)]

        def put_in_place() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--hide-scrollbars",
                f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank",
            ],
            pass_fds=(3, 4),
            preexec_fn=put_in_place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for each in high:
            os.close(each)
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.said: list[str] = []
        self.loads = 0
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _message(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            more = os.read(self._in, 2**20) if ready else b""
            if not more:
                raise RuntimeError("the browser does not answer")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method, values = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self.loads += 1
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(values["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.said.append(str(values["args"]))
        elif method == "Log.entryAdded":
            self.said.append(str(values["entry"]))
        return message

    def call(self, method: str, **values: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, page: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Load a page in a window of this size, and wait until it has drawn."""
        self.said.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        before = self.loads
        self.call("Page.navigate", url=page.as_uri())
        while self.loads == before:
            self._message()
        self.drawn()

    def drawn(self) -> None:
        """Wait for two frames: what was asked for is then on the screen."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def view(self) -> tuple[float, float]:
        """First and last µs of the timeline that are shown."""
        seen = self.run("({...document.getElementById('canvas').dataset})")
        return float(seen["from"]), float(seen["to"])

    def canvas(self) -> dict[str, float]:
        """Scroll the drawing into the window; return where it is then."""
        found: dict[str, float] = self.run(
            """(() => {
              const canvas = document.getElementById("canvas");
              canvas.scrollIntoView({ block: "start" });
              return canvas.getBoundingClientRect().toJSON();
            })()"""
        )
        return found

    def screenshot(self, file: Path) -> None:
        """Write the whole page as a picture, to look at."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        os.close(self._out)
        os.close(self._in)
        self.process.wait(_PATIENCE)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    begun = Browser(tmp_path_factory.mktemp("chromium"))
    yield begun
    begun.close()


@pytest.fixture(scope="module")
def naive() -> Profile:
    x = np.ones((1, 16, 14, 14), np.float32)
    w = np.ones((32, 16, 3, 3), np.float32)
    return profile(conv2d, x, w, padding=1, algorithm="naive", target="trn2")[1]


@pytest.fixture(scope="module")
def page(naive: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "naive.html"
    naive.save_html(file)
    return file


SIZES = [(1280, 900, "light"), (1280, 900, "dark"), (390, 800, "light"), (390, 800, "dark")]


@pytest.mark.parametrize(("width", "height", "scheme"), SIZES)
def test_page_draws_without_a_word(
    browser: Browser, page: Path, width: int, height: int, scheme: str
) -> None:
    browser.open(page, width, height, scheme)
    assert browser.said == []
    # Colours that the canvas holds: background, lanes and events of several engines at least.
    colours = browser.run(
        """(() => {
          const canvas = document.getElementById("canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return new Set(new Uint32Array(data.buffer)).size;
        })()"""
    )
    assert colours > 20
    assert browser.run("document.documentElement.scrollWidth") <= width
    light = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(246, 247, 249)") == (scheme == "light")


def test_page_has_its_parts(browser: Browser, page: Path, naive: Profile) -> None:
    browser.open(page)
    for part in ("why", "canvas", "path", "source"):
        assert browser.run(f"document.getElementById('{part}').getBoundingClientRect().height > 50")
    assert browser.run("document.querySelectorAll('svg.roof .point').length") == 1
    assert browser.run("document.querySelectorAll('.advice li').length") == len(naive.advice) > 2
    assert browser.run("document.querySelectorAll('.legend li').length") == sum(
        us > 0 for us in naive.time_us.values()
    )
    source = browser.run("document.getElementById('source').innerText")
    assert "nisa.nc_matmul" in source
    top = naive.critical_path[0]
    assert top.source in browser.run("document.querySelector('#path tbody tr').innerText")
    row = f".listing tr[data-place='{top.source}'] .path"
    on_line = sum(part.us for part in naive.critical_path if part.source == top.source)
    shown = browser.run(f'document.querySelector("{row}").innerText')
    assert shown.endswith(" µs")
    # Versions of Python add up floats in different ways, so the last digit may differ.
    assert float(shown.removesuffix(" µs").replace(",", "")) == pytest.approx(on_line, abs=0.011)


def test_timeline_zooms_and_moves(browser: Browser, page: Path, naive: Profile) -> None:
    browser.open(page)
    assert browser.view() == (0.0, pytest.approx(naive.latency_us, abs=1e-3))
    browser.run("document.getElementById('in').click()")
    browser.drawn()
    begin, end = browser.view()
    assert end - begin == pytest.approx(naive.latency_us / 2, abs=1e-3)
    browser.run("document.getElementById('canvas').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    browser.drawn()
    assert browser.view()[0] > begin
    assert browser.view()[1] - browser.view()[0] == pytest.approx(end - begin)
    browser.run("document.getElementById('all').click()")
    browser.drawn()
    assert browser.view() == (0.0, pytest.approx(naive.latency_us, abs=1e-3))
    # The wheel zooms round the pointer.
    box = browser.canvas()
    x, y = box["x"] + box["width"] * 0.7, box["y"] + 60
    browser.call(
        "Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300
    )  # fmt: skip
    browser.drawn()
    begin, end = browser.view()
    assert begin > 0
    assert end < naive.latency_us
    assert browser.said == []


def test_a_click_tells_the_event_and_marks_its_line(browser: Browser, page: Path) -> None:
    browser.open(page)
    box = browser.canvas()
    where = {"x": box["x"] + box["width"] * 0.5, "y": box["y"] + 26 + 22 + 7 + 13}  # critical path
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, **where, button="left", clickCount=1)
    browser.drawn()
    said = browser.run("document.getElementById('chosen').innerText")
    assert "conv2d_naive.py:" in said
    assert "modelled" in said
    assert not browser.run("document.getElementById('tip').hidden")
    marked = browser.run("[...document.querySelectorAll('.marked')].map((e) => e.dataset.place)")
    assert len(marked) == 1
    assert marked[0] in said


@jit
def on_both_cores(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray((2, 128, 512), nl.float32, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    x_sb = nl.ndarray((128, 512), nl.float32)
    nisa.dma_copy(dst=x_sb, src=x_hbm)

    def body(_: Any) -> None:
        nisa.tensor_scalar(dst=x_sb, data=x_sb, op0=nl.add, operand0=1.0)

    nl.fori_loop(0, 6, body)
    nisa.dma_copy(dst=y_hbm[core], src=x_sb)
    nisa.core_barrier(data=y_hbm, cores=(0, 1))
    return y_hbm


def test_two_cores_and_loops_have_lanes(browser: Browser, tmp_path: Path) -> None:
    x = np.ones((128, 512), np.float32)
    _, seen = profile(on_both_cores[2], x, target="trn2")
    seen.save_html(tmp_path / "cores.html")
    browser.open(tmp_path / "cores.html")
    assert browser.said == []
    data = json.loads(browser.run("document.querySelector('script#timeline').textContent"))
    lanes = [data["strings"][row["engine"]] for row in data["rows"]]
    assert lanes.index("VectorE (core 1)") > lanes.index("SyncE")
    assert len(data["meetings"]) == 2 * (12 + 2)  # iterations and barriers, of both cores
    names = [curve["name"] for curve in data["curves"]]
    assert names == ["SBUF", "PSUM", "SBUF (core 1)", "PSUM (core 1)", "HBM"]
