"""The steps after the sum, tile by tile: evict, pool_block, and what a block of a pool needs."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

# First of all: importing the kernels makes ``import nki`` work where no real NKI is installed.
import nkiconv.kernels  # noqa: F401

# isort: split
import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._activations import ACTIVATIONS
from nkiconv.kernels._blocks import Pool, PoolAxis, conv_outputs, pool_block
from nkiconv.kernels._epilogue import Epilogue, evict, load_table
from nkiconv.kernels._plan import Tile
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.reference.conv2d import conv2d_float64
from nkiconv.simulate import profile, simulate_kernel, use_dma, use_target

CO, ROWS, COLS = 5, 6, 7
DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


@nki.jit
def _evicted(
    x_hbm: nl.NkiTensor,
    w_hbm: nl.NkiTensor,
    scale_hbm: nl.NkiTensor | None,
    bias_hbm: nl.NkiTensor | None,
    residual_hbm: nl.NkiTensor | None,
    epilogue: Epilogue,
    on_vector: bool,
) -> nl.NkiTensor:
    """y = act(scale*(w.T @ x) + bias + residual)."""
    y_hbm = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    loaded = []
    for tensor in (x_hbm, w_hbm, scale_hbm, bias_hbm, residual_hbm):
        tensor_sb = None
        if tensor is not None:
            tensor_sb = nl.ndarray(tensor.shape, dtype=tensor.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tensor_sb, src=tensor)
        loaded.append(tensor_sb)
    load_table(epilogue)
    acc_ps = nl.ndarray(x_hbm.shape, dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=acc_ps, stationary=loaded[1], moving=loaded[0], accumulate=False)
    y_sb = nl.ndarray(x_hbm.shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
    evict(y_sb, acc_ps, loaded[2], loaded[3], loaded[4], epilogue, on_vector)
    nisa.dma_copy(dst=y_hbm, src=y_sb)
    return y_hbm


def _operands(dtype: str, epilogue: Epilogue) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    kind = DTYPES[dtype]

    def draw(wanted: bool, *shape: int) -> Any:
        return rng.integers(-3, 4, shape).astype(np.float32) if wanted else None

    residual = draw(epilogue.has_residual, CO, ROWS, COLS)
    return (
        draw(True, CO, ROWS, COLS).astype(kind),
        draw(True, CO, CO).astype(kind),
        draw(epilogue.has_scale, CO, 1),
        draw(epilogue.has_bias, CO, 1),
        None if residual is None else residual.astype(kind),
    )


def _expected(operands: tuple[Any, ...], epilogue: Epilogue) -> Any:
    x, w, scale, bias, residual = operands
    activation: Any = epilogue.activation
    if activation == "leaky_relu":
        activation = ("leaky_relu", epilogue.slope)
    return conv2d_ref(
        x[None],
        w.T[:, :, None, None],
        None if bias is None else bias[:, 0],
        scale=None if scale is None else scale[:, 0],
        residual=None if residual is None else residual[None],
        activation=activation,
    )[0]


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("on_vector", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "leaky_relu"])
def test_evict_is_exact_on_integers(
    activation: str | None, on_vector: bool, dtype: str, target: str
) -> None:
    for bits in range(8):
        slope = (0.25, 2.0)[bits % 2] if activation == "leaky_relu" else 0.0
        epilogue = Epilogue(activation, bool(bits & 1), bool(bits & 2), bool(bits & 4), slope)
        operands = _operands(dtype, epilogue)
        with use_dma("late"), use_target(target):
            y = simulate_kernel(_evicted, *operands, epilogue, on_vector)
        np.testing.assert_array_equal(y, _expected(operands, epilogue), err_msg=str(epilogue))


@pytest.mark.parametrize("on_vector", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_evict_rounds_once(activation: str | None, on_vector: bool) -> None:
    # the float32 result, rounded, is the bfloat16 one: nothing was rounded on the way
    for bits in range(8):
        epilogue = Epilogue(activation, bool(bits & 1), bool(bits & 2), bool(bits & 4), 0.3)
        operands = _operands("float32", epilogue)
        operands = (operands[0] * np.float32(0.37), *operands[1:])
        narrow = [None if v is None else v.astype(ml_dtypes.bfloat16) for v in operands]
        narrow[2:4] = operands[2:4]
        wide = [None if v is None else v.astype(np.float32) for v in narrow]
        y = simulate_kernel(_evicted, *narrow, epilogue, on_vector)
        y32 = simulate_kernel(_evicted, *wide, epilogue, on_vector)
        np.testing.assert_array_equal(y, y32.astype(ml_dtypes.bfloat16), err_msg=str(epilogue))


@pytest.mark.parametrize(
    ("activation", "on_vector", "bits", "engines"),
    [
        (None, False, 0, "S"), (None, True, 0, "V"), (None, True, 3, "V"), ("relu", True, 0, "V"),
        ("relu", True, 1, "V"), ("relu", True, 2, "V"), ("relu", True, 3, "VV"),
        ("relu", False, 3, "S"), ("silu", True, 3, "S"), ("gelu_tanh", False, 3, "S"),
        ("relu6", False, 3, "SV"), ("relu6", True, 0, "V"), ("relu6", True, 2, "VV"),
        ("relu6", True, 3, "VV"), ("leaky_relu", False, 3, "SV"), ("hardswish", True, 3, "SVVS"),
        ("relu", True, 7, "VS"), ("relu", False, 6, "VS"), ("hardswish", True, 7, "VSVVS"),
    ],
)  # fmt: skip
def test_instructions_of_evict(
    activation: str | None, on_vector: bool, bits: int, engines: str
) -> None:
    epilogue = Epilogue(activation, bool(bits & 1), bool(bits & 2), bool(bits & 4))
    _, seen = profile(_evicted, *_operands("bfloat16", epilogue), epilogue, on_vector)
    work = {"activation": "S"} | dict.fromkeys(
        ("tensor_scalar", "tensor_tensor", "scalar_tensor_tensor", "tensor_copy"), "V"
    )
    events = sorted((e for e in seen.events if e.opcode in work), key=lambda e: e.start_us)
    assert "".join(work[e.opcode] for e in events[1:]) == engines  # without load_table's


@nki.jit
def _pooled(conv_hbm: nl.NkiTensor, y_dtype: Any, pool: Pool) -> nl.NkiTensor:
    """y = pool(conv), as one block."""
    shape = (conv_hbm.shape[0], conv_hbm.shape[1], pool.rows.outputs, pool.cols.outputs)
    y_hbm = nl.ndarray(shape, dtype=y_dtype, buffer=nl.shared_hbm)
    conv_sb = nl.ndarray(conv_hbm.shape, dtype=conv_hbm.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=conv_sb, src=conv_hbm)
    y_sb = nl.ndarray(shape, dtype=y_dtype, buffer=nl.sbuf)
    pool_block(y_sb, conv_sb, pool)
    nisa.dma_copy(dst=y_hbm, src=y_sb)
    return y_hbm


def _pool(kind: str, size: tuple[int, int], stride: tuple[int, int], conv: Any) -> Pool:
    axes = [
        PoolAxis(k, s, (n - k) // s + 1)
        for k, s, n in zip(size, stride, conv.shape[2:], strict=True)
    ]
    return Pool(kind, axes[0], axes[1])


def _conv(dtype: str) -> Any:
    return np.random.default_rng(0).integers(-9, 10, (CO, 2, 12, 13)).astype(DTYPES[dtype])


SIZES = [
    ((1, 1), (1, 1)), ((2, 2), (2, 2)), ((3, 3), (2, 2)), ((3, 3), (1, 1)), ((1, 4), (2, 3)),
    ((4, 1), (3, 1)), ((2, 4), (1, 5)), ((12, 13), (1, 1)), ((1, 1), (3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "stride"), SIZES, ids=str)
def test_max_pool(size: tuple[int, int], stride: tuple[int, int], dtype: str, target: str) -> None:
    conv = _conv(dtype)
    pool = _pool("max", size, stride, conv)
    with use_target(target):
        y = simulate_kernel(_pooled, conv, conv.dtype.name, pool)
    one = np.eye(CO, dtype=conv.dtype)[:, :, None, None]
    expected = conv2d_ref(conv.transpose(1, 0, 2, 3), one, pool=("max", size, stride))
    np.testing.assert_array_equal(y.transpose(1, 0, 2, 3), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "stride"), SIZES, ids=str)
def test_avg_pool_is_rounded_once(
    size: tuple[int, int], stride: tuple[int, int], dtype: str
) -> None:
    conv = _conv("float32")
    pool = _pool("avg", size, stride, conv)
    y = simulate_kernel(_pooled, conv, dtype, pool)
    one = np.eye(CO)[:, :, None, None]
    mean = conv2d_float64(conv.transpose(1, 0, 2, 3), one, pool=("avg", size, stride))
    # sums of integers are exact; a share of 1/9 is not, and its product is rounded
    share = np.float32(1 / (size[0] * size[1]))
    exact = np.rint(mean * size[0] * size[1]).astype(np.float32) * share
    np.testing.assert_array_equal(y.transpose(1, 0, 2, 3), exact.astype(DTYPES[dtype]))


def test_a_block_of_pooled_rows_names_its_rows_of_the_convolution() -> None:
    # windows of 3, 2 apart: pooled rows 4 and 5 are made of rows 8 to 12
    axis = PoolAxis(size=3, stride=2, outputs=10)
    assert conv_outputs(axis, Tile(4, 2)) == Tile(8, 5)
    assert conv_outputs(axis, Tile(0, 10)) == Tile(0, 21)
    assert conv_outputs(PoolAxis(2, 5, 3), Tile(1, 2)) == Tile(5, 7)
