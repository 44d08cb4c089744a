"""A profile as plain text of at most 80 columns."""

from __future__ import annotations

import textwrap

from nkiconv.simulate.report._protocol import ProfileLike
from nkiconv.simulate.report._summary import (
    engine_rows,
    error_rows,
    facts,
    instruction_rows,
    kernel_names,
    lost_rows,
    microseconds,
    percent,
    printable,
    roofline_rows,
    time_rows,
)

__all__ = ["profile_table"]

_WIDTH = 80  # the narrowest terminal in common use
_BAR = 30  # columns of a full bar
_PARTS = 8  # of the critical path that are listed
_ADVICE = 6  # lines of advice at most
_NAME = 34  # columns before a value


def profile_table(p: ProfileLike) -> str:
    """Text for a terminal: lines of at most 80 columns, no trailing newline.

    Nothing but letters, digits and ASCII marks (and ``µ``) is used, so that it survives a log file.
    """
    lines = _row("kernel", ", ".join(kernel_names(p)) or "none launched")
    lines += _row("target", p.target)
    lines += _row("latency, modelled", microseconds(p.latency_us))
    for name, value in error_rows(p):
        lines += _row("  " + name, value)
    lines += _row("  without launch, modelled", microseconds(p.body_us))
    lines += _row("  launch, modelled", microseconds(p.launch_us))
    lines += _row("bound, modelled", p.bound)
    lines += _row("MFU, modelled", percent(p.mfu))
    lines += _row("MBU, modelled", percent(p.mbu))
    for name, value in facts(p):
        lines += _row(name, value)
    lines += ["", "latency by cause, modelled (along the critical path; adds up to the latency)"]
    for cause, us, share in time_rows(p):
        lines.append(_bar_line(cause, us, share))
    lines += ["", "critical path by source line, modelled (share of the latency without launch)"]
    lines += _path(p)
    lines += ["", "engine busy, modelled (share of the latency without launch)"]
    for engine, busy_us, share in engine_rows(p):
        lines.append(_bar_line(engine, busy_us, share))
    lines += ["", "engine waiting, modelled (with its busy time: the latency without launch)"]
    for engine, _, _ in engine_rows(p):
        waits = [f"{cause} {microseconds(us)}" for cause, us in lost_rows(p, engine)]
        lines += _wrapped(f"  {_fit(engine, 10):<10} ", "; ".join(waits) or "never")
    lines += ["", "roofline (without launch)"]
    for name, value in roofline_rows(p):
        lines += _row("  " + name, value)
    lines += ["", "advice, modelled (the gains do not add up)"]
    for each in p.advice[:_ADVICE]:
        lines += _wrapped("  * ", str(each))
    if not p.advice:
        lines.append("  none: no rule found anything worth 2 % of the latency")
    lines += ["", "instructions executed"]
    lines += [f"  {_fit(opcode, 32):<32}{n:>20,}" for opcode, n in instruction_rows(p)]
    lines += ["", "Times come from a timing model; nothing here was measured on a device."]
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, value: str) -> list[str]:
    return _wrapped(f"{name:<{_NAME}}", value) or [name]


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        printable(text), _WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
    )


def _bar_line(name: str, us: float, share: float) -> str:
    time = f"{microseconds(us):>20} {percent(share):>8}"
    return f"  {_fit(name, 13):<13} [{_bar(share)}] {time}"


def _path(p: ProfileLike) -> list[str]:
    """Return a line for each of the longest parts, and one for the rest."""
    lines = []
    whole = p.body_us if p.body_us > 0 else 1.0
    for part in p.critical_path[:_PARTS]:
        what = f"{part.engine} {part.what}"
        time = f"{microseconds(part.us):>20} {percent(part.us / whole):>8}"
        lines.append(f"  {_fit(part.source, 24):<24} {_fit(what, 21):<21} {time}")
    rest = p.critical_path[_PARTS:]
    if rest:
        us = sum(part.us for part in rest)
        time = f"{microseconds(us):>20} {percent(us / whole):>8}"
        lines.append(f"  {f'{len(rest):,} other parts':<46} {time}")
    return lines or ["  nothing was executed"]


def _fit(text: str, columns: int) -> str:
    text = printable(text)
    return text if len(text) <= columns else text[: columns - 2] + ".."


def _bar(share: float) -> str:
    # A busy engine always shows at least one mark, and only a full body fills the bar.
    filled = 0 if share <= 0 else min(_BAR, max(1, int(share * _BAR)))
    return "#" * filled + "." * (_BAR - filled)
