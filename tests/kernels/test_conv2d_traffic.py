"""What the kernels do, counted: the six faults of the naive one, and the plan's own figures."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nkiconv.kernels import conv2d, pack_weights
from nkiconv.kernels._direct_plan import plan_direct
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry
from nkiconv.simulate import Profile, profile, use_target

C, SIZE = 128, 64  # channels in and out; 3x3 taps, padding 1


def _arrays(dtype: Any, size: int = SIZE) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, C, size, size), dtype=np.float32).astype(dtype)
    w = rng.standard_normal((C, C, 3, 3), dtype=np.float32).astype(dtype)
    return x, w, np.zeros(C, np.float32)


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_direct_meets_every_standard(dtype: Any, target: str) -> None:
    x, w, bias = _arrays(dtype)
    same = Axis(SIZE, 3, SIZE, 1, 1, 1)
    with use_target(target):
        plan = plan_direct(Geometry(1, 1, C, C, same, same, x.itemsize), Epilogue(has_bias=True))
    y, seen = profile(conv2d, x, pack_weights(w), bias, padding=1, target=target)

    assert seen.kernels == ("conv2d_direct",)
    assert seen.hbm_read_bytes == plan.hbm_read_bytes
    assert seen.hbm_read_bytes <= 1.05 * (x.nbytes + w.nbytes + bias.nbytes)
    assert seen.hbm_write_bytes == y.nbytes
    assert seen.instructions.get("tensor_copy", 0) == 0
    assert seen.instructions.get("nc_transpose", 0) == 0
    assert seen.instructions.get("dma_transpose", 0) == 0
    assert seen.instructions["nc_matmul"] == plan.num_matmuls
    # Taps at the edge leave out what they would find outside the image.
    inside = (3 * SIZE - 2) ** 2
    assert seen.moving_columns == plan.moving_columns == inside
    # rows of 64: a bank holds 8 rows, so every other matmul has all 512 columns
    assert seen.moving_columns / seen.instructions["nc_matmul"] == inside / (9 * SIZE / 8)
    assert seen.macs == C * C * inside
    stores = [event for event in seen.events if event.engine == "DMA store"]
    assert len(stores) == plan.num_output_tiles
    # bytes per partition of a store; the last tile has its own, so that the end is not long
    assert y.nbytes / C / (len(stores) - 1) >= 4096
    assert seen.sbuf_peak_bytes <= plan.sbuf_bytes
    assert seen.psum_peak_banks <= 4  # half: the other half is being emptied


def test_direct_keeps_the_tensor_engine_busy() -> None:
    x, w, bias = _arrays(np.float32)
    _, seen = profile(conv2d, x, pack_weights(w), bias, padding=1, target="trn1")
    matmuls = [event for event in seen.events if event.opcode == "nc_matmul"]
    streaming_us = matmuls[-1].end_us - matmuls[0].start_us
    assert seen.engine_busy_us["TensorE"] >= 0.98 * streaming_us  # loads and stores are hidden
    assert streaming_us >= 0.8 * seen.body_us  # the rest is the first load and the last store
    loads = [event for event in seen.events if event.engine == "DMA load"]
    assert matmuls[0].start_us < loads[-1].end_us  # it does not wait for the whole image


def test_naive_has_all_six_faults() -> None:
    x, w, bias = _arrays(np.float16, size=24)
    y, seen = profile(conv2d, x, w, bias, padding=1, algorithm="naive", target="trn1")
    assert seen.kernels == ("conv2d_naive",)
    num_outputs, num_tiles = 24 * 24, 2  # 576 outputs in tiles of 512
    # 1, 3: the plane again for every tile and tap
    assert seen.hbm_read_bytes == num_tiles * (9 * x.nbytes + w.nbytes + bias.nbytes)
    # 2: a copy for every output and tap that lies in the image, 5: and one for each transpose
    inside = (3 * 24 - 2) ** 2
    assert seen.instructions["nc_transpose"] == 9 * num_tiles
    assert seen.instructions["tensor_copy"] == inside + 9 * num_tiles
    # 4: a store for every output
    stores = [event for event in seen.events if event.engine == "DMA store"]
    assert len(stores) == num_outputs
    assert seen.hbm_write_bytes == y.nbytes
    # 6: 128 columns; the second tile has 64
    assert seen.instructions["nc_matmul"] == 9 * 5
    assert seen.moving_columns == 9 * num_outputs

    _, direct = profile(conv2d, x, pack_weights(w), bias, padding=1, target="trn1")
    assert seen.body_us > 20 * direct.body_us


def test_unpacked_weights_cost_the_device_nothing() -> None:
    x, w, bias = _arrays(np.float16, size=8)
    packed: Profile = profile(conv2d, x, pack_weights(w), bias)[1]
    assert profile(conv2d, x, w, bias)[1].latency_us == packed.latency_us
