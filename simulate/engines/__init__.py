"""Instruction sheets, one file a chapter.  Importing this package registers them all."""

from __future__ import annotations

from nkiconv.simulate.engines import (
    dma,
    gpsimd_gather,
    gpsimd_patterns,
    gpsimd_search,
    scalar,
    scalar_activate2,
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
    "dma",
    "gpsimd_gather",
    "gpsimd_patterns",
    "gpsimd_search",
    "scalar",
    "scalar_activate2",
    "tensor",
    "vector",
    "vector_exponential",
    "vector_scan",
    "vector_search",
    "vector_select",
    "vector_shuffle",
    "vector_statistics",
]
