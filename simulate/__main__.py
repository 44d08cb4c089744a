"""``python -m nkiconv.simulate SCRIPT.py [ARGUMENT ...]``: run a script with the embedded NKI."""

from __future__ import annotations

import os
import runpy
import sys

_USAGE = "usage: python -m nkiconv.simulate SCRIPT.py [ARGUMENT ...]"


def main(arguments: list[str]) -> int:
    """Run a script as ``__main__`` with the embedded modules; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write(_USAGE + "\n")
        return 0 if arguments else 2
    script = arguments[0]
    if not os.path.isfile(script):  # noqa: PTH113 - the path is passed on as it was given
        sys.stderr.write(f"nkiconv: error: there is no script {script!r}\n")
        return 2
    os.environ["NKICONV_SIMULATOR"] = "embedded"
    from nkiconv.simulate import embedded

    embedded.install()
    sys.argv = arguments
    sys.path[0] = os.path.dirname(os.path.abspath(script))  # noqa: PTH100, PTH120 - as Python does
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
