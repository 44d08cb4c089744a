"""Measured points: what others published of kernels on real hardware, read from points.json.

Each has its origin (repository, commit, path, where the figure stands), how it was measured, and
counters where they were published.  The file also lists the points that are not compared, each with
the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["COUNTERS", "DOUBTS", "KINDS", "LAUNCHES", "Point", "left_out", "points"]

_FILE = Path(__file__).with_name("points.json")

COUNTERS = {
    "hbm_read_bytes": "HBM bytes read",
    "hbm_write_bytes": "HBM bytes written",
    "matmul_passes": "TensorE passes",
    "dma_transfers": "DMA transfers",
    "dma_triggers": "DMA triggers",
    "copies": "copies",
    "tensor_tensor": "tensor_tensor",
    "tensor_reduce": "tensor_reduce",
    "activations": "activations",
}
"""Published counters that are compared, with the words for tables."""

LAUNCHES = ("whole", "benchmarked", "none")
"""How much of a launch a measured time includes."""

KINDS = {
    "total": (
        "whole",
        "neuron-profile's whole trace: it begins some 13 µs before the first instruction of the"
        " kernel and ends after the teardown, so the launch cost is counted",
    ),
    "nc_latency": (
        "benchmarked",
        "nki.benchmark's nc_latency: some 15 µs on trn2 and 19 µs on trn1 for a kernel of one tile."
        " It leaves out a part of what a profile shows: launch_unbenchmarked_us in `nkiconv facts`",
    ),
    "body": (
        "none",
        "read off a published timeline, from the first DMA trigger to the end of the last store:"
        " the launch cost is not counted",
    ),
    "estimate": (
        "whole",
        "twice a published median that is about half of one core's device time (2.0 to 2.3 by the"
        " publisher's own profiles): shown, but counted in no error",
    ),
}
"""What a measured time includes: one of `LAUNCHES`, and in words."""

DOUBTS = {
    "contradicted": (
        "the vendor's table has 51.8 ms for the tiled matmul on trn1; another publisher measured"
        " the same source at 21.0 ms there. The table's first three rows imply loads of 100 GB/s"
        " where that measurement has 256, so they show another compiler's programs"
    ),
    "inserted": (
        "the published counters have ScalarE active for 611 µs in each, where the source has a copy"
        " a tile for it (some 220 µs) or nothing at all: the compiler inserted instructions"
    ),
    "reordered": (
        "four sums of each block go through one PSUM bank, one after the other: in the order of the"
        " source 96 of 128 sums wait for the 0.9 µs that emptying the bank takes (instructions of"
        " trn2 profiles), 324 µs with the launch. It was measured at 276, so the compiler, whose"
        " scheduler was on, interleaved blocks or gave them more banks"
    ),
}
"""Why a measured time is not trusted."""


@dataclass(frozen=True)
class Point:
    """One measured time.

    Attributes
    ----------
    case
        Id of the `Case` that it is compared with.
    doubt
        A key of `DOUBTS` where something speaks against the figure, or empty.
    """

    id: str
    case: str
    hardware: str
    dtype: str
    measured_us: float
    kind: str
    metric: str
    confidence: str
    repository: str
    commit: str
    path: str
    published_at: str
    build_flags: str
    counters: dict[str, int]
    doubt: str

    @property
    def counts(self) -> bool:
        """Whether the point enters an error: its time was measured, and with some confidence."""
        return self.kind != "estimate" and self.confidence != "low" and not self.doubt


@cache
def points() -> tuple[Point, ...]:
    """Return all points that a rebuilt kernel is compared with."""
    return tuple(Point(**entry) for entry in _content()["points"])


@cache
def left_out() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return reasons, each with the ids of points that are not compared for it."""
    return tuple((entry["reason"], tuple(entry["ids"])) for entry in _content()["left_out"])


def _content() -> Any:
    """Return the file as it is: lists of dictionaries whose keys are `Point`'s attributes."""
    return json.loads(_FILE.read_text(encoding="utf-8"))
