"""Runs the steps of the ladder on one convolution, compares each with the reference, and counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nkiconv.bench.errors import UserError
from nkiconv.bench.ladder import steps
from nkiconv.bench.layers import copies_within_sbuf
from nkiconv.kernels import conv2d
from nkiconv.reference import conv2d as conv2d_ref
from nkiconv.reference._dtypes import DTYPES, Array
from nkiconv.simulate import Profile, profile, simulate_kernel, use_target

__all__ = ["CASE", "LADDER", "Measured", "Step", "measure_ladder"]


@dataclass(frozen=True)
class Size:
    """The convolution that every step does: 3x3, stride 1, no padding, one image."""

    C_in: int
    C_out: int
    H: int
    W: int
    dtype: str
    target: str

    @property
    def outputs(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        return self.H - 2, self.W - 2


CASE = Size(C_in=256, C_out=256, H=30, W=30, dtype="bfloat16", target="trn1")
"""Two tiles of channels on both sides and two of rows: the least in which every fault shows."""


@dataclass(frozen=True)
class Step:
    """A rung of the ladder.

    Parameters
    ----------
    fault
        The fault that it removes, from 1 to 6, as docs and kernels/conv2d_naive.py number them; 0
        for the first and the last rung.
    packed
        It takes weights in the order (C_in, KH, KW, C_out).
    loads
        What of x is loaded: "plane" for every tap, the "rows" of every tap, or all of it "once".
    kernel
        None for the library's `conv2d`.
    """

    name: str
    fault: int
    title: str
    text: str
    packed: bool = False
    loads: str = "plane"
    kernel: Callable[..., Any] | None = None


LADDER: tuple[Step, ...] = (
    Step(
        "naive", 0, "Six faults at once",
        "What one might write first: a matmul wants columns, so columns are made. For every tap "
        "the whole image is loaded, a column is copied for every output, weights are fetched "
        "element by element and transposed, and every output leaves on its own.",
        kernel=steps.naive,
    ),
    Step(
        "packed_weights", 5, "Weights in the order of the matmul",
        "TensorE wants the contracted channels on the partitions. PyTorch's order has them in the "
        "wrong place, so that a tap of a tile is 16,384 single elements for the DMA engines. The "
        "host brings the weights into the order (C_in, KH, KW, C_out) once, and they are loaded in "
        "runs of 256 bytes and never transposed.",
        packed=True,
        kernel=steps.packed_weights,
    ),
    Step(
        "stored_at_once", 4, "One store for a tile",
        "A transfer takes as long to issue whether it moves two bytes a partition or a thousand. "
        "The results of a tile lie in SBUF as y has them, so that one transfer takes them all.",
        packed=True,
        kernel=steps.stored_at_once,
    ),
    Step(
        "read_in_place", 2, "Read in place instead of copying",
        "The moving operand of a matmul may be a view with steps: a slice of rows and columns *is* "
        "the matrix of columns, once tiles are whole rows of results. The copies go, and with them "
        "VectorE's work.",
        packed=True,
        kernel=steps.read_in_place,
    ),
    Step(
        "needed_rows", 1, "Load the rows that are needed",
        "18 rows of results need 18 rows of the image for a tap, not all of them.",
        packed=True,
        loads="rows",
        kernel=steps.needed_rows,
    ),
    Step(
        "loaded_once", 3, "Load every byte once",
        "The nine taps read the same pixels, and so do all output channels. Image and weights stay "
        "in SBUF; a tap becomes an offset into what is there.",
        packed=True,
        loads="once",
        kernel=steps.loaded_once,
    ),
    Step(
        "full_banks", 6, "Fill the bank",
        "A matmul takes 64 cycles at least and a few more to begin, so that long ones waste less, "
        "and the program is a fourth as long.",
        packed=True,
        loads="once",
        kernel=steps.full_banks,
    ),
    Step(
        "conv2d", 0, "The library's kernel",
        "The same loop nest, and what a production kernel adds: transfers that bring first what is "
        "needed first, and a plan that fits any size.",
        loads="once",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A step and what was counted while it ran."""

    step: Step
    seen: Profile
    ideal_read_bytes: int
    tiles: int

    @property
    def reads_of_x(self) -> tuple[int, ...]:
        """How often each row of x is loaded."""
        return reads_of_rows(self.step, CASE)

    def count(self, opcode: str) -> int:
        """Return how many instructions of a kind ran."""
        return self.seen.instructions.get(opcode, 0)

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; times are modelled, in microseconds without launch."""
        return {
            "step": self.step.name,
            "target": CASE.target,
            "body_us": self.body_us,
            "hbm_read_ratio": self.read_ratio,
            "copies_per_tile": self.copies_per_tile,
            "stores_per_tile": self.stores_per_tile,
            "transposes": self.count("nc_transpose"),
            "columns_per_matmul": self.columns,
            "bound": self.seen.bound,
        }

    @property
    def body_us(self) -> float:
        """Modelled time without launch."""
        return self.seen.body_us

    @property
    def read_ratio(self) -> float:
        """Bytes read from HBM over those of x and w."""
        return self.seen.hbm_read_bytes / self.ideal_read_bytes

    @property
    def copies_per_tile(self) -> float:
        """Copies before the matmuls, within SBUF; what empties PSUM is none."""
        return copies_within_sbuf(self.seen) / self.tiles

    @property
    def columns(self) -> float:
        """Moving columns per matmul."""
        return self.seen.moving_columns / self.count("nc_matmul")

    @property
    def widest_matmul(self) -> int:
        """Columns of a matmul where nothing is left over: whole rows of results."""
        OW = CASE.outputs[1]
        return (512 if self.columns > 128 else 128) // OW * OW

    @property
    def stores_per_tile(self) -> float:
        """Transfers to HBM for a tile."""
        return self.seen.lane_instructions.get("DMA store", 0) / self.tiles


def measure_ladder(announce: Callable[[str], None] = lambda name: None) -> list[Measured]:
    """Run every step.

    Raises
    ------
    UserError
        A step's result is not the reference's, bit for bit: its counts mean nothing.
    """
    size = CASE
    rng = np.random.default_rng(0)
    dtype = DTYPES[size.dtype]
    x = rng.integers(-3, 4, (size.C_in, size.H, size.W)).astype(dtype)
    w = rng.integers(-3, 4, (size.C_out, size.C_in, 3, 3)).astype(dtype)
    wanted = conv2d_ref(x[None], w)[0]
    found = []
    for step in LADDER:
        announce(step.name)
        with use_target(size.target):
            y, seen = _run(step, x, w)
        if not np.array_equal(y, wanted):
            raise UserError(f"step {step.name} of the ladder is wrong: its counts mean nothing")
        found.append(Measured(step, seen, x.nbytes + w.nbytes, _tiles(size)))
    return found


def _run(step: Step, x: Array, w: Array) -> tuple[Array, Profile]:
    if step.kernel is None:
        y, seen = profile(conv2d, x[None], w)
        return y[0], seen
    if step.packed:
        w = np.ascontiguousarray(w.transpose(1, 2, 3, 0))
    y, seen = profile(simulate_kernel, step.kernel, x, w)
    return y, seen


def reads_of_rows(step: Step, size: Size) -> tuple[int, ...]:
    """Return how often a step loads each row of the image."""
    OH, OW = size.outputs
    rounds = size.C_out // 128
    tiles = [(top, min(512 // OW, OH - top)) for top in range(0, OH, 512 // OW)]
    if step.loads == "once":
        return (1,) * size.H
    if step.loads == "plane":
        return (rounds * len(tiles) * 9,) * size.H
    return tuple(
        3
        * rounds
        * sum(top + kh <= row < top + kh + rows for top, rows in tiles for kh in range(3))
        for row in range(size.H)
    )


def _tiles(size: Size) -> int:
    OH, OW = size.outputs
    rows_per_tile = 512 // OW
    return -(-OH // rows_per_tile) * (size.C_out // 128)
