"""``NKIObject``: the base of the classes that a kernel takes as arguments or uses inside.

The compiler reads a class as Python reads a data class, whether it is decorated or not: annotated
names are fields, in order, with the class's values as defaults; objects are equal when their fields
are (NKI language guide, Class Support and Enumerations).  In a class without annotations, the
values that it gives are its fields: the vendor's attention kernels write one so.
"""

from __future__ import annotations

import inspect
import weakref
from dataclasses import MISSING
from types import MemberDescriptorType
from typing import Any


class NKIObject:
    """Base of the classes that a kernel may take as an argument or use inside.

    Notes
    -----
    A class with an ``__init__`` of its own keeps it.  ``@dataclass`` writes none, since the
    compiler reads the class in the same way without: a field that is not given and has no default
    is None, as the vendor's mlp kernels expect.
    """

    def __init_subclass__(cls) -> None:
        if cls.__init__ is NKIObject.__init__:
            cls.__init__ = NKIObject.__init__  # type: ignore[method-assign]  # dataclass keeps it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Set the fields, by position or name; one that is not given has its default, or None."""
        cls = type(self)
        fields = _fields(cls)
        put = object.__setattr__  # for frozen data classes too
        if len(args) == len(fields) and not kwargs:  # plans make thousands of small ones
            for i, name in enumerate(fields):  # half the time of a strict zip
                put(self, name, args[i])
        else:
            given = _given(cls, fields, args, kwargs)
            for name in fields:
                put(self, name, given[name] if name in given else _default(cls, name))
        self.__post_init__()

    def __post_init__(self) -> None:
        """Do nothing: what a class may do when its fields are set."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self is other or self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        # Equal objects hash alike, whatever their fields hold and however these change.
        return hash((type(self), *sorted(self.__dict__)))


_known: weakref.WeakKeyDictionary[type, tuple[str, ...]] = weakref.WeakKeyDictionary()


def _fields(cls: type) -> tuple[str, ...]:
    """Return the fields of a class and its bases, the bases' first; looked for once a class."""
    found = _known.get(cls)
    if found is None:
        found = _known[cls] = _find_fields(cls)
    return found


def _given(
    cls: type, fields: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields that are given, by position or name.

    Raises
    ------
    TypeError
        There are more values than fields, or a name is no field or given twice.
    """
    if len(args) > len(fields):
        raise TypeError(
            f"{cls.__name__}: {len(args)} values for the fields {fields} (annotated names are "
            "the fields of a class; NKI language guide, Class Support)"
        )
    given = dict(zip(fields, args, strict=False))
    for name, value in kwargs.items():
        if name not in fields or name in given:
            what = "is given twice" if name in given else "is not a field"
            raise TypeError(
                f"{cls.__name__}: {name!r} {what}; the fields are {fields} (annotated names; "
                "NKI language guide, Class Support)"
            )
        given[name] = value
    return given


def _find_fields(cls: type) -> tuple[str, ...]:
    names = []
    for base in reversed(cls.__mro__[: cls.__mro__.index(NKIObject)]):
        annotated = inspect.get_annotations(base).items()
        names += [name for name, kind in annotated if "ClassVar" not in str(kind)]
        if not annotated:
            names += _values(base)
    return tuple(dict.fromkeys(names))


def _values(cls: type) -> list[str]:
    """Return the names of a class's own values, which are no methods or properties."""
    own = vars(cls).items()
    return [n for n, v in own if not n.startswith("__") and not hasattr(v, "__get__")]


def _default(cls: type, name: str) -> Any:
    """Return what a field is that is not given."""
    field = getattr(cls, "__dataclass_fields__", {}).get(name)
    if field is not None and field.default_factory is not MISSING:
        return field.default_factory()
    value = getattr(cls, name, None)
    return None if isinstance(value, MemberDescriptorType) else value  # of __slots__
