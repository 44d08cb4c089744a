"""The embedded ``nki.typing``: names for annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nkiconv.simulate.tensor import NkiTensor

if not TYPE_CHECKING:
    from nkiconv.simulate.launch import declare as _declare

__all__ = ["tensor"]


class tensor(NkiTensor):
    """``nt.tensor``, or with a shape that is compared at launch, ``nt.tensor[128, 512]``."""

    __slots__ = ()

    if not TYPE_CHECKING:  # to a type checker an annotation with a shape would be no type

        def __class_getitem__(cls, sizes: Any) -> Any:
            return _declare(sizes)
