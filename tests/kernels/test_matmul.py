"""The tiled matrix product: exact on integers, within the bound on floats, bytes once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nkiconv.kernels import PackedMatrix, matmul, pack_matrix
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._matmul_plan import MatmulPlan, Product, arrange, cuts, make_plan
from nkiconv.kernels.matmul import matmul_tiled, plan_matmul
from nkiconv.reference import bounds, matmul_float64
from nkiconv.reference import matmul as matmul_ref
from nkiconv.reference.matmul import matmul_magnitude
from nkiconv.simulate import (
    CapacityError,
    ConstraintError,
    DtypeError,
    ShapeError,
    profile,
    simulate_kernel,
    use_dma,
    use_target,
)

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
TARGETS = ("trn1", "trn2", "trn3")
# sizes (M, K, N): one element, ragged tiles, more than a tile of each, few rows of k (stacked)
SIZES = {
    "one": (1, 1, 1),
    "ragged": (130, 259, 515),
    "wide": (5, 7, 2000),
    "tall": (700, 16, 3),
    "stacked": (144, 24, 1500),
    "square": (256, 256, 1024),
    "deep": (140, 12_000, 130),  # in float32 fewer columns than a tile has
}


def _integers(M: int, K: int, N: int, dtype: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(M + K + N)
    a, b = rng.integers(-2, 3, (M, K)), rng.integers(-2, 3, (K, N))
    return a.astype(dtype), b.astype(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_exact_on_integers(target: str, dtype: str, size: str) -> None:
    a, b = _integers(*SIZES[size], DTYPES[dtype])
    c = matmul(pack_matrix(a), b, target=target)
    assert isinstance(c, np.ndarray)
    assert c.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(c, matmul_ref(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_floats_stay_within_the_bound(dtype: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((130, 300)).astype(DTYPES[dtype])
    b = rng.standard_normal((300, 600)).astype(DTYPES[dtype])
    exact, magnitude = matmul_float64(a, b), matmul_magnitude(a, b)
    ratio = bounds.max_error_ratio(np.asarray(matmul(a, b)), exact, magnitude, 300, DTYPES[dtype])
    assert ratio <= 1


def test_a_torch_tensor_comes_back_and_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    a, b = (torch.from_numpy(values) for values in _integers(70, 200, 90, np.float32))
    assert torch.equal(matmul(a, b), torch.matmul(a, b))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 1200)),
    dtype=st.sampled_from(sorted(DTYPES)),
    target=st.sampled_from(TARGETS),
    dma=st.sampled_from(("eager", "late")),
)
def test_random_sizes(sizes: tuple[int, int, int], dtype: str, target: str, dma: str) -> None:
    a, b = _integers(*sizes, DTYPES[dtype])
    with use_dma(dma):
        c = np.asarray(matmul(a, b, target=target))
    np.testing.assert_array_equal(c, matmul_ref(a, b))


def _plan(stays: str, M: int, K: int, N: int, sbuf_bytes: int | None) -> MatmulPlan:
    """Return the cheapest plan in an order, in float32."""
    product = Product(
        N=1, K=K, M=M, rows=1, cols=N, x_size=(1, N), stride=(1, 1), itemsize=4, dtype="float32"
    )  # fmt: skip
    found = cuts(product, Epilogue(), sbuf_bytes=sbuf_bytes)
    return make_plan(next(cut for cut in found if cut.why.startswith(stays)), Epilogue())


# sizes (M, K, N), SBUF, how often b and a are loaded: with little SBUF neither stays
ORDERS = {
    "weights stay": (256, 128, 2048, None, 1, 1),
    "pixels stay": (256, 128, 2048, None, 1, 1),
    "blocks of weights stay": (1024, 1024, 2048, 72_000, 4, 1),
    "blocks of pixels stay": (512, 1024, 2048, 60_000, 1, 4),
}


@pytest.mark.parametrize("stays", ORDERS)
def test_every_order_is_exact_and_does_what_its_plan_says(stays: str) -> None:
    M, K, N, sbuf_bytes, b_times, a_times = ORDERS[stays]
    a, b = _integers(M, K, N, np.float32)
    with use_target("trn1"):
        plan = _plan(stays, M, K, N, sbuf_bytes)
        c, seen = profile(
            lambda: simulate_kernel(matmul_tiled, arrange(a.T, plan), b, plan), target="trn1"
        )
    np.testing.assert_array_equal(c, matmul_ref(a, b))
    assert seen.hbm_read_bytes + seen.hbm_write_bytes == plan.hbm_bytes
    assert plan.hbm_bytes == 4 * (a_times * M * K + b_times * K * N + M * N)
    assert seen.instructions["nc_matmul"] == plan.num_matmuls
    assert seen.moving_columns == plan.moving_columns
    assert seen.sbuf_peak_bytes <= plan.sbuf_bytes <= (sbuf_bytes or 180_224)


@pytest.mark.parametrize(("target", "most_us"), [("trn2", 235), ("trn1", 229)])
def test_a_large_product_reads_each_matrix_once(target: str, most_us: int) -> None:
    """The best published kernel of this size on trn2 was measured at 240 µs."""
    a, b = _integers(2048, 2048, 2048, ml_dtypes.bfloat16)
    _, seen = profile(matmul, pack_matrix(a), b, target=target)
    assert seen.hbm_read_bytes + seen.hbm_write_bytes == 3 * 2 * 2048**2
    assert seen.moving_columns == 16 * 16 * 2048
    assert seen.body_us < most_us


def test_stacked_pieces_take_fewer_columns() -> None:
    """Five pieces of 24 channels side by side: six tiles of 24 rows instead of two of 72."""
    with use_target("trn2"):
        plan = plan_matmul(144, 24, 3136, "float32")
    assert (plan.stack, plan.moving_columns) == (5, 6 * 628)


def test_packed_is_the_transpose() -> None:
    a, _ = _integers(3, 4, 1, np.float32)
    packed = pack_matrix(a)
    assert packed.shape == (3, 4)
    np.testing.assert_array_equal(packed.array, a.T)


ONE = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (np.ones(2, np.float32), ONE, ShapeError, r"a has shape \(2,\)"),
        (ONE, np.ones((2, 0), np.float32), ShapeError, r"b has shape \(2, 0\)"),
        (ONE, np.ones((3, 2), np.float32), ShapeError, "a has 2 columns, b has 3 rows"),
        (ONE, ONE.astype(np.float16), DtypeError, "a has dtype float32, b has float16"),
        (ONE.astype(np.float64), ONE, DtypeError, "a has dtype float64"),
        (PackedMatrix(np.ones(3, np.float32)), ONE, ShapeError, r"a has shape \(3,\)"),
        ([[1.0]], ONE, DtypeError, "a is of type list"),
    ],
)
def test_what_does_not_fit_is_refused(a: Any, b: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        matmul(a, b)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ConstraintError, match="trn9"):
        matmul(ONE, ONE, target="trn9")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((1, 4_000_000, 1), "do not fit"), ((8192, 8192, 8192), "more than the 20000")],
)
def test_what_is_too_large_is_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(CapacityError, match=message):
        plan_matmul(*sizes, "float32")


def test_reference_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"a has shape \(2, 2\), b has \(3, 2\)"):
        matmul_float64(ONE, np.ones((3, 2)))
    with pytest.raises(ValueError, match="float64"):
        matmul_ref(ONE, np.ones((2, 2)))
