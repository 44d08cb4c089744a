"""Modelled occupancy of the instructions that run on GpSimdE alone, worked by hand.

GpSimdE runs at 1.4 GHz on trn1 and at 1.2 GHz on trn2 and trn3, and takes 150 cycles to issue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

# Each makes one call with n elements per partition.


def count_up(c: Any, n: int) -> None:
    nisa.iota(c.new((4, n)), [[1, n]])


def select(c: Any, n: int, dtype: str = "float32") -> None:
    tile = c.put(np.ones((4, n)), dtype)
    nisa.affine_select(c.new((4, n), dtype), [[1, n]], 0, tile, 0.0)


def across(c: Any, n: int, rows: int = 128) -> None:
    nisa.tensor_partition_reduce(c.new((1, n)), nl.add, c.put(np.ones((rows, n))))


def pick(c: Any, n: int, dtype: str = "float32") -> None:
    where = c.put(np.zeros((4, n)), "uint32")
    nisa.nc_n_gather(c.new((4, n), dtype), c.put(np.ones((4, 9)), dtype), where)


def pick_locally(c: Any, n: int, dtype: str = "float32", elems: int = 1) -> None:
    index = c.put(np.zeros((16, -(-n // 16))), "uint16")
    data = c.put(np.ones((16, 40)), dtype)
    nisa.local_gather(c.new((16, n * elems), dtype), data, index, elems, n)


def bounds(c: Any, n: int) -> None:
    nisa.sequence_bounds(c.new((1, 2, n)), c.put(np.ones((1, n))))


def nonzero(c: Any, n: int) -> None:
    nisa.nonzero_with_count(c.new((4, n + 1), "int32"), c.put(np.ones((4, n))))


COSTS: list[tuple[Any, int, dict[str, Any], str, float]] = [
    # call, n, options, target, nanoseconds
    (count_up, 512, {}, "trn1", (512 + 150) / 1.4),
    (count_up, 512, {}, "trn2", (512 + 150) / 1.2),
    (select, 512, {}, "trn1", (512 + 150) / 1.4),
    (select, 512, {"dtype": "bfloat16"}, "trn3", (512 + 150) / 1.2),
    (across, 512, {}, "trn1", (16 * 512 + 150) / 1.4),  # sixteen partitions a core, one by one
    (across, 512, {"rows": 5}, "trn2", (16 * 512 + 150) / 1.2),
    (pick, 512, {}, "trn1", (512 + 150) / 1.4),
    (pick, 513, {"dtype": "bfloat16"}, "trn2", (513 + 2 * 150) / 1.2),  # groups of 512
    # n e / C cycles with C = (28 + 4 e) / (4 e) / min(4 / bytes, e)
    (pick_locally, 512, {}, "trn1", (512 / 8 + 150) / 1.4),
    (pick_locally, 512, {"elems": 4}, "trn2", (512 * 4 / (44 / 16) + 150) / 1.2),
    (pick_locally, 512, {"dtype": "bfloat16", "elems": 4}, "trn2", (2048 / (22 / 16) + 150) / 1.2),
    (pick_locally, 500, {"dtype": "uint8", "elems": 2}, "trn3", (1000 / (18 / 8) + 150) / 1.2),
    (bounds, 512, {}, "trn1", (2 * 512 + 150) / 1.4),
    (nonzero, 512, {}, "trn2", (4 * 512 + 513 + 150) / 1.2),
]


@pytest.mark.parametrize(("call", "n", "options", "target", "nanoseconds"), COSTS)
def test_occupancy(
    start: Any, call: Any, n: int, options: Any, target: str, nanoseconds: float
) -> None:
    with start(target) as chip:
        call(chip, n, **options)
        assert chip.last.occupancy_ps == round(1000 * nanoseconds)
        assert chip.last.latency_ps >= chip.last.occupancy_ps
        assert chip.last.lane.label == "GpSimdE"


@pytest.mark.parametrize("call", sorted({row[0] for row in COSTS}, key=lambda f: f.__name__))
def test_cost_grows_with_the_elements(start: Any, call: Any) -> None:
    costs = []
    with start("trn2") as chip:
        for n in (1, 2, 15, 16, 17, 100, 511, 512, 513, 1024, 4000):
            call(chip, n)
            costs.append(chip.last.occupancy_ps)
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]
