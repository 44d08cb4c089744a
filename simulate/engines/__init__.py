"""Instruction sheets, one file an engine.  Importing this package registers them all."""

from __future__ import annotations

from nkiconv.simulate.engines import dma, scalar, tensor, vector

__all__ = ["dma", "scalar", "tensor", "vector"]
