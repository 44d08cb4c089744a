"""Entry point of the `nkiconv` command: exit codes, and one line for what a user can get wrong.

Exit codes: 0 done; 1 a comparison or standard failed; 2 the request cannot be carried out (one
line on stderr says why); 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

__all__ = ["main", "run"]


def main() -> NoReturn:
    """Run the command line on `sys.argv` and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    if not _times_numpy(arguments):
        # The simulator's matmuls are small: on a busy machine BLAS threads wait for each other
        # tens of times longer than a product takes. Read when NumPy is imported.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        import rich  # noqa: F401  looked for here, so that its absence is one line
        import typer
    except ImportError:
        return _fail("the command line needs extra packages: pip install 'nkiconv[cli]'")

    try:
        # the first import of the simulator reads NKICONV_SIMULATOR, and may refuse its value
        from nkiconv.simulate.errors import NkiconvError
    except ValueError as error:
        return _fail(str(error))
    from nkiconv.bench.commands import app
    from nkiconv.bench.errors import UserError
    from nkiconv.bench.output import tolerant_streams

    tolerant_streams()
    command = typer.main.get_command(app)
    try:
        # not standalone: typer then hands its errors over instead of printing boxes around them
        code = command.main(
            list(arguments) or ["--help"], prog_name="nkiconv", standalone_mode=False
        )
        sys.stdout.flush()
    except (UserError, NkiconvError) as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # the reader of a pipe (`nkiconv check | head`) has left: nothing more to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        return _fail(f"not enough memory: {error}")
    except Exception as error:
        # Errors of usage come from click, or from the copy of it inside newer typer releases:
        # known by what they offer, because there is no class that all of them share.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return _fail(message())
    return code if isinstance(code, int) else 0


def _times_numpy(arguments: Sequence[str]) -> bool:
    """Whether NumPy itself is timed, with the threads that a user's own program would have."""
    words = " ".join(arguments).replace("=", " ").split()
    given = [word for name, word in pairwise(words) if name == "--suite"]
    return words[:1] == ["bench"] and all(word in ("simulator", "speed") for word in given)


def _fail(message: str) -> int:
    """Print `message` as the one line that the user sees, and return the exit code for it."""
    sys.stderr.write(f"nkiconv: error: {' '.join(message.split())}\n")
    return 2


if __name__ == "__main__":
    main()
