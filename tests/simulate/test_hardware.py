"""Facts about the chips: complete, each with a source, in one file; and the target in force."""

from __future__ import annotations

import ast
import dataclasses
from collections import Counter
from pathlib import Path

import pytest

import nkiconv.simulate
from nkiconv.simulate import ConstraintError, current_target, resolve_target, use_target
from nkiconv.simulate.hardware import (
    FACTS,
    HARDWARE,
    TARGET_VARIABLE,
    TARGETS,
    Fact,
    Hardware,
    Status,
    hardware,
)
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

FOLDER = Path(nkiconv.simulate.__file__).parent
FIELDS = [f.name for f in dataclasses.fields(Hardware) if f.name != "target"]


# --- The facts -----------------------------------------------------------------------------------


def test_every_field_has_one_fact_for_every_target() -> None:
    counted = Counter((fact.name, fact.target) for fact in FACTS)
    assert counted == {(name, target): 1 for name in FIELDS for target in TARGETS}


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: f"{fact.name}-{fact.target}")
def test_a_fact_has_unit_source_and_status(fact: Fact) -> None:
    assert fact.unit
    assert len(fact.source) > 3
    assert isinstance(fact.status, Status)
    assert fact.value > 0
    assert getattr(HARDWARE[fact.target], fact.name) == fact.value


@pytest.mark.parametrize("target", TARGETS)
def test_types_of_the_fields(target: str) -> None:
    assert HARDWARE[target].target == target
    for field in dataclasses.fields(Hardware):
        if field.type == "int":
            assert type(getattr(HARDWARE[target], field.name)) is int, field.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        HARDWARE[target].partitions = 64  # type: ignore[misc]


def test_a_few_documented_numbers() -> None:
    assert [HARDWARE[t].sbuf_usable_bytes for t in TARGETS] == [180_224, 212_984, 245_752]
    assert [HARDWARE[t].tensor_peak_ghz for t in TARGETS] == [2.8, 2.4, 2.4]
    assert [HARDWARE[t].generation for t in TARGETS] == [2, 3, 4]
    for name in ("tensor", "vector", "scalar", "gpsimd"):
        (fact,) = [f for f in FACTS if f.name == f"{name}_ghz" and f.target == "trn1"]
        assert fact.unit == "GHz"


def test_what_was_measured_on_one_generation_is_assumed_for_the_others() -> None:
    hop = {fact.target: fact.status for fact in FACTS if fact.name == "dependency_ns"}
    assert hop == {"trn1": Status.ASSUMED, "trn2": Status.MEASURED, "trn3": Status.ASSUMED}


def numbers_in(path: Path) -> set[float]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        float(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    }


def test_chip_numbers_stand_in_hardware_alone() -> None:
    # Numbers that hardly mean anything else: fractions, and large ones other than powers of two.
    facts = {fact.value for fact in FACTS} - {0.5, 1000.0}
    telling = {v for v in facts if v != int(v) or (v > 150 and int(v) & (int(v) - 1))}
    assert {2.8, 1.12, 0.96, 27.2, 180_224.0, 1283.0} <= telling
    found = {
        (path.relative_to(FOLDER).as_posix(), number)
        for path in FOLDER.rglob("*.py")
        if path.name != "hardware.py"
        for number in numbers_in(path) & telling
    }
    assert not found


# --- The target in force -------------------------------------------------------------------------

ALIASES = [("trn1", "trn1"), ("inf2", "trn1"), ("gen2", "trn1"), ("trn2", "trn2"),
           ("gen3", "trn2"), ("trn3", "trn3"), ("gen4", "trn3"), ("", "trn1")]  # fmt: skip


@pytest.mark.parametrize(("wish", "target"), ALIASES)
def test_the_environment_chooses(wish: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TARGET_VARIABLE, wish)
    assert current_target() == target
    assert hardware() is HARDWARE[target]
    if wish:
        assert resolve_target(wish) == target


def test_without_a_wish_it_is_the_strictest() -> None:
    assert current_target() == "trn1"


@pytest.mark.parametrize("wish", ["trn9", "TRN2", "trn1 ", "2"])
def test_unknown_targets(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = rf"'{wish}' is not a target; use one of trn1, inf2, gen2, .*gen4"
    with pytest.raises(ConstraintError, match=words), use_target(wish):
        pass
    monkeypatch.setenv(TARGET_VARIABLE, wish)
    with pytest.raises(ConstraintError, match=rf"^{TARGET_VARIABLE}: {words}"):
        current_target()
    with use_target("trn3"):  # a choice in the program goes before the environment
        assert current_target() == "trn3"


def test_use_target_nests_and_restores_also_after_an_error() -> None:
    def fails() -> None:
        with use_target("gen3"):
            assert current_target() == "trn2"
            with use_target("trn3"), use_target(None):
                assert current_target() == "trn3"
            assert current_target() == "trn2"
            raise KeyError

    with use_target("inf2"):
        with pytest.raises(KeyError):
            fails()
        assert current_target() == "trn1"
    assert current_target() == "trn1"


TILE_SIZES = {
    "pmax": (128, 128, 128),
    "psum_bank_fmax_bytes": (2048, 2048, 2048),
    "psum_bank_fmax": (512, 512, 512),
    "psum_fmax": (512, 512, 512),
    "psum_num_banks": (8, 8, 8),
    "gemm_stationary_fmax": (128, 128, 128),
    "gemm_moving_fmax": (512, 512, 512),
    "bn_stats_fmax": (512, 512, 512),
    "psum_min_align": (4, 4, 4),
    "sbuf_min_align": (1, 1, 1),
    "sbuf_size_bytes": (24 * 2**20, 28 * 2**20, 32 * 2**20),
    "sbuf_fmax_bytes": (180_224, 212_984, 245_752),
    "sbuf_fmax": (45_056, 53_246, 61_438),
    "total_available_sbuf_size": (180_224, 212_984, 245_752),
}


def test_tile_size_follows_the_target() -> None:
    named = {n for n, v in vars(type(nl.tile_size)).items() if isinstance(v, property)} - {"_hw"}
    assert named == set(TILE_SIZES)
    for column, target in enumerate(TARGETS):
        with use_target(target):
            found = {name: getattr(nl.tile_size, name) for name in TILE_SIZES}
            assert found == {name: sizes[column] for name, sizes in TILE_SIZES.items()}
            assert nisa.get_nc_version().value == column + 2
