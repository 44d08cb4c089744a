"""Cases of nki-samples: the tutorials that are written for the separate package ``nki``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import ml_dtypes
import numpy as np

from nkiconv.bench.compat.case import Call, Case, Example, Script
from nkiconv.bench.compat.documentation import matmul

__all__ = ["CASES"]

_bf16 = np.dtype(ml_dtypes.bfloat16)
_TUTORIALS = "src/nki_samples/tutorials"
_PATH = f"{_TUTORIALS}/matrix_multiplication/matrix_multiplication_nki_kernels.py"


_DTYPE = "passes dtype to nisa.tensor_copy, which has no such parameter in NKI 0.6.0"


def _matmul(id: str, kernel: str, make: Callable[..., Example], because: str = "") -> Case:
    return Case(id, "nki-samples", _PATH, kernel, Call(make), because=because)


CASES = (
    _matmul("sample-matmul-basic", "nki_matmul_basic_", partial(matmul, 128, 64, 512, _bf16),
            _DTYPE),
    _matmul("sample-matmul-tiled", "nki_matmul_tiled_", partial(matmul, 256, 256, 1024),
            _DTYPE),
    _matmul("sample-matmul-hoist", "nki_matmul_hoist_load_", partial(matmul, 256, 256, 1024),
            _DTYPE),
    _matmul("sample-matmul-block-free", "nki_matmul_block_free_dimension_",
            partial(matmul, 256, 256, 1024, _bf16)),
    _matmul("sample-matmul-optimized", "nki_matmul_fully_optimized_",
            partial(matmul, 1024, 2048, 1024)),
    Case("sample-mx-matmul-script", "nki-samples", f"{_TUTORIALS}/mxfp-matmul/mx_toplevel.py",
         "kernel_*_mx* (three)", Script("np.allclose pass? True", "np.allclose pass? False"),
         "trn3",
         "passes platform_target to nki.jit: an error since NKI 0.3.0 (migration guide)"),
)  # fmt: skip
