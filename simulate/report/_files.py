"""Report files appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from nkiconv.simulate.errors import NkiconvError

__all__ = ["open_report"]


def _open(path: Path, mode: Literal["w", "x"]) -> TextIO:
    # Source paths can hold bytes that are no UTF-8; a report shows them escaped.
    return path.open(mode, encoding="utf-8", errors="backslashreplace", newline="\n")


@contextmanager
def open_report(path: str | os.PathLike[str], what: str) -> Iterator[TextIO]:
    """Text stream whose content replaces ``path`` when the block ends without an error.

    The text goes to a temporary file beside ``path``, which is renamed at the end.  Pipes and
    devices, such as ``/dev/stdout``, are written directly.

    Parameters
    ----------
    path
        File to write; its directory has to exist.
    what
        Name of the caller, with which the error message opens.

    Raises
    ------
    NkiconvError
        ``path`` cannot be written; the message names it and says why.
    """
    target = Path(path)

    def refusal(reason: str) -> NkiconvError:
        return NkiconvError(
            f"{what}: cannot write {os.fspath(path)!r}: {reason}", code="report.file"
        )

    if "\0" in str(target):
        raise refusal("a path cannot hold a null character")
    temporary: Path | None = None
    try:
        if target.is_dir():
            raise refusal("it is a directory")
        if target.exists():
            if not os.access(target, os.W_OK):
                raise refusal("it is not writable")
            if not target.is_file():
                with _open(target, "w") as stream:
                    yield stream
                return
        elif not target.parent.is_dir():
            raise refusal(f"there is no directory {str(target.parent)!r}")
        final = target.resolve()  # a link stays a link, and the file it names is replaced
        candidate = final.with_name(f".nkiconv-{secrets.token_hex(8)}.tmp")
        with _open(candidate, "x") as stream:
            temporary = candidate
            yield stream
        temporary.replace(final)
    except OSError as error:
        raise refusal(error.strerror or str(error)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
