"""The embedded NKI has the vendor's names, parameters and defaults, as recorded for NKI 0.6.0."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from nkiconv.simulate import use_target
from nkiconv.simulate.coverage import available, vendor_api
from nkiconv.simulate.errors import ConstraintError
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.ops import Op
from nkiconv.simulate.sheet import SHEETS
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor

MODULES = ("nki", "nki.isa", "nki.language", "nki.collectives")
MARKS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
# The vendor's takes fields by name on the host, the compiler by position too; ours does both.
NOT_EMBEDDED = {("NKIObject", "__init__")}


def embedded(module: str) -> Any:
    return importlib.import_module(module.replace("nki", "nkiconv.simulate.nki", 1))


def as_recorded(value: object) -> str:
    """Write a default as the record does: ``engine.unknown``, ``sbuf``, ``()``, ``1.0``."""
    if isinstance(value, (MemoryRegion, Op)):
        return value.name
    if isinstance(value, str) and hasattr(nl, value):  # a dtype
        return value
    if value is Ellipsis:
        return "..."
    return str(value) if isinstance(value, Enum) else repr(value)


def parameters(function: Any) -> list[dict[str, str]]:
    """Write a signature as the record does."""
    rows = []
    for name, parameter in inspect.signature(function).parameters.items():
        row = {"name": MARKS.get(parameter.kind, "") + name}
        if parameter.default is not parameter.empty:
            row["default"] = as_recorded(parameter.default)
        rows.append(row)
    return rows


def functions() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for name in available(module):
            yield module, name


def methods() -> Iterator[tuple[str, str, str]]:
    for module in MODULES:
        for name, recorded in vendor_api()[module]["classes"].items():
            if name in vars(embedded(module)):
                for method in recorded["methods"]:
                    if (name, method) not in NOT_EMBEDDED:
                        yield module, name, method


def enums() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for name, recorded in vendor_api()[module]["classes"].items():
            if recorded["bases"] == ["Enum"]:
                yield module, name


@pytest.mark.parametrize(("module", "name"), list(functions()))
def test_parameters_and_defaults(module: str, name: str) -> None:
    assert parameters(getattr(embedded(module), name)) == vendor_api()[module]["functions"][name]


def test_what_is_embedded() -> None:
    """The list, so that a name that falls out of it is seen."""
    assert available("nki") == ["jit", "simulate"]
    assert set(available("nki.isa")) == {
        *("get_nc_sub_version", "get_nc_version", "register_alloc"),
        *SHEETS,
    }
    assert sorted(SHEETS) == [
        "activate2", "activation", "activation_reduce", "affine_select", "bn_aggr", "bn_stats",
        "core_barrier", "dma_compute", "dma_copy", "dma_transpose", "dropout", "exponential",
        "iota", "local_gather", "max8", "memset", "nc_find_index8", "nc_match_replace8",
        "nc_matmul", "nc_matmul_mx", "nc_n_gather", "nc_stream_shuffle", "nc_transpose",
        "nonzero_with_count", "quantize_mx",
        "rand2", "rand_get_state", "rand_set_state", "range_select", "reciprocal", "register_load",
        "register_move", "register_store", "rng", "scalar_tensor_tensor", "select_reduce",
        "sendrecv", "sequence_bounds", "set_rng_seed", "tensor_copy", "tensor_copy_predicated",
        "tensor_partition_reduce", "tensor_reduce", "tensor_scalar", "tensor_scalar_cumulative",
        "tensor_scalar_reduce", "tensor_tensor", "tensor_tensor_scan", "topk",
    ]  # fmt: skip
    assert set(available("nki.language")) == vendor_api()["nki.language"]["functions"].keys()


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_the_vendors(module: str) -> None:
    api = vendor_api()[module]
    known = {*api["functions"], *api["classes"], *api["values"]}
    helpers = {"annotations", "Any"}
    if module == "nki":
        # Modules; our own runner.
        helpers |= {"collectives", "isa", "language", "typing", "simulate_kernel"}
    public = {name for name in vars(embedded(module)) if not name.startswith("_")}
    assert public <= known | helpers, sorted(public - known - helpers)


def test_operators_are_the_vendors() -> None:
    """``nl.add`` and others are objects for ``op=``, and most are functions on tiles as well."""
    operators = {name for name, value in vars(nl).items() if isinstance(value, Op)}
    api = vendor_api()["nki.language"]
    assert operators <= {*api["functions"], *api["values"]}
    assert len(operators) == 51
    assert all(getattr(nl, name).name == name == repr(getattr(nl, name))[3:] for name in operators)
    for name in operators - api["functions"].keys():
        with pytest.raises(
            ConstraintError, match=rf"^nl\.{name} is not a function on tiles in NKI"
        ):
            getattr(nl, name)(1)
    assert operators - api["functions"].keys() == {"average", "bypass", "prelu"}
    assert "binary" in inspect.signature(Op).parameters  # the class has its own


@pytest.mark.parametrize(("module", "name"), list(enums()))
def test_enum_members_and_values(module: str, name: str) -> None:
    members = [f"{m.name}={m.value!r}" for m in getattr(embedded(module), name)]
    assert members == vendor_api()[module]["classes"][name]["members"]


@pytest.mark.parametrize(("module", "name", "method"), list(methods()))
def test_methods(module: str, name: str, method: str) -> None:
    made = inspect.getattr_static(getattr(embedded(module), name), method)
    if isinstance(made, property):  # the record lists the vendor's properties among the methods
        made = made.fget
    assert parameters(made) == vendor_api()[module]["classes"][name]["methods"][method]


@pytest.mark.parametrize("name", vendor_api()["nki.language"]["classes"]["NkiTensor"]["members"])
def test_tensor_attributes(chip: Any, name: str) -> None:
    assert hasattr(chip.new((4, 8)), name)
    assert NkiTensor.reinterpret_cast is NkiTensor.view


def test_dtypes_are_their_names() -> None:
    recorded = vendor_api()["nki.language"]["values"]
    dtypes = [n for n in recorded if n.startswith(("bool", "int", "uint", "float", "bf", "tf"))]
    assert len(dtypes) == 18
    assert all(getattr(nl, name) == name for name in dtypes)
    assert (nl.DType, nl.hbm) == (str, nl.private_hbm)


# name: (trn1, trn2, trn3)
TILE_SIZES = {
    "pmax": (128, 128, 128),
    "psum_fmax": (512, 512, 512),
    "psum_bank_fmax": (512, 512, 512),
    "psum_bank_fmax_bytes": (2048, 2048, 2048),
    "gemm_stationary_fmax": (128, 128, 128),
    "gemm_moving_fmax": (512, 512, 512),
    "bn_stats_fmax": (512, 512, 512),
    "psum_min_align": (4, 4, 4),
    "sbuf_min_align": (1, 1, 1),
    "psum_num_banks": (8, 8, 8),
    "sbuf_size_bytes": (24 * 2**20, 28 * 2**20, 32 * 2**20),
    "sbuf_fmax": (45_056, 53_246, 61_438),
    "sbuf_fmax_bytes": (180_224, 212_984, 245_752),
    "total_available_sbuf_size": (180_224, 212_984, 245_752),
}


@pytest.mark.parametrize("name", TILE_SIZES)
def test_tile_size(name: str) -> None:
    found = []
    for target in ("trn1", "trn2", "trn3"):
        with use_target(target):
            found.append(getattr(nl.tile_size, name))
    assert tuple(found) == TILE_SIZES[name]


def test_every_tile_size_of_the_vendor_is_tested() -> None:
    recorded = vendor_api()["nki.language"]["classes"]["_TileSize"]
    assert set(TILE_SIZES) == {*recorded["members"], *recorded["methods"]}


@pytest.mark.parametrize(
    ("target", "version"), [("trn1", "gen2"), ("trn2", "gen3"), ("trn3", "gen4")]
)
def test_nc_version(target: str, version: str) -> None:
    with use_target(target):
        assert nisa.get_nc_version() is nisa.nc_version[version]


@pytest.mark.parametrize(
    ("module", "name"),
    [("nki.isa", "rand2"), ("nki.language", "ds"), ("nki.collectives", "rank_id")],
)
def test_name_that_is_not_embedded(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.delattr(embedded(module), name)
    with pytest.raises(AttributeError) as missing:
        getattr(embedded(module), name)
    assert str(missing.value) == (
        f"{module}.{name} is part of NKI 0.6.0 but not of the embedded NKI yet "
        "(nkiconv doctor lists what there is)"
    )


@pytest.mark.parametrize("module", MODULES)
def test_name_that_does_not_exist(module: str) -> None:
    with pytest.raises(AttributeError) as missing:
        _ = embedded(module).frobnicate
    assert (
        str(missing.value)
        == f"module {module!r} has no attribute 'frobnicate', in NKI 0.6.0 either"
    )


def test_every_missing_function_says_so() -> None:
    for module in MODULES:
        api = vendor_api()[module]
        for name in {*api["functions"], *api["classes"], *api["values"]} - vars(
            embedded(module)
        ).keys():
            assert not hasattr(embedded(module), name)


def test_typing_names_the_tensor() -> None:
    assert issubclass(embedded("nki.typing").tensor, NkiTensor)


def test_ranges_unroll() -> None:
    for loop in (nl.static_range, nl.affine_range, nl.sequential_range):
        assert list(loop(3)) == [0, 1, 2]
        assert list(loop(1, 8, 3)) == [1, 4, 7]


def test_memories(chip: Any) -> None:
    regions = (nl.sbuf, nl.psum, nl.private_hbm, nl.shared_hbm)
    assert [nl.is_sbuf(r) for r in regions] == [True, False, False, False]
    assert [nl.is_psum(r) for r in regions] == [False, True, False, False]
    assert [nl.is_on_chip(r) for r in regions] == [True, True, False, False]
    assert [nl.is_hbm(r) for r in regions] == [False, False, True, True]
    assert chip.new((4, 8)).buffer is nl.sbuf
