"""Host modules that strangers' code imports and that nobody outside the vendor has.

Only for the trial, in the worker's process, and only where the real module is missing.  None of
them is part of NKI: what a kernel computes is never decided here.

====================================  ==========================================================
module                                what stands in for it
====================================  ==========================================================
`neuron_dtypes`, `nki.dtype`          NumPy dtypes of ml_dtypes, packed ones, and conversions
`neuronxcc.starfish.support.dtype`    the conversion of `neuron_dtypes`
`torch_xla`                           `device()`, which gives the CPU, and `sync()`
`EMPTY`                               any attribute is an empty class: imported, never used here
====================================  ==========================================================
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from nkiconv.bench.compat.case import Array

__all__ = ["EMPTY", "STAND_INS", "install", "packed_name", "static_cast", "unpack"]

EMPTY = (
    "allpairspy",  # pairwise test selection
    "aws_embedded_metrics",  # telemetry
    "fabric2",  # remote shells
    "neuronxcc.nki.typing",  # names for annotations
    "plotext",  # charts in a terminal
    # Schedules tests on a fleet of devices, and imports a file that the checkout does not have.
    "test.utils.test_orchestrator",
)

_FLOATS = ("bfloat16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")

# Four small floats in one element, the first in the lowest bits: members, and how NumPy holds four.
_PACKED = {
    "float8_e4m3fn_x4": (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype("u4")),
    "float8_e5m2_x4": (np.dtype(ml_dtypes.float8_e5m2), np.dtype("u4")),
    "float4_e2m1fn_x4": (np.dtype(ml_dtypes.float4_e2m1fn), np.dtype("u2")),
}


def packed_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype that stands for a packed type: one unsigned integer under its name."""
    return np.dtype([(name, _PACKED[name][1])])


def packed_name(dtype: np.dtype[Any]) -> str:
    """Return the packed type that a dtype stands for, or nothing."""
    names = dtype.names or ("",)
    return names[0] if names[0] in _PACKED else ""


def static_cast(array: Any, dtype: Any) -> Array:
    """Convert an array by NumPy's rules; packed types have a quarter of the last dimension."""
    values = np.asarray(array)
    name = packed_name(values.dtype)
    if name:
        values = unpack(values, name)
    asked = packed_dtype(dtype) if dtype in _PACKED else np.dtype(dtype)
    name = packed_name(asked)
    return _pack(values, name) if name else values.astype(asked)


def unpack(values: Array, name: str) -> Array:
    """``(..., n)`` packed elements as ``(..., 4 n)`` float32."""
    member, _ = _PACKED[name]
    codes: Array = np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape[:-1], -1)
    if name.startswith("float4"):
        codes = np.stack((codes & 0xF, codes >> 4), axis=-1).reshape(*values.shape[:-1], -1)
    widened: Array = codes.view(member).astype(np.float32)
    return widened


def _pack(values: Array, name: str) -> Array:
    """``(..., 4 n)`` numbers, rounded, as ``(..., n)`` packed elements."""
    member, _ = _PACKED[name]
    codes: Array = np.ascontiguousarray(values.astype(member)).view(np.uint8)
    if name.startswith("float4"):
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
    return np.ascontiguousarray(codes).view(packed_dtype(name))


def _is_float_type(dtype: Any) -> bool:
    kind = np.dtype(dtype)
    name: str = kind.name
    return kind.kind == "f" or name.startswith(("bfloat", "float"))


def _dtypes() -> dict[str, object]:
    names: dict[str, object] = {n: np.dtype(getattr(ml_dtypes, n)) for n in _FLOATS}
    names |= {name: packed_dtype(name) for name in _PACKED}
    return names | {
        "finfo": ml_dtypes.finfo,
        "is_float_type": _is_float_type,
        "sizeinbytes": lambda dtype: np.dtype(dtype).itemsize,
        "static_cast": static_cast,
    }


def _torch_xla() -> dict[str, object]:
    import torch

    return {"device": lambda: torch.device("cpu"), "sync": lambda: None}


STAND_INS: dict[str, Any] = {
    "neuron_dtypes": _dtypes,
    "nki.dtype": _dtypes,
    "neuronxcc": dict,
    "neuronxcc.nki": dict,
    "neuronxcc.starfish": dict,
    "neuronxcc.starfish.support": dict,
    "neuronxcc.starfish.support.dtype": _dtypes,
    "torch_xla": _torch_xla,
}


class _Empty(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    """Answers some of this module's names, and what lies under the empty ones."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        parts = fullname.split(".")
        above = {".".join(parts[: i + 1]) for i in range(len(parts))}
        if fullname in self.names or above & self.names & set(EMPTY):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name) if spec.name in STAND_INS else _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        make = STAND_INS.get(module.__name__)
        if make is not None:
            vars(module).update(make())


def install() -> None:
    """Answer the imports of this module's names that nothing else answers."""
    first, last = [], []
    for name in (*EMPTY, *STAND_INS):
        root = name.partition(".")[0]
        if root in ("nki", "test"):  # packages that are there, and lack this one module
            first.append(name)
        elif importlib.util.find_spec(root) is None:
            last.append(name)
    sys.meta_path.insert(0, _Finder(first))
    sys.meta_path.append(_Finder(last))
    importlib.import_module("nki.dtype")  # annotations name it as an attribute of nki
    known: dict[str, Any] = vars(np)["sctypeDict"]
    known |= {name: packed_dtype(name) for name in _PACKED}  # as ml_dtypes makes its names known
