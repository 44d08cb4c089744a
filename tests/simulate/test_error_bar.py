"""Error bars of single modelled times, from calibrated kernels that are invented here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from nkiconv.kernels import conv2d
from nkiconv.reference.cases import CASES, make_inputs
from nkiconv.simulate import profile
from nkiconv.simulate.error_bar import ErrorBar, Region, error_bar, regions
from nkiconv.simulate.hardware import TARGETS

ONE = Region(10, 0.04, 0.12, 20.0, 5000.0, ("TensorE", "launch"), ("nc_matmul", "dma_copy"))
KNOWN = {"trn1": ONE, "trn2": replace(ONE, kernels=30, mean=0.08, worst=0.2)}
INSIDE: dict[str, Any] = {
    "target": "trn2", "latency_us": 100.0, "bound": "TensorE",
    "path_us": {"nc_matmul": 80.0, "dma_copy": 15.0, "iota": 5.0}, "cores": 1, "loops": False,
}  # fmt: skip


def bar(**changes: Any) -> ErrorBar:
    return error_bar(**{**INSIDE, **changes}, known=KNOWN)


def test_inside_the_calibrated_region() -> None:
    assert bar() == ErrorBar(0.08, 0.2, 30, ())
    assert str(bar()) == "8% (mean error over 30 published kernels; worst 20%)"
    assert bar().to_dict() == {"mean": 0.08, "worst": 0.2, "kernels": 30, "outside": []}
    assert bar(target="trn1").kernels == 10


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"latency_us": 9.9}, "the kernels measured on trn2 take 20 to 5,000 µs"),
        ({"latency_us": 10_001.0}, "the kernels measured on trn2 take 20 to 5,000 µs"),
        ({"bound": "GpSimdE"}, "no kernel measured on trn2 is bound by GpSimdE"),
        (
            {"path_us": {"nc_matmul": 80.0, "iota": 10.0, "topk": 10.0, "dropout": 0.1}},
            "20% of the path is in instructions that no kernel measured on trn2 has "
            "(iota, topk, dropout)",
        ),
        ({"cores": 2}, "no kernel on two cores was measured"),
        ({"loops": True}, "no kernel with on-chip loops was measured"),
    ],
)
def test_outside_of_it(changes: dict[str, Any], reason: str) -> None:
    assert bar(**changes) == ErrorBar(0.08, 0.2, 30, (reason,))


def test_a_target_without_measured_kernels_has_the_error_of_the_others() -> None:
    found = bar(target="trn3", latency_us=1.0)
    assert (found.kernels, found.worst) == (40, 0.2)
    assert found.mean == pytest.approx(0.07)  # (10 x 0.04 + 30 x 0.08) / 40
    assert found.outside == ("no kernel was measured on trn3",)


def test_edges_of_the_region_belong_to_it() -> None:
    assert not bar(latency_us=10.0).outside
    assert not bar(latency_us=10_000.0).outside
    assert not bar(path_us={"nc_matmul": 90.0, "iota": 10.0}).outside


def test_the_kept_regions() -> None:
    assert regions().keys() <= set(TARGETS)
    for region in regions().values():
        assert 0 < region.mean <= region.worst
        assert region.shortest_us < region.longest_us
        assert "dma_copy" in region.opcodes


def test_a_profile_states_its_error() -> None:
    case = next(case for case in CASES if case.id == "1x1-s1-p0-c1-k1-1x1")
    for target in ("trn2", "trn3"):
        _, seen = profile(conv2d, **make_inputs(case, "float32"), target=target)
        kept = json.loads(json.dumps(seen.to_dict()))["error_bar"]
        assert kept == seen.error_bar.to_dict()
        assert f"may be off by                   {seen.error_bar}"[:60] in seen.table()
        assert ("no kernel was measured on trn3" in kept["outside"]) == (target == "trn3")
        assert ("outside what was calibrated" in seen.table()) == bool(kept["outside"])
