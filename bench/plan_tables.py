"""Plans and what tuning found, as text of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nkiconv.bench.output import cell, new_table
from nkiconv.bench.plans import Chosen, numbers, ranks
from nkiconv.bench.tables import Captioned

if TYPE_CHECKING:
    from nkiconv.bench.tune import Tuned

__all__ = ["gain_line", "plan_lines", "plan_tables", "rank_tables", "tune_tables"]


def plan_lines(chosen: Chosen) -> Iterator[str]:
    """Yield what was chosen and why, then the plan's numbers."""
    best, estimates = chosen.best, chosen.estimates_us()
    yield f"layer      {chosen.layer.name}, {chosen.dtype}, {chosen.target}"
    yield f"algorithm  {best.algorithm}: {best.why}"
    yield f"reason     {_reason(chosen, estimates)}"
    yield f"chosen in  {chosen.seconds * 1e3:.1f} ms"
    shown = list(numbers(best.plan))
    width = max(len(name) for name, _ in shown)
    yield "plan"
    for name, value in shown:
        yield f"  {name:{width}}  {value}"


def _reason(chosen: Chosen, estimates: list[float]) -> str:
    if len(estimates) == 1:
        return f"the only plan there is; estimated at {estimates[0]:.1f} µs without launch"
    return (
        f"lowest estimate of {len(estimates)} plans: {estimates[0]:.1f} µs without launch,"
        f" the next {estimates[1]:.1f}"
    )


def plan_tables(chosen: Chosen) -> list[Captioned]:
    """Return the table of candidates, with why algorithms have none."""
    table = new_table(
        "plan", "algorithm", "est. µs", "columns", "matmul", "HBM MB", "DMA", "instr",
        numbers=frozenset(("est. µs", "columns", "matmul", "HBM MB", "DMA", "instr")),
    )  # fmt: skip
    for candidate, us in zip(chosen.choice.candidates, chosen.estimates_us(), strict=True):
        price = candidate.price
        table.add_row(
            cell(candidate.why),
            cell(candidate.algorithm),
            cell(f"{us:,.1f}"),
            cell(f"{price.moving_columns:,}"),
            cell(f"{price.matmuls:,}"),
            cell(f"{price.hbm_bytes / 1e6:.2f}"),
            cell(f"{price.num_transfers:,}"),
            cell(f"{price.static_instructions:,}"),
        )
    for name, reason in chosen.choice.refusals.items():
        table.add_row(cell(reason), cell(name), *[cell("")] * 6)
    return [(table, "est.: closed-form estimate, without launch; the first one runs.")]


def rank_tables(chosen: Chosen, modelled: Sequence[float]) -> list[Captioned]:
    """Return the table of candidates by estimate and by modelled time."""
    table = new_table(
        "plan", "algorithm", "est. µs", "rank", "modelled", "rank", "est./mod.",
        numbers=frozenset(("est. µs", "rank", "modelled", "est./mod.")),
    )  # fmt: skip
    estimates = chosen.estimates_us()
    places = zip(ranks(estimates), ranks(modelled), strict=True)
    for place, (by_estimate, by_model) in enumerate(places):
        candidate = chosen.choice.candidates[place]
        table.add_row(
            cell(candidate.why),
            cell(candidate.algorithm),
            cell(f"{estimates[place]:,.1f}"),
            cell(str(by_estimate)),
            cell(f"{modelled[place]:,.1f}"),
            cell(str(by_model), "green" if by_model == 1 else ""),
            cell(f"{estimates[place] / modelled[place]:.2f}"),
        )
    lost = modelled[0] / min(modelled) - 1
    return [(table, f"modelled: µs without launch. The first one runs: {lost:.1%} above the best.")]


def tune_tables(tuned: Tuned) -> list[Captioned]:
    """Return the table of one layer's plans."""
    chosen = tuned.chosen
    table = new_table(
        f"{chosen.layer.name}, {chosen.dtype}, {chosen.target}", "algorithm", "est. µs",
        "modelled", "", numbers=frozenset(("est. µs", "modelled")),
    )  # fmt: skip
    estimates = chosen.estimates_us()
    for place, candidate in enumerate(chosen.choice.candidates):
        outcome = tuned.outcomes[place]
        marks = ["chosen"] * (place == 0) + ["best"] * (place == tuned.best_place)
        problem = f"\n  {outcome.problem}" if outcome.problem else ""
        table.add_row(
            cell(candidate.why) + cell(problem, "bold red"),
            cell(candidate.algorithm),
            cell(f"{estimates[place]:,.1f}"),
            cell("" if outcome.problem else f"{outcome.body_ps / 1e6:,.1f}"),
            cell(", ".join(marks), "green" if place == tuned.best_place else ""),
        )
    return [(table, "")]


def gain_line(tuned: Tuned) -> str:
    """What the search gained, in one line."""
    name = f"{tuned.chosen.layer.name}:"
    if tuned.best_place is None:
        return f"{name} no plan gives a right result"
    best = tuned.chosen.choice.candidates[tuned.best_place]
    us = tuned.outcomes[tuned.best_place].body_ps / 1e6
    if tuned.gain is None:
        return f"{name} the chosen plan fails; {best.algorithm} takes {us:,.1f} µs, modelled"
    if tuned.best_place == 0:
        count = len(tuned.outcomes)
        return f"{name} nothing to gain: the chosen plan is the best of {count}, {us:,.1f} µs"
    return (
        f"{name} {best.algorithm} ({best.why}) takes {us:,.1f} µs modelled, {tuned.gain:.1%} less"
        f" than the chosen plan"
    )
