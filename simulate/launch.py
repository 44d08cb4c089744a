"""What is refused before a kernel starts: settings, and arguments that the compiler cannot take."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from nkiconv.simulate.errors import ConstraintError, ShapeError
from nkiconv.simulate.objects import NKIObject
from nkiconv.simulate.tensor import NkiTensor, checked_shape

_GUIDE_030 = "NKI 0.3.0 update guide, Language restrictions"
_CLASSES = "NKI language guide, Class Support"

_VARIABLES = {
    "NKI_SIMULATOR": "the embedded NKI has no device to run kernels on, only the simulator",
    "NKI_PRECISE_FP": (
        "low-precision tensors always hold what the device's would; to see a kernel without their "
        "rounding, call it with float32 arrays"
    ),
}
"""Variables of the vendor's simulator for which "1" is what happens here in any case."""


def check_environment() -> None:
    """Refuse settings of the vendor's simulator that would have to be ignored.

    Raises
    ------
    ConstraintError
        ``NKI_SIMULATOR`` or ``NKI_PRECISE_FP`` is set to something other than 1.
    """
    for name, why in _VARIABLES.items():
        value = os.environ.get(name, "")
        if value not in ("", "1"):
            raise ConstraintError(
                f'{name} is "{value}", and only "1" (or unset) can be had here: {why} (NKI CPU '
                "simulator guide)",
                code="setup.vendor_variable",
            )


_PLAIN_ROOTS = frozenset({"builtins", "ml_dtypes", "nki", "nkiconv", "numpy", "torch"})


def check_argument(value: object, op: str) -> None:
    """Refuse an argument that the compiler could not bring into a kernel.

    Raises
    ------
    ConstraintError
        A list, an object of another class than one from ``NKIObject``, or one with slots.
    """
    if isinstance(value, list):
        raise ConstraintError(
            f"{op}: a list cannot be an argument; pass a tuple ({_GUIDE_030})", code="argument.list"
        )
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            check_argument(item, f"{op}[{i}]")
        return
    if isinstance(value, Enum | type) or callable(value):
        return
    cls = type(value)
    if cls.__module__.split(".")[0] in _PLAIN_ROOTS and not isinstance(value, NKIObject):
        return
    if not isinstance(value, NKIObject):
        raise ConstraintError(
            f"{op}: {cls.__name__} does not derive from nl.NKIObject; the compiler takes no other "
            f"objects ({_CLASSES})",
            code="argument.class",
        )
    own = cls.__mro__[: cls.__mro__.index(NKIObject)]
    slots = [name for base in own for name in _slots(base)]
    if slots and not isinstance(value, NkiTensor):
        raise ConstraintError(
            f"{op}: {cls.__name__} keeps {', '.join(slots)} in __slots__; the compiler reads an "
            f"object's dictionary and nothing else ({_CLASSES})",
            code="argument.slots",
        )


def _slots(cls: type) -> Iterable[str]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


@dataclass(frozen=True)
class DeclaredTensor:
    """What ``nt.tensor[128, 512]`` stands for: a tensor of this shape."""

    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return f"nt.tensor[{', '.join(map(str, self.shape))}]"


def declare(sizes: object) -> DeclaredTensor:
    """Return the declaration of a shape.

    Raises
    ------
    ShapeError
        A size is not a positive integer.
    """
    given = sizes if isinstance(sizes, tuple) else (sizes,)
    return DeclaredTensor(checked_shape(given, "nt.tensor"))


def check_declared(func: Callable[..., Any], bound: dict[str, Any]) -> None:
    """Compare arguments with the shapes that a kernel's annotations declare.

    Parameters
    ----------
    func
        The kernel's function.
    bound
        Its arguments by parameter, arrays as tensors already.

    Raises
    ------
    ShapeError, ConstraintError
        An argument has another shape than its parameter declares, or is no tensor.
    """
    for name, parameter in inspect.signature(func).parameters.items():
        declared = _declaration(func, parameter.annotation)
        if declared is None or name not in bound:
            continue
        value, op = bound[name], f"{func.__name__}({name})"
        if not isinstance(value, NkiTensor):
            if value is None and parameter.default is None:
                continue
            raise ConstraintError(
                f"{op}: declared as {declared!r}, got {value!r} (NKI 0.3.0 update guide, "
                "nki.typing)",
                code="argument.declared",
            )
        if value.shape != declared.shape:
            raise ShapeError(
                f"{op}: declared as {declared!r}, got a tensor of shape {value.shape} (NKI 0.3.0 "
                "update guide, nki.typing)",
                code="argument.declared_shape",
            )


def _declaration(func: Callable[..., Any], annotation: object) -> DeclaredTensor | None:
    """Return what an annotation declares; one that is written as text is read where it stands."""
    if isinstance(annotation, str) and "tensor[" in annotation:
        names: dict[str, Any] = dict(getattr(func, "__globals__", {}))
        names |= inspect.getclosurevars(func).nonlocals
        try:
            annotation = eval(annotation, names)
        except (AttributeError, NameError, SyntaxError, TypeError):
            return None  # something else of that name, which is Python's business
    return annotation if isinstance(annotation, DeclaredTensor) else None
