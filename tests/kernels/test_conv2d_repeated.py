"""A layer that is called again plans nothing and rearranges no weights."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from nkiconv.kernels import conv2d, pack_weights
from nkiconv.kernels._choice import ALGORITHMS
from nkiconv.reference import conv2d as conv2d_ref


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a plan was chosen, and weights were rearranged."""
    counts = {"choose": 0, "pack": 0}
    module: Any = sys.modules["nkiconv.kernels.conv2d"]  # the package's name is the function
    module._best.cache_clear()
    choose = module.choose

    def counting_choose(*args: Any) -> Any:
        counts["choose"] += 1
        return choose(*args)

    monkeypatch.setattr(module, "choose", counting_choose)
    for algorithm in ALGORITHMS.values():
        pack: Any = algorithm.pack

        def counting_pack(w: Any, plan: Any, pack: Any = pack) -> Any:
            counts["pack"] += 1
            return pack(w, plan)

        monkeypatch.setattr(algorithm, "pack", counting_pack)
    return counts


def _draw(*shape: int) -> Any:
    return np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)


def test_packed_weights_are_arranged_once_for_each_plan(counted: dict[str, int]) -> None:
    w = _draw(5, 4, 3, 3)
    packed = pack_weights(w)
    images = [_draw(1, 4, n, n) for n in (6, 7)]
    for x in images * 3:
        np.testing.assert_array_equal(conv2d(x, packed), conv2d_ref(x, w))
    assert counted == {"choose": 2, "pack": 2}
    conv2d(images[0], packed, target="trn2")
    assert counted == {"choose": 3, "pack": 3}  # another target, another plan
    conv2d(images[0], w)
    assert counted == {"choose": 3, "pack": 4}  # nothing is kept of what was not packed


def test_few_orders_are_kept(counted: dict[str, int]) -> None:
    packed = pack_weights(_draw(5, 4, 3, 3))
    images = [_draw(1, 4, n, n) for n in range(6, 12)]
    for x in (*images, images[-1], images[0]):
        conv2d(x, packed)
    assert counted == {"choose": 6, "pack": 7}  # the first was dropped, the last was not
