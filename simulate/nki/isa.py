"""The embedded ``nki.isa``: instructions, each a sheet in `nkiconv.simulate.engines`."""

from __future__ import annotations

from typing import Any

from nkiconv.simulate import engines as _engines  # noqa: F401 - registers the sheets
from nkiconv.simulate.engines.sequencer import register_alloc
from nkiconv.simulate.enums import (
    dge_mode,
    dma_engine,
    engine,
    matmul_perf_mode,
    nc_version,
    oob_mode,
    reduce_cmd,
)
from nkiconv.simulate.errors import NkiconvError as NkiValidationError
from nkiconv.simulate.hardware import hardware as _hardware
from nkiconv.simulate.registers import VirtualRegister
from nkiconv.simulate.sheet import SHEETS as _SHEETS
from nkiconv.simulate.sheet import NkiInstruction

__path__ = [__file__.removesuffix(".py")]  # a package to Python: it has the module `constants`

tensor_engine = engine.tensor
vector_engine = engine.vector
scalar_engine = engine.scalar
gpsimd_engine = engine.gpsimd
unknown_engine = engine.unknown

globals().update(_SHEETS)

__all__ = [  # the sheets are added by name
    "NkiInstruction",
    "NkiValidationError",
    "VirtualRegister",
    "dge_mode",
    "dma_engine",
    "engine",
    "get_nc_sub_version",
    "get_nc_version",
    "gpsimd_engine",
    "matmul_perf_mode",
    "nc_version",
    "oob_mode",
    "reduce_cmd",
    "register_alloc",
    "scalar_engine",
    "tensor_engine",
    "unknown_engine",
    "vector_engine",
    *_SHEETS,
]


def get_nc_version() -> nc_version:
    """Return the NeuronCore version of the target in force."""
    return nc_version(_hardware().generation)


def get_nc_sub_version() -> int:
    """Return the revision within the generation: 0, the first one and the vendor's default."""
    return 0


def __getattr__(name: str) -> Any:  # what the registries add is not visible to a type checker
    from nkiconv.simulate.coverage import missing

    raise missing("nki.isa", name)
