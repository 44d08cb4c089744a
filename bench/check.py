"""Every kernel algorithm against its reference, through the simulator.

Each row is one case x algorithm x dtype, from reference/cases.py and from a real photograph. It
passes if

    max |y - r| / allowance <= 1        on standard normal data (or the photograph), bounds.py
    y == r, bit for bit                 on small integers (made data): every partial sum is exact
    shape and dtype of y                are the reference's

The figures of the timing model come from the same run as the result that was judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from nkiconv.bench.errors import UserError
from nkiconv.bench.filters import FILTERS
from nkiconv.bench.photograph import SHAPE, photograph_rgb
from nkiconv.kernels import conv2d
from nkiconv.reference import bounds
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.reference._dtypes import DTYPES, Array, round_once
from nkiconv.reference.cases import CASES, Case, Inputs, make_inputs
from nkiconv.reference.conv2d import conv2d_float64, magnitude
from nkiconv.simulate import profile

__all__ = ["ALGORITHMS", "Row", "Trial", "run_trials", "select_trials"]

ALGORITHMS = tuple(dict.fromkeys(name for case in CASES for name in case.algorithms))


@dataclass(frozen=True)
class Trial:
    """One row to be: which data go through which algorithm."""

    case: Case
    algorithm: str
    dtype: str


@dataclass(frozen=True)
class Row:
    """What came of one trial; a number that was not reached is None.

    `error_ratio` is the largest error over its allowance; `modelled_us` includes the launch;
    `hbm_ratio` is HBM bytes moved over x + w + bias + y once; `problem` is empty, "FAIL", "shape",
    or the class of the error that was raised, and `message` the details.
    """

    case: str
    algorithm: str
    dtype: str
    error_ratio: float | None = None
    modelled_us: float | None = None
    mfu: float | None = None
    hbm_ratio: float | None = None
    bound: str = ""
    problem: str = ""
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problem

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; a ratio that is not finite becomes a string."""
        values = asdict(self) | {"passed": self.passed}
        if self.error_ratio is not None and not np.isfinite(self.error_ratio):
            values["error_ratio"] = str(self.error_ratio)
        return values


def select_trials(
    *, quick: bool = False, only: str = "", algorithm: str | None = None
) -> list[Trial]:
    """Return the trials that the options ask for.

    Raises
    ------
    UserError
        No case has such an algorithm, or nothing is left.
    """
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise UserError(f"no case uses algorithm {algorithm!r}; there are: {', '.join(ALGORITHMS)}")
    trials = [
        Trial(case, name, dtype)
        for case in (*CASES, PHOTOGRAPH)
        if only in case.id and (case.quick or not quick)
        for dtype in case.dtypes
        for name in case.algorithms
        if algorithm in (None, name)
    ]
    if not trials:
        among = "quick cases" if quick else "cases"
        raise UserError(
            f"none of the {among} has {only!r} in its name"
            + (f" and runs {algorithm}" if algorithm else "")
        )
    return trials


def run_trials(trials: Iterable[Trial], announce: Callable[[str], None]) -> Iterator[Row]:
    """Run one trial after the other; what one raises does not stop the next.

    `announce` is called before each trial with its name.
    """
    known: tuple[Case, str, _Wanted] | None = None
    for trial in trials:
        announce(f"{trial.case.id} {trial.algorithm} {trial.dtype}")
        row = Row(trial.case.id, trial.algorithm, trial.dtype)
        try:
            # algorithms of one case and dtype follow each other and share the reference's results
            if known is None or known[:2] != (trial.case, trial.dtype):
                known = (trial.case, trial.dtype, _Wanted.of(trial.case, trial.dtype))
            row = _judge(row, trial, known[2])
        except Exception as error:  # also an error that nkiconv never meant to raise is a finding
            row = replace(row, problem=type(error).__name__, message=str(error))
        yield row


@dataclass(frozen=True)
class _Wanted:
    """Inputs of a case in one dtype, and what the reference makes of them.

    The photograph has no integers: it is there as real data, and large.
    """

    inputs: Inputs
    result: Array  # (N, C_out, OH, OW) float64
    magnitude: Array
    integer_inputs: Inputs | None = None
    integer_result: Array | None = None

    @classmethod
    def of(cls, case: Case, dtype: str) -> _Wanted:
        inputs = _photograph_inputs(dtype) if case is PHOTOGRAPH else make_inputs(case, dtype)
        wanted = cls(
            inputs=inputs,
            result=conv2d_float64(**inputs, **case.arguments()),
            magnitude=magnitude(**inputs, **case.arguments()),
        )
        if case is PHOTOGRAPH:
            return wanted
        integers = make_inputs(case, dtype, integers=True)
        exact = conv2d_ref(**integers, **case.exact_arguments())
        return replace(wanted, integer_inputs=integers, integer_result=exact)


def _judge(row: Row, trial: Trial, wanted: _Wanted) -> Row:
    case, dtype = trial.case, DTYPES[trial.dtype]
    y, seen = profile(conv2d, **wanted.inputs, **case.arguments(), algorithm=trial.algorithm)
    least_bytes = y.nbytes + sum(
        array.nbytes for array in wanted.inputs.values() if isinstance(array, np.ndarray)
    )
    row = replace(
        row,
        modelled_us=seen.latency_us,
        mfu=seen.mfu,
        hbm_ratio=(seen.hbm_read_bytes + seen.hbm_write_bytes) / least_bytes,
        bound=seen.bound,
    )
    if y.shape != wanted.result.shape or y.dtype != dtype:
        found, asked = f"{y.dtype} {y.shape}", f"{dtype} {wanted.result.shape}"
        return replace(row, problem="shape", message=f"the result is {found}; it should be {asked}")
    ratio = bounds.max_error_ratio(
        y, wanted.result, wanted.magnitude, case.terms, dtype, activation=case.activation
    )
    row = replace(row, error_ratio=ratio)
    if not ratio <= 1:  # a NaN fails too
        where = _worst(y, wanted.result)
        return replace(row, problem="FAIL", message=f"error {ratio:.6g} of its allowance, {where}")
    if wanted.integer_inputs is not None and wanted.integer_result is not None:
        exact = np.asarray(
            conv2d(**wanted.integer_inputs, **case.exact_arguments(), algorithm=trial.algorithm)
        )
        if not np.array_equal(exact, wanted.integer_result):
            where = _worst(exact, wanted.integer_result)
            return replace(row, problem="FAIL", message=f"not exact on small integers, {where}")
    return row


def _worst(y: Array, r: Array) -> str:
    """Where `y` is farthest from `r`, and how many elements differ."""
    if y.shape != r.shape:
        return f"shape {y.shape} where {r.shape} is right"
    y64, r64 = y.astype(np.float64), r.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num(np.abs(y64 - r64), nan=np.inf)
    place = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    return f"farthest at {place}: {y64[place]:.8g} where {r64[place]:.8g} is right"


# --- The photograph ------------------------------------------------------------------------------

# Rec. 601: how much red, green and blue give to brightness
_LUMA = np.array([0.299, 0.587, 0.114])


def _stacked_filters() -> Array:
    """(C_out, 3, 3, 3): each named filter of 3x3 taps on the photograph's brightness."""
    taps = [tap for chosen in FILTERS.values() for tap in chosen.taps if tap.shape == (3, 3)]
    stacked: Array = np.stack(taps)[:, None] * _LUMA[:, None, None]
    return stacked


def _photograph_case() -> Case:
    C_out, C_in, KH, KW = _stacked_filters().shape
    _, H, W = SHAPE
    return Case(
        id=f"photograph-c{C_in}-k{C_out}-{H}x{W}",
        C_in=C_in, H=H, W=W, C_out=C_out, KH=KH, KW=KW, padding="same", bias=False,
        dtypes=("float32", "bfloat16"), algorithms=("direct", "im2col"),
        why="real data: every named filter of 3x3 taps at once",
    )  # fmt: skip


PHOTOGRAPH = _photograph_case()


def _photograph_inputs(dtype: str) -> Inputs:
    """Pixels 0 to 255, exact in every dtype; taps rounded to `dtype`."""
    return Inputs(
        x=photograph_rgb()[None].astype(DTYPES[dtype]),
        w=round_once(_stacked_filters(), DTYPES[dtype]),
        bias=None,
    )
