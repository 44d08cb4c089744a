"""The table of rebuilt kernels: family, target, element type, shapes, inputs and reference."""

from __future__ import annotations

from functools import cache

# First of all: importing the simulator makes ``import nki`` work where no real NKI is installed.
import nkiconv.simulate  # noqa: F401

# isort: split
import nki.isa as nisa
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nkiconv.bench.calibration import (
    attention,
    autotune_matmul,
    mamba,
    norms,
    pooled_conv,
    streams,
    transposes,
    tutorial_matmul,
)
from nkiconv.bench.calibration.case import Array, Case

__all__ = ["cases"]

_STATIC = nisa.dge_mode.none
"""Descriptors made beforehand: trn1's compilers, and trn2 runs with ``--disable-dge``."""

_ONE_RING = nisa.dge_mode.hwdge
"""As the compilers of 2025 chose on trn2: one block of hardware generates for all transfers."""

_Sizes = tuple[int, ...]


def _normal(rng: np.random.Generator, dtype: type, *sizes: int) -> Array:
    return rng.standard_normal(sizes, dtype=np.float32).astype(dtype)


def _one(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    return (_normal(rng, dtype, *sizes),)


def _two(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    return _normal(rng, dtype, *sizes), _normal(rng, dtype, *sizes)


def _wide(*arrays: Array) -> list[Array]:
    """The arrays in float64."""
    return [array.astype(np.float64) for array in arrays]


# --- Streams -------------------------------------------------------------------------------------


def _moments(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    theta, g, m, v = (_normal(rng, dtype, *sizes) for _ in range(4))
    return theta, g, m, np.abs(v) + 1


def _adamw(theta: Array, g: Array, m: Array, v: Array) -> Array:
    theta, g, m, v = _wide(theta, g, m, v)
    result: Array = 0.99999 * theta - 0.001 * (9 * m + g) / np.sqrt(999 * v + g * g)
    return result


def _silu(x: Array) -> Array:
    (x,) = _wide(x)
    result: Array = x / (1 + np.exp(-x))
    return result


def _rotations(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    half, columns = sizes
    return (
        _normal(rng, dtype, 2 * half, columns),
        _normal(rng, dtype, half, columns),
        _normal(rng, dtype, half, columns),
    )


def _rotated(x: Array, cos: Array, sin: Array) -> Array:
    x, cos, sin = _wide(x, cos, sin)
    x0, x1 = np.split(x, 2)
    return np.concatenate([x0 * cos - x1 * sin, x0 * sin + x1 * cos])


def _streams() -> list[Case]:
    def add(width: int, target: str) -> Case:
        suffix = "" if target == "trn2" else f"-{target}"
        return Case(
            f"vector_add-{width}{suffix}", "vector add", target, "fp32", streams.vector_add, _two,
            (128, 2000), (128, 2000), lambda a, b: np.add(*_wide(a, b)), (width, _STATIC),
            quick=True,
        )  # fmt: skip

    def exp(rows: int, columns: int) -> Case:
        return Case(
            f"exponential-{rows}x{columns}", "exponential", "trn2", "bf16", streams.exponential,
            _one, (rows, columns), (4, 64), lambda x: np.exp(*_wide(x)), quick=True,
        )  # fmt: skip

    def silu(width: int) -> Case:
        return Case(
            f"silu-{width}", "silu, one activation", "trn2", "fp32", streams.silu, _one,
            (128, 32 * 7168 // width, width), (128, 2, 64), _silu, (_STATIC,),
        )  # fmt: skip

    def adamw(width: int) -> Case:
        return Case(
            f"adamw-{width}", "AdamW step", "trn2", "fp32", streams.adamw, _moments,
            (128, 175_104 // width, width), (128, 2, 64), _adamw, (_STATIC,),
        )  # fmt: skip

    def rope(width: int) -> Case:
        return Case(
            f"rope-{width}", "rotary embedding", "trn2", "fp32", streams.rotate, _rotations,
            (64, 262_144), (64, 2 * width), _rotated, (width, _STATIC),
        )  # fmt: skip

    def rope_trn1(name: str, kernel: object, width: int) -> Case:
        return Case(
            f"rope-{name}-trn1", "rotary embedding, trn1", "trn1", "fp32", kernel,  # type: ignore[arg-type]
            _rotations, (64, 262_144), (64, 2 * width), _rotated, (width, _STATIC),
        )  # fmt: skip

    return [
        add(1000, "trn2"), add(2000, "trn2"), add(2000, "trn1"), exp(4, 4096), exp(128, 128),
        *(silu(width) for width in (7168, 1792, 896)),
        Case(
            "silu-composed-trn1", "silu of four instructions", "trn1", "fp32",
            streams.silu_composed, _one, (128, 224, 1024), (128, 2, 64), _silu, (_STATIC,),
        ),
        *(adamw(width) for width in (2304, 1536, 1368, 1152, 768, 608, 512)),
        rope(2048), rope(1024),
        rope_trn1("whole", streams.rotate_whole, 512), rope_trn1("halves", streams.rotate, 2048),
    ]  # fmt: skip


# --- Matrices ------------------------------------------------------------------------------------


def _operands(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    depth, rows, columns = sizes
    return _normal(rng, dtype, depth, rows), _normal(rng, dtype, depth, columns)


def _turned(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    depth, rows, columns = sizes
    return _normal(rng, dtype, rows, depth), _normal(rng, dtype, columns, depth)


def _product(a: Array, b: Array) -> Array:
    a, b = _wide(a, b)
    result: Array = a.T @ b
    return result


def _turned_product(a: Array, b: Array) -> Array:
    return _product(a.T, b.T)


def _matrices() -> list[Case]:
    def transpose(name: str, kernel: object) -> Case:
        return Case(
            f"transpose-{name}", "transpose", "trn2", "fp32", kernel, _one,  # type: ignore[arg-type]
            (1024, 1024), (256, 384), lambda x: _wide(x)[0].T, (_STATIC,), quick=True,
        )  # fmt: skip

    steps = {
        "tiled": (tutorial_matmul.matmul_tiled, (256, 128, 512)),
        "hoisted": (tutorial_matmul.matmul_hoisted, (256, 128, 512)),
        "blocked": (tutorial_matmul.matmul_blocked, (256, 256, 1024)),
        "full": (tutorial_matmul.matmul_full, (1024, 2048, 1024)),
    }
    tutorial = [
        Case(
            f"matmul-{name}" + ("" if target == "trn2" else f"-{target}"),
            f"tutorial matmul, {target}", target, dtype, kernel, _operands, (8192, 4096, 8192),
            small, _product, (mode,),
        )
        for target, dtype, mode in (("trn2", "fp32", _ONE_RING), ("trn1", "bf16", _STATIC))
        for name, (kernel, small) in steps.items()
        if target == "trn1" or name in ("tiled", "hoisted")  # the others do not fit in float32
    ]  # fmt: skip

    def grouped(group: int, width: int) -> Case:
        return Case(
            f"matmul-grouped-{group}x2-trn1", "grouped matmul, trn1", "trn1", "bf16",
            tutorial_matmul.matmul_grouped, _operands, (8192, 4096, 8192), (256, 512, 1024),
            _product, (group, width, _STATIC),
        )  # fmt: skip

    def autotune(name: str, kernel: object, option: bool, turned: bool = False) -> Case:
        return Case(
            f"autotune-{name}", "nki-autotune matmul", "trn2", "bf16", kernel,  # type: ignore[arg-type]
            _turned if turned else _operands, (2048, 2048, 2048), (1024, 512, 512),
            _turned_product if turned else _product, (option,), quick=not turned,
        )  # fmt: skip

    return [
        transpose("tiles", transposes.transpose_by_tiles),
        transpose("rows", transposes.transpose_by_rows),
        *tutorial,
        grouped(2, 128),
        grouped(4, 256),
        autotune("resident", autotune_matmul.matmul_resident, False),
        autotune("resident-t", autotune_matmul.matmul_resident, True, turned=True),
        autotune("k-blocks", autotune_matmul.matmul_k_blocks, False),
        autotune("split", autotune_matmul.matmul_k_blocks, True),
    ]


# --- Convolutions --------------------------------------------------------------------------------


def _image(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    channels, height, width = sizes
    return (
        _normal(rng, dtype, channels, height, width),
        _normal(rng, dtype, channels, channels, 3, 3),
        _normal(rng, dtype, channels, 1),
    )


def _convolved(x: Array, w: Array, bias: Array) -> Array:
    x, w, bias = _wide(x, w, bias)
    windows = sliding_window_view(x, (3, 3), (1, 2))
    result: Array = np.einsum("chwij,ocij->ohw", windows, w, optimize=True) + bias[:, :, None]
    return result


def _pooled(x: Array, w: Array, bias: Array) -> Array:
    y = _convolved(x, w, bias)
    channels, height, width = y.shape
    result: Array = y.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))
    return result


def _convolutions() -> list[Case]:
    shapes = {"32x16": (256, 32, 16), "224": (256, 224, 224)}

    def rows(shape: str, pool: int, dtype: str) -> Case:
        return Case(
            f"conv-rows-{shape}-pool{pool}-{dtype}", "conv2d and max-pool, whole rows", "trn2",
            dtype, pooled_conv.conv_rows, _image, shapes[shape], (128, 10, 8),
            _pooled if pool == 2 else _convolved, (pool, _STATIC), quick=shape == "32x16",
        )  # fmt: skip

    def others(name: str, kernel: object, shape: str, dtype: str) -> Case:
        words = {"tiles": "conv2d, tile by tile", "gathered": "conv2d, weights by elements"}
        return Case(
            f"conv-{name}-{shape}-{dtype}", words[name], "trn2", dtype, kernel,  # type: ignore[arg-type]
            _image, shapes[shape], (128, 10, 8), _convolved, (_STATIC,), quick=shape == "32x16",
        )  # fmt: skip

    made = []
    for dtype in ("fp16", "fp32"):
        made += [rows("32x16", 1, dtype), rows("32x16", 2, dtype)]
        made += [
            others("tiles", pooled_conv.conv_tiles, "32x16", dtype),
            others("gathered", pooled_conv.conv_gathered, "32x16", dtype),
        ]
    made += [rows("224", 1, "fp16"), rows("224", 2, "fp16")]
    return [*made, others("gathered", pooled_conv.conv_gathered, "224", "fp16")]


# --- Attention, norms, state space ---------------------------------------------------------------


def _queries(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    return tuple(rng.uniform(-1, 1, (128, *sizes)).astype(dtype) for _ in range(3))


def _attended(q: Array, k: Array, v: Array) -> Array:
    q, k, v = _wide(q, k, v)
    scores = q.T @ k
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = weights / weights.sum(axis=1, keepdims=True) @ v.T
    return result


def _attention() -> list[Case]:
    made = []
    for dtype in ("fp32", "bf16"):
        kernels = (
            ("phases", attention.attention_three_phases, (512, 1024)),
            ("fused", attention.attention_fused, (512, 1024)),
        )
        made += [
            Case(
                f"attention-{name}-{dtype}-{size}",
                "attention by way of HBM" if name == "phases" else "attention, fused",
                "trn2", dtype, kernel, _queries, (size,), (512,), _attended,
                quick=True, float32_products=dtype != "fp32",
            )
            for name, kernel, sizes in kernels
            for size in sizes
        ]  # fmt: skip
    return made


def _normed(x: Array) -> Array:
    result: Array = x / np.sqrt((x * x).mean(axis=1, keepdims=True))
    return result


def _plain(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    rows, depth, columns = sizes
    # None stands for "no residual"; an array of the annotation's type would be one
    return _normal(rng, dtype, rows, depth), None, _normal(rng, dtype, depth, columns)  # type: ignore[return-value]


def _residual(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    rows, depth, columns = sizes
    return (*_two(rng, (rows, depth), dtype), _normal(rng, dtype, depth, columns))


def _norm_product(x: Array, z: Array | None, w: Array) -> Array:
    x, w = _wide(x, w)
    result: Array = _normed(x if z is None else x + z) @ w
    return result


def _gained(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    rows, depth, columns = sizes
    return (
        _normal(rng, dtype, rows, depth),
        _normal(rng, dtype, depth, columns),
        _normal(rng, dtype, rows, columns),
        _normal(rng, dtype, 1, columns),
    )


def _product_norm(x: Array, w: Array, z: Array, g: Array) -> Array:
    x, w, z, g = _wide(x, w, z, g)
    return _normed(x @ w + z) * g


def _norms() -> list[Case]:
    small = (128, 256, 512)
    return [
        Case(
            "rmsnorm-matmul", "RMS norm and matmul", "trn2", "fp32", norms.rmsnorm_matmul, _plain,
            (4096, 1024, 2048), small, _norm_product, (_STATIC,),
        ),
        Case(
            "add-rmsnorm-matmul", "RMS norm and matmul", "trn2", "fp32", norms.rmsnorm_matmul,
            _residual, (4096, 1024, 2048), small, _norm_product, (_STATIC,),
        ),
        Case(
            "matmul-add-rmsnorm", "RMS norm and matmul", "trn2", "fp32",
            norms.matmul_add_rmsnorm, _gained, (4096, 2048, 2048), small, _product_norm,
            (_STATIC,),
        ),
    ]  # fmt: skip


def _sequences(rng: np.random.Generator, sizes: _Sizes, dtype: type) -> tuple[Array, ...]:
    channels, length, states = sizes
    return (
        rng.random((channels, length)).astype(dtype),
        _normal(rng, dtype, channels, length),
        -rng.random((channels, states)).astype(dtype),
        _normal(rng, dtype, states, length),
        _normal(rng, dtype, states, length),
    )


def _state_space(delta: Array, u: Array, a: Array, b: Array, c: Array) -> Array:
    delta, u, a, b, c = _wide(delta, u, a, b, c)
    h = np.zeros(a.shape)
    y = np.zeros(delta.shape)
    for t in range(delta.shape[1]):
        h = np.exp(delta[:, t, None] * a) * h + (delta[:, t] * u[:, t])[:, None] * b[:, t]
        y[:, t] = h @ c[:, t]
    return y


def _state_spaces() -> list[Case]:
    return [
        Case(
            f"mamba-reload-{channels}", "state space of Mamba", "trn1", "fp32",
            mamba.mamba_whole, _sequences, (channels, 512, 16), (128, 64, 2), _state_space,
            (True, _STATIC), quick=channels == 256,
        )
        for channels in (256, 4096)
    ]  # fmt: skip


@cache
def cases() -> tuple[Case, ...]:
    """Return all cases, in the order of tables."""
    return tuple(
        [
            *_streams(), *_matrices(), *_convolutions(), *_attention(), *_norms(),
            *_state_spaces(),
        ]
    )  # fmt: skip
