"""Modelled times of the standard cases, kept in a file: the same on every machine.

    times.json      {target: {"case algorithm dtype": picoseconds of the kernel, without launch}}

A change of the model shows here, case by case, and is accepted on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nkiconv.bench.check import Trial, select_trials
from nkiconv.bench.output import write_bytes
from nkiconv.kernels import conv2d
from nkiconv.reference.cases import make_inputs
from nkiconv.simulate import profile
from nkiconv.simulate.hardware import TARGETS

__all__ = ["FILE", "Change", "accept", "changes", "kept_times", "standard_trials"]

FILE = Path(__file__).with_name("times.json")

Times = dict[str, dict[str, int]]
"""Picoseconds by target and name."""


@dataclass(frozen=True)
class Change:
    """A case whose modelled time is not the one kept; None where there is none."""

    target: str
    name: str
    kept_ps: int | None
    found_ps: int | None


def name_of(trial: Trial) -> str:
    """Return the name of a trial in the file."""
    return f"{trial.case.id} {trial.algorithm} {trial.dtype}"


def standard_trials(text: str = "", *, quick: bool = False) -> list[Trial]:
    """Return the trials of `nkiconv check` on made data with `text` in their name."""
    trials = [t for t in select_trials(quick=quick) if not t.case.id.startswith("photograph")]
    return [trial for trial in trials if text in name_of(trial)]


def measure(trials: Iterable[Trial], targets: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Yield target, name and modelled picoseconds."""
    for trial in trials:
        inputs = make_inputs(trial.case, trial.dtype)
        for target in targets:
            _, seen = profile(
                conv2d,
                **inputs,
                **trial.case.arguments(),
                algorithm=trial.algorithm,
                target=target,
            )
            # Sums of whole picoseconds, turned into microseconds: nothing is lost in turning back.
            yield target, name_of(trial), round(seen.body_us * 1e6)


def kept_times() -> Times:
    """Return what the file holds."""
    times: Times = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    return times


def changes(
    trials: Iterable[Trial],
    targets: Iterable[str] = TARGETS,
    announce: Callable[[str], None] = lambda name: None,
) -> list[Change]:
    """Return the cases whose modelled time differs from the file's."""
    kept = kept_times()
    found = []
    for target, name, ps in measure(trials, tuple(targets)):
        announce(f"{name} {target}")
        before = kept.get(target, {}).get(name)
        if before != ps:
            found.append(Change(target, name, before, ps))
    return found


def gone(text: str = "") -> list[Change]:
    """Return what the file holds of cases that there are no more."""
    names = {name_of(trial) for trial in standard_trials()}
    return [
        Change(target, name, ps, None)
        for target, times in kept_times().items()
        for name, ps in times.items()
        if name not in names and text in name
    ]


def accept(accepted: Iterable[Change]) -> None:
    """Write changes to the file."""
    times = kept_times()
    for change in accepted:
        of_target = times.setdefault(change.target, {})
        if change.found_ps is None:
            del of_target[change.name]
        else:
            of_target[change.name] = change.found_ps
    ordered = {target: dict(sorted(times[target].items())) for target in sorted(times)}
    write_bytes(FILE, (json.dumps(ordered, indent=1) + "\n").encode())
