"""DMA: moving data between HBM and SBUF, to places known at compile time or at run time."""

from __future__ import annotations

from typing import Any

from nkiconv.simulate.dtypes import Array
from nkiconv.simulate.engines._common import PACKED_AS_IT_IS, fetch_unless_cast
from nkiconv.simulate.engines._dma import (
    VECTOR_GENERATION,
    count,
    dma_cost,
    mode_rules,
    one_index_each,
    priority_rules,
    ring,
    skip_rules,
    software_rule,
    transfer_ns,
    vectors,
)
from nkiconv.simulate.enums import dge_mode, engine, oob_mode
from nkiconv.simulate.errors import DtypeError, ShapeError
from nkiconv.simulate.sheet import (
    OFF_PSUM,
    Call,
    Cost,
    Operand,
    Role,
    Rule,
    instruction,
    isa,
)

_ANY_ADDRESS = frozenset({"scalar", "vector"})


def _copy_cost(call: Call) -> Cost:
    return dma_cost(call, *transfer_ns(call.hw, call["src"], call["dst"]))


def _sequencer(call: Call) -> bool:
    """Whether ``engine=`` is left open, or can trigger the hardware's descriptor generation."""
    wish = call["engine"]
    by_hardware = call["dge_mode"] is dge_mode.hwdge
    return wish is engine.unknown or (by_hardware and wish in (engine.sync, engine.scalar))


@instruction(
    lane=ring,
    operands={
        "dst": Operand(OFF_PSUM, Role.WRITE, packed=True, offsets=_ANY_ADDRESS),
        "src": Operand(OFF_PSUM, fetch=fetch_unless_cast("src"), packed=True, offsets=_ANY_ADDRESS),
    },
    rules=(
        PACKED_AS_IT_IS,
        Rule(
            "dst and src must have the same number of elements",
            lambda c: c["dst"].size == c["src"].size,
            isa("dma_copy"),
            error=ShapeError,
            code="same_size",
        ),
        *priority_rules("dma_copy"),
        *mode_rules("dma_copy"),
        Rule(
            "dge_mode.hwdge moves elements between equal dtypes only; reinterpret with .view()",
            lambda c: c["dge_mode"] is not dge_mode.hwdge or c["src"].dtype == c["dst"].dtype,
            "NKI 0.3.0 release notes, breaking changes",
            error=DtypeError,
            code="hwdge_same_dtype",
        ),
        Rule(
            "engine must be engine.unknown, or engine.sync or engine.scalar with dge_mode.hwdge",
            _sequencer,
            isa("dma_copy"),
            shows=lambda c: f"engine={c['engine']!r} with dge_mode={c['dge_mode']!r}",
        ),
        *skip_rules("dma_copy"),
        VECTOR_GENERATION,
        software_rule("dma_copy"),
        one_index_each("dma_copy"),
        Rule(
            "dst and src cannot both have a vector offset",
            lambda c: len(list(vectors(c))) < 2,
            isa("dma_copy") + ", Indirect addressing",
            code="one_vector_offset",
        ),
    ),
    count=count,
    carries=lambda mask: mask,
    cost=_copy_cost,
    sources=(isa("dma_copy"), "NKI DMA bandwidth guide"),
)
def dma_copy(
    dst: Any,
    src: Any,
    priority: Any = None,
    oob_mode: Any = oob_mode.error,
    dge_mode: Any = dge_mode.unknown,
    engine: Any = engine.unknown,
    name: Any = None,
) -> Array:
    """``dst = src`` between HBM and SBUF, element by element in row-major order of both.

    Different dtypes convert through float32.  With a vector offset on ``src`` it gathers, with one
    on ``dst`` it scatters.
    """
    copied: Array = src
    return copied
