"""A profile as plain text of at most 80 columns."""

from __future__ import annotations

import textwrap

from nkiconv.simulate.report._protocol import ProfileLike
from nkiconv.simulate.report._summary import (
    engine_rows,
    facts,
    instruction_rows,
    kernel_names,
    microseconds,
    percent,
    printable,
)

__all__ = ["profile_table"]

_WIDTH = 80  # the narrowest terminal in common use
_BAR = 30  # columns of a full bar
_NAME = 34  # columns before a value


def profile_table(p: ProfileLike) -> str:
    """Text for a terminal: lines of at most 80 columns, no trailing newline.

    Nothing but letters, digits and ASCII marks (and ``µ``) is used, so that it survives a log file.
    """
    lines = _row("kernel", ", ".join(kernel_names(p)) or "none launched")
    lines += _row("target", p.target)
    lines += _row("latency, modelled", microseconds(p.latency_us))
    lines += _row("  without launch, modelled", microseconds(p.body_us))
    lines += _row("  launch, modelled", microseconds(p.launch_us))
    lines += _row("bound, modelled", p.bound)
    lines += _row("MFU, modelled", percent(p.mfu))
    lines += _row("MBU, modelled", percent(p.mbu))
    for name, value in facts(p):
        lines += _row(name, value)
    lines += ["", "engine busy, modelled (share of the latency without launch)"]
    for engine, busy_us, share in engine_rows(p):
        time = f"{microseconds(busy_us):>20} {percent(share):>9}"
        lines.append(f"  {_fit(engine, 10):<10} [{_bar(share)}] {time}")
    lines += ["", "instructions executed"]
    lines += [f"  {_fit(opcode, 32):<32}{n:>20,}" for opcode, n in instruction_rows(p)]
    lines += ["", "Times come from a timing model; nothing here was measured on a device."]
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, value: str) -> list[str]:
    indent = " " * _NAME
    return textwrap.wrap(
        printable(value), _WIDTH, initial_indent=f"{name:<{_NAME}}", subsequent_indent=indent
    ) or [name]


def _fit(text: str, columns: int) -> str:
    text = printable(text)
    return text if len(text) <= columns else text[: columns - 2] + ".."


def _bar(share: float) -> str:
    # A busy engine always shows at least one mark, and only a full body fills the bar.
    filled = 0 if share <= 0 else min(_BAR, max(1, int(share * _BAR)))
    return "#" * filled + "." * (_BAR - filled)
