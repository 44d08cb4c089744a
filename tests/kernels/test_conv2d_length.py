"""Programs of at most 20,000 instructions for any layer, from plans alone: nothing is simulated."""

from __future__ import annotations

from typing import Any

import pytest

from nkiconv.kernels._algorithm import Problem
from nkiconv.kernels._blocks import Pool, PoolAxis
from nkiconv.kernels._choice import choose
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.simulate import ConstraintError, use_target

MOST = 20_000  # the figure asked for, not the constant of the code


def _axis(size: int, taps: int, stride: int, dilation: int, pad: int | None) -> Axis:
    pad = taps // 2 * dilation if pad is None else pad
    outputs = (size + 2 * pad - (taps - 1) * dilation - 1) // stride + 1
    return Axis(size, taps, outputs, stride, dilation, pad)


def problem(
    N: int, C: int, K: int, size: tuple[int, int], taps: int, *, stride: int = 1,
    dilation: int = 1, pad: int | None = None, groups: int = 1, dtype: str = "bfloat16",
    pool: tuple[str, int, int] | None = None, **how: Any,
) -> Problem:  # fmt: skip
    rows, cols = (_axis(n, taps, stride, dilation, pad) for n in size)
    windows = None
    if pool is not None:
        kind, window, step = pool
        windows = Pool(
            kind, *(PoolAxis(window, step, (a.outputs - window) // step + 1) for a in (rows, cols))
        )
    itemsize = 4 if dtype == "float32" else 2
    g = Geometry(N, groups, C // groups, K // groups, rows, cols, itemsize)
    epilogue = Epilogue("silu", has_bias=True, has_residual=True, pool=windows)
    return Problem(g, epilogue, dtype, **how)


PROBLEMS = {
    "a large image of many channels": problem(1, 512, 512, (512, 512), 3),
    "a larger image": problem(1, 64, 64, (2048, 2048), 3),
    "several of them": problem(8, 64, 64, (2048, 2048), 3),
    "a very tall image": problem(1, 32, 32, (100_000, 64), 3),
    "a very wide image": problem(2, 32, 32, (64, 100_000), 3),
    "a batch": problem(32, 64, 64, (224, 224), 3),
    "a prime batch": problem(37, 128, 128, (224, 224), 3),
    "a batch of small images": problem(10_007, 256, 256, (7, 7), 3),
    "a stem": problem(256, 3, 64, (224, 224), 7, stride=2),
    "a stem of a large image": problem(1, 3, 64, (8192, 8192), 7, stride=2),
    "many channels to three": problem(1, 128, 3, (4096, 4096), 3),
    "patches": problem(64, 3, 1024, (1024, 1024), 16, stride=16, pad=0),
    "1x1": problem(256, 2048, 512, (56, 56), 1),
    "1x1 of one image": problem(1, 4096, 4096, (256, 256), 1),
    "1x1 with a stride": problem(256, 1024, 2048, (112, 112), 1, stride=2),
    "depthwise": problem(256, 384, 384, (56, 56), 3, groups=384),
    "depthwise 31x31": problem(64, 256, 256, (64, 64), 31, groups=256),
    "depthwise 31x31 of many small images": problem(256, 1024, 1024, (14, 14), 31, groups=1024),
    "depthwise 31x31 of a large image": problem(1, 64, 64, (512, 512), 31, groups=64),
    "depthwise with two results": problem(64, 512, 1024, (112, 112), 5, groups=512),
    "groups of four": problem(64, 256, 256, (64, 64), 31, groups=64),
    "groups of 64": problem(64, 8192, 8192, (64, 64), 3, groups=128),
    "groups of 256": problem(4, 4096, 4096, (64, 64), 31, groups=16),
    "many channels": problem(1, 8192, 8192, (14, 14), 3),
    "many channels in float32": problem(1, 8192, 8192, (14, 14), 3, dtype="float32"),
    "a batch of many channels": problem(64, 4096, 4096, (64, 64), 3),
    "31x31": problem(64, 256, 256, (128, 128), 31),
    "31x31 of many channels": problem(1, 1024, 1024, (128, 128), 31),
    "strided and dilated": problem(3, 192, 320, (1001, 777), 5, stride=3, dilation=4, pad=16),
    "float32": problem(4, 160, 160, (1024, 1024), 3, dtype="float32"),
    "fast float32": problem(4, 160, 160, (1024, 1024), 3, dtype="float32", precision="fast"),
    "a pool": problem(256, 128, 128, (224, 224), 3, pool=("max", 2, 2)),
    "a mean": problem(1, 128, 128, (2048, 2048), 3, pool=("avg", 2, 2)),
    "a mean in float32": problem(1, 64, 64, (2048, 2048), 3, pool=("avg", 3, 2), dtype="float32"),
    "reflected": problem(1, 128, 128, (2048, 2048), 3, padding_mode="reflect"),
    "circular": problem(1, 64, 64, (2048, 2048), 3, padding_mode="circular"),
    "replicated depthwise": problem(64, 64, 64, (512, 512), 3, groups=64, padding_mode="replicate"),
    "channels last": problem(64, 64, 64, (512, 512), 3, layout="NHWC"),
    "channels last, circular, a pool": problem(
        8, 3, 64, (1024, 1024), 3, layout="NHWC", padding_mode="circular", pool=("max", 2, 2)
    ),
}


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_no_program_is_too_long(name: str, target: str) -> None:
    with use_target(target):
        for candidate in choose(PROBLEMS[name]).candidates:
            assert 0 < candidate.price.static_instructions <= MOST, candidate.why
            for stage in candidate.stages.all if candidate.stages else ():
                assert 0 < stage.price.static_instructions <= MOST, stage.kernel.func.__name__


def test_what_would_need_loops_over_taps_or_input_channels() -> None:
    """32 GB of weights: a tile of results alone takes more matmuls."""
    words = (
        r"direct: the least that it loops over takes 1\d\d,\d\d\d instructions; .* 20,000, so loops"
    )
    with pytest.raises(ConstraintError, match=words):
        choose(problem(1, 4096, 4096, (64, 64), 31))
