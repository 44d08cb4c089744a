"""One conv2d on made data, for `nkiconv profile`."""

from __future__ import annotations

import difflib

from nkiconv.bench.errors import UserError
from nkiconv.kernels import conv2d
from nkiconv.reference.cases import CASES, Case, make_inputs
from nkiconv.simulate import Profile, profile

__all__ = ["custom_case", "find_case", "profile_case"]


def find_case(case_id: str) -> Case:
    """Return the case of that id, or raise `UserError` with the closest one."""
    known = {case.id: case for case in CASES}
    if case_id in known:
        return known[case_id]
    close = difflib.get_close_matches(case_id, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"for example {CASES[0].id!r}"
    raise UserError(f"no case {case_id!r}; {hint}")


def custom_case(
    *, N: int, C_in: int, H: int, W: int, C_out: int, K: int, stride: int, padding: int
) -> Case:
    """Return a case with these sizes, its id in the words of reference/cases.py.

    Raises
    ------
    UserError
        A size below 1.  What does not fit together is for conv2d to refuse.
    """
    for name, size in (
        ("n", N),
        ("c-in", C_in),
        ("h", H),
        ("w", W),
        ("c-out", C_out),
        ("kernel", K),
    ):
        if size < 1:
            raise UserError(f"--{name} is {size}; it must be at least 1")
    batch = f"-n{N}" if N > 1 else ""
    return Case(
        id=f"{K}x{K}-s{stride}-p{padding}-c{C_in}-k{C_out}-{H}x{W}{batch}",
        N=N, C_in=C_in, H=H, W=W, C_out=C_out, KH=K, KW=K, stride=stride, padding=padding,
        why="asked for on the command line",
    )  # fmt: skip


def profile_case(case: Case, dtype: str, algorithm: str) -> Profile:
    """Return the profile of `case` on made data."""
    inputs = make_inputs(case, dtype)
    return profile(conv2d, **inputs, **case.arguments(), algorithm=algorithm)[1]
