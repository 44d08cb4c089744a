"""``nl.rand``, ``nl.random_seed`` and ``nl.dropout``: random numbers by VectorE's generator."""

from __future__ import annotations

import warnings

from nkiconv.simulate.dtypes import element_type
from nkiconv.simulate.engines import dma, random, vector
from nkiconv.simulate.errors import ConstraintError, DtypeError
from nkiconv.simulate.ops import OPS
from nkiconv.simulate.program import current
from nkiconv.simulate.tensor import SPACE, MemoryRegion, NkiTensor, checked_shape

_HAS_RAND2 = 4
"""First NeuronCore version with nisa.rand2 (its page)."""


def rand(
    shape: tuple[int, ...], dtype: str, buffer: MemoryRegion = MemoryRegion.sbuf, name: str = ""
) -> NkiTensor:
    """Return a new tensor of uniform numbers from [0, 1); narrow dtypes may round up to 1.

    One ``nisa.rand2`` on trn3; 16 random bits and a multiplication on trn1 and trn2.

    Raises
    ------
    ShapeError, DtypeError, CapacityError, ConstraintError
        A size, type or memory that the NeuronCore does not have, or a dtype of integers.
    """
    op = "nl.rand"
    program = current(op)
    sizes = checked_shape(shape, op)
    kind = element_type(dtype, op=op)
    if kind.kind != "float":
        raise DtypeError(
            f"{op}: dtype {dtype} has only 0 and 1 for numbers between them; choose a floating-"
            "point one (nki.language.rand, NKI 0.6.0)",
            code="language.rand_dtype",
        )
    if not isinstance(buffer, MemoryRegion):
        raise ConstraintError(
            f"{op}: buffer must be nl.sbuf, nl.psum or nl.hbm, got {buffer!r}", code="tensor.buffer"
        )
    made = program.allocate(sizes, kind.name, buffer, name)
    tile = made
    if SPACE[buffer] == "hbm":  # no engine writes there
        on_chip = sizes if len(sizes) > 1 else (1, *sizes)
        tile = program.allocate(on_chip, kind.name, MemoryRegion.sbuf, "")
    if program.hardware.generation >= _HAS_RAND2:
        random.rand2(tile, 0.0, 1.0)
    else:
        bits = program.allocate(tile.shape, "uint16", MemoryRegion.sbuf, "")
        random.rng(bits)
        vector.tensor_scalar(tile, bits, OPS["multiply"], 2.0**-16)
    if tile is not made:
        dma.dma_copy(made if len(sizes) > 1 else made.reshape((1, *sizes)), tile)
    return made


def random_seed(seed: NkiTensor) -> None:
    """Seed VectorE's generator with a (1, 1) tensor of 32 bits in SBUF or PSUM.

    Warns
    -----
    UserWarning
        On trn1 and trn2, where the compiler may let `rand` draw from another engine.
    """
    op = "nl.random_seed"
    program = current(op)
    if not isinstance(seed, NkiTensor):
        raise ConstraintError(
            f"{op}: seed must be a tensor of shape (1, 1) on chip, got {seed!r} (NKI 0.4.0 release "
            "notes, Known Issues)",
            code="language.random_seed",
        )
    if program.hardware.generation < _HAS_RAND2:
        warnings.warn(
            f"{op}: on {program.hardware.target} nl.rand may draw from another engine than the one "
            "that is seeded, so that the seed may have no effect on the device (NKI 0.4.0 release "
            "notes, Known Issues)",
            stacklevel=2,
        )
    random.set_rng_seed(seed)


def dropout(x: NkiTensor, rate: float | NkiTensor, dtype: str | None = None) -> NkiTensor:
    """Return `x` in SBUF with elements replaced by 0 at `rate`; not rescaled.

    Raises
    ------
    ConstraintError, DtypeError, ShapeError
        As ``nisa.dropout``, which draws, and ``nisa.tensor_copy``, which casts.
    """
    op = "nl.dropout"
    program = current(op)
    if not isinstance(x, NkiTensor):
        raise ConstraintError(
            f"{op}: x must be a tile, got {x!r} (nki.language.dropout)",
            code="language.dropout_tile",
        )
    kept = program.allocate(x.shape, x.dtype, MemoryRegion.sbuf, "")
    random.dropout(kept, x, rate)
    if dtype is None or dtype == x.dtype:
        return kept
    cast = program.allocate(x.shape, element_type(dtype, op=op).name, MemoryRegion.sbuf, "")
    vector.tensor_copy(cast, kept)
    return cast
