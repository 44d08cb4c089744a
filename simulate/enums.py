"""The enumerations of ``nki.isa``, with the vendor's names, members and values."""

from __future__ import annotations

from enum import Enum

__all__ = [
    "dge_mode",
    "dma_engine",
    "engine",
    "matmul_perf_mode",
    "nc_version",
    "oob_mode",
    "reduce_cmd",
]


class _Named(Enum):
    """A member hashes as the one object that it is: instructions look their options up."""

    __hash__ = object.__hash__


class engine(_Named):
    """Engines of a NeuronCore."""

    tensor = 1
    vector = 5
    scalar = 2
    gpsimd = 3
    dma = 4
    sync = 6
    unknown = 0


class reduce_cmd(_Named):
    """What an instruction does with its engine's accumulation registers."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class dge_mode(_Named):
    """Who generates the descriptors of a DMA transfer."""

    unknown = 0
    swdge = 1
    hwdge = 2
    none = 3


class oob_mode(_Named):
    """What a run-time address out of bounds does."""

    error = 0
    skip = 1


class matmul_perf_mode(_Named):
    """Performance mode of a matmul."""

    none = "none"
    double_row = "double_row"


class nc_version(_Named):
    """Generation of the NeuronCore; later ones are greater.

    The documentation says nothing of an order, but the vendor's library compares with ``>=``.
    """

    gen2 = 2
    gen3 = 3
    gen4 = 4

    def __lt__(self, other: object) -> bool:
        return self.value < other.value if isinstance(other, nc_version) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self.value <= other.value if isinstance(other, nc_version) else NotImplemented


class dma_engine(_Named):
    """Which DMA moves data between the cores of one LNC."""

    dma = 1
    gpsimd_dma = 2
