"""Element types: their names in NKI, their storage in NumPy, and the one place where values round.

NKI names an element type by a string (``nl.float32 == "float32"``).  Engines compute in float32 and
round once, when the result is written; integers are rounded to nearest even and saturate, as the
hardware does (vendor release notes, NKI 0.6.0, simulator fixes).

The packed types of MX matmuls hold four small floats in one element.  They are kept as unsigned
integers of the same size, the first of the four in the lowest bits, and that is also how they cross
the border: torch and NumPy have no such types (MXFP deep dive, Basic Matmul-MX).  NumPy can name
them all the same, by a structure of that one integer: ``np.dtype([("float8_e5m2_x4", "u4")])``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from nkiconv.simulate.errors import DtypeError

Array = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ElementType:
    """One NKI element type and how it is stored."""

    name: str
    numpy: np.dtype[Any]
    kind: str  # "float", "int", "bool" or "packed"
    itemsize: int  # bytes


_MEMBERS: Mapping[str, tuple[np.dtype[Any], int]] = {
    "float8_e5m2_x4": (np.dtype(ml_dtypes.float8_e5m2), 8),
    "float8_e4m3fn_x4": (np.dtype(ml_dtypes.float8_e4m3fn), 8),
    "float4_e2m1fn_x4": (np.dtype(ml_dtypes.float4_e2m1fn), 4),
}
"""What the packed types hold four of, and its bits."""

PACKED_TYPES = tuple(_MEMBERS)
"""Types for MX matmuls on trn3."""


def _table() -> dict[str, ElementType]:
    floats = {
        "float32": np.float32,
        "tfloat32": np.float32,  # held as float32, rounded to 10 mantissa bits when written
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float8_e4m3": ml_dtypes.float8_e4m3,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
    }
    integers = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
    types: list[tuple[str, Any, str]] = [(name, t, "float") for name, t in floats.items()]
    types += [(name, name, "int") for name in integers]
    types.append(("bool_", np.uint8, "bool"))
    types += [(name, np.dtype(f"u{bits // 2}"), "packed") for name, (_, bits) in _MEMBERS.items()]
    return {
        name: ElementType(name, np.dtype(t), kind, np.dtype(t).itemsize) for name, t, kind in types
    }


ELEMENT_TYPES: Mapping[str, ElementType] = _table()

_BY_NUMPY = {
    t.numpy: t.name
    for t in ELEMENT_TYPES.values()
    if t.name not in ("tfloat32", "bool_") and t.kind != "packed"
}
_BY_NUMPY[np.dtype(np.bool_)] = "bool_"

_TF32_HALF = np.uint32(0x0FFF)
_TF32_MASK = np.uint32(0xFFFFE000)


def element_type(name: object, *, op: str) -> ElementType:
    """Look up an NKI dtype.

    Raises
    ------
    DtypeError
        `name` is not an NKI dtype.
    """
    found = ELEMENT_TYPES.get(name) if isinstance(name, str) else None
    if found is None:
        known = ", ".join(ELEMENT_TYPES)
        raise DtypeError(
            f"{op}: {name!r} is not an NKI dtype; use one of nki.language's: {known} "
            "(vendor documentation, Supported Data Types)",
            code="dtype.unknown",
        )
    return found


def from_numpy(dtype: np.dtype[Any], *, op: str) -> ElementType:
    """Return the NKI type of a host array.

    Raises
    ------
    DtypeError
        The NeuronCore has no such type (float64, int64, complex, …).
    """
    name = _BY_NUMPY.get(dtype)
    if name is None and dtype.names is not None and len(dtype.names) == 1:
        kind = ELEMENT_TYPES.get(dtype.names[0])
        if kind is not None and kind.kind == "packed" and dtype[0] == kind.numpy:
            return kind
    if name is None:
        raise DtypeError(
            f"{op}: a NeuronCore has no {dtype} elements; convert the array to one of "
            f"{', '.join(sorted(set(_BY_NUMPY.values())))} first",
            code="argument.dtype",
        )
    return ELEMENT_TYPES[name]


def to_float32(values: Array, kind: ElementType) -> Float32Array:
    """Widen elements to float32, exactly (int32 beyond 2^24 rounds, as on the engines)."""
    if values.dtype == np.float32:
        return values
    if kind.name == "bfloat16":
        # bfloat16 is the upper half of a float32: widening by shift is exact and vectorised.
        wide = values.view(np.uint16).astype(np.uint32)
        np.left_shift(wide, np.uint32(16), out=wide)
        return wide.view(np.float32)
    result: Float32Array = values.astype(np.float32)
    return result


def round_to(values: Array, kind: ElementType) -> Array:
    """Round float32 results to `kind`, once: to nearest even, integers saturating.

    NaN becomes 0 in integer types; the documentation is silent about it.
    """
    if kind.name == "tfloat32":
        return _round_tf32(values)
    if values.dtype == kind.numpy:
        return values
    if kind.kind == "float":
        with np.errstate(over="ignore", invalid="ignore"):
            narrow: Array = values.astype(kind.numpy)
            return narrow
    if kind.kind == "bool":
        truth: Array = (values != 0).astype(np.uint8)
        return truth
    limits = np.iinfo(kind.numpy)
    # float64 holds every 32-bit integer, so that the saturated limits are exact.
    rounded = np.nan_to_num(np.rint(values.astype(np.float64)), nan=0.0)
    whole: Array = np.clip(rounded, limits.min, limits.max).astype(kind.numpy)
    return whole


def unpacked(values: Array, dtype: str) -> Float32Array:
    """Return the four members of each packed element, as float32 in a new last dimension."""
    member, bits = _MEMBERS[dtype]
    codes = np.ascontiguousarray(values)[..., np.newaxis].view(np.uint8)
    if bits < 8:
        codes = np.stack((codes & 0xF, codes >> 4), axis=-1).reshape(*values.shape, 4)
    meaning = np.arange(1 << bits, dtype=np.uint8).view(member).astype(np.float32)
    return meaning[codes]


def packed(values: Array, dtype: str) -> Array:
    """Round groups of four along the last dimension to 8-bit members, and pack each group."""
    member, _ = _MEMBERS[dtype]
    codes: Array = np.ascontiguousarray(values.astype(member)).view(ELEMENT_TYPES[dtype].numpy)
    return codes


def _round_tf32(values: Array) -> Array:
    """Round float32 to 10 mantissa bits, to nearest even; NaN and Inf pass."""
    single = np.ascontiguousarray(values, dtype=np.float32)
    bits = single.view(np.uint32)
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    rounded = ((bits + _TF32_HALF + odd) & _TF32_MASK).view(np.float32)
    return np.where(np.isfinite(single), rounded, single)
