"""VectorE and GpSimdE, random numbers: bits, uniform numbers, dropout, and the engines' states."""

from __future__ import annotations

from typing import Any

import numpy as np

from nkiconv.simulate.dtypes import ELEMENT_TYPES, Array
from nkiconv.simulate.engines._accumulate import is_given
from nkiconv.simulate.engines._common import (
    INTEGERS,
    NO_GPSIMD_IN_PSUM,
    along,
    chosen_lane,
    elementwise_cost,
    needs,
    same_dtype,
    same_elements,
    same_partitions,
    written,
)
from nkiconv.simulate.engines._random import (
    STATE_WORDS,
    generator_of,
    generators,
    xorwow_of,
)
from nkiconv.simulate.enums import engine
from nkiconv.simulate.errors import DtypeError, ShapeError
from nkiconv.simulate.sheet import (
    ON_CHIP,
    SBUF,
    Call,
    Cost,
    Fetch,
    Operand,
    Role,
    Rule,
    arch,
    assumed,
    estimate,
    free_elems,
    instruction,
    isa,
    partitions,
)
from nkiconv.simulate.tensor import NkiTensor
from nkiconv.simulate.trace import Lane

_UINT32 = frozenset({"uint32"})
_WORDS = frozenset({"int32", "uint32", "float32"})
_FLOATS = frozenset(n for n, kind in ELEMENT_TYPES.items() if kind.kind == "float")
_RAND2 = INTEGERS | {
    *("float8_e4m3", "float8_e5m2", "float16", "bfloat16", "float32", "tfloat32"),
}  # fmt: skip
_UNIT = np.float32(2.0**-24)
"""Step of a uniform number: its 24 bits are what float32 holds of numbers below one."""


def _vector_or_gpsimd(default: Lane) -> Any:
    return lambda call: chosen_lane(call, (Lane.VECTOR, Lane.GPSIMD), default)


def _engine_is_named(page: str) -> Rule:
    return Rule(
        "engine must be engine.vector or engine.gpsimd",
        lambda c: c["engine"] is not engine.unknown,
        isa(page),
        shows=lambda c: f"engine={c['engine']!r}",
        code="engine",
    )


def _on_vector_since_v4(page: str) -> Rule:
    return Rule(
        "VectorE's state can be loaded and stored from NeuronCore-v4 on",
        lambda c: c.lane is Lane.GPSIMD or c.hw.generation >= c.hw.vector_xorwow_generation,
        isa(page),
        shows=lambda c: f"{c['engine']} on {c.hw.target}",
        code="vector_state_generation",
    )


def _state_words(call: Call) -> int:
    return STATE_WORDS * generators(call.hw, call.lane)


def _holds_states(page: str, name: str) -> Rule:
    return Rule(
        f"{name} must have two dimensions, with 6 elements per partition for GpSimdE and 24 for "
        "VectorE",
        lambda c: c[name].ndim == 2 and free_elems(c[name]) == _state_words(c),
        isa(page),
        shows=lambda c: f"{c[name]!r} for {c.lane.label}",
        error=ShapeError,
    )


def _first_lane(tensor: NkiTensor) -> int:
    return tensor._region()[2]


def _draw_words(call: Call) -> None:
    """Hand the body a random word for each element of dst, from the lanes of its partitions."""
    dst = call["dst"]
    random = generator_of(call.program, call.lane)
    words = random.draw(_first_lane(dst), partitions(dst), free_elems(dst))
    call.extra = {"_words": words.reshape(dst.shape)}


def _draw_integers(call: Call) -> None:
    _draw_words(call)
    call.extra = {**(call.extra or {}), "_type": call["dst"]._kind.numpy}


def _uniform(words: Array) -> Array:
    """Return numbers from [0, 1): the upper 24 bits of each word."""
    numbers: Array = (words >> np.uint32(8)).astype(np.float32) * _UNIT
    return numbers


def _random_cost(call: Call) -> Cost:
    """Return the cost of drawing: VectorE of NeuronCore-v4 has four generators a lane."""
    rate = 1 / call.hw.random_elems_per_cycle if call.lane is Lane.VECTOR else 1.0
    return elementwise_cost(call, rate)


@instruction(
    lane=_vector_or_gpsimd(Lane.VECTOR),
    operands={"dst": Operand(ON_CHIP, Role.WRITE, dtypes=INTEGERS)},
    rules=(
        _engine_is_named("rng"),
        Rule(
            "GpSimdE generates random numbers from NeuronCore-v3 on",
            lambda c: c.lane is Lane.VECTOR or c.hw.generation >= 3,
            isa("rng"),
            shows=lambda c: c.hw.target,
            code="gpsimd_generation",
        ),
        NO_GPSIMD_IN_PSUM,
    ),
    prepare=_draw_integers,
    cost=_random_cost,
    sources=(
        isa("rng"),
        arch("Trainium3, XORWOW-based PRNG: 4 words a lane and cycle"),
        assumed("an element a cycle before NeuronCore-v4 and on GpSimdE; no public figure"),
    ),
)
def rng(
    dst: Any,
    engine: Any = engine.vector,
    name: Any = None,
    *,
    _words: Any = None,
    _type: Any = None,
) -> Array:
    """``dst`` = the low bits of the next random words, each partition's from its own lane."""
    bits: Array = _words.astype(f"u{_type.itemsize}")  # a cast to fewer bits keeps the low ones
    return bits.view(_type)


def _prob_type(call: Call) -> bool:
    if not is_given(call, "prob"):
        return True
    allowed = frozenset({"float32"}) if call["data"].dtype in INTEGERS else _FLOATS
    return call["prob"].dtype in allowed


def _values(call: Call, name: str) -> Array:
    """Return the numbers of an operand that may be a tile or a number."""
    value = call[name]
    if isinstance(value, NkiTensor):
        return value._storage.float32(value, value._kind)
    return np.asarray(value, dtype=np.float64)


def _readable(call: Call, *names: str) -> bool:
    """Whether tiles have been written: rules of values leave the others to the check of reads."""
    return all(written(call[n]) for n in names if is_given(call, n))


def _is_probability(call: Call) -> bool:
    prob = _values(call, "prob")
    return not _readable(call, "prob") or bool(np.all((prob >= 0) & (prob <= 1)))


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE),
        "data": Operand(ON_CHIP, fetch=Fetch.RAW),
        "prob": Operand(ON_CHIP, number=True, per_partition=True),
    },
    rules=(
        same_elements("dst", "data"),
        same_partitions("data", "prob"),
        same_dtype("dst", "data", "dropout"),
        Rule(
            "prob must be float32 where data holds integers, and a floating-point type otherwise",
            _prob_type,
            isa("dropout"),
            error=DtypeError,
        ),
        Rule(
            "prob must lie between 0 and 1",
            _is_probability,
            isa("dropout"),
            shows=lambda c: f"{_values(c, 'prob').min()} to {_values(c, 'prob').max()}",
            dynamic=True,
        ),
    ),
    prepare=_draw_words,
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(isa("dropout"), estimate("dropout")),
)
def dropout(dst: Any, data: Any, prob: Any, name: Any = None, *, _words: Any = None) -> Array:
    """``dst = data``, but 0 where a uniform number is below `prob`; bit-accurate, not rescaled.

    Shapes
    ------
    data, dst (P, F)   prob number or (P, 1)
    """
    uniform = _uniform(_words).reshape(data.shape)
    limit = along(prob, data) if isinstance(prob, np.ndarray) else np.float32(prob)
    kept: Array = np.where(uniform < limit, data.dtype.type(0), data)
    return kept


def _use_vector_generator(call: Call) -> None:
    call.extra = {"_random": generator_of(call.program, Lane.VECTOR)}


@instruction(
    lane=Lane.VECTOR,
    operands={"src_seeds": Operand(ON_CHIP, dtypes=_WORDS, fetch=Fetch.RAW)},
    rules=(
        Rule(
            "src_seeds must have the shape (1, 1)",
            lambda c: c["src_seeds"].shape == (1, 1),
            isa("set_rng_seed"),
            error=ShapeError,
            code="seed_shape",
        ),
    ),
    prepare=_use_vector_generator,
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(isa("set_rng_seed"), assumed("a single element; the page names no cost")),
)
def set_rng_seed(src_seeds: Any, name: Any = None, *, _random: Any = None) -> tuple[()]:
    """Start VectorE's generators anew, all lanes from the 32 bits of one element."""
    _random.seed(int(src_seeds.view(np.uint32)[0, 0]))
    return ()


def _lanes_used(operand: str) -> Any:
    """Return what hands the body the states of the lanes that an operand covers."""

    def prepare(call: Call) -> None:
        tensor = call[operand]
        first = _first_lane(tensor)
        states = xorwow_of(call.program, call.lane).states[first : first + partitions(tensor)]
        call.extra = {"_states": states}

    return prepare


@instruction(
    lane=_vector_or_gpsimd(Lane.GPSIMD),
    operands={"src_seeds": Operand(SBUF, dtypes=_UINT32, fetch=Fetch.RAW)},
    rules=(
        _engine_is_named("rand_set_state"),
        needs("rand_set_state", 3),
        _on_vector_since_v4("rand_set_state"),
        _holds_states("rand_set_state", "src_seeds"),
    ),
    prepare=_lanes_used("src_seeds"),
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(isa("rand_set_state"), assumed("an element a cycle; the page names no cost")),
)
def rand_set_state(
    src_seeds: Any, engine: Any = engine.gpsimd, name: Any = None, *, _states: Any = None
) -> tuple[()]:
    """Load the XORWOW states of an engine, each partition's into the lane of the same number.

    Shapes
    ------
    src_seeds (P, 6) uint32 for GpSimdE, (P, 24) for VectorE: four states of (x, y, z, w, v, d)
    """
    _states[...] = src_seeds.reshape(_states.shape)
    return ()


@instruction(
    lane=_vector_or_gpsimd(Lane.GPSIMD),
    operands={"dst": Operand(ON_CHIP, Role.WRITE, dtypes=_UINT32)},
    rules=(
        _engine_is_named("rand_get_state"),
        needs("rand_get_state", 3),
        _on_vector_since_v4("rand_get_state"),
        _holds_states("rand_get_state", "dst"),
        NO_GPSIMD_IN_PSUM,
    ),
    prepare=_lanes_used("dst"),
    cost=lambda c: elementwise_cost(c, 1.0),
    sources=(isa("rand_get_state"), assumed("an element a cycle; the page names no cost")),
)
def rand_get_state(
    dst: Any, engine: Any = engine.gpsimd, name: Any = None, *, _states: Any = None
) -> Array:
    """Store the XORWOW states of an engine, each lane's into the partition of the same number.

    Shapes
    ------
    dst (P, 6) uint32 for GpSimdE, (P, 24) for VectorE: four states of (x, y, z, w, v, d)
    """
    stored: Array = _states.reshape(len(_states), -1).copy()
    return stored


def _is_range(call: Call) -> bool:
    if not _readable(call, "min", "max"):
        return True
    low, high = (_values(call, name).astype(np.float64) for name in ("min", "max"))
    span = high - low  # NaN where an end is
    return bool(np.all((span > 0) & (span <= np.finfo(np.float32).max)))


@instruction(
    lane=Lane.VECTOR,
    operands={
        "dst": Operand(ON_CHIP, Role.WRITE, dtypes=_RAND2),
        "min": Operand(ON_CHIP, dtypes=frozenset({"float32"}), number=True, per_partition=True),
        "max": Operand(ON_CHIP, dtypes=frozenset({"float32"}), number=True, per_partition=True),
    },
    rules=(
        needs("rand2", 4),
        same_partitions("dst", "min", "max"),
        Rule(
            "min and max must be finite, with min < max and a difference that float32 holds",
            _is_range,
            isa("rand2"),
            shows=lambda c: f"min={c['min']!r}, max={c['max']!r}",
            dynamic=True,
        ),
    ),
    prepare=_draw_words,
    cost=_random_cost,
    sources=(isa("rand2"), arch("Trainium3, XORWOW-based PRNG: 4 words a lane and cycle")),
)
def rand2(dst: Any, min: Any, max: Any, name: Any = None, *, _words: Any = None) -> Array:
    """``dst = min + u * (max - min)`` in float32, u uniform in [0, 1) with 24 bits.

    Shapes
    ------
    dst (P, F)   min, max numbers or (P, 1) float32
    """
    uniform = _uniform(_words)
    low, high = (
        along(end, uniform) if isinstance(end, np.ndarray) else np.float32(end)
        for end in (min, max)
    )
    # The largest u takes at least half a step off the difference: no sum rounds beyond max.
    result: Array = low + uniform * (high - low)
    return result
