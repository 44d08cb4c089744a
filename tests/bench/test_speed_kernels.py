"""The kernels that `nkiconv bench` times: the blocked matrix product, and tiny instructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nkiconv.bench import hotspots
from nkiconv.bench.cli import run
from nkiconv.bench.errors import UserError
from nkiconv.bench.matmul import blocked_matmul, matmul
from nkiconv.bench.speed import matmul_error_ratio
from nkiconv.bench.tiny import KINDS, run_tiny, tiny_instructions
from nkiconv.reference._dtypes import DTYPES, Array
from nkiconv.simulate import profile
from nkiconv.simulate.subset import check_kernel


def operands(K: int, M: int, N: int, dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    return (
        generator.standard_normal((K, M)).astype(dtype),
        generator.standard_normal((K, N)).astype(dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_product(dtype: np.dtype[np.generic]) -> None:
    """Two blocks of K and of N, several tiles of each."""
    lhs_t, rhs = operands(2048, 256, 2048, dtype)
    result = matmul(lhs_t, rhs)
    assert result.dtype == dtype
    assert matmul_error_ratio(result, lhs_t, rhs) <= 1


def test_the_loop_nest() -> None:
    """Two blocks each way: of m (2 tiles), of n and of k (1 tile)."""
    lhs_t, rhs = operands(256, 512, 1024, np.dtype(np.float32))
    result, seen = profile(blocked_matmul, lhs_t, rhs, 256, 512, 128)
    assert seen.instructions == {
        "nc_matmul": 2 * 2 * 2 * 2,
        "tensor_tensor": 2 * 2 * 2 * 2,
        "dma_copy": 2 * 2 + 2 * 2 * 2 + 2 * 4,  # rhs, lhs_t, result
        "memset": 2 * 4,
    }
    # rhs once, lhs_t once for each block of n
    assert seen.hbm_read_bytes == 4 * 256 * (1024 + 2 * 512)
    assert seen.hbm_write_bytes == 4 * 512 * 1024
    assert np.allclose(result, lhs_t.T @ rhs, atol=1e-3)


def test_sizes_that_do_not_fit() -> None:
    lhs_t, rhs = operands(128, 192, 512, np.dtype(np.float32))
    with pytest.raises(UserError, match="M is 192, no multiple of 128"):
        matmul(lhs_t, rhs)
    lhs_t, rhs = operands(128, 128, 1536, np.dtype(np.float32))
    with pytest.raises(UserError, match="N is 1536, no multiple of 1024"):
        matmul(lhs_t, rhs)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_instructions(kind: str) -> None:
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    expected = {
        "tensor_copy": x,
        "tensor_tensor": x + x,
        "activation": x,
        "nc_matmul": x.T @ x,
        "dma_copy": x,
    }
    result, seen = profile(run_tiny, kind, 5)
    assert np.array_equal(result, expected[kind])
    _, without = profile(run_tiny, kind, 0)
    assert seen.instructions[kind] - without.instructions.get(kind, 0) >= 5


@pytest.mark.parametrize("kernel", [blocked_matmul, tiny_instructions], ids=lambda k: k.__name__)
def test_kernels_stay_within_the_nki_language(kernel: object) -> None:
    check_kernel(kernel)  # type: ignore[arg-type]  # what @nki.jit makes is untyped


def test_hotspots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hotspots, "MATMUL_SIZE", 512)
    monkeypatch.setattr(hotspots, "TINY_COUNT", 20)
    report = hotspots.measure_hotspots(1)
    for workload in ("tiny", "matmul"):
        shares = [hotspot.shares[workload] for hotspot in report.hotspots]
        assert 0.5 < sum(shares) <= 1.0 + 1e-9
    places = [hotspot.where for hotspot in report.hotspots]
    assert any(place.startswith("engines/_matmul.py") for place in places)
    assert any(place.startswith("simulate/sheet.py") for place in places)
    file = tmp_path / "hotspots.json"
    assert run(["bench", "--profile", "--repeat", "1", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("all others") for line in lines)
    assert file.is_file()
