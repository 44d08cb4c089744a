"""Profiles: every number of one small matmul worked by hand, and how launches add up."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from nkiconv.simulate import NkiconvError, Profile, profile, simulate_kernel, use_target
from nkiconv.simulate.explain import KINDS
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import jit
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.profile import Event, _bound, _collector


@jit
def product(w_hbm: Any, x_hbm: Any) -> Any:
    K, M = w_hbm.shape
    _, N = x_hbm.shape
    y_hbm = nl.ndarray((M, N), nl.float32, buffer=nl.shared_hbm)
    w_sb = nl.ndarray((K, M), w_hbm.dtype)
    x_sb = nl.ndarray((K, N), x_hbm.dtype)
    acc_ps = nl.ndarray((M, N), nl.float32, buffer=nl.psum)
    y_sb = nl.ndarray((M, N), nl.float32)
    nisa.dma_copy(dst=w_sb, src=w_hbm, name="weights")
    nisa.dma_copy(dst=x_sb, src=x_hbm)
    nisa.nc_matmul(dst=acc_ps, stationary=w_sb, moving=x_sb)
    nisa.tensor_copy(dst=y_sb, src=acc_ps)
    nisa.dma_copy(dst=y_hbm, src=y_sb, name="result")
    return y_hbm


FIRST_LINE = product.func.__code__.co_firstlineno + 9  # of the instructions

W = np.full((128, 128), 0.5, bfloat16)
X = np.full((128, 512), 2.0, bfloat16)

# trn1, in ns.  DMA moves rows of 256, 1024 and 2048 B: 128 rows over 16 engines, each row 4.8 ns
# and its bytes at 20.2 B/ns, 40 for the transfer; alone 130 longer.  All engines together move
# 272 B/ns.  TensorE: 32 cycles for its weights, 512 columns + 6 at 2.45 GHz, 133 ns to the result.
# VectorE: 512 elements at 1.12 GHz, + 60 cycles until it is free, + 214 ns until the result.
SHARE_W, SHARE_X = (40 + 8 * (4.8 + row / 20.2) for row in (256, 1024))
SHARE_Y = 128 * 2048 / 272
STORE_Y = 130 + 40 + 8 * (4.8 + 2048 / 20.2)
MATMUL = (32 + 518) / 2.45
COPY = 572 / 1.12

# Load of w: from 0, bytes from 250, complete 271 later.  Load of x: issued 180 later; by then the
# engines are through with w.
W_END = 250 + 130 + SHARE_W + 271
X_END = 180 + 250 + 130 + SHARE_X + 271
MATMUL_START = X_END + 30
MATMUL_END = MATMUL_START + MATMUL + 133
COPY_START = MATMUL_END + 30
COPY_END = COPY_START + 512 / 1.12 + 214
STORE_START = COPY_END + 30
STORE_END = STORE_START + 250 + STORE_Y + 271

LAUNCH = 13_000 + 5_000  # before and after


@pytest.fixture(scope="module")
def small() -> Profile:
    result, seen = profile(product, W, X, target="trn1")
    assert (result == 128.0).all()
    return seen


def near(nanoseconds: float) -> Any:
    """Return a matcher in microseconds; every step rounds to a picosecond."""
    return pytest.approx(nanoseconds / 1e3, abs=1e-5)


def test_times_of_a_small_matmul(small: Profile) -> None:
    assert 250 + SHARE_W < 180 + 250  # as said above
    assert SHARE_Y < STORE_Y
    assert small.body_us == near(STORE_END)
    assert small.launch_us == near(LAUNCH)
    assert small.latency_us == near(STORE_END + LAUNCH)
    assert small.engine_busy_us == {
        "TensorE": near(MATMUL),
        "VectorE": near(COPY),
        "ScalarE": 0,
        "GpSimdE": 0,
        "DMA": near(SHARE_W + SHARE_X + SHARE_Y),
    }
    assert small.bound == "launch"


def test_counts_of_a_small_matmul(small: Profile) -> None:
    assert (small.target, small.kernels) == ("trn1", ("product",))
    assert small.macs == 128 * 128 * 512
    assert small.moving_columns == 512
    assert small.hbm_read_bytes == 2 * (128 * 128 + 128 * 512)
    assert small.hbm_write_bytes == 4 * 128 * 512
    assert small.dma_transfers == 3
    assert small.instructions == {"dma_copy": 3, "nc_matmul": 1, "tensor_copy": 1}
    assert next(iter(small.instructions)) == "dma_copy"  # most frequent first
    assert small.static_instructions == 5
    # w and x (256 + 1024 B) are dead when the result (2048 B) comes to life.
    assert small.sbuf_peak_bytes == 2048
    assert small.psum_peak_banks == 1


def test_utilisations_of_a_small_matmul(small: Profile) -> None:
    # 128 x 128 products a cycle at 2.8 GHz; 410 B/ns from HBM.
    assert small.mfu == pytest.approx(512 / 2.8 / (STORE_END + LAUNCH), rel=1e-6)
    moved = 2 * (128 * 128 + 128 * 512) + 4 * 128 * 512
    assert small.mbu == pytest.approx(moved / 410 / (STORE_END + LAUNCH), rel=1e-6)


def test_float32_has_a_quarter_of_the_peak() -> None:
    _, single = profile(product, W.astype(np.float32), X.astype(np.float32))
    assert single.mfu * single.latency_us == pytest.approx(4 * 512 / 2.8 / 1e3, rel=1e-6)


def test_events_of_a_small_matmul(small: Profile) -> None:
    kernel = "product"
    rows = [
        ("launch", "start", 0, 13_000, None, ""),
        ("DMA load", "dma_copy", 13_000, 13_000 + W_END, 0, "weights"),
        ("DMA load", "dma_copy", 13_180, 13_000 + X_END, 1, ""),
        ("TensorE", "nc_matmul", 13_000 + MATMUL_START, 13_000 + MATMUL_END, 2, ""),
        ("VectorE", "tensor_copy", 13_000 + COPY_START, 13_000 + COPY_END, 3, ""),
        ("DMA store", "dma_copy", 13_000 + STORE_START, 13_000 + STORE_END, 4, "result"),
        ("launch", "end", 13_000 + STORE_END, LAUNCH + STORE_END, None, ""),
    ]
    assert len(small.events) == len(rows)
    for event, (engine, opcode, start, end, line, label) in zip(small.events, rows, strict=True):
        source = "" if line is None else f"test_profile.py:{FIRST_LINE + line}"
        assert event == Event(engine, opcode, event.start_us, event.end_us, source, label, kernel)
        assert (event.start_us, event.end_us) == (near(start), near(end))
    assert small.events[-1].opcode == "end"
    assert [event.label for event in small.events[1:3]] == ["weights", ""]


# --- Launches ------------------------------------------------------------------------------------


def twice(w: Any, x: Any, *, again: bool = True) -> Any:
    """Launch the kernel once or twice."""
    simulate_kernel(product, w, x[:, :100].copy())
    return simulate_kernel(product, w, x) if again else None


def test_launches_add_up(small: Profile) -> None:
    result, both = profile(twice, W, X)
    _, first = profile(twice, W, X, again=False)
    assert (result == 128.0).all()
    assert both.kernels == ("product", "product")
    for name in ("latency_us", "launch_us", "body_us"):
        assert getattr(both, name) == pytest.approx(getattr(first, name) + getattr(small, name))
    for name in ("macs", "moving_columns", "hbm_read_bytes", "hbm_write_bytes", "dma_transfers",
                 "static_instructions"):  # fmt: skip
        assert getattr(both, name) == getattr(first, name) + getattr(small, name)
    assert both.instructions == {"dma_copy": 6, "nc_matmul": 2, "tensor_copy": 2}
    assert both.engine_busy_us["DMA"] == pytest.approx(
        first.engine_busy_us["DMA"] + small.engine_busy_us["DMA"]
    )
    assert both.sbuf_peak_bytes == small.sbuf_peak_bytes  # the larger of the two, not the sum
    assert both.psum_peak_banks == 1
    # The second launch begins where the first one ends.
    starts = [e for e in both.events if e.engine == "launch" and e.opcode == "start"]
    assert [e.start_us for e in starts] == [0, pytest.approx(first.latency_us)]
    assert max(e.end_us for e in both.events) == pytest.approx(both.latency_us)


def test_target(small: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    on_trn2 = profile(product, W, X, target="gen3")[1]
    assert on_trn2.target == "trn2"
    assert on_trn2.launch_us == pytest.approx(13.0 + 2.6)
    assert on_trn2.latency_us != small.latency_us
    with use_target("trn2"):
        assert profile(product, W, X)[1] == on_trn2
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")
    assert profile(product, W, X)[1].target == "trn3"
    assert profile(product, W, X, target="inf2")[1] == small


def test_targets_do_not_mix() -> None:
    def both() -> None:
        for target in ("trn1", "trn2"):
            with use_target(target):
                simulate_kernel(product, W, X)

    with pytest.raises(NkiconvError, match=r"launched for \['trn1', 'trn2'\]; times of different"):
        profile(both)


def test_without_a_launch_there_is_nothing_to_time() -> None:
    with pytest.raises(NkiconvError, match="'sorted' launched no kernel"):
        profile(sorted, [2, 1])


def test_a_failure_leaves_no_launches_behind(small: Profile) -> None:
    def fails() -> None:
        simulate_kernel(product, W, X)
        raise RuntimeError("after the launch")

    with pytest.raises(RuntimeError, match="after the launch"):
        profile(fails)
    assert _collector.get() is None
    assert profile(product, W, X)[1] == small


def test_same_twice_and_by_every_spelling(small: Profile) -> None:
    for fn, args in (
        (product, (W, X)),
        (functools.partial(simulate_kernel, product), (W, X)),
        (functools.partial(product, W), (X,)),
        (lambda: product(W, X), ()),
    ):
        again = profile(fn, *args)[1]
        assert again == small
        assert list(again.events) == list(small.events)


# --- What holds a kernel back --------------------------------------------------------------------

BOUNDS = [
    ({"TensorE": 60.0, "dependency": 40.0}, 18.0, "TensorE"),
    ({"TensorE": 40.0, "dependency": 60.0}, 18.0, "dependency"),
    ({"ScalarE": 30.0, "DMA bandwidth": 31.0, "DMA latency": 29.0}, 18.0, "DMA bandwidth"),
    ({"GpSimdE": 30.0, "DMA latency": 31.0}, 60.9, "DMA latency"),
    ({"TensorE": 90.0, "VectorE": 10.0}, 100.0, "TensorE"),
    ({"TensorE": 90.0, "VectorE": 10.0}, 100.1, "launch"),
]


@pytest.mark.parametrize(("times", "launch", "expected"), BOUNDS)
def test_bound(times: dict[str, float], launch: float, expected: str) -> None:
    assert _bound({**dict.fromkeys(KINDS, 0.0), **times, "launch": launch}) == expected


@jit
def repeated(x_hbm: Any, loads: int, matmuls: int) -> Any:
    y_hbm = nl.ndarray((128, 512), nl.float32, buffer=nl.shared_hbm)
    x_sb = nl.ndarray((128, 512), nl.float32)
    acc_ps = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
    nisa.memset(x_sb, 1)
    for i in range(loads):
        nisa.dma_copy(dst=x_sb[:, nl.ds(4 * i, 8)], src=x_hbm[:, nl.ds(4 * i, 8)])
    for i in range(matmuls):
        nisa.nc_matmul(dst=acc_ps, stationary=x_sb[:, 0:128], moving=x_sb, accumulate=i > 0)
    nisa.tensor_copy(dst=x_sb, src=acc_ps)
    nisa.dma_copy(dst=y_hbm, src=x_sb)
    return y_hbm


def test_bounds_of_real_kernels() -> None:
    x = np.ones((128, 512), np.float32)
    result, many_matmuls = profile(repeated, x, 0, 60)
    assert (result == 128 * 60).all()
    assert many_matmuls.bound == "TensorE"
    assert profile(repeated, x, 100, 1, target="trn2")[1].bound == "DMA latency"


# --- Output --------------------------------------------------------------------------------------


def test_reports_of_a_real_profile(small: Profile, tmp_path: Path) -> None:
    numbers = json.loads(json.dumps(small.to_dict()))
    assert numbers["macs"] == small.macs
    assert numbers["kernels"] == ["product"]
    assert "events" not in numbers
    assert "product" in small.table()
    small.save_trace(tmp_path / "trace.json")
    assert len(json.loads((tmp_path / "trace.json").read_text())["traceEvents"]) >= 7
    small.save_html(tmp_path / "page.html")
    assert "product" in (tmp_path / "page.html").read_text()
    assert "events" not in repr(small)


def test_a_profile_inside_a_profile() -> None:
    def both(*arrays: Any) -> Any:
        return profile(product, *arrays)

    (_, inner), outer = profile(both, W, X)
    assert inner.kernels == outer.kernels == ("product",)
    assert inner.latency_us == outer.latency_us
