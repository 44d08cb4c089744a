"""Kernels in the manner of the vendor's pages: a function, an expected tile, ``assert nl.equal``.

Every function of nki.language that has an example there has one of the same kind here, run from
host arrays, so that the check of a kernel's Python, placement and timeline take part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nkiconv.simulate.nki as nki
from nkiconv.simulate import ConstraintError, profile, simulate_kernel, use_target
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

# Function, values that fill the tiles it takes, value that fills what it gives.
ELEMENTWISE: list[tuple[Any, tuple[float, ...], float]] = [
    (nl.add, (3.0, 2.0), 5.0), (nl.subtract, (10.0, 3.0), 7.0), (nl.multiply, (3.0, 4.0), 12.0),
    (nl.maximum, (3.0, 5.0), 5.0), (nl.minimum, (3.0, 5.0), 3.0), (nl.power, (3.0, 2.0), 9.0),
    (nl.abs, (-1.0,), 1.0), (nl.square, (3.0,), 9.0), (nl.exp, (0.0,), 1.0), (nl.log, (1.0,), 0.0),
    (nl.sqrt, (4.0,), 2.0), (nl.rsqrt, (4.0,), 0.5), (nl.reciprocal, (4.0,), 0.25),
    (nl.sin, (0.0,), 0.0), (nl.cos, (0.0,), 1.0), (nl.tan, (0.0,), 0.0), (nl.arctan, (0.0,), 0.0),
    (nl.ceil, (3.2,), 4.0), (nl.ceil, (-3.7,), -3.0), (nl.floor, (3.7,), 3.0),
    (nl.floor, (-3.2,), -4.0), (nl.trunc, (3.7,), 3.0), (nl.trunc, (-3.7,), -3.0),
    (nl.negative, (5.0,), -5.0), (nl.negative, (-3.0,), 3.0), (nl.sign, (-5.0,), -1.0),
    (nl.where, (1.0, 10.0, 0.0), 10.0), (nl.where, (0.0, 10.0, 5.0), 5.0),
]  # fmt: skip


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize(("function", "given", "wanted"), ELEMENTWISE)
def test_elementwise(function: Any, given: Any, wanted: float, target: str) -> None:
    @nki.jit
    def kernel() -> Any:
        first = nl.full((128, 512), given[0], dtype=nl.float32, buffer=nl.sbuf)
        if len(given) == 1:
            result = function(first)
        elif len(given) == 2:
            result = function(first, nl.full((128, 512), given[1], dtype=nl.float32))
        else:
            second = nl.full((128, 512), given[1], dtype=nl.float32)
            result = function(first, second, nl.full((128, 512), given[2], dtype=nl.float32))
        expected = nl.full((128, 512), wanted, dtype=nl.float32, buffer=nl.sbuf)
        assert nl.equal(result, expected)
        out = nl.ndarray((128, 512), nl.float32, buffer=nl.shared_hbm)
        nl.store(out, result)
        return out

    with use_target(target):
        np.testing.assert_array_equal(simulate_kernel(kernel), wanted)


def test_by_magnitude_on_trn3() -> None:
    @nki.jit
    def kernel() -> None:
        minus_five = nl.full((128, 512), -5.0, dtype=nl.float32)
        three, minus_one = nl.full((128, 1), 3.0, nl.float32), nl.full((128, 1), -1.0, nl.float32)
        one = nl.full((128, 512), 1.0, dtype=nl.float32)
        assert nl.equal(nl.abs_max(minus_five, three), minus_five)
        assert nl.equal(nl.abs_min(minus_five, three), 3.0)
        assert nl.equal(nl.abs_max(one, minus_one), -1.0)
        assert nl.equal(nl.abs_min(one, minus_one), -1.0)

    with use_target("trn3"):
        simulate_kernel(kernel)


def test_another_dtype_and_order() -> None:
    @nki.jit
    def kernel() -> None:
        with nl.no_reorder():
            half = nl.abs(nl.full((128, 512), -1.0, dtype=nl.float32), dtype=nl.float16)
            ones = nl.full((128, 512), 1.0, dtype=nl.float32)
        assert half.dtype == nl.float16
        assert nl.equal(half, ones)

    simulate_kernel(kernel)


def test_an_assertion_that_fails_says_that_the_device_would_go_on() -> None:
    @nki.jit
    def kernel() -> None:
        assert nl.equal(nl.full((128, 512), 1.0, dtype=nl.float32), 2.0)

    with pytest.raises(ConstraintError, match=r"test_language_examples\.py:\d+: .* 65536 of 65536"):
        simulate_kernel(kernel)


def test_tensor_engine() -> None:
    @nki.jit
    def kernel(x: Any) -> Any:
        identity = nl.shared_identity_matrix(n=128, dtype=nl.float32)
        turned = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(turned, nl.transpose(identity))
        assert nl.equal(turned, identity)
        ones = nl.full((128, 128), 1.0, dtype=nl.float32, buffer=nl.sbuf)
        assert nl.equal(nl.copy(nl.matmul(identity, ones, transpose_x=True)), ones)
        out = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(out, nl.copy(nl.matmul(nl.load(x), identity, transpose_x=True)))
        return out

    x = np.arange(128.0 * 128, dtype=np.float32).reshape(128, 128)
    np.testing.assert_array_equal(simulate_kernel(kernel, x), x.T)


def test_loops_that_load_and_store() -> None:
    @nki.jit
    def kernel(x: Any) -> Any:
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(x.shape[1] // 512):
            tile = nl.load(x[0:128, i * 512 : i * 512 + 512])
            nl.store(out[0:128, i * 512 : i * 512 + 512], nl.multiply(tile, tile))
        return out

    x = np.arange(128.0 * 1024, dtype=np.float32).reshape(128, 1024) / 1024
    y, seen = profile(kernel, x)
    np.testing.assert_array_equal(y, x * x)
    assert seen.instructions == {"dma_copy": 4, "tensor_tensor": 2}
    placed = [event.source for event in seen.events if event.engine != "launch"]
    assert len(placed) == 6
    assert all(source.startswith("test_language_examples.py:") for source in placed)


def test_normalisation_and_gather() -> None:
    @nki.jit
    def kernel(data: Any, indices: Any) -> Any:
        even = nl.softmax(nl.full((128, 512), 1.0, dtype=nl.float32), axis=1)
        assert nl.equal(even, 1.0 / 512)
        twos, ones = nl.full((128, 512), 2.0, nl.float32), nl.ones((128, 512), nl.float32)
        normal = nl.rms_norm(twos, ones, axis=1, n=512, epsilon=0.0)
        assert nl.equal(normal, ones)
        out = nl.ndarray((128, 64), data.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.gather_flattened(nl.load(data), nl.load(indices)))
        return out

    rng = np.random.default_rng(1)
    data = rng.standard_normal((128, 512), dtype=np.float32)
    indices = rng.integers(0, 512, (128, 64), dtype=np.uint32)
    found = simulate_kernel(kernel, data, indices)
    np.testing.assert_array_equal(found, np.take_along_axis(data, indices.astype(int), axis=1))
