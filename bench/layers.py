"""Layers of real models: what the kernels count on each, and how near its floor it is modelled.

Two kinds of figures stand side by side.  Counts need no model: columns that TensorE streams, HBM
bytes, matmuls, transposes, transfers, copies, instructions.  Times are modelled, without launch,
against

    floor = max(columns * cycles a column / TensorE's sustained clock, least bytes / sustained rate)
    limit = 1.10 * floor + 6 µs

with one cycle a column of 2-byte types and four of float32, and bytes of x, w and y once.  `floor`
takes the columns of the table; `strict_floor` those that the kernel streams, where they are fewer.

Data are whole numbers from -2 to 2: every partial sum is exact in float32, so that a right result
equals PyTorch's (or, without torch, the reference's) bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from nkiconv.bench.errors import UserError
from nkiconv.kernels import conv2d
from nkiconv.reference._dtypes import DTYPES, Array
from nkiconv.reference.conv2d import conv2d_float64
from nkiconv.simulate import Profile, profile
from nkiconv.simulate.hardware import HARDWARE, Hardware
from nkiconv.simulate.trace import HEADER, OPERAND

__all__ = [
    "FIGURES",
    "TARGETS",
    "Figure",
    "Layer",
    "LayerArguments",
    "LayerData",
    "LayerRow",
    "LayerTrial",
    "copies_within_sbuf",
    "empty_row",
    "floor_us",
    "known_layers",
    "profile_layer",
    "run_layers",
    "select_layers",
    "with_columns",
]

FILE = Path(__file__).with_name("layers.json")

MAX_HBM, MAX_STATIC = 1.05, 20_000
ALLOWED_FACTOR, ALLOWED_US = 1.10, 6.0
QUICK_MACS = 250_000_000

TARGETS = ("trn1", "trn2")
"""Those that figures are asked of."""


class LayerArguments(TypedDict):
    """Keyword arguments of conv2d that a layer has, ours and PyTorch's."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution; pairs are (vertical, horizontal)."""

    id: int
    name: str
    N: int
    C_in: int
    size: tuple[int, int]
    C_out: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        OH, OW = (
            (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
            for size, pad, dilation, taps, stride in zip(
                self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return OH, OW

    @property
    def taps(self) -> int:
        """Taps of one input channel."""
        return self.kernel[0] * self.kernel[1]

    def arguments(self) -> LayerArguments:
        """Return what conv2d takes beside the arrays."""
        return LayerArguments(
            stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )

    @property
    def pixels(self) -> int:
        """Results of one output channel, of the whole batch."""
        return self.N * self.out[0] * self.out[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding too."""
        return self.pixels * self.C_out * self.taps * (self.C_in // self.groups)

    @property
    def least_elems(self) -> int:
        """Elements of x, w and y."""
        x = self.N * self.C_in * self.size[0] * self.size[1]
        w = self.C_out * (self.C_in // self.groups) * self.taps
        return x + w + self.pixels * self.C_out

    @property
    def columns_packed(self) -> int:
        """Columns through a 128x128 array if taps share a matmul where the channels leave room.

        Groups that fit the array together share it too, as blocks on its diagonal; then each tap
        takes a matmul.
        """
        C_in, C_out = self.C_in // self.groups, self.C_out // self.groups
        side = HARDWARE["trn1"].partitions  # of every generation
        together = min(self.groups, side // max(C_in, C_out))
        if self.groups > 1 and together:
            return self.pixels * self.taps * -(-self.groups // together)
        return self.pixels * self.groups * -(-self.taps * C_in // side) * -(-C_out // side)


def known_layers() -> tuple[Layer, ...]:
    """Return the layers of layers.json."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))["layers"]
    return tuple(
        Layer(
            id=row["id"],
            name=row["name"],
            N=row["n"],
            C_in=row["c_in"],
            size=tuple(row["spatial"]),
            C_out=row["c_out"],
            kernel=tuple(row["kernel"]),
            stride=tuple(row["stride"]),
            padding=tuple(row["padding"]),
            dilation=tuple(row["dilation"]),
            groups=row["groups"],
        )
        for row in rows
    )


@dataclass(frozen=True)
class LayerTrial:
    """One row to be."""

    layer: Layer
    target: str
    dtype: str

    @property
    def name(self) -> str:
        """Layer, element type and target in one line."""
        return f"{self.layer.name} {self.dtype} {self.target}"


@dataclass(frozen=True)
class Figure:
    """A time asked for of one layer in float16, without launch; `others` with, in words."""

    layer_id: int
    asked_us: dict[str, float]
    others: str


FIGURES = (
    Figure(13, {"trn1": 760.0, "trn2": 770.0}, "783 on trn2, 1054 on trn1"),
    Figure(14, {"trn1": 25.0, "trn2": 25.0}, "about 70 on trn2"),
)
"""Best published times are of whole profiles, launch included."""


def select_layers(
    targets: Sequence[str], dtypes: Sequence[str], *, only: str = "", quick: bool = False
) -> list[LayerTrial]:
    """Return the trials, layer by layer; no dtypes: bfloat16, float32 and those of `FIGURES`.

    Raises
    ------
    UserError
        Nothing is left.
    """
    asked = {figure.layer_id for figure in FIGURES}
    trials = [
        LayerTrial(layer, target, dtype)
        for layer in known_layers()
        if only.lower() in layer.name.lower() and (layer.macs <= QUICK_MACS or not quick)
        for dtype in dtypes or ("bfloat16", "float32", *("float16",) * (layer.id in asked))
        for target in targets
    ]
    if not trials:
        among = "quick layers" if quick else "layers"
        raise UserError(f"none of the {among} has {only!r} in its name")
    return trials


@dataclass(frozen=True)
class LayerRow:
    """What came of one trial; counts are 0 where `problem` says that there are none.

    `exact` is None where the result was not compared.  `body_ps` is modelled, without launch.
    """

    layer: str
    target: str
    dtype: str
    columns_table: int
    least_bytes: int
    floor_us: float
    strict_floor_us: float
    algorithm: str = ""
    columns: int = 0
    hbm_bytes: int = 0
    matmuls: int = 0
    transfers: int = 0
    transposes: int = 0
    copies: int = 0
    static_instructions: int = 0
    body_ps: int = 0
    bound: str = ""
    exact: bool | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """Layer and element type: what tells rows of one target apart."""
        return f"{self.layer} {self.dtype}"

    @property
    def passed(self) -> bool:
        """Whether there is a result, and it is right as far as it was compared."""
        return not self.problem

    @property
    def body_us(self) -> float:
        """Modelled time without launch."""
        return self.body_ps / 1e6

    @property
    def hbm_ratio(self) -> float:
        """HBM bytes over those of x, w and y once."""
        return self.hbm_bytes / self.least_bytes

    @property
    def columns_ratio(self) -> float:
        """Columns over those of the table."""
        return self.columns / self.columns_table

    @property
    def limit_us(self) -> float:
        """What is asked of `body_us`."""
        return ALLOWED_FACTOR * self.floor_us + ALLOWED_US

    @property
    def ratio(self) -> float:
        """Modelled time over the floor."""
        return self.body_us / self.floor_us

    @property
    def strict_ratio(self) -> float:
        """Modelled time over the floor of the columns that were streamed, where fewer."""
        return self.body_us / self.strict_floor_us

    @property
    def missed(self) -> tuple[str, ...]:
        """Which of the figures asked for are not reached."""
        if not self.passed:
            return ("result",)
        checks = {
            "HBM": self.hbm_ratio <= MAX_HBM,
            "cols": self.columns <= self.columns_table,
            "instr": self.static_instructions <= MAX_STATIC,
            "time": self.body_us <= self.limit_us,
        }
        return tuple(name for name, met in checks.items() if not met)

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        values = asdict(self) | {"limit_us": self.limit_us, "missed": list(self.missed)}
        if self.passed:
            values |= {
                "body_us": self.body_us,
                "hbm_ratio": self.hbm_ratio,
                "columns_ratio": self.columns_ratio,
                "ratio": self.ratio,
                "strict_ratio": self.strict_ratio,
            }
        return values


def floor_us(hw: Hardware, dtype: str, columns: int, num_bytes: int) -> float:
    """Return the least time of that many moving columns and bytes, in µs."""
    cycles = hw.float32_matmul_passes * hw.float32_matmul_row_cycles if dtype == "float32" else 1
    bytes_per_ns = hw.memory_bytes_per_ns
    return max(columns * cycles / hw.tensor_ghz, num_bytes / bytes_per_ns) / 1e3


def run_layers(
    trials: Iterable[LayerTrial],
    announce: Callable[[str], None],
    *,
    algorithm: str = "auto",
    verify: bool = True,
) -> Iterator[LayerRow]:
    """Run one trial after the other; what one raises does not stop the next."""
    known: LayerData | None = None
    for trial in trials:
        announce(trial.name)
        row = empty_row(trial)
        try:
            # the trials of one layer follow each other and share data and PyTorch's result
            if known is None or known.layer != trial.layer:
                known = LayerData(trial.layer)
            row = _measure(row, trial, known, algorithm, verify)
        except Exception as error:  # also an error that nkiconv never meant to raise is a finding
            row = replace(row, problem=f"{type(error).__name__}: {error}")
        yield row


class LayerData:
    """Operands of a layer, and what PyTorch or the reference makes of them."""

    def __init__(self, layer: Layer, *, bias: bool = False) -> None:
        self.layer = layer
        rng = np.random.default_rng(layer.id)
        self.x = rng.integers(-2, 3, (layer.N, layer.C_in, *layer.size)).astype(np.float32)
        shape = (layer.C_out, layer.C_in // layer.groups, *layer.kernel)
        self.w = rng.integers(-2, 3, shape).astype(np.float32)
        self.bias = rng.integers(-2, 3, layer.C_out).astype(np.float32) if bias else None
        self._wanted: Array | None = None

    @property
    def wanted(self) -> Array:
        """The result in float32, which holds it exactly."""
        if self._wanted is None:
            self._wanted = _right_result(self.layer, self.x, self.w, self.bias)
        return self._wanted


def profile_layer(
    layer: Layer,
    dtype: str,
    target: str,
    *,
    data: LayerData | None = None,
    algorithm: str = "auto",
) -> tuple[Array, Profile]:
    """Run a layer on its data of whole numbers; None makes them."""
    data = data or LayerData(layer)
    return profile(
        conv2d,
        data.x.astype(DTYPES[dtype]),
        data.w.astype(DTYPES[dtype]),
        **layer.arguments(),
        algorithm=algorithm,
        target=target,
    )


def _right_result(layer: Layer, x: Array, w: Array, bias: Array | None) -> Array:
    """Return the convolution by PyTorch, or by the reference where torch is not installed."""
    try:
        import torch
    except ImportError:
        exact: Array = conv2d_float64(
            x,
            w,
            bias,
            **layer.arguments(),
        ).astype(np.float32)
        return exact
    with torch.inference_mode():
        result: Array = torch.nn.functional.conv2d(
            torch.from_numpy(x),
            torch.from_numpy(w),
            None if bias is None else torch.from_numpy(bias),
            **layer.arguments(),
        ).numpy()
    return result


def empty_row(trial: LayerTrial) -> LayerRow:
    """Return what is known of a row before anything runs."""
    layer, hw = trial.layer, HARDWARE[trial.target]
    least_bytes = layer.least_elems * DTYPES[trial.dtype].itemsize
    floor = floor_us(hw, trial.dtype, layer.columns_packed, least_bytes)
    return LayerRow(
        layer=layer.name,
        target=trial.target,
        dtype=trial.dtype,
        columns_table=layer.columns_packed,
        least_bytes=least_bytes,
        floor_us=floor,
        strict_floor_us=floor,
    )


def _measure(
    row: LayerRow, trial: LayerTrial, data: LayerData, algorithm: str, verify: bool
) -> LayerRow:
    dtype = DTYPES[trial.dtype]
    y, seen = profile_layer(trial.layer, trial.dtype, trial.target, data=data, algorithm=algorithm)
    row = _counted(row, seen)
    if not verify:
        return row
    wanted = data.wanted.astype(dtype)  # from whole numbers in float32: the only rounding
    if y.shape != wanted.shape or y.dtype != dtype:
        return replace(row, exact=False, problem=f"the result is {y.dtype} {y.shape}")
    wrong = int(np.count_nonzero(y != wanted))
    if wrong:
        return replace(row, exact=False, problem=f"{wrong} of {y.size} results are wrong")
    return replace(row, exact=True)


def _counted(row: LayerRow, seen: Profile) -> LayerRow:
    """Return the row with the counts and times of a profile."""
    matmuls = sum(seen.instructions.get(name, 0) for name in ("nc_matmul", "nc_matmul_mx"))
    row = replace(
        row,
        # kernels are named after their algorithm
        algorithm="+".join(dict.fromkeys(name.removeprefix("conv2d_") for name in seen.kernels)),
        columns=seen.moving_columns,
        hbm_bytes=seen.hbm_read_bytes + seen.hbm_write_bytes,
        matmuls=matmuls,
        transposes=seen.instructions.get("nc_transpose", 0),
        transfers=seen.dma_transfers,
        copies=copies_within_sbuf(seen),
        static_instructions=seen.static_instructions,
        # Sums of whole picoseconds, turned into microseconds: nothing is lost in turning back.
        body_ps=round(seen.body_us * 1e6),
        bound=seen.bound,
    )
    return with_columns(row)


def copies_within_sbuf(seen: Profile) -> int:
    """Count copies within SBUF; what copies a result out of PSUM empties it, and is none."""
    count = 0
    for launch in seen.launches:
        trace = launch.program.trace
        opcode = trace.find("tensor_copy")
        if opcode < 0:
            continue
        psum = {made.number for made in launch.program.allocations if made.space == "psum"}
        for _, words in trace.raw():
            if words[0] == opcode:
                count += psum.isdisjoint(words[HEADER::OPERAND])
    return count


def with_columns(row: LayerRow) -> LayerRow:
    """Return the row with the floor that its own columns give, where they are fewer."""
    fewest = min(row.columns or row.columns_table, row.columns_table)
    strict = floor_us(HARDWARE[row.target], row.dtype, fewest, row.least_bytes)
    return replace(row, strict_floor_us=strict)
