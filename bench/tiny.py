"""Instructions on tiles so small that their arithmetic costs next to nothing.

What is left is what the simulator does for each: views, checks, rounding, writers, the record.
`nkiconv bench` times these kernels, `nkiconv bench --profile` shows where that time goes.
"""

from __future__ import annotations

from nkiconv.reference._dtypes import Array
from nkiconv.simulate import simulate_kernel  # first: `import nki` then finds the embedded NKI

# isort: split
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

__all__ = ["KINDS", "run_tiny", "tiny_instructions"]

KINDS = ("tensor_copy", "tensor_tensor", "activation", "nc_matmul", "dma_copy")

_SIZE = 8  # partitions and elements of a tile


@nki.jit
def tiny_instructions(x: nl.NkiTensor, kind: str, count: int) -> nl.NkiTensor:
    """Execute `count` instructions of one kind on tiles of 8 x 8; return the last result.

    Operands are slices, as in most kernels, so that the views count as well.
    """
    y = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    a_sb = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    y_sb = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    acc_ps = nl.ndarray(x.shape, dtype=nl.float32, buffer=nl.psum)
    nisa.dma_copy(dst=a_sb, src=x)
    nisa.dma_copy(dst=y_sb, src=x)
    size = x.shape[0]
    if kind == "tensor_copy":
        for _ in range(count):
            nisa.tensor_copy(dst=y_sb[:, 0:size], src=a_sb[:, 0:size])
    elif kind == "tensor_tensor":
        for _ in range(count):
            nisa.tensor_tensor(
                dst=y_sb[:, 0:size], data1=a_sb[:, 0:size], data2=a_sb[:, 0:size], op=nl.add
            )
    elif kind == "activation":
        for _ in range(count):
            nisa.activation(dst=y_sb[:, 0:size], op=nl.relu, data=a_sb[:, 0:size])
    elif kind == "nc_matmul":
        for _ in range(count):
            nisa.nc_matmul(
                dst=acc_ps[:, 0:size],
                stationary=a_sb[:, 0:size],
                moving=a_sb[:, 0:size],
                accumulate=False,
            )
        if count > 0:
            nisa.tensor_copy(dst=y_sb, src=acc_ps)
    elif kind == "dma_copy":
        for _ in range(count):
            nisa.dma_copy(dst=y_sb[:, 0:size], src=x[:, 0:size])
    nisa.dma_copy(dst=y, src=y_sb)
    return y


def run_tiny(kind: str, count: int) -> Array:
    """Run `tiny_instructions` on whole numbers from 0 on; return the result, float32 (8, 8)."""
    x = np.arange(_SIZE * _SIZE, dtype=np.float32).reshape(_SIZE, _SIZE)
    result: Array = simulate_kernel(tiny_instructions, x, kind, count)
    return result
