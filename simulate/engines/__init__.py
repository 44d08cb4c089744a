"""Instruction sheets, one file a chapter.  Importing this package registers them all."""

from __future__ import annotations

from nkiconv.simulate.engines import (
    cores,
    dma,
    dma_compute,
    dma_transpose,
    gpsimd_gather,
    gpsimd_patterns,
    gpsimd_search,
    gpsimd_topk,
    random,
    scalar,
    scalar_activate2,
    sequencer,
    tensor,
    vector,
    vector_exponential,
    vector_scan,
    vector_search,
    vector_select,
    vector_shuffle,
    vector_statistics,
)

__all__ = [
    "cores",
    "dma",
    "dma_compute",
    "dma_transpose",
    "gpsimd_gather",
    "gpsimd_patterns",
    "gpsimd_search",
    "gpsimd_topk",
    "random",
    "scalar",
    "scalar_activate2",
    "sequencer",
    "tensor",
    "vector",
    "vector_exponential",
    "vector_scan",
    "vector_search",
    "vector_select",
    "vector_shuffle",
    "vector_statistics",
]
