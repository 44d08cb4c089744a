"""The embedded ``nki.isa.constants``: the enumerations of `nki.isa`, where they also are.

Not a documented module, but the vendor's kernel library imports them from here.
"""

from __future__ import annotations

from nkiconv.simulate.enums import (
    dge_mode,
    dma_engine,
    engine,
    matmul_perf_mode,
    nc_version,
    oob_mode,
    reduce_cmd,
)

__all__ = [
    "dge_mode",
    "dma_engine",
    "engine",
    "matmul_perf_mode",
    "nc_version",
    "oob_mode",
    "reduce_cmd",
]
