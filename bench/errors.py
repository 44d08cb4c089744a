"""The one error that the command line itself raises."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(Exception):
    """What the user asked for cannot be done; the text is the one line that they see."""
