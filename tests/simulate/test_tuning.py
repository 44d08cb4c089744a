"""Advice: each rule with figures that call for it, and with figures just beyond."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nkiconv.kernels import conv2d
from nkiconv.simulate import profile
from nkiconv.simulate.tuning import RULES, Figures, advise

# 120 µs, of which 20 are launch; nothing in it calls for advice.
GOOD = Figures(
    latency_us=120.0,
    body_us=100.0,
    launches=1,
    launch_us=20.0,
    path={("TensorE", "work"): 80.0},
    busy={"TensorE": 80.0, "VectorE": 10.0, "ScalarE": 10.0, "GpSimdE": 0.0, "DMA": 40.0},
    lost={name: {} for name in ("TensorE", "VectorE", "ScalarE", "GpSimdE", "DMA")},
    matmuls=100,
    moving_columns=51_200,
    macs=51_200 * 128 * 128,
    float32_macs=0,
    tensor_clocked_us=80.0,
    array_cells=128 * 128,
    columns_at_most=512,
    issue_columns=64,
    transfers=10,
    dma_bytes=10_000_000,
    dma_bytes_per_ns=400.0,
    inputs={"x": (1000, 1000)},
    table_loads=1,
    instructions={"VectorE": 20, "ScalarE": 20},
    fixed_us={"VectorE": 0.05, "ScalarE": 0.05, "GpSimdE": 0.1},
    sbuf_peak_bytes=1000,
    sbuf_bytes=2000,
)
FIRST = "before its first instruction"

# Rule: (changes that call for it, the gain, words of the sentence), changes that just do not.
CASES: dict[str, tuple[dict[str, Any], float, str, dict[str, Any]]] = {
    "few columns": (
        {"moving_columns": 3_200, "macs": 3_200 * 128 * 128,
         "lost": GOOD.lost | {"TensorE": {FIRST: 5}}},
        80 * (1 - 32 / 64 * 32 / 38),  # 32 columns take as long as 64, and 6 in between
        "moving operand averages 32 of 512 columns; TensorE is 5 % idle in start-up",
        {"moving_columns": 25_600, "macs": 25_600 * 128 * 128},
    ),
    "empty array": (
        {"macs": 51_200 * 128 * 32},
        60.0,
        "matmuls fill 25.0 % of TensorE's array",
        {"macs": 51_200 * 128 * 64},
    ),
    "slow clock": (
        {"tensor_clocked_us": 40.0},
        40.0,
        "TensorE runs below its clock: its work takes 2.0 times as long",
        {"tensor_clocked_us": 70.0},
    ),
    "late start": (
        {"lost": GOOD.lost | {"TensorE": {FIRST: 15.0}}},
        15.0,
        "TensorE is 15 % idle in start-up, 15.0 µs before its first matmul",
        {"lost": GOOD.lost | {"TensorE": {FIRST: 9.9}}},
    ),
    "small transfers": (
        {"path": {("DMA load", "issue"): 6.0, ("DMA store", "start-up"): 4.0}},
        8.0,  # two of ten transfers stay
        "10 DMA transfers of 976.6 KiB each; their issue, start and end take 10 % of the",
        {"path": {("DMA load", "issue"): 9.9}},
    ),
    "short rows": (
        {"path": {("DMA load", "transfer"): 50.0}, "busy": GOOD.busy | {"DMA": 100.0}},
        37.5,  # 100 of 400 B/ns
        "DMA engines move 100 of 400 GB/s",
        {"path": {("DMA load", "transfer"): 50.0}, "busy": GOOD.busy | {"DMA": 50.0}},
    ),
    "few partitions": (
        {"path": {("DMA load", "transfer"): 50.0},
         "lost": GOOD.lost | {"DMA": {"transfers of few partitions": 10.0}}},
        10.0,  # a fifth of the time that the DMA engines need
        "transfers of few partitions leave DMA engines idle for 10.0 µs",
        {"path": {("DMA load", "transfer"): 50.0},
         "lost": GOOD.lost | {"DMA": {"transfers of few partitions": 9.9}}},
    ),
    "shared port": (
        {"lost": GOOD.lost | {"VectorE": {"shared port": 30.0}}},
        20.0,  # no more than TensorE leaves
        "VectorE waits 30.0 µs for a port that another engine holds",
        {"lost": GOOD.lost | {"VectorE": {"shared port": 4.9}}},
    ),
    "read again": (
        {"path": {("DMA load", "transfer"): 40.0},
         "inputs": {"x": (9000, 1000), "w": (1000, 1000)}},
        32.0,  # 8000 of 10,000 B
        "x is read 9.0 times over, 0.01 MiB too much",
        {"path": {("DMA load", "transfer"): 40.0}, "inputs": {"x": (1400, 1000)}},
    ),
    "activation tables": (
        {"path": {("ScalarE", "activation table"): 12.0}, "table_loads": 10},
        10.8,
        "ScalarE waits for an activation table 10 times",
        {"path": {("ScalarE", "activation table"): 12.0}, "table_loads": 1},
    ),
    "no spare buffer": (
        {"lost": GOOD.lost | {"DMA": {"memory still in use": 12.0}}},
        12.0,
        "loads wait 12.0 µs for tiles that are still read, and 50 % of SBUF is free",
        {"lost": GOOD.lost | {"DMA": {"memory still in use": 12.0}}, "sbuf_peak_bytes": 1600},
    ),
    "float32": (
        {"float32_macs": 51_200 * 128 * 128},
        60.0,
        "100 % of the multiplications are of float32",
        {"float32_macs": 51_200 * 128 * 63},
    ),
    "launches": (
        {"launches": 4, "launch_us": 60.0},
        45.0,
        "4 launches take 50 % of the latency",
        {"launches": 4, "launch_us": 35.0},
    ),
    "one-sided": (
        {"path": {("VectorE", "work"): 80.0},
         "busy": GOOD.busy | {"VectorE": 80.0, "ScalarE": 0.0}},
        40.0,
        "VectorE works 80 % of the time, ScalarE 0 %",
        {"path": {("VectorE", "work"): 80.0},
         "busy": GOOD.busy | {"VectorE": 80.0, "ScalarE": 25.0}},
    ),
    "tiny instructions": (
        {"path": {("VectorE", "work"): 8.0}, "instructions": {"VectorE": 160}},
        6.4,  # 160 times 50 ns of 10 µs
        "160 instructions on VectorE of 62 ns each, of which 50 ns are fixed",
        {"path": {("VectorE", "work"): 8.0}, "instructions": {"VectorE": 90}},
    ),
    "loops": (
        {"path": {("SyncE", "loop"): 3.0}, "instructions": {"SyncE": 3}},
        3.0,
        "iterations of on-chip loops end 3 times",
        {"path": {("SyncE", "loop"): 2.3}, "instructions": {"SyncE": 3}},  # not worth 2 %
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_speaks_when_it_should(rule: str) -> None:
    changes, gain, sentence, _ = CASES[rule]
    (found,) = [each for each in advise(replace(GOOD, **changes)) if each.rule == rule]
    assert found.gain_us == pytest.approx(gain)
    assert sentence in found.finding
    assert str(found).endswith(f"(at most {gain:,.1f} µs, modelled)")


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_silent_when_it_should(rule: str) -> None:
    assert rule not in {each.rule for each in advise(replace(GOOD, **CASES[rule][3]))}


def test_nothing_to_say() -> None:
    assert advise(GOOD) == ()


def test_one_launch_is_given_more_work() -> None:
    (found,) = advise(replace(GOOD, launch_us=48.0))
    assert "the launch takes 40 % of the latency: give a launch more work" in str(found)


def test_the_most_promising_comes_first() -> None:
    both = CASES["empty array"][0] | {"table_loads": 10, "path": {
        ("TensorE", "work"): 80.0, ("ScalarE", "activation table"): 12.0}}  # fmt: skip
    assert [each.rule for each in advise(replace(GOOD, **both))] == [
        "empty array",
        "activation tables",
    ]


def test_the_naive_kernel_is_told_what_is_wrong_with_it() -> None:
    x = np.ones((1, 16, 14, 14), np.float32)
    w = np.ones((32, 16, 3, 3), np.float32)
    _, seen = profile(conv2d, x, w, padding=1, algorithm="naive", target="trn2")
    rules = {each.rule for each in seen.advice}
    assert {"small transfers", "tiny instructions", "read again"} <= rules
    (again,) = (each for each in seen.advice if each.rule == "read again")
    assert "x_hbm is read 9.0 times over" in again.finding  # once for each tap
    assert all(0 < each.gain_us <= seen.latency_us for each in seen.advice)
    _, better = profile(conv2d, x, w, padding=1, algorithm="direct", target="trn2")
    assert rules.isdisjoint({"read again", "tiny instructions"} & {a.rule for a in better.advice})
