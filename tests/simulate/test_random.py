"""Random numbers: which stream, which lane, and which bits an instruction takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, UninitializedReadError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

E = nisa.engine
FULL = 2**32 - 1


def xorwow(state: list[int]) -> Iterator[int]:
    """Marsaglia's generator (Xorshift RNGs, 2003), word by word in Python's integers."""
    x, y, z, w, v, d = state
    while True:
        t = x ^ (x >> 2)
        x, y, z, w = y, z, w, v
        v = (v ^ (v << 4) ^ t ^ (t << 1)) & FULL
        d = (d + 362437) & FULL
        yield (v + d) & FULL


def words(state: Any, count: int) -> list[int]:
    stream = xorwow([int(word) for word in state])
    return [next(stream) for _ in range(count)]


def states(rng: Any, partitions: int, size: int) -> Any:
    return rng.integers(0, 2**32, (partitions, size), dtype=np.uint32)


def bits(c: Any, shape: tuple[int, ...], dtype: str = "uint32", **options: Any) -> Any:
    dst = c.new(shape, dtype, options.pop("buffer", nl.sbuf))
    nisa.rng(dst, **options)
    return dst._array.copy()


def test_words_of_marsaglias_own_state(start: Any) -> None:
    """The seeds of the paper's listing; the first word worked by hand.

    x = 123456789, so t = x ^ (x >> 2) = 109919824 and t ^ 2t = 194462448; v = 5783321, so
    v ^ 16v = 98291337; their xor is 239897721; d = 6615241 + 362437 = 6977678.
    """
    seeds = [123456789, 362436069, 521288629, 88675123, 5783321, 6615241]
    with start("trn2") as chip:
        nisa.rand_set_state(chip.put([seeds], "uint32"))
        found = bits(chip, (1, 3), engine=E.gpsimd)[0]
    assert found[0] == 239897721 + 6977678
    assert found.tolist() == words(seeds, 3)


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_each_partition_has_its_own_state(start: Any, rng: Any, target: str) -> None:
    seeds = states(rng, 128, 6)
    with start(target) as chip:
        nisa.rand_set_state(chip.put(seeds, "uint32"), E.gpsimd)
        found = bits(chip, (128, 2, 5), engine=E.gpsimd).reshape(128, 10)
        assert chip.last.lane.label == "GpSimdE"
    assert found.tolist() == [words(state, 10) for state in seeds]


def test_lanes_are_those_of_the_destination(start: Any, rng: Any) -> None:
    seeds = states(rng, 128, 6)
    with start("trn2") as chip:
        nisa.rand_set_state(chip.put(seeds, "uint32"))
        whole = chip.new((128, 4), "uint32")
        nisa.rng(whole[64:96], E.gpsimd)
        assert whole[64:96]._array.tolist() == [words(s, 4) for s in seeds[64:96]]
        # The other lanes have not moved on, and these have.
        nisa.rng(whole, E.gpsimd)
        assert whole._array[0].tolist() == words(seeds[0], 4)
        assert whole._array[64].tolist() == words(seeds[64], 8)[4:]


def test_vector_engine_takes_four_states_in_turn(start: Any, rng: Any) -> None:
    seeds = states(rng, 3, 24)
    with start("trn3") as chip:
        nisa.rand_set_state(chip.put(seeds, "uint32"), E.vector)
        first, second = bits(chip, (3, 6)), bits(chip, (3, 4))
        assert chip.last.lane.label == "VectorE"
    for p in range(3):
        streams = [xorwow([int(word) for word in seeds[p, 6 * i : 6 * i + 6]]) for i in range(4)]
        assert first[p].tolist() == [next(streams[i]) for i in (0, 1, 2, 3, 0, 1)]
        assert second[p].tolist() == [next(streams[i]) for i in (0, 1, 2, 3)]


@pytest.mark.parametrize(
    ("target", "engine", "size"),
    [("trn2", E.gpsimd, 6), ("trn3", E.gpsimd, 6), ("trn3", E.vector, 24)],
)
def test_state_that_was_stored_brings_the_stream_back(
    start: Any, target: str, engine: Any, size: int
) -> None:
    with start(target) as chip:
        bits(chip, (128, 7), engine=engine)
        state = chip.new((128, size), "uint32")
        nisa.rand_get_state(state, engine)
        before = bits(chip, (128, 9), engine=engine)
        after = bits(chip, (128, 9), engine=engine)
        assert (before != after).any()
        nisa.rand_set_state(state, engine)
        assert bits(chip, (128, 9), engine=engine).tolist() == before.tolist()
        assert bits(chip, (128, 9), engine=engine).tolist() == after.tolist()


def test_stored_state_may_go_to_psum_from_trn3s_vector_engine(start: Any) -> None:
    with start("trn3") as chip:
        state = chip.new((8, 24), "uint32", nl.psum)
        nisa.rand_get_state(state, E.vector)
        assert len(np.unique(state._array)) == 8 * 24


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32"])
def test_low_bits_are_kept(start: Any, rng: Any, dtype: str) -> None:
    seeds = states(rng, 2, 6)
    with start("trn2") as chip:
        nisa.rand_set_state(chip.put(seeds, "uint32"))
        found = bits(chip, (2, 50), dtype, engine=E.gpsimd)
    size = 8 * np.dtype(dtype).itemsize
    expected = [[w % 2**size for w in words(state, 50)] for state in seeds]
    assert (found.astype(np.int64) % 2**size).tolist() == expected
    assert (found < 0).any() == dtype.startswith("int")


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("dtype", ["int32", "uint32", "float32"])
def test_a_seed_brings_vector_engines_stream_back(start: Any, target: str, dtype: str) -> None:
    with start(target) as chip:

        def seeded(value: float) -> Any:
            nisa.set_rng_seed(chip.put([[value]], dtype))
            return bits(chip, (128, 40), buffer=nl.psum)

        first = seeded(5)
        assert chip.last.lane.label == "VectorE"
        more = bits(chip, (128, 40))
        assert seeded(5).tolist() == first.tolist()
        assert bits(chip, (128, 40)).tolist() == more.tolist()
        assert (seeded(6) != first).mean() > 0.999
        assert len(np.unique(first)) > 5110  # of 5120 words of 128 lanes


def test_a_seed_leaves_gpsimd_alone(start: Any) -> None:
    with start("trn2") as chip:
        state, later = chip.new((128, 6), "uint32"), chip.new((128, 6), "uint32")
        nisa.rand_get_state(state)
        nisa.set_rng_seed(chip.put([[3]], "int32"))
        bits(chip, (128, 40))
        nisa.rand_get_state(later)
        assert later._array.tolist() == state._array.tolist()


@pytest.mark.parametrize("target", ["trn1", "trn3"])
def test_a_seeds_lanes_are_those_of_the_destination(start: Any, target: str) -> None:
    with start(target) as chip:
        seed, part = chip.put([[7]], "int32"), chip.new((128, 4), "uint32")
        nisa.set_rng_seed(seed)
        whole = bits(chip, (128, 4))
        nisa.set_rng_seed(seed)
        nisa.rng(part[64:96])
        assert part[64:96]._array.tolist() == whole[64:96].tolist()


def test_states_of_some_lanes(start: Any, rng: Any) -> None:
    """Partitions 64 to 95 load and store the states of lanes 64 to 95."""
    seeds = states(rng, 128, 6)
    with start("trn2") as chip:
        nisa.rand_set_state(chip.put(seeds, "uint32"))
        other = chip.put(seeds + np.uint32(1), "uint32")
        nisa.rand_set_state(other[64:96])
        found = chip.new((128, 6), "uint32")
        nisa.rand_get_state(found)
        seeds[64:96] += np.uint32(1)
        assert found._array.tolist() == seeds.tolist()
        nisa.rand_get_state(other[32:64])
        assert other[32:64]._array.tolist() == seeds[32:64].tolist()


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_every_run_draws_alike(start: Any, target: str) -> None:
    found = []
    for _ in range(2):
        with start(target) as chip:
            found.append(bits(chip, (4, 8)).tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_cores_draw_differently(start: Any, target: str) -> None:
    found = []
    for core in range(2):
        with start(target) as chip:
            chip.program.core = core
            found.append(bits(chip, (4, 8)))
    assert (found[0] != found[1]).all()


def test_a_seed_must_have_been_written(start: Any) -> None:
    with start("trn1") as chip, pytest.raises(UninitializedReadError, match="src_seeds reads 1 of"):
        nisa.set_rng_seed(chip.new((1, 1), "int32"))


# Uniform numbers ---------------------------------------------------------------------------------


def test_rand2_scales_the_upper_bits(start: Any, rng: Any) -> None:
    seeds, low, high = states(rng, 2, 24), [-3.0, 10.0], [5.0, 11.0]
    with start("trn3") as chip:
        nisa.rand_set_state(chip.put(seeds, "uint32"), E.vector)
        drawn = bits(chip, (2, 8))
        nisa.rand_set_state(chip.put(seeds, "uint32"), E.vector)
        dst = chip.new((2, 8))
        nisa.rand2(dst, chip.put([[v] for v in low]), chip.put([[v] for v in high]))
    for p in range(2):
        uniform = (drawn[p] // 256) / 2.0**24
        np.testing.assert_allclose(dst._array[p], low[p] + uniform * (high[p] - low[p]), rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("float32", 0.0, 1.0), ("bfloat16", -2.0, 3.0), ("float16", 1.0, 2.0), ("int8", 0, 100)],
)
def test_rand2_is_uniform(start: Any, dtype: str, low: float, high: float) -> None:
    with start("trn3") as chip:
        dst = chip.new((128, 400), dtype, nl.psum)
        nisa.rand2(dst, low, high)
        found = dst._array.astype(np.float64)
    assert low <= found.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < found.max() <= high
    span = (high - low) / np.sqrt(12)
    assert found.mean() == pytest.approx((low + high) / 2, abs=5 * span / np.sqrt(found.size))
    assert found.std() == pytest.approx(span, rel=0.02)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0), (-3e38, 3e38)]
)
def test_rand2_refuses_what_is_no_range(start: Any, low: float, high: float) -> None:
    words = f"difference that float32 holds; got min={low!r}, max={high!r}"
    with start("trn3") as chip, pytest.raises(ConstraintError, match=re.escape(words)):
        nisa.rand2(chip.new((2, 8)), low, high)


# Dropout -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_dropout_keeps_values_or_drops_them(start: Any, rng: Any, target: str) -> None:
    x = rng.standard_normal((128, 600)).astype(np.float32)
    with start(target) as chip:
        dst = chip.new((128, 600), buffer=nl.psum)
        nisa.dropout(dst, chip.put(x), 0.3)
        assert chip.last.lane.label == "VectorE"
    gone = dst._array == 0
    # Of 76 800 elements 0.3 are gone, to five standard deviations.
    assert gone.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / x.size))
    assert np.array_equal(dst._array[~gone], x[~gone])


def test_dropout_by_partition(start: Any) -> None:
    with start("trn1") as chip:
        dst = chip.new((4, 500), "int32")
        prob = chip.put([[0.0], [0.1], [0.9], [1.0]])
        nisa.dropout(dst, chip.put(np.full((4, 500), 2**30 + 1), "int32"), prob)
    gone = (dst._array == 0).mean(axis=1)
    assert (gone[0], gone[3]) == (0, 1)
    assert 0.03 < gone[1] < 0.2
    assert 0.8 < gone[2] < 0.97
    assert set(dst._array.ravel().tolist()) == {0, 2**30 + 1}  # exact beyond float32


def test_dropout_in_place_repeats_with_its_seed(start: Any) -> None:
    with start("trn2") as chip:
        found = []
        for _ in range(2):
            nisa.set_rng_seed(chip.put([[11]], "uint32"))
            x = chip.put(np.ones((32, 100)), "bfloat16")
            nisa.dropout(x, x, chip.put(np.full((32, 1), 0.5), "bfloat16"))
            found.append(x._array.astype(float).tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize("prob", [-0.1, 1.1, float("nan")])
def test_dropout_refuses_what_is_no_probability(start: Any, prob: float) -> None:
    with start("trn1") as chip, pytest.raises(ConstraintError, match="prob must lie between 0 and"):
        nisa.dropout(chip.new((4, 8)), chip.put(np.ones((4, 8))), prob)


# Cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "target", "nanoseconds"),
    [
        # VectorE: 60 cycles to issue; an element a cycle, four on trn3.  GpSimdE: 150, and one.
        (lambda c: nisa.rng(c.new((4, 512), "int32")), "trn1", (512 + 60) / 1.12),
        (lambda c: nisa.rng(c.new((4, 512), "int32")), "trn3", (512 / 4 + 60) / 1.2),
        (lambda c: nisa.rng(c.new((4, 512), "int8"), E.gpsimd), "trn3", (512 + 150) / 1.2),
        (lambda c: nisa.rand2(c.new((4, 512)), 0, 1), "trn3", (512 / 4 + 60) / 1.2),
        (lambda c: nisa.dropout(c.new((4, 512)), c.put(np.ones((4, 512))), 0), "trn2",
         (512 + 60) / 0.96),
        (lambda c: nisa.set_rng_seed(c.put([[1]], "int32")), "trn1", (1 + 60) / 1.12),
        (lambda c: nisa.rand_set_state(c.put(np.ones((4, 6)), "uint32")), "trn2", (6 + 150) / 1.2),
        (lambda c: nisa.rand_get_state(c.new((4, 24), "uint32"), E.vector), "trn3",
         (24 + 60) / 1.2),
    ],
)  # fmt: skip
def test_occupancy(start: Any, call: Any, target: str, nanoseconds: float) -> None:
    with start(target) as chip:
        call(chip)
        assert chip.last.occupancy_ps == round(1000 * nanoseconds)
