"""The embedded ``nki.typing``: names for annotations."""

from __future__ import annotations

from nkiconv.simulate.tensor import NkiTensor as tensor

__all__ = ["tensor"]
