"""Planes transposed in HBM: y[n, b, a] = x[n, a, b].

With a the pixels of an image and b its channels this makes (N, C, H, W) of (N, H, W, C), and the
other way round.

Shapes
------
x_hbm  (N, A, B)  f32 f16 bf16  HBM
y_hbm  (N, B, A)  as x          HBM

Loop nest
---------
for n, block of <= 512 a, block of <= 2048 b:
    load each tile of <= 128 a
    for tile of <= 128 b:
        for tile of a: TensorE turns it into its columns of one PSUM tile (b, <= 512)
        copy to SBUF, VectorE and ScalarE in turn; one store

On trn1 TensorE transposes by multiplying with zeros and ones, so that NaN or Inf in x reaches other
elements of its row of y.

Sources
-------
Vendor documentation of NKI 0.6.0, read 2026-08: isa nc_transpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import nki
import nki.isa as nisa
import nki.language as nl

from nkiconv.kernels._plan import Tile, ceil_div, tiles

_B_ELEMS = 2048  # of a load per partition: at least 4 KiB, where the DMA rate levels off


@dataclass(frozen=True)
class Block(nl.NKIObject):
    """`size` neighbours from `start` on, and its tiles of at most 128, counted within it."""

    start: int
    size: int
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class TransposePlan(nl.NKIObject):
    """Everything that the kernel does."""

    shape: tuple[int, int, int]
    a_blocks: tuple[Block, ...]
    b_blocks: tuple[Block, ...]

    @property
    def num_transposes(self) -> int:
        """Tiles that TensorE turns."""
        pmax = nl.tile_size.pmax
        return self.shape[0] * ceil_div(self.shape[1], pmax) * ceil_div(self.shape[2], pmax)


def plan_transpose(shape: tuple[int, int, int]) -> TransposePlan:
    """Cut the planes of a `shape` (N, A, B) into tiles."""
    return TransposePlan(
        shape=shape,
        a_blocks=_blocks(shape[1], nl.tile_size.psum_bank_fmax),
        b_blocks=_blocks(shape[2], _B_ELEMS),
    )


def _blocks(size: int, size_max: int) -> tuple[Block, ...]:
    pmax = nl.tile_size.pmax
    return tuple(Block(t.start, t.size, tiles(t.size, pmax)) for t in tiles(size, size_max))


def _load(x_hbm: nl.NkiTensor, n: int, a_block: Block, b_block: Block) -> list[nl.NkiTensor]:
    """x_sb (a, b) of each tile of a."""
    x_sbs = []
    for a in a_block.tiles:
        x_sb = nl.ndarray((a.size, b_block.size), dtype=x_hbm.dtype, buffer=nl.sbuf)
        nisa.dma_copy(
            dst=x_sb,
            src=x_hbm[
                n, nl.ds(a_block.start + a.start, a.size), nl.ds(b_block.start, b_block.size)
            ],
            dge_mode=nisa.dge_mode.none,
        )
        x_sbs.append(x_sb)
    return x_sbs


@nki.jit
def transpose_planes(x_hbm: nl.NkiTensor, plan: TransposePlan) -> nl.NkiTensor:
    """Return y_hbm; the loop nest is the one at the top of this file."""
    N, A, B = plan.shape
    y_hbm = nl.ndarray((N, B, A), dtype=x_hbm.dtype, buffer=nl.shared_hbm)
    on_vector = True
    for n in range(N):
        for a_block in plan.a_blocks:
            for b_block in plan.b_blocks:
                x_sbs = _load(x_hbm, n, a_block, b_block)
                for b in b_block.tiles:
                    shape = (b.size, a_block.size)
                    turned_ps = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.psum)
                    for i_a in range(len(a_block.tiles)):
                        a = a_block.tiles[i_a]
                        nisa.nc_transpose(
                            dst=turned_ps[:, nl.ds(a.start, a.size)],
                            data=x_sbs[i_a][:, nl.ds(b.start, b.size)],
                            engine=nisa.engine.tensor,
                        )
                    y_sb = nl.ndarray(shape, dtype=x_hbm.dtype, buffer=nl.sbuf)
                    if on_vector:
                        nisa.tensor_copy(dst=y_sb, src=turned_ps, engine=nisa.engine.vector)
                    else:
                        nisa.activation(dst=y_sb, op=nl.copy, data=turned_ps)
                    on_vector = not on_vector
                    nisa.dma_copy(
                        dst=y_hbm[
                            n,
                            nl.ds(b_block.start + b.start, b.size),
                            nl.ds(a_block.start, a_block.size),
                        ],
                        src=y_sb,
                        dge_mode=nisa.dge_mode.none,
                    )
    return y_hbm
