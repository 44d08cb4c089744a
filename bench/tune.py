"""`nkiconv tune`: every plan of a layer on the timeline, not only in the closed-form estimate.

A plan counts only if its result is right.  Trials run on any `concurrent.futures.Executor`.  What
they find is kept on disk, under a name made of the trial and of the sources of kernels and
simulator: a change of either is never met by an old number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nkiconv import kernels, simulate
from nkiconv.bench.errors import UserError
from nkiconv.bench.layers import Layer, LayerData
from nkiconv.bench.output import write_bytes
from nkiconv.bench.plans import Chosen, chosen_plan
from nkiconv.kernels import pack_weights
from nkiconv.kernels._algorithm import Candidate, Operands
from nkiconv.kernels._choice import ALGORITHMS, run
from nkiconv.reference._dtypes import DTYPES
from nkiconv.simulate import profile, simulate_kernel

__all__ = ["Store", "TuneTrial", "Tuned", "dask_executor", "default_folder", "tune", "tune_trials"]


@dataclass(frozen=True)
class TuneTrial:
    """One plan of one layer, by its place among the candidates."""

    layer: Layer
    dtype: str
    target: str
    algorithm: str
    place: int
    plan: str
    """What the plan says in full: two trials of the same text are the same."""

    @property
    def name(self) -> str:
        """Layer, element type, target, algorithm and place."""
        return f"{self.layer.name} {self.dtype} {self.target} {self.algorithm} {self.place}"

    def key(self) -> str:
        """Return the name of the trial's file."""
        told = (asdict(self.layer), self.dtype, self.target, self.algorithm, self.plan, sources())
        return hashlib.sha256(repr(told).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: modelled picoseconds without launch, or what went wrong."""

    body_ps: int = 0
    problem: str = ""


@cache
def sources() -> str:
    """Return a hash of the sources that a modelled time follows from."""
    digest = hashlib.sha256()
    for package in (kernels, simulate):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def tune_trials(
    layer: Layer, dtype: str, target: str, algorithm: str = "auto"
) -> tuple[Chosen, list[TuneTrial]]:
    """Return what conv2d chooses, and a trial for each of its candidates, in their order."""
    chosen = chosen_plan(layer, dtype, target, algorithm=algorithm)
    return chosen, [
        TuneTrial(layer, dtype, target, algorithm, place, f"{each.algorithm} {each.plan!r}")
        for place, each in enumerate(chosen.choice.candidates)
    ]


def run_trial(trial: TuneTrial) -> Outcome:
    """Run the plan, check its result, and return its time."""
    try:
        chosen, again = tune_trials(trial.layer, trial.dtype, trial.target, trial.algorithm)
        if trial not in again:
            return Outcome(problem="no such plan where the trial ran: its nkiconv is another one")
        return _run(chosen.choice.candidates[trial.place], trial)
    except Exception as error:  # one plan that fails does not stop the search
        return Outcome(problem=f"{type(error).__name__}: {error}")


def _run(candidate: Candidate, trial: TuneTrial) -> Outcome:
    dtype = DTYPES[trial.dtype]
    data = LayerData(trial.layer)
    module = ALGORITHMS[candidate.algorithm]
    packed = pack_weights(data.w.astype(dtype), trial.layer.groups)
    operands = Operands(x=data.x.astype(dtype), w=module.pack(packed, candidate.plan))
    y, seen = profile(run, simulate_kernel, candidate, operands, target=trial.target)
    wrong = int(np.count_nonzero(np.asarray(y) != data.wanted.astype(dtype)))
    if wrong:
        return Outcome(problem=f"{wrong} results are wrong")
    return Outcome(body_ps=round(seen.body_us * 1e6))


class Store:
    """What trials found, a file each, in one folder; without a folder nothing is kept.

    `replaced` counts files that could not be read: their trials run again.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.replaced = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"cannot keep results in {str(folder)!r}: {error.strerror or error}"
                ) from error

    def get(self, trial: TuneTrial) -> Outcome | None:
        """Return what is kept of a trial; None if nothing is."""
        if self._folder is None:
            return None
        path = self._folder / f"{trial.key()}.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Outcome(body_ps=int(values["body_ps"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.replaced += 1
            return None

    def put(self, trial: TuneTrial, outcome: Outcome) -> None:
        """Keep what a trial found, unless it failed: an error may be of the day."""
        if self._folder is not None and not outcome.problem:
            content = {"trial": trial.name, "plan": trial.plan, "body_ps": outcome.body_ps}
            write_bytes(self._folder / f"{trial.key()}.json", json.dumps(content).encode())


@dataclass(frozen=True)
class Tuned:
    """A layer's candidates with what the timeline says of each, in conv2d's order."""

    chosen: Chosen
    outcomes: tuple[Outcome, ...]

    @property
    def best_place(self) -> int | None:
        """The candidate with the shortest modelled time; None if none is right."""
        right = [i for i, outcome in enumerate(self.outcomes) if not outcome.problem]
        return min(right, key=lambda i: self.outcomes[i].body_ps, default=None)

    @property
    def gain(self) -> float | None:
        """Share of the chosen plan's modelled time that the best one saves; None where unknown."""
        if self.best_place is None or self.outcomes[0].problem:
            return None
        return 1 - self.outcomes[self.best_place].body_ps / self.outcomes[0].body_ps

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        estimates = self.chosen.estimates_us()
        return {
            "layer": self.chosen.layer.name,
            "dtype": self.chosen.dtype,
            "target": self.chosen.target,
            "best": self.best_place,
            "gain": self.gain,
            "candidates": [
                {
                    "algorithm": candidate.algorithm,
                    "why": candidate.why,
                    "estimate_us": estimates[i],
                    "modelled_us": None if outcome.problem else outcome.body_ps / 1e6,
                    "problem": outcome.problem,
                }
                for i, (candidate, outcome) in enumerate(
                    zip(self.chosen.choice.candidates, self.outcomes, strict=True)
                )
            ],
        }


def tune(
    problems: Iterable[tuple[Chosen, Sequence[TuneTrial]]],
    store: Store,
    executor: Executor | None = None,
    announce: Callable[[str], None] = lambda name: None,
) -> list[Tuned]:
    """Run what `store` does not know, and return every problem with its outcomes.

    Parameters
    ----------
    executor
        Where trials run: of `concurrent.futures`, or Dask's; None runs them here.
    """
    problems = list(problems)
    found: dict[TuneTrial, Outcome] = {}
    asked: list[TuneTrial] = []
    for _, trials in problems:
        for trial in trials:
            known = store.get(trial)
            if known is None:
                asked.append(trial)
            else:
                announce(trial.name)
                found[trial] = known
    for trial, outcome in _outcomes(asked, executor, announce):
        store.put(trial, outcome)
        found[trial] = outcome
    return [Tuned(chosen, tuple(found[trial] for trial in trials)) for chosen, trials in problems]


def _outcomes(
    trials: Sequence[TuneTrial], executor: Executor | None, announce: Callable[[str], None]
) -> Iterator[tuple[TuneTrial, Outcome]]:
    """Yield trials and outcomes as they are done."""
    if executor is None:
        for trial in trials:
            announce(trial.name)
            yield trial, run_trial(trial)
        return
    waiting: dict[Future[Outcome], TuneTrial] = {
        executor.submit(run_trial, trial): trial for trial in trials
    }
    try:
        for future in as_completed(waiting):
            announce(waiting[future].name)
            yield waiting[future], future.result()
    finally:
        for future in waiting:  # after Ctrl-C: what has not begun never will
            future.cancel()


def default_folder() -> Path:
    """Return the user's folder for what can be computed again."""
    from platformdirs import user_cache_path

    return user_cache_path("nkiconv", appauthor=False) / "tune"


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """Yield an executor on a Dask cluster; "local" starts one on this machine, and stops it.

    Raises
    ------
    UserError
        Dask is not installed, or nobody answers at the address.
    """
    try:
        make: Any = import_module("distributed").Client  # without types of its own
    except ImportError:
        raise UserError(
            "--dask needs Dask, which is not installed: pip install 'nkiconv[dask]'"
        ) from None
    try:
        client = make() if address == "local" else make(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(f"no Dask scheduler answers at {address!r}: {error}") from error
    with client, client.get_executor() as executor:
        yield executor
