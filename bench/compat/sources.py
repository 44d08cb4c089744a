"""The checkouts that the trial reads: where they are, which version, how to get them."""

from __future__ import annotations

import datetime
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nkiconv.bench.errors import UserError

__all__ = ["SOURCES", "Source", "check_sources", "version_of"]


@dataclass(frozen=True)
class Source:
    """One checkout.

    Parameters
    ----------
    folder
        Name of the folder, as ``git clone`` makes it.
    repository
        Its name on GitHub.
    holds
        A folder that every checkout has.
    version_file
        File with ``__version__ = '...'``, if there is one.
    """

    folder: str
    repository: str
    holds: str
    version_file: str = ""


SOURCES = (
    Source("aws-neuron-sdk", "aws-neuron/aws-neuron-sdk", "nki"),
    Source("nki-samples", "aws-neuron/nki-samples", "src/nki_samples"),
    Source(
        "nki-library",
        "aws-neuron/nki-library",
        "src/nkilib_src/nkilib",
        "src/nkilib_src/nkilib/version/__init__.py",
    ),
)


def check_sources(root: Path, folders: Iterable[str], known: Iterable[Source] = SOURCES) -> None:
    """Refuse to begin without one of the checkouts.

    Raises
    ------
    UserError
        One line with the commands that fetch what is missing.
    """
    wanted = set(folders)
    missing = [s for s in known if s.folder in wanted and not (root / s.folder / s.holds).is_dir()]
    if not missing:
        return
    names = ", ".join(source.folder for source in missing)
    commands = " && ".join(
        f"git clone --depth 1 https://github.com/{source.repository}" for source in missing
    )
    raise UserError(f"no {names} in {str(root)!r}; in that folder: {commands}")


def version_of(root: Path, source: Source) -> str:
    """Return the commit and date of a checkout, or what its files say without git."""
    folder = root / source.folder
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h of %cs"]
    if (folder / ".git").exists():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return f"commit {done.stdout.strip()}"
    newest = max(
        (path.stat().st_mtime for path in (folder / source.holds).rglob("*") if path.is_file()),
        default=0.0,
    )
    date = datetime.datetime.fromtimestamp(newest, datetime.timezone.utc).date().isoformat()
    version = ""
    if source.version_file:
        text = (folder / source.version_file).read_text("utf-8")
        found = re.search(r"__version__\s*=\s*['\"]([^'\"]+)['\"]", text)
        version = f"{found.group(1)}, " if found else ""
    return f"{version}no git history, newest file of {date}"
