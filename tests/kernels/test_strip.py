"""Strips of the image in SBUF, against np.pad and the definition of a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nkiconv.kernels._plan import Axis, Tile, tap_outputs
from nkiconv.kernels._strip import PADDING_MODES, Side, fill_border, load_run, make_side
from nkiconv.simulate import simulate_kernel, use_dma

# isort: split
import nki
import nki.language as nl

_PAD = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@nki.jit
def load_strip(x_hbm: nl.NkiTensor, rows: Side, cols: Side) -> nl.NkiTensor:
    """Return a strip of x (N, C, H, W), as (C, N, rows, cols)."""
    shape = (x_hbm.shape[1], x_hbm.shape[0], rows.size, cols.size)
    x_sb = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
    source = x_hbm.permute((1, 0, 2, 3))
    if rows.inside.size > 0:
        load_run(x_sb, source, rows.inside, cols.inside)
    for run in rows.border:
        load_run(x_sb, source, run, cols.inside)
    fill_border(x_sb, rows, cols)
    y_hbm = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    nki.isa.dma_copy(dst=y_hbm, src=x_sb)
    return y_hbm


@st.composite
def axes(draw: Any, mode: str | None) -> Axis:
    size = draw(st.integers(1, 12))
    most = {None: 9, "zeros": 9, "replicate": 9, "reflect": size - 1, "circular": size}[mode]
    pad, behind = draw(st.integers(0, most)), draw(st.integers(0, most))
    taps, stride = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 3))
    outputs = (size + pad + behind - (taps - 1) * dilation - 1) // stride + 1
    assume(outputs > 0)
    return Axis(size, taps, outputs, stride, dilation, pad)


def part(data: st.DataObject, whole: int) -> Tile:
    start = data.draw(st.integers(0, whole - 1))
    return Tile(start, data.draw(st.integers(1, whole - start)))


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.parametrize("mode", PADDING_MODES)
def test_a_bordered_strip_is_the_padded_image(mode: str, data: st.DataObject) -> None:
    rows, cols = data.draw(axes(mode)), data.draw(axes(mode))
    outputs = part(data, rows.outputs)
    down = make_side(rows, outputs, mode, every=data.draw(st.booleans()))
    across = make_side(cols, Tile(0, cols.outputs), mode, whole=True)
    x = np.arange(1, 1 + 2 * 3 * rows.size * cols.size, dtype=np.float32)
    x = x.reshape(2, 3, rows.size, cols.size)
    with use_dma(data.draw(st.sampled_from(("eager", "late")))):
        strip = simulate_kernel(load_strip, x, down, across)
    edges = ((0, 0), (0, 0), (40, 40), (40, 40))
    if mode in ("reflect", "circular"):  # numpy would go on beyond the limit, torch refuses
        edges = ((0, 0), (0, 0), *(((a.pad, _behind(a))) for a in (rows, cols)))
    padded = np.pad(x, edges, mode=_PAD[mode]).transpose(1, 0, 2, 3)  # type: ignore[call-overload]
    (top, _), (left, _) = edges[2:]
    for o in range(outputs.start, outputs.start + outputs.size):
        for kh in range(rows.taps):
            pixel = o * rows.stride + kh * rows.dilation - rows.pad
            have = strip[:, :, down.place(rows, o, kh)]
            columns = slice(across.origin + left, across.origin + left + across.size)
            np.testing.assert_array_equal(have, padded[:, :, pixel + top, columns])


def _behind(axis: Axis) -> int:
    """Padding behind the image that the outputs need, and more than a strip holds."""
    last = (axis.outputs - 1) * axis.stride + (axis.taps - 1) * axis.dilation - axis.pad
    return max(0, last - axis.size + 1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_trimmed_strip_holds_what_its_taps_reach(data: st.DataObject) -> None:
    axis = data.draw(axes(None))
    outputs = part(data, axis.outputs)
    whole = data.draw(st.booleans())
    every = data.draw(st.booleans())
    side = make_side(axis, outputs, None, whole=whole, every=every)
    assert side.zeros == side.border == ()
    assert side.inside.size == side.size
    assert side.inside.place == 0
    needed = set()
    for tap in range(axis.taps):
        reached = tap_outputs(axis, outputs, tap)
        for o in range(outputs.start, outputs.start + outputs.size):
            pixel = o * axis.stride + tap * axis.dilation - axis.pad
            inside = reached.start <= o < reached.start + reached.size
            assert inside == (0 <= pixel < axis.size)
            if inside:
                place = side.place(axis, o, tap)
                assert 0 <= place < side.size
                assert side.inside.pixel + place * side.inside.step == pixel
                needed.add(pixel)
    held = {side.inside.pixel + i * side.inside.step for i in range(side.size)}
    assert needed <= held
    if whole:
        assert held == set(range(axis.size))
    elif held:  # also what lies between dilated taps
        first = outputs.start * axis.stride - axis.pad
        span = (outputs.size - 1) * axis.stride + (axis.taps - 1) * axis.dilation
        assert first <= min(held) <= max(held) <= first + span
