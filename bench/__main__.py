"""``python -m nkiconv.bench`` is the same as the `nkiconv` command."""

from __future__ import annotations

from nkiconv.bench.cli import main

main()
