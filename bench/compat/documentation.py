"""Cases of the vendor's documentation: its examples, and code blocks of its pages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from nkiconv.bench.compat.case import Array, Call, Case, Example, Script

__all__ = ["CASES", "mamba", "matmul"]

Dtype = np.dtype[Any] | None
_bf16 = np.dtype(ml_dtypes.bfloat16)
_LIBRARY = ("../nki-library/src/nkilib_src",)


# --- Inputs, and what is right -------------------------------------------------------------------


def _random(rng: np.random.Generator, *shape: int, dtype: Dtype = None) -> Array:
    return rng.random(shape, dtype=np.float32).astype(dtype or np.float32)


def _add(rng: np.random.Generator) -> Example:
    a, b = _random(rng, 128, 512), _random(rng, 128, 512)
    return Example((a, b), (a + b,))


def _split(rng: np.random.Generator) -> Example:
    x = _random(rng, 4, 5, dtype=_bf16)
    return Example((x,), (x[:, 0::2], x[:, 1::2]), atol=0.0, rtol=0.0)


def _max_pool(rng: np.random.Generator) -> Example:
    x = _random(rng, 2, 6, 6, dtype=_bf16)
    return Example((x, 2), (x.reshape(2, 3, 2, 3, 2).max(axis=(2, 4)),), atol=0.0, rtol=0.0)


def _exp(*shape: int, rng: np.random.Generator, dtype: Dtype = None) -> Example:
    x = _random(rng, *shape, dtype=dtype)
    return Example((x,), (np.exp(x.astype(np.float32)),), rtol=1e-5 if dtype is None else 1e-2)


def _reciprocal(*shape: int, rng: np.random.Generator) -> Example:
    x = _random(rng, *shape) + 1
    return Example((x,), (1 / x,))


def matmul(K: int, M: int, N: int, dtype: Dtype = None, *, rng: np.random.Generator) -> Example:
    """Return ``lhsT (K, M)``, ``rhs (K, N)`` and their product."""
    left, right = _random(rng, K, M, dtype=dtype), _random(rng, K, N, dtype=dtype)
    product = left.astype(np.float64).T @ right.astype(np.float64)
    return Example((left, right), (product,), rtol=1e-2, atol=1e-4)  # as the tutorial compares


def mamba(steps: int, *, rng: np.random.Generator) -> Example:
    """Return inputs of the state-space layer and its output, by its recurrence."""
    batch, channels, states = 1, 128, 4
    delta, u = _random(rng, batch, channels, steps), _random(rng, batch, channels, steps)
    A = -_random(rng, channels, states)
    B, C = _random(rng, batch, states, steps), _random(rng, batch, states, steps)
    keep = np.exp(delta[:, :, None, :] * A[None, :, :, None])
    gain = delta[:, :, None, :] * B[:, None, :, :] * u[:, :, None, :]
    state = np.zeros((batch, channels, states), dtype=np.float32)
    y = np.empty((batch, channels, steps), dtype=np.float32)
    for step in range(steps):
        state = keep[..., step] * state + gain[..., step]
        y[..., step] = (state * C[:, None, :, step]).sum(axis=-1)
    return Example((delta, u, A, B, C), (y,), rtol=1e-2, atol=1e-2)


def _relu(rng: np.random.Generator) -> Example:
    x = _random(rng, 256, 512) - np.float32(0.5)
    return Example((x, np.zeros_like(x)), (np.maximum(x, 0),), written=(1,))


def _half(rng: np.random.Generator) -> Example:
    x = _random(rng, 256, 512)
    return Example((x, np.zeros_like(x)), (x / 2,), written=(1,))


def _scheduled(rng: np.random.Generator) -> Example:
    x = _random(rng, 128, 64) + 1
    return Example((x,), (1 / x + x + 1,))


def _three_exps(rng: np.random.Generator) -> Example:
    tiles = tuple(_random(rng, 128, 64) for _ in range(3))
    return Example(tiles, tuple(np.exp(tile) for tile in tiles))


def _two_tensors(rng: np.random.Generator) -> Example:
    return Example((_random(rng, 128, 256), _random(rng, 128, 256)), ())


def _multibuffer(rng: np.random.Generator) -> Example:
    return Example((_random(rng, 128, 256), _random(rng, 128, 256), 4), ())


# --- The cases -----------------------------------------------------------------------------------


def _call(id: str, path: str, kernel: str, make: Callable[..., Example], why: str = "") -> Case:
    return Case(id, "aws-neuron-sdk", f"nki/{path}", kernel, Call(make), because=why)


def _page(
    id: str, path: str, kernel: str, make: Callable[..., Example], block: int = 0, why: str = "",
    folders: tuple[str, ...] = (),
) -> Case:  # fmt: skip
    how = Call(make, block=block, folders=folders)
    return Case(id, "aws-neuron-sdk", f"nki/{path}", kernel, how, because=why)


_HBM = (
    "returns a tensor in nl.hbm: since NKI 0.3.0 results must be in nl.shared_hbm (release notes,"
    " Breaking Changes), which the page has not followed"
)


def _tutorial(step: int, make: Callable[..., Example]) -> Case:
    path = "guides/tutorials/kernel-optimization.rst"
    return _page(
        f"optimization-{step}", path, "matrix_multiply_kernel", make, block=step - 1, why=_HBM
    )


def _script(id: str, path: str, kernel: str, prints: str = "", because: str = "") -> Case:
    how = Script(prints)
    return Case(id, "aws-neuron-sdk", f"nki/{path}", kernel, how, because=because)


_MATMUL = "examples/matrix_multiplication/matrix_multiplication_nki_kernels.py"
_SCHEDULING = "guides/how-to-scheduling-apis.rst"
_ALLOCATOR = "library/kernel-utils/allocator.rst"

CASES = (
    _call("add", "examples/getting_started_baremetal.py", "nki_tensor_add_kernel", _add),
    _script("add-script", "examples/getting_started_baremetal.py", "nki_tensor_add_kernel"),
    _script("add-torch-script", "examples/getting_started_torch.py", "nki_tensor_add_kernel"),
    _script("add-jax-script", "examples/getting_started_jax.py", "nki_tensor_add_kernel",
            because="needs JAX"),
    _script("simulate-script", "examples/simulate/nki_simulate_example.py", "add_kernel"),
    _call("tensor-addition", "examples/tensor_addition/tensor_addition_nki_kernels.py",
          "nki_tensor_add", _add),
    _call("split", "examples/index-case-1.py", "tensor_split_kernel_", _split),
    _script("split-script", "examples/index-case-1.py", "tensor_split_kernel_"),
    _call("max-pool", "examples/index-case-3.py", "tensor_maxpool_kernel_", _max_pool),
    _script("max-pool-script", "examples/index-case-3.py", "tensor_maxpool_kernel_"),
    _call("layout-pass", "examples/layout-pass.py", "tensor_exp_kernel_", partial(_exp, 128, 512)),
    _script("layout-pass-script", "examples/layout-pass.py", "tensor_exp_kernel_"),
    _call("layout-violation", "examples/layout-violation.py", "tensor_exp_kernel_",
          partial(_exp, 256, 512),
          "256 partitions in one tile: the page shows it as an example of what is refused"),
    _call("layout-loop", "examples/layout-loop.py", "tensor_exp_kernel_", partial(_exp, 256, 512),
          "written for torch_neuronx.nki_jit, which NKI 0.6.0 does not have"),
    _call("layout-dynamic-loop", "examples/layout-dynamic-loop.py", "tensor_exp_kernel_",
          partial(_exp, 200, 512), "not Python: a parenthesis is missing"),
    _script("average-pool-script", "examples/average_pool2d/average_pool2d_nki_kernels.py",
            "tensor_avgpool_kernel", "NKI and NumPy match"),
    _script("average-pool-torch-script", "examples/average_pool2d/average_pool2d_torch.py",
            "tensor_avgpool_kernel", "NKI and Torch match"),
    _script("transpose-script", "examples/transpose2d/transpose2d_nki_kernels.py",
            "tensor_transpose2D_kernel_", "NKI and NumPy match"),
    _script("transpose-torch-script", "examples/transpose2d/transpose2d_torch.py",
            "tensor_transpose2D_kernel_", "NKI and PyTorch match"),
    _call("matmul-basic", _MATMUL, "nki_matmul_basic_", partial(matmul, 128, 64, 512, _bf16)),
    _call("matmul-tiled", _MATMUL, "nki_matmul_tiled_", partial(matmul, 256, 256, 1024)),
    _call("matmul-hoist", _MATMUL, "nki_matmul_hoist_load_", partial(matmul, 256, 256, 1024)),
    _call("matmul-block-free", _MATMUL, "nki_matmul_block_free_dimension_",
          partial(matmul, 256, 256, 1024, _bf16)),
    _call("matmul-optimized", _MATMUL, "nki_matmul_fully_optimized_",
          partial(matmul, 1024, 2048, 1024)),
    _script("matmul-torch-script",
            "examples/matrix_multiplication/matrix_multiplication_torch.py",
            "nki_matmul_* (five)", "NKI and Torch match"),
    _call("mamba", "examples/fused_mamba/mamba_nki_kernels.py", "mamba_v1", partial(mamba, 64)),
    _call("mamba-v2", "examples/fused_mamba/mamba_nki_kernels.py", "mamba_v2", partial(mamba, 64)),
    _call("mamba-v3", "examples/fused_mamba/mamba_nki_kernels.py", "mamba_v3",
          partial(mamba, 1024)),
    _script("mamba-torch-script", "examples/fused_mamba/mamba_torch.py", "mamba_v1",
            "NKI and Torch match"),
    Case("mx-matmul-script", "aws-neuron-sdk", "nki/deep-dives/src/mxfp-matmul/mx_toplevel.py",
         "kernel_*_mx* (four)", Script("np.allclose pass? True", "np.allclose pass? False"),
         "trn3"),
    _page("quickstart", "get-started/quickstart-implement-run-kernel.rst",
          "nki_tensor_add_kernel", _add, block=1),
    _page("language-guide", "get-started/nki-language-guide.rst", "nki_tensor_add_kernel", _add),
    _page("language-guide-relu", "get-started/nki-language-guide.rst", "relu_kernel",
          _relu),
    _page("language-guide-scale", "get-started/nki-language-guide.rst", "scale_kernel",
          _half),
    _page("dma-overview", "get-started/about/nki-dma-overview.rst", "tensor_exp_kernel_isa",
          partial(_exp, 4, 4096, dtype=_bf16)),
    _page("dma-overview-2", "get-started/about/nki-dma-overview.rst", "tensor_exp_kernel_isa",
          partial(_exp, 128, 128, dtype=_bf16), block=1),
    _page("tiling", "get-started/about/tiling-overview.rst", "tensor_kernel",
          partial(_reciprocal, 128, 512), why="not Python: the body is indented in two ways"),
    _page("tiling-loop", "get-started/about/tiling-overview.rst", "tensor_exp_kernel_",
          partial(_reciprocal, 256, 512)),
    _page("tiling-any-shape", "get-started/about/tiling-overview.rst", "tensor_exp_kernel_",
          partial(_reciprocal, 256, 300), block=1),
    _page(
        "tiling-ragged", "get-started/about/tiling-overview.rst", "tensor_exp_kernel_",
        partial(_reciprocal, 200, 300), block=1,
        why="the last tile has 72 rows, and is copied to a destination of 128: DMA copies equal "
        "shapes",
    ),
    _tutorial(1, partial(matmul, 128, 128, 512)),
    _tutorial(2, partial(matmul, 256, 256, 1024)),
    _tutorial(3, partial(matmul, 256, 256, 1024)),
    _tutorial(4, partial(matmul, 256, 256, 1024)),
    _tutorial(5, partial(matmul, 1024, 2048, 1024)),
    _page("schedule", _SCHEDULING, "kernel", _scheduled, why=_HBM),
    _page("schedule-three", _SCHEDULING, "kernel", _three_exps, 1, why=_HBM),
    _page("no-reorder", _SCHEDULING, "loop", _three_exps, why=_HBM),
    _page("no-reorder-function", _SCHEDULING, "loop", _three_exps, 1, why=_HBM),
    _page("addresses", _ALLOCATOR, "kernel_without_sbm", _two_tensors),
    _page("addresses-sbm", _ALLOCATOR, "kernel_with_sbm", _two_tensors, folders=_LIBRARY),
    _page("addresses-multibuffer", _ALLOCATOR, "kernel_multibuffer", _multibuffer,
          folders=_LIBRARY),
)  # fmt: skip
