"""Memory and HBM bandwidth over time, the roofline, and listings: small cases by hand."""

from __future__ import annotations

import linecache
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate import profile
from nkiconv.simulate.listing import listings
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import jit
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.report._roofline import roofline_svg
from nkiconv.simulate.roofline import Roofline


def fill(x_sb: Any) -> None:
    nisa.memset(x_sb, 1.0)


@jit
def small(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray((128, 64), nl.float32, buffer=nl.shared_hbm)
    x_sb = nl.ndarray((128, 64), nl.float32)
    one_sb = nl.ndarray((128, 128), nl.float32)
    acc_ps = nl.ndarray((128, 64), nl.float32, buffer=nl.psum)
    fill(one_sb)
    nisa.dma_copy(dst=x_sb, src=x_hbm)
    nisa.nc_matmul(dst=acc_ps, stationary=one_sb, moving=x_sb)
    nisa.tensor_copy(dst=x_sb, src=acc_ps)
    nisa.dma_copy(dst=y_hbm, src=x_sb)
    return y_hbm


X = np.ones((128, 64), np.float32)


def steps(times: array[float], values: array[float]) -> dict[float, float]:
    return dict(zip((round(time, 6) for time in times), values, strict=True))


def test_memory_over_time() -> None:
    seen = profile(small, X)[1]
    sbuf, psum, hbm = seen.curves
    assert [(c.name, c.unit, c.limit) for c in seen.curves] == [
        ("SBUF", "B/partition", 180_224), ("PSUM", "banks", 8), ("HBM", "GB/s", 410),
    ]  # fmt: skip
    clear, load, matmul, copy, store = (
        event for event in sorted(seen.events, key=lambda e: e.source) if event.engine != "launch"
    )
    assert clear.opcode == "memset"
    # x (256 B) from its load to its store, the ones (512 B) from the memset to the matmul.
    held = steps(sbuf.times_us, sbuf.values)
    assert held[round(clear.start_us, 6)] == 512 + 256  # both begin with the kernel
    assert load.start_us == clear.start_us
    assert held[round(matmul.end_us, 6)] == 256
    assert held[round(store.end_us, 6)] == 0
    banks = steps(psum.times_us, psum.values)
    assert banks[round(matmul.start_us, 6)] == 1
    assert banks[round(copy.end_us, 6)] == 0
    # The area below the bandwidth is what was moved.
    widths = np.diff(np.array(hbm.times_us))
    moved = float((widths * np.array(hbm.values)[:-1]).sum()) * 1e3
    assert moved == pytest.approx(2 * X.nbytes, rel=0.01)
    assert max(hbm.values) <= hbm.limit
    assert hbm.values[-1] == 0


def test_curves_of_several_launches_follow_each_other() -> None:
    once = profile(small, X)[1]

    def twice() -> None:
        small(X)
        small(X)

    both = profile(twice)[1]
    peaks = [t for t, v in zip(both.curves[1].times_us, both.curves[1].values, strict=True) if v]
    (peak,) = (t for t, v in zip(once.curves[1].times_us, once.curves[1].values, strict=True) if v)
    assert peaks == pytest.approx([peak, once.latency_us + peak])


def test_listings_hold_the_functions_that_executed_instructions() -> None:
    seen = profile(small, X)[1]
    assert [(text.file, text.lines[0].strip()) for text in seen.listings] == [
        ("test_curves.py", "def fill(x_sb: Any) -> None:"),
        ("test_curves.py", "@jit"),
    ]
    first, second = seen.listings
    assert first.lines[-1].strip() == "nisa.memset(x_sb, 1.0)"
    assert second.lines[-1].strip() == "return y_hbm"
    here = Path(__file__).read_text("utf-8").splitlines()
    assert second.lines == tuple(here[second.first - 1 : second.first - 1 + len(second.lines)])
    assert {part.source for part in seen.critical_path} <= {
        f"{text.file}:{text.first + i}" for text in seen.listings for i in range(len(text.lines))
    }


def test_listings_without_text_are_left_out() -> None:
    names: dict[str, Any] = {}
    exec(compile("def gone():\n    return 1\n", "gone.py", "exec"), names)
    assert listings([("gone.py", names["gone"].__code__)]) == ()


def test_listings_of_nested_functions_hold_each_line_once() -> None:
    text = "def outer():\n    def inner():\n        return 1\n    return inner\n"
    linecache.cache["nested.py"] = (len(text), None, text.splitlines(keepends=True), "nested.py")
    names: dict[str, Any] = {}
    exec(compile(text, "nested.py", "exec"), names)
    outer = names["outer"]
    (found,) = listings([("nested.py", outer().__code__), ("nested.py", outer.__code__)])
    assert (found.first, len(found.lines)) == (1, 4)


# --- Roofline ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flops", "hbm_bytes", "limit", "attainable", "least_us"),
    [
        (8_000_000, 1_000_000, "HBM bandwidth", 3.2, 2.5),  # 8 FLOP/B at 400 GB/s
        (800_000_000, 1_000_000, "TensorE", 80.0, 10.0),  # ridge at 200 FLOP/B
        (0, 4_000_000, "HBM bandwidth", 0.0, 10.0),
        (800_000_000, 0, "TensorE", 80.0, 10.0),
    ],
)
def test_roofline(
    flops: int, hbm_bytes: int, limit: str, attainable: float, least_us: float
) -> None:
    roof = Roofline(flops, hbm_bytes, peak_tflops=80.0, hbm_gb_per_s=400.0, body_us=20.0)
    assert roof.ridge == 200
    assert roof.limit == limit
    assert roof.attainable_tflops == pytest.approx(attainable)
    assert roof.least_us == pytest.approx(least_us)
    assert roof.share == pytest.approx(least_us / 20)
    assert roof.attained_tflops == pytest.approx(flops / 20e-6 / 1e12)
    assert roof.attained_gb_per_s == pytest.approx(hbm_bytes / 20e-6 / 1e9)
    assert ("<svg" in roofline_svg(roof)) == bool(flops and hbm_bytes)


@pytest.mark.parametrize(
    ("dtype", "peak"),
    [("float32", 2 * 128 * 128 * 2.8e9 / 4), ("float16", 2 * 128 * 128 * 2.8e9)],
)
def test_roofline_of_a_kernel(dtype: str, peak: float) -> None:
    seen = profile(product, np.ones((128, 128), dtype), np.ones((128, 512), dtype))[1]
    size = np.dtype(dtype).itemsize
    roof = seen.roofline
    assert roof.flops == 2 * 128 * 128 * 512
    assert roof.hbm_bytes == size * 128 * (128 + 512) + 4 * 128 * 512
    assert roof.peak_tflops == pytest.approx(peak / 1e12)  # trn1: 2.8 GHz, float32 a quarter
    assert roof.hbm_gb_per_s == 410
    assert roof.body_us == pytest.approx(seen.body_us)


@jit
def product(w_hbm: Any, x_hbm: Any) -> Any:
    y_hbm = nl.ndarray((128, 512), nl.float32, buffer=nl.shared_hbm)
    w_sb = nl.ndarray((128, 128), w_hbm.dtype)
    x_sb = nl.ndarray((128, 512), x_hbm.dtype)
    y_sb = nl.ndarray((128, 512), nl.float32)
    acc_ps = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
    nisa.dma_copy(dst=w_sb, src=w_hbm)
    nisa.dma_copy(dst=x_sb, src=x_hbm)
    nisa.nc_matmul(dst=acc_ps, stationary=w_sb, moving=x_sb)
    nisa.tensor_copy(dst=y_sb, src=acc_ps)
    nisa.dma_copy(dst=y_hbm, src=y_sb)
    return y_hbm
