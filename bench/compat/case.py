"""One case of the trial: which kernel, on what data, against what, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Call", "Case", "Example", "Outcome", "Script", "VendorTest"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Example:
    """Arguments of a kernel, and what is right.

    Parameters
    ----------
    args, kwargs
        As the kernel takes them.
    expected
        One array for each that the kernel returns; none if only running is asked for.
    written
        Positions of the arguments that the kernel writes, where it returns nothing.
    rtol, atol
        The allowance is ``atol + rtol * max |expected|``, as in the vendor's own tests.
    """

    args: tuple[Any, ...]
    expected: tuple[Array, ...]
    rtol: float = 1e-5
    atol: float = 1e-5
    kwargs: dict[str, Any] = field(default_factory=dict)
    written: tuple[int, ...] = ()


@dataclass(frozen=True)
class Call:
    """Call one kernel of a file: Python, or a code block of a documentation page.

    Parameters
    ----------
    make
        Returns the `Example` for a seeded generator, ``rng``.
    grid
        Programs of the launch.
    block
        Which of a page's code blocks that define the kernel.
    folders
        Relative to the source's folder; put on the import path.
    module
        To import the file by, where it is part of a package.
    """

    make: Callable[..., Example]
    grid: int = 1
    block: int = 0
    folders: tuple[str, ...] = ()
    module: str = ""


@dataclass(frozen=True)
class Script:
    """Run a copy of a file as ``python -m nkiconv.simulate FILE``; it checks its result itself.

    Parameters
    ----------
    prints
        What a successful run prints; empty if it raises otherwise.
    never
        What only an unsuccessful run prints.
    """

    prints: str = ""
    never: str = "differ"


@dataclass(frozen=True)
class VendorTest:
    """Call one test of nki-library, which brings inputs, reference, tolerances and launch grid.

    Parameters
    ----------
    module
        Under test/integration/nkilib, with dots.
    test
        ``Class.method`` or a function.
    arguments
        Python, as in a call, in the namespace of the test's module (values are often its own
        enumerations) and of `vendor_tests.call_test`.  What every test takes is left out.
    target
        Device in place of the test's.
    """

    module: str
    test: str
    arguments: str = ""
    target: str = ""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Parameters
    ----------
    id
        Unique, and short: the first column.
    source
        Name of the checkout's folder.
    path
        Of the kernel's file, relative to that folder.
    kernel
        Name of the kernel in the file.
    how
        What to run.
    target
        Device; the vendor's tests name theirs themselves.
    because
        Why it is not run to its end, where that is no fault of the embedded NKI: the rule that the
        kernel breaks on the device, or what is wrong with its file or test.
    """

    id: str
    source: str
    path: str
    kernel: str
    how: Call | Script | VendorTest
    target: str = "trn2"
    because: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Parameters
    ----------
    runs
        Whether every launch of the kernel returned.
    right
        Whether the results are within their allowance; None where there are none, or nothing to
        compare them with.
    error_ratio
        Largest error over its allowance.
    problem
        First line of what was raised, with the source line that raised it.
    seconds
        Of the process, imports included.
    launches
        How many kernels were launched.
    """

    runs: bool
    right: bool | None = None
    error_ratio: float | None = None
    problem: str = ""
    seconds: float = 0.0
    launches: int = 0

    @property
    def good(self) -> bool:
        """Whether it ran, and nothing says that the result is wrong."""
        return self.runs and self.right is not False

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; a ratio that is not finite becomes a string."""
        values = asdict(self)
        if self.error_ratio is not None and not np.isfinite(self.error_ratio):
            values["error_ratio"] = str(self.error_ratio)
        return values
