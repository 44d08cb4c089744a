"""``NKIObject``: the base of the classes that a kernel takes as arguments or uses inside.

The compiler reads a class as Python reads a data class, whether it is decorated or not: annotated
names are fields, in order, with the class's values as defaults; objects are equal when their fields
are (NKI language guide, Class Support and Enumerations).
"""

from __future__ import annotations

import inspect
from typing import Any


class NKIObject:
    """Base of the classes that a kernel may take as an argument or use inside.

    Notes
    -----
    A class with an ``__init__`` of its own, or one that ``@dataclass`` has written, keeps it,
    frozen or not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Set the fields, by position or name; one that is not given has its default, or None."""
        cls = type(self)
        fields = _fields(cls)
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
        for name in fields:
            setattr(self, name, given[name] if name in given else getattr(cls, name, None))
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


def _fields(cls: type) -> tuple[str, ...]:
    """Return the annotated names of a class and its bases, the bases' first."""
    names = [
        name
        for base in reversed(cls.__mro__)
        for name, annotation in inspect.get_annotations(base).items()
        if "ClassVar" not in str(annotation)
    ]
    return tuple(dict.fromkeys(names))
