"""Direct programs that would be too long: an on-chip loop over parts of the batch."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.kernels import conv2d, conv2d_direct
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.simulate import profile, use_dma, use_target

LIMIT = 120


def _draw(kind: Any, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(kind)


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(6, 5, 30, 30), (6, 40, 24, 26)])
def test_a_loop_over_the_batch(
    shape: tuple[int, ...], dtype: Any, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv2d_direct, "_MAX_INSTRUCTIONS", LIMIT)
    x, w = _draw(dtype, *shape), _draw(dtype, 140, shape[1], 3, 3, seed=1)
    bias, residual = _draw(np.float32, 140), _draw(dtype, shape[0], 140, *shape[2:], seed=2)
    how: dict[str, Any] = {"padding": 1, "activation": "relu", "residual": residual}
    seen = []
    run = conv2d_direct.run

    def profiled(launch: Any, operands: Any, plan: Any) -> Any:
        def watch(kernel: Any, *args: Any) -> Any:
            y, profile_ = profile(kernel, *args)
            seen.append((kernel, profile_))
            return y

        return run(watch, operands, plan)

    monkeypatch.setattr(conv2d_direct, "run", profiled)
    with use_target(target), use_dma("late"):
        y = conv2d(x, w, bias, algorithm="direct", **how)
    kernel, found = seen[0]
    assert kernel is conv2d_direct.conv2d_direct_looped
    assert found.static_instructions <= LIMIT
    assert (y == conv2d_ref(x, w, bias, **how)).all()
