"""A matrix product in blocks: the kernel that `nkiconv bench` times.

result[m, n] = sum over k of lhs_t[k, m] * rhs[k, n]

Shapes
------
lhs_t   (K, M)  f32 f16 bf16  HBM
rhs     (K, N)  as lhs_t      HBM
result  (M, N)  as lhs_t      HBM

Loop nest
---------
for block of n:                                 its sums stay in SBUF, from zero
    for block of k:                             its part of rhs is loaded
        for block of m:                         its part of lhs_t is loaded
            for tile of n, tile of m:
                for tile of k:
                    acc (m, n) += lhs_t (k, m).T @ rhs (k, n)
                sums (m, n) += acc              rounded to the inputs' dtype
    for tile of m: one store of the block's n

Loops, tiles and dtypes are those of the vendor's tutorial at its last step, so that times can be
compared with it; kernels of this project would keep the sums in float32.

Sources
-------
Vendor documentation of NKI 0.6.0, tutorial "Matrix multiplication", optimization 3.
"""

from __future__ import annotations

from nkiconv.bench.errors import UserError
from nkiconv.reference._dtypes import Array
from nkiconv.simulate import simulate_kernel  # first: `import nki` then finds the embedded NKI

# isort: split
import nki
import nki.isa as nisa
import nki.language as nl

__all__ = ["K_BLOCK", "blocked_matmul", "matmul"]

_M_TILE, _N_TILE, _K_TILE = 128, 512, 128  # what one matmul takes
_M_BLOCK, _N_BLOCK, K_BLOCK = 2048, 1024, 1024  # the tutorial's: 16, 2 and 8 tiles


def matmul(lhs_t: Array, rhs: Array) -> Array:
    """Return ``lhs_t.T @ rhs`` by way of the simulator.

    Raises
    ------
    UserError
        A size is no multiple of its tile, or of its block where it is larger than that.
    """
    (K, M), (_, N) = lhs_t.shape, rhs.shape
    blocks = min(M, _M_BLOCK), min(N, _N_BLOCK), min(K, K_BLOCK)
    tiles = _M_TILE, _N_TILE, _K_TILE
    for name, size, block, tile in zip("MNK", (M, N, K), blocks, tiles, strict=True):
        unit = tile if size == block else block
        if size % unit:
            raise UserError(f"matmul: {name} is {size}, no multiple of {unit}")
    result: Array = simulate_kernel(blocked_matmul, lhs_t, rhs, *blocks)
    return result


@nki.jit
def blocked_matmul(
    lhs_t: nl.NkiTensor, rhs: nl.NkiTensor, m_block: int, n_block: int, k_block: int
) -> nl.NkiTensor:
    """``result[m, n] = sum over k of lhs_t[k, m] * rhs[k, n]``, by the loop nest above."""
    K, M = lhs_t.shape
    N = rhs.shape[1]
    result = nl.ndarray((M, N), dtype=lhs_t.dtype, buffer=nl.shared_hbm)
    for n in range(0, N, n_block):
        sums_sb = _zero_sums(M, n_block, lhs_t.dtype)
        for k in range(0, K, k_block):
            rhs_sb = _load_block(rhs, k, k_block, n, n_block)
            for m in range(0, M, m_block):
                lhs_sb = _load_block(lhs_t, k, k_block, m, m_block)
                _add_block(sums_sb, lhs_sb, rhs_sb, m // _M_TILE)
        for i in range(len(sums_sb)):
            rows = result[i * _M_TILE : (i + 1) * _M_TILE, n : n + n_block]
            nisa.dma_copy(dst=rows, src=sums_sb[i].reshape((_M_TILE, n_block)))
    return result


def _zero_sums(M: int, n_block: int, dtype: str) -> list[nl.NkiTensor]:
    """Return a tensor (m, tile of n, n) for each tile of m."""
    sums_sb = []
    for _ in range(M // _M_TILE):
        tile_sb = nl.ndarray((_M_TILE, n_block // _N_TILE, _N_TILE), dtype=dtype, buffer=nl.sbuf)
        nisa.memset(dst=tile_sb, value=0.0)
        sums_sb.append(tile_sb)
    return sums_sb


def _load_block(
    matrix: nl.NkiTensor, k: int, k_size: int, column: int, columns: int
) -> nl.NkiTensor:
    """Return ``matrix[k:k+k_size, column:column+columns]`` as (k, tile of k, column)."""
    block_sb = nl.ndarray((_K_TILE, k_size // _K_TILE, columns), dtype=matrix.dtype, buffer=nl.sbuf)
    for i in range(k_size // _K_TILE):
        rows = matrix[k + i * _K_TILE : k + (i + 1) * _K_TILE, column : column + columns]
        nisa.dma_copy(dst=block_sb[:, i, :], src=rows)
    return block_sb


def _add_block(
    sums_sb: list[nl.NkiTensor], lhs_sb: nl.NkiTensor, rhs_sb: nl.NkiTensor, first: int
) -> None:
    """Add the product of two blocks to the sums from tile `first` of m on."""
    k_tiles, m_block = lhs_sb.shape[1:]
    for j in range(rhs_sb.shape[2] // _N_TILE):
        for i in range(m_block // _M_TILE):
            acc_ps = nl.ndarray((_M_TILE, _N_TILE), dtype=nl.float32, buffer=nl.psum)
            for k in range(k_tiles):
                nisa.nc_matmul(
                    dst=acc_ps,
                    stationary=lhs_sb[:, k, i * _M_TILE : (i + 1) * _M_TILE],
                    moving=rhs_sb[:, k, j * _N_TILE : (j + 1) * _N_TILE],
                )
            tile_sb = sums_sb[first + i][:, j, :]
            nisa.tensor_tensor(dst=tile_sb, data1=tile_sb, data2=acc_ps, op=nl.add)
