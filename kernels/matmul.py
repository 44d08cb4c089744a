"""c = a @ b: a matrix product in tiles, for host arrays.

c[m, n] = sum over k of a[m, k] * b[k, n]

Shapes
------
w_hbm  (partitions, T_m, T_k, M')   a, arranged (_matmul_plan.py)  f32 f16 bf16  HBM
b_hbm  (K, N)                       as a                           HBM
c_hbm  (M, N)                       as a                           HBM

Loop nest
---------
for group of b's columns, chunk of a's rows:    in the order that moves the fewest bytes
    load those that are not in SBUF yet
    for tile of <= 512 columns, tile of <= 128 rows:
        for tile of <= 128 of k:
            acc (m, n) += a (k, m).T @ b (k, n)
        c = acc                                 PSUM to SBUF: the only rounding
    one store

Where a or b fits SBUF each matrix crosses HBM once; else one of the two is loaded again for every
block of the other, whichever takes fewer bytes.  It is the pointwise convolution of one image whose
channels are b's rows (conv2d_pointwise.py), by the same phases.

The tensor engine limits large products: ceil(M/128) * ceil(K/128) * N columns of a cycle each, four
in float32.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_matmul (tile sizes), DMA bandwidth guide.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki
import nki.language as nl
import numpy as np

from nkiconv.kernels import _arguments
from nkiconv.kernels._arguments import Array, ArrayLike
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._looped import MAX_INSTRUCTIONS
from nkiconv.kernels._matmul import multiply
from nkiconv.kernels._matmul_plan import MatmulPlan, Product, arrange, cuts, make_plan
from nkiconv.simulate import (
    CapacityError,
    DtypeError,
    ShapeError,
    resolve_target,
    simulate_kernel,
    use_target,
)
from nkiconv.simulate.arrays import like

_OP = "matmul"
_TORCH = "torch.matmul"


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """What `pack_matrix` returns and `matmul` takes in place of a.

    Shapes
    ------
    array  (K, M)  float32 float16 bfloat16: the contracted dimension first
    """

    array: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(M, K): the shape before packing."""
        K, M = self.array.shape
        return M, K


def pack_matrix(a: ArrayLike) -> PackedMatrix:
    """Return a (M, K) with its contracted dimension first, as `matmul` loads it.

    Raises
    ------
    ShapeError
        Other than two dimensions, or no elements.
    DtypeError
        Something else than an array, or an element type that the kernels do not take.
    ConstraintError
        A tensor that requires a gradient or is not on the CPU.
    """
    values = _arguments.array("pack_matrix", "a", a)
    _check_matrix("pack_matrix", "a", values, "(M, K)")
    return PackedMatrix(np.ascontiguousarray(values.T))


def matmul(a: ArrayLike | PackedMatrix, b: ArrayLike, *, target: str | None = None) -> ArrayLike:
    """c = a @ b, summed in float32 and rounded once.

    Shapes
    ------
    a  (M, K)  float32 float16 bfloat16; or what `pack_matrix` returned
    b  (K, N)  a's dtype

    Parameters
    ----------
    target
        "trn1" (also inf2), "trn2" or "trn3"; None takes NEURON_PLATFORM_TARGET_OVERRIDE, else trn1.

    Returns
    -------
    c : (M, N), b's dtype; a torch tensor if b is one

    Raises
    ------
    ShapeError
        Other than two dimensions, no elements, or a and b that do not fit together.
    DtypeError
        Something else than an array, or dtypes that the kernels do not take or that differ.
    ConstraintError
        An unknown target, a tensor that requires a gradient or is not on the CPU.
    CapacityError
        K so large that the smallest tiles do not fit SBUF, or a product too large for one program.
    """
    if target is not None:
        resolve_target(target, op=_OP)
    packed = a if isinstance(a, PackedMatrix) else None
    a_values = packed.array if packed is not None else _arguments.array(_OP, "a", a)
    b_values = _arguments.array(_OP, "b", b)
    _check_matrix(_OP, "a", a_values, "(M, K)")
    _check_matrix(_OP, "b", b_values, "(K, N)")
    a_values = a_values if packed is not None else a_values.T
    if a_values.dtype != b_values.dtype:
        raise DtypeError(
            f"{_OP}: a has dtype {a_values.dtype}, b has {b_values.dtype}; they must be the same "
            f"({_TORCH})"
        )
    if a_values.shape[0] != b_values.shape[0]:
        raise ShapeError(
            f"{_OP}: a has {a_values.shape[0]} columns, b has {b_values.shape[0]} rows; they must "
            f"be as many ({_TORCH})"
        )
    with use_target(target):
        plan = plan_matmul(
            a_values.shape[1], b_values.shape[0], b_values.shape[1], str(b_values.dtype)
        )
        w = arrange(a_values, plan)
        c = simulate_kernel(matmul_tiled, w, np.ascontiguousarray(b_values), plan)
    return like(c, b)


def plan_matmul(M: int, K: int, N: int, dtype: str) -> MatmulPlan:
    """Return the cheapest plan for the target in force.

    Raises
    ------
    CapacityError
        Nothing fits SBUF, or the program would be too long.
    """
    product = Product(
        N=1, K=K, M=M, rows=1, cols=N, x_size=(1, N), stride=(1, 1),
        itemsize=_arguments.DTYPES[dtype].itemsize, dtype=dtype,
    )  # fmt: skip
    epilogue = Epilogue()
    found = cuts(product, epilogue)
    if not found:
        raise CapacityError(
            f"{_OP}: K is {K}; tiles of so many rows in {dtype} do not fit the "
            f"{nl.tile_size.sbuf_fmax_bytes} bytes of an SBUF partition (nl.tile_size)"
        )
    count = found[0].price.static_instructions
    if count > MAX_INSTRUCTIONS:
        raise CapacityError(
            f"{_OP}: {M}x{K} @ {K}x{N} would take {count} instructions, more than the "
            f"{MAX_INSTRUCTIONS} that the kernel writes out (kernels of this package)"
        )
    return make_plan(found[0], epilogue)


def _check_matrix(op: str, name: str, values: Array, form: str) -> None:
    if values.ndim != 2 or values.size == 0:
        raise ShapeError(
            f"{op}: {name} has shape {values.shape}; it must be {form}, each at least 1 ({_TORCH})"
        )


@nki.jit
def matmul_tiled(w_hbm: nl.NkiTensor, b_hbm: nl.NkiTensor, plan: MatmulPlan) -> nl.NkiTensor:
    """Return c_hbm; `multiply` (_matmul.py) is the loop nest at the top of this file."""
    c_hbm = nl.ndarray((plan.m.size, b_hbm.shape[1]), dtype=b_hbm.dtype, buffer=nl.shared_hbm)
    multiply(
        c_hbm.reshape(plan.y_shape), b_hbm.reshape(plan.x_shape), w_hbm, None, None, None, plan
    )
    return c_hbm
