"""Instruction sheets, one file a chapter.  Importing this package registers them all."""

from __future__ import annotations

from nkiconv.simulate.engines import (
    dma,
    scalar,
    tensor,
    vector,
    vector_scan,
    vector_search,
    vector_select,
    vector_shuffle,
    vector_statistics,
)

__all__ = [
    "dma",
    "scalar",
    "tensor",
    "vector",
    "vector_scan",
    "vector_search",
    "vector_select",
    "vector_shuffle",
    "vector_statistics",
]
