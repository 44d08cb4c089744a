"""nl.rand, nl.random_seed and nl.dropout: which instructions they become, and what these draw."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate.errors import ConstraintError, DtypeError, ShapeError
from nkiconv.simulate.nki import language as nl

TARGETS = ["trn1", "trn2", "trn3"]


def opcodes(c: Any) -> list[str]:
    return [step.opcode for step in c.program.trace.steps()]


@pytest.mark.parametrize("target", TARGETS)
def test_rand_is_uniform(start: Any, target: str) -> None:
    with start(target) as chip:
        tile = nl.rand((128, 300), nl.float32)
        found = tile._array.astype(np.float64)
        assert opcodes(chip) == (["rand2"] if target == "trn3" else ["rng", "tensor_scalar"])
        assert (tile.buffer, tile.dtype, tile.shape) == (nl.sbuf, nl.float32, (128, 300))
    assert 0 <= found.min() < 0.01
    assert 0.99 < found.max() < 1
    # A mean of 38 400 numbers, to five standard deviations.
    assert found.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * found.size))
    assert found.std() == pytest.approx(1 / np.sqrt(12), rel=0.02)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(3, 8), (8,)])
def test_rand_in_every_memory(start: Any, target: str, shape: tuple[int, ...]) -> None:
    with start(target) as chip:
        held = nl.rand(shape, nl.bfloat16, nl.shared_hbm, "noise")
        assert (held.buffer, held.shape, held.name) == (nl.shared_hbm, shape, "noise")
        assert opcodes(chip)[-1] == "dma_copy"
        assert len(np.unique(held._array.astype(float))) > 4
        assert nl.rand((3, 8), nl.float32, nl.psum).buffer is nl.psum


@pytest.mark.parametrize("target", TARGETS)
def test_a_seed_repeats_the_numbers(start: Any, target: str) -> None:
    with start(target) as chip, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = []
        for value in (42, 42, 43):
            nl.random_seed(chip.put([[value]], "int32"))
            found.append(nl.rand((16, 32), nl.float32)._array.tolist())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("target", TARGETS)
def test_a_seed_warns_where_it_may_do_nothing(start: Any, target: str) -> None:
    with start(target) as chip, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        nl.random_seed(chip.put([[1]], "int32"))
    words = [f"nl.random_seed: on {target} nl.rand may draw from another engine"]
    assert [str(w.message)[: len(words[0])] for w in seen] == words * (target != "trn3")


def test_dropout(start: Any) -> None:
    x = np.arange(1, 4001).reshape(4, 1000)
    with start("trn1") as chip:
        kept = nl.dropout(chip.put(x, "int32", nl.psum), 0.5)
        cast = nl.dropout(chip.put(x), chip.put([[0], [0], [1], [1]]), dtype=nl.bfloat16)
    assert (kept.dtype, kept.buffer, cast.dtype) == (nl.int32, nl.sbuf, nl.bfloat16)
    gone = kept._array == 0
    assert 0.45 < gone.mean() < 0.55
    assert np.array_equal(kept._array[~gone], x[~gone])
    assert [float(row.max()) for row in cast._array] == [1000, 2000, 0, 0]


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda c: nl.rand((4, 8), nl.int32), DtypeError, "nl.rand: dtype int32 has only 0 and 1"),
        (lambda c: nl.rand((4, 0), nl.float32), ShapeError, "nl.rand: every size"),
        (lambda c: nl.rand((4, 8), nl.float32, "sbuf"), ConstraintError, "nl.rand: buffer must"),
        (lambda c: nl.random_seed(42), ConstraintError, "nl.random_seed: seed must be a tensor"),
        (lambda c: nl.dropout(3.0, 0.5), ConstraintError, "nl.dropout: x must be a tile, got 3.0"),
        (lambda c: nl.dropout(c.put(np.ones((4, 8))), 2), ConstraintError, "prob must lie between"),
    ],
)
def test_what_is_refused(chip: Any, call: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        call(chip)
