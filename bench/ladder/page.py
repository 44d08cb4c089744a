"""The ladder as a table for a terminal, and as the page docs/kernels/conv2d.md."""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from nkiconv.bench.ladder.measure import CASE, Measured
from nkiconv.bench.ladder.small import SmallRow
from nkiconv.bench.output import cell, new_table
from nkiconv.simulate.hardware import HARDWARE

__all__ = ["page", "picture_name", "table"]

_COMMAND = "nkiconv ladder --markdown docs/kernels/conv2d.md"


def table(ladder: Sequence[Measured]) -> tuple[Table, str]:
    """Return one row for each step, and the line below them."""
    numbers = frozenset(("µs", "read", "copies", "stores", "transposes", "columns"))
    made = new_table(
        "step", "µs", "read", "copies", "stores", "transposes", "columns", "bound", numbers=numbers
    )
    for m in ladder:
        made.add_row(*(cell(text) for text in (m.step.name, *_figures(m))))
    return made, (
        f"Modelled µs on {CASE.target} without launch. read: HBM bytes read / bytes of x and w. "
        "copies, stores: for a tile of results. columns: per matmul."
    )


def _figures(m: Measured) -> tuple[str, ...]:
    return (
        f"{m.body_us:,.1f}",
        f"{m.read_ratio:.2f}",
        f"{m.copies_per_tile:,.0f}",
        f"{m.stores_per_tile:,g}",
        f"{m.count('nc_transpose')}",
        f"{m.columns:.0f}",
        _bound(m),
    )


def _bound(m: Measured) -> str:
    """What most of the time without launch went to."""
    times = {name: us for name, us in m.seen.time_us.items() if name != "launch"}
    return max(times, key=lambda name: times[name])


def picture_name(step: str) -> str:
    """Return the file name of a step's picture."""
    return f"ladder-{step}.svg"


def page(ladder: Sequence[Measured], small: Iterable[SmallRow]) -> str:
    """Return the page."""
    return "\n".join(_page(list(ladder), list(small))) + "\n"


def _page(ladder: list[Measured], small: list[SmallRow]) -> Iterator[str]:
    first, last = ladder[0], ladder[-1]
    OH, OW = CASE.outputs
    yield "# conv2d, from naive to final"
    yield ""
    yield from _wrapped(
        f"A 3x3 convolution, {CASE.C_in} channels to {CASE.C_out}, of one {CASE.H}x{CASE.W} image "
        f"in {CASE.dtype}, written {len(ladder)} times: each step has one fault less than the one "
        "before it. All of them give the same result, bit for bit. Times are modelled, on "
        f"{CASE.target} and without the launch. This page, its pictures and every number on it are "
        "what this command writes:"
    )
    yield ""
    yield f"    {_COMMAND}"
    yield ""
    yield from _headings(
        "step", "modelled µs", "times faster", "bytes read / needed", "copies per tile",
        "stores per tile", "transposes", "columns per matmul", "limited by",
    )  # fmt: skip
    before = None
    for m in ladder:
        us, read, copies, stores, transposes, columns, bound = _figures(m)
        gain = "" if before is None else f"{before.body_us / m.body_us:.2f}"
        yield (
            f"| [{m.step.name}](#{_anchor(m)}) | {us} | {gain} | {read} | {copies} | {stores} | "
            f"{transposes} | {columns} | {bound} |"
        )
        before = m
    yield ""
    yield from _wrapped(
        f"From first to last {first.body_us / last.body_us:,.0f} times faster. A tile of results "
        f"is 128 output channels and {512 // OW} of the {OH} rows: what a PSUM bank holds."
    )
    previous: Measured | None = None
    for m in ladder:
        yield from _step(m, previous)
        previous = m
    yield from _small(small)


def _anchor(m: Measured) -> str:
    at = [s.isalnum() or s in " -" for s in m.step.title]
    kept = "".join(c for c, ok in zip(m.step.title, at, strict=True) if ok)
    return kept.lower().replace(" ", "-")


def _step(m: Measured, before: Measured | None) -> Iterator[str]:
    yield ""
    yield f"## {m.step.title}"
    yield ""
    fault = f" (Fault {m.step.fault} of the six.)" if m.step.fault else ""
    yield from _wrapped(m.step.text + fault)
    yield ""
    picture = picture_name(m.step.name)
    yield f"![What the step {m.step.name} loads, multiplies and stores]({picture})"
    yield ""
    if before is not None:
        saved = before.body_us - m.body_us
        yield from _wrapped(
            f"Modelled {before.body_us:,.1f} → {m.body_us:,.1f} µs, {saved:,.1f} µs less. "
            f"{_where(m)}"
        )
    else:
        yield from _wrapped(f"Modelled {m.body_us:,.1f} µs. {_where(m)}")
    yield ""
    yield from _code(m, before)


def _where(m: Measured) -> str:
    """Where the time goes, and the first piece of advice."""
    times = {name: us for name, us in m.seen.time_us.items() if name != "launch" and us > 0}
    parts = sorted(times, key=lambda name: -times[name])[:3]
    text = "It goes to " + ", ".join(f"{name} ({times[name] / m.body_us:.0%})" for name in parts)
    text += f". TensorE reaches {m.seen.macs / _peak_macs(m):.1%} of its peak."
    if m.seen.advice:
        best = m.seen.advice[0]
        text += (
            f" Its profile advises: {best.finding}: {best.change} (at most {best.gain_us:,.1f} µs)."
        )
    return text


def _peak_macs(m: Measured) -> float:
    return float(HARDWARE[CASE.target].tensor_peak_ghz * 1e3 * 128 * 128 * m.body_us)


def _code(m: Measured, before: Measured | None) -> Iterator[str]:
    if m.step.kernel is None:
        yield "The kernel is [`kernels/conv2d_direct.py`](../../kernels/conv2d_direct.py)."
        return
    now = _source(m.step.kernel)
    if before is None or before.step.kernel is None:
        yield "```py"
        yield from now
        yield "```"
        return
    yield "What changes:"
    yield ""
    yield "```diff"
    lines = difflib.unified_diff(_source(before.step.kernel), now, n=2, lineterm="")
    yield from (line for line in lines if not line.startswith(("---", "+++", "@@")))
    yield "```"


def _source(kernel: Any) -> list[str]:
    function = inspect.unwrap(getattr(kernel, "function", kernel))
    return textwrap.dedent(inspect.getsource(function)).splitlines()


def _small(rows: list[SmallRow]) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield "## Small images"
    yield ""
    yield from _wrapped(
        "3x3 with padding 1, in bfloat16. The floor of such a layer is not arithmetic: a load, a "
        "matmul, an eviction and a store follow each other, and each has a latency that no tile "
        "size changes. *Limited by* has the two largest shares of the time without launch."
    )
    yield ""
    yield from _headings(
        "layer", "target", "naive, modelled µs", "library, modelled µs", "times faster",
        "with launch", "limited by",
    )  # fmt: skip
    for row in rows:
        naive, best = row.naive.body_us, row.best.body_us
        yield (
            f"| {row.case.name} | {row.target} | {naive:,.1f} | {best:.1f} | {naive / best:,.0f} | "
            f"{row.best.latency_us:.1f} | {row.limits} |"
        )


def _headings(*names: str) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)


def write(path: Path, ladder: Sequence[Measured], small: Iterable[SmallRow]) -> list[Path]:
    """Write the page and its pictures beside it; return the paths."""
    from nkiconv.bench.ladder.pictures import picture
    from nkiconv.bench.output import write_bytes

    written = [path]
    write_bytes(path, page(ladder, small).encode())
    for m in ladder:
        at = path.with_name(picture_name(m.step.name))
        write_bytes(at, picture(m).encode())
        written.append(at)
    return written
