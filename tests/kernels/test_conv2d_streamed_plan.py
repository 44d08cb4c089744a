"""Plans of the direct kernel, without running it: nothing is left out and everything fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry, Tile, even_tiles, make_span, pixel_step, tiles
from nkiconv.kernels._streamed_plan import StreamedPlan, plan_streamed
from nkiconv.kernels.conv2d_naive import plan_naive
from nkiconv.simulate import CapacityError, use_target

# isort: split
import nki.language as nl  # nkiconv.simulate makes it importable


def axis(size: int, taps: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> Axis:
    outputs = (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
    return Axis(size, taps, outputs, stride, dilation, pad)


def square(
    C_in: int, size: int, C_out: int, taps: int, *, N: int = 1, G: int = 1, itemsize: int = 4,
    **more: int,
) -> Geometry:  # fmt: skip
    both = axis(size, taps, **more)
    return Geometry(N, G, C_in, C_out, both, both, itemsize)


ROW = axis(1, 1)

GEOMETRIES = {
    "smallest": square(1, 1, 1, 1),
    "vgg": square(128, 224, 128, 3, pad=1),
    "vgg-bfloat16": square(256, 224, 256, 3, pad=1, itemsize=2),
    "resnet-56": square(256, 56, 256, 3, pad=1),
    "resnet-7-batch": square(512, 7, 512, 3, pad=1, N=8),
    "stem": square(3, 224, 64, 7, stride=2, pad=3),
    "shortcut": square(256, 56, 512, 1, stride=2),
    "patches": square(3, 224, 768, 16, stride=16, itemsize=2),
    "aspp": square(256, 64, 256, 3, pad=36, dilation=36),
    "depthwise": square(1, 112, 1, 3, pad=1, G=96),
    "many-channels-few-pixels": square(4096, 7, 512, 3, pad=1),
    "many-channels": square(8192, 28, 640, 3, pad=1),
    "many-channels-batch": square(2048, 14, 2048, 3, pad=1, N=3),
    "large-kernel": square(256, 224, 256, 31, pad=15),
    "larger-kernel": square(300, 120, 64, 101, pad=50),
    "dilated-large-kernel": square(64, 400, 64, 31, dilation=10),
    "one-channel": square(1, 4096, 1, 5, pad=2),
    "wide": Geometry(1, 1, 64, 64, axis(9, 3, pad=1), axis(5000, 3, pad=1), 4),
    "very-wide": Geometry(1, 1, 200, 64, axis(40, 31, pad=15), axis(60_000, 3), 2),
    "audio-filter": Geometry(1, 1, 128, 128, ROW, axis(16_000, 1000, pad=500), 4),
    "spectrogram": Geometry(1, 1, 1, 257, ROW, axis(80_000, 512, stride=160), 4),
    "pixel-far-apart": Geometry(1, 1, 1, 1, axis(3, 1), axis(150_000, 1, stride=40_000), 4),
    "rows-far-apart": Geometry(1, 1, 2, 2, axis(4000, 3, stride=700), axis(300, 3, stride=60), 4),
    "two-rows-very-wide": Geometry(1, 1, 8, 8, axis(2, 2), axis(40_000, 3, pad=1), 2),
    "two-rows-far-apart": Geometry(1, 1, 4, 4, axis(203, 3, stride=200), axis(200, 3, pad=1), 2),
    "nothing-but-padding": square(3, 2, 4, 1, pad=9, stride=3),
    "prime": square(131, 37, 257, 5, pad=1, stride=3, N=2),
}


def check_plan(plan: StreamedPlan, limit: int) -> None:
    g = plan.geometry
    assert plan.sbuf_bytes <= limit
    covered = np.zeros((g.rows.outputs, g.cols.outputs), dtype=np.int64)
    num_blocks = 0
    for strip in plan.strips:
        assert len(strip.windows) == (1 if plan.x_resident else len(plan.taps))
        for block in strip.blocks:
            num_blocks += 1
            assert 1 <= len(block.tiles) <= nl.tile_size.psum_num_banks // 2
            assert sum(tile.size for tile in block.tiles) == block.rows.size
            for tile in block.tiles:
                assert tile.size * block.cols.size <= nl.tile_size.psum_bank_fmax
                rows, cols = slice(tile.start, tile.start + tile.size), block.cols
                covered[rows, cols.start : cols.start + cols.size] += 1
            for taps in plan.taps:
                check_operand(g, strip.windows[taps.i_window], block, taps)
    np.testing.assert_array_equal(covered, 1)  # every output exactly once
    check_channels(plan)
    num_c_out_tiles = sum(len(block.tiles) for block in plan.c_out_blocks)
    assert plan.num_output_tiles == g.N * num_c_out_tiles * num_blocks
    seen = [taps.start + i for taps in plan.taps for i in range(taps.rows.size * taps.cols.size)]
    assert seen == list(range(g.rows.taps * g.cols.taps))


def check_operand(g: Geometry, window: Any, block: Any, taps: Any) -> None:
    """Inside its window, with legal steps; the window's zeros and pixels add up."""
    for span, outputs, tap, size in (
        (window.rows, block.rows, taps.rows, g.rows.size),
        (window.cols, block.cols, taps.cols, g.cols.size),
    ):
        last_output, last_tap = outputs.start + outputs.size - 1, tap.start + tap.size - 1
        first = (outputs.start - span.first_output) * span.output_step
        first += (tap.start - span.first_tap) * span.tap_step
        last = (last_output - span.first_output) * span.output_step
        last += (last_tap - span.first_tap) * span.tap_step
        assert 0 <= first <= last < span.size
        assert span.zeros_before + span.x_size + span.zeros_after == span.size
        if span.x_size > 0:
            assert span.x_start >= 0
            assert span.x_start + (span.x_size - 1) * span.x_step < size
    assert block.cols.size == 1 or window.cols.output_step <= 32_767
    assert block.tiles[0].size == 1 or window.rows.output_step * window.cols.size <= 32_767
    assert window.rows.size == 1 or window.cols.size <= 32_767  # the border's memset
    loaded = [load.start + i for load in window.loads for i in range(load.size)]
    assert loaded == list(range(window.rows.x_size if window.cols.x_size > 0 else 0))


def check_channels(plan: StreamedPlan) -> None:
    g = plan.geometry
    outputs = [
        tile.y_start + i
        for block in plan.c_out_blocks
        for tile in block.tiles
        for i in range(tile.size)
    ]
    assert outputs == list(range(g.G * g.C_out))
    inputs = [tile.start + i for tile in plan.c_in_tiles for i in range(tile.size)]
    assert inputs == list(range(g.C_in))
    for tile in (*plan.c_in_tiles, *(t for block in plan.c_out_blocks for t in block.tiles)):
        assert tile.size <= nl.tile_size.pmax


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_plans_are_complete_and_fit(name: str, target: str) -> None:
    with use_target(target):
        check_plan(plan_streamed(GEOMETRIES[name]), nl.tile_size.sbuf_fmax_bytes)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_plans(data: st.DataObject) -> None:
    def number(least: int, most: int) -> int:
        return data.draw(st.integers(least, most))

    axes = []
    for _ in range(2):
        taps, dilation, stride = number(1, 9), number(1, 4), number(1, 7)
        size = number(1, 80)
        pad = max(number(0, 12), (dilation * (taps - 1) + 2 - size) // 2)
        axes.append(axis(size, taps, stride, pad, dilation))
    g = Geometry(
        number(1, 2), number(1, 3), number(1, 300), number(1, 300), *axes, number(1, 2) * 2
    )
    limit = number(8, 100) * 1000
    try:
        plan = plan_streamed(g, sbuf_bytes=limit)
    except CapacityError:
        assert limit < 40_000  # two stores of four banks and one tap of weights, twice: 34 KB
        return
    check_plan(plan, limit)


# --- The spans, against the definition ----------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("pad", [0, 1, 5])
@pytest.mark.parametrize("num_taps", [1, 3])
def test_a_span_holds_what_the_definition_asks_for(
    stride: int, dilation: int, pad: int, num_taps: int
) -> None:
    line = axis(11, 4, stride, pad, dilation)
    pixels = np.arange(1, 12)  # 0 stands for the padding
    for outputs in even_tiles(line.outputs, 3):
        for taps in tiles(line.taps, num_taps):
            span = make_span(line, outputs, taps, pixel_step(line, taps.size))
            inside = pixels[span.x_start :: span.x_step][: span.x_size]
            window = np.pad(inside, (span.zeros_before, span.zeros_after))
            assert window.size == span.size
            for o in range(outputs.start, outputs.start + outputs.size):
                for k in range(taps.start, taps.start + taps.size):
                    at = (o - span.first_output) * span.output_step
                    at += (k - span.first_tap) * span.tap_step
                    pixel = o * stride + k * dilation - pad
                    assert window[at] == (pixels[pixel] if 0 <= pixel < 11 else 0)


def test_rows_that_no_tap_reaches_are_not_loaded() -> None:
    plan = plan_streamed(GEOMETRIES["shortcut"])
    (strip,) = plan.strips
    assert strip.windows[0].rows.x_size == 28  # of 56
    assert strip.windows[0].cols.x_size == 55  # all but the last: single elements load slowly


def test_the_first_transfer_is_short_and_the_others_are_not() -> None:
    window = plan_streamed(GEOMETRIES["resnet-56"]).strips[0].windows[0]
    # 8 rows of outputs fill a bank; they need 10 rows of pixels, of which one is padding
    assert window.loads[0] == Tile(0, 9)
    # rows of 224 B: 19 of them are the first number beyond 4096 B per partition
    assert [load.size for load in window.loads[1:]] == [19, 19, 9]


def test_tiles_are_even() -> None:
    assert even_tiles(56, 9) == tuple(Tile(8 * i, 8) for i in range(7))
    assert even_tiles(10, 4, start=5) == (Tile(5, 4), Tile(9, 4), Tile(13, 2))
    assert tiles(130, 128) == (Tile(0, 128), Tile(128, 2))


# --- What is chosen -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("channels", [128, 256])
def test_large_images_are_read_once(target: str, itemsize: int, channels: int) -> None:
    g = square(channels, 224, channels, 3, pad=1, itemsize=itemsize)
    with use_target(target):
        plan = plan_streamed(g, Epilogue(has_bias=True))
    least = itemsize * channels * (224 * 224 + 9 * channels) + 4 * channels
    assert plan.weights_resident
    assert plan.x_resident
    assert plan.hbm_read_bytes <= 1.05 * least


CHOICES = {
    "resnet-56": (True, True, 1),
    "many-channels-few-pixels": (False, True, 1),
    "many-channels-batch": (True, False, 16),
    "many-channels": (False, False, 1),
    "larger-kernel": (False, False, 1),
    "audio-filter": (False, True, 1),
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_does_not_fit_is_loaded_again(name: str) -> None:
    with use_target("trn1"):
        plan = plan_streamed(GEOMETRIES[name])
    chosen = (plan.weights_resident, plan.x_resident, len(plan.c_out_blocks))
    assert chosen == CHOICES[name]


def test_targets_have_different_room() -> None:
    g = GEOMETRIES["vgg"]
    strips = []
    for target in ("trn1", "trn2", "trn3"):
        with use_target(target):
            strips.append(len(plan_streamed(g).strips))
    assert strips == sorted(strips, reverse=True)
    assert strips[0] > strips[-1]


def test_capacity_error_says_how_much_there_is() -> None:
    with pytest.raises(CapacityError, match=r"conv2d: .* 1 to 7 channels .* 100 B .*sbuf_fmax"):
        plan_streamed(square(1, 9, 7, 3), sbuf_bytes=100)


def test_naive_capacity() -> None:
    g = square(8, 224, 8, 3, pad=1)
    with (
        use_target("trn1"),
        pytest.raises(
            CapacityError, match=r'"naive" .*224x224 of 4 B = 200704 B .* SBUF has 180224'
        ),
    ):
        plan_naive(g)
    with use_target("trn2"):
        assert plan_naive(g).geometry == g
