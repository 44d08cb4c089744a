"""The six faults of an early conv2d kernel, each as a number with a standard.

    counted                                            standard
    HBM bytes read / bytes of x, w and bias            at most 1.05, halo rows included
    copy instructions per output tile                  0
    times each input byte is read                      1.00, halo rows apart: at most 1.05
    store DMAs per output tile                         1
    transposes                                         0, with packed weights
    moving columns per matmul                          all whole output rows that a PSUM bank holds

`direct` has to meet all of them; `naive` is the kernel with the faults.  Nothing is known
beforehand: the counts come from the profiles of both runs, the tiles from the plan of `direct`,
and both results are compared with the reference before anything is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from nkiconv.bench.errors import UserError
from nkiconv.kernels import conv2d
from nkiconv.kernels._direct_plan import plan_direct
from nkiconv.kernels._epilogue import Epilogue
from nkiconv.kernels._plan import Axis, Geometry, ceil_div
from nkiconv.kernels.conv2d_naive import plan_naive
from nkiconv.reference import bounds
from nkiconv.reference.cases import Case, Inputs, make_inputs
from nkiconv.reference.conv2d import conv2d_float64, magnitude
from nkiconv.simulate import Profile, current_target, profile
from nkiconv.simulate.hardware import hardware

__all__ = ["Finding", "Findings", "measure"]

MAX_READ = 1.05
K = 3


@dataclass(frozen=True)
class Finding:
    """One fault as a number, for both kernels; `meets` is about `direct`."""

    counted: str
    naive: float
    direct: float
    standard: str
    meets: bool


@dataclass(frozen=True)
class Findings:
    """The table; `..._uses` is how often a matmul streams a loaded input position, on average."""

    size: int
    channels: int
    dtype: str
    target: str
    rows: tuple[Finding, ...]
    naive_us: float
    direct_us: float
    naive_uses: float
    direct_uses: float

    @property
    def passed(self) -> bool:
        """Whether `direct` meets every standard."""
        return all(row.meets for row in self.rows)

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self) | {"passed": self.passed}


def measure(size: int, channels: int, dtype: str) -> Findings:
    """Run both kernels on a size x size image with `channels` in and out, and count.

    Raises
    ------
    UserError
        A result is outside its allowance: counts of a wrong kernel mean nothing.
    """
    case = Case(
        id=f"{K}x{K}-s1-p1-c{channels}-k{channels}-{size}x{size}",
        C_in=channels, H=size, W=size, C_out=channels, KH=K, KW=K, padding=1,
        why="the findings",
    )  # fmt: skip
    inputs = make_inputs(case, dtype)
    wanted = conv2d_float64(**inputs, **case.arguments())
    scale = magnitude(**inputs, **case.arguments())

    def run(algorithm: str) -> Profile:
        y, seen = profile(conv2d, **inputs, **case.arguments(), algorithm=algorithm)
        ratio = bounds.max_error_ratio(y, wanted, scale, case.terms, dtype)
        if not ratio <= 1:
            raise UserError(f"{algorithm} is wrong: error {ratio:.3g} of its allowance")
        return seen

    geometry = _geometry(case, inputs["x"].itemsize)
    naive_plan = plan_naive(geometry)
    direct_plan = plan_direct(geometry, Epilogue(has_bias=True))
    naive = _Run(
        seen=run("naive"),
        inputs=inputs,
        num_output_tiles=len(naive_plan.output_tiles) * len(naive_plan.c_out_tiles),
    )
    direct = _Run(seen=run("direct"), inputs=inputs, num_output_tiles=direct_plan.num_output_tiles)
    return Findings(
        size=size,
        channels=channels,
        dtype=dtype,
        target=current_target(),
        rows=tuple(_rows(naive, direct)),
        naive_us=naive.seen.latency_us,
        direct_us=direct.seen.latency_us,
        naive_uses=naive.uses,
        direct_uses=direct.uses,
    )


def _geometry(case: Case, itemsize: int) -> Geometry:
    """Return the sizes as the kernels' planners take them: one group, padding 1."""
    rows, cols = Axis(case.H, K, case.H, 1, 1, 1), Axis(case.W, K, case.W, 1, 1, 1)
    return Geometry(1, 1, case.C_in, case.C_out, rows, cols, itemsize)


@dataclass(frozen=True)
class _Run:
    """One kernel's profile, with what is needed to count in it."""

    seen: Profile
    inputs: Inputs
    num_output_tiles: int

    def count(self, *opcodes: str) -> int:
        """Executed instructions of these kinds."""
        return sum(self.seen.instructions.get(opcode, 0) for opcode in opcodes)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of w, and of the bias, which kernels load in float32."""
        bias = self.inputs["bias"]
        return self.inputs["w"].nbytes + (0 if bias is None else 4 * bias.size)

    @property
    def needed_bytes(self) -> int:
        """Bytes of x, w and bias."""
        return self.inputs["x"].nbytes + self.parameter_bytes

    @property
    def x_bytes_read(self) -> int:
        """Bytes read of x."""
        return self.seen.hbm_read_bytes_by_tensor["x_hbm"]

    @property
    def num_stores(self) -> int:
        """DMA transfers to HBM."""
        return self.seen.lane_instructions["DMA store"]

    @property
    def columns(self) -> float:
        """Moving columns per matmul."""
        return self.seen.moving_columns / self.count("nc_matmul")

    @property
    def uses(self) -> float:
        """Input elements that matmuls stream, over those that were loaded."""
        C_in = self.inputs["x"].shape[1]
        channels = C_in / ceil_div(C_in, hardware().partitions)  # of a matmul, on average
        loaded_elems = self.x_bytes_read / self.inputs["x"].itemsize
        return float(self.seen.moving_columns * channels / loaded_elems)


def _rows(naive: _Run, direct: _Run) -> Iterator[Finding]:
    """One finding a time, in the order of the module docstring."""

    def finding(
        counted: str, count: Callable[[_Run], float], standard: str, meets: Callable[[float], bool]
    ) -> Finding:
        found = count(direct)
        return Finding(counted, count(naive), found, standard, meets(found))

    yield finding(
        "HBM bytes read / bytes needed",
        lambda run: run.seen.hbm_read_bytes / run.needed_bytes,
        f"≤ {MAX_READ}",
        lambda ratio: ratio <= MAX_READ,
    )
    yield finding(
        "copy instructions per output tile",
        lambda run: run.count("tensor_copy") / run.num_output_tiles,
        "0",
        lambda copies: copies == 0,
    )
    yield finding(
        "times each input byte is read",
        lambda run: run.x_bytes_read / run.inputs["x"].nbytes,
        f"1, with halo ≤ {MAX_READ}",
        lambda times: times <= MAX_READ,
    )
    yield finding(
        "store DMAs per output tile",
        lambda run: run.num_stores / run.num_output_tiles,
        "1",
        lambda stores: stores == 1,
    )
    yield finding(
        "transposes",
        lambda run: float(run.count("nc_transpose", "dma_transpose")),
        "0",
        lambda transposes: transposes == 0,
    )
    size = direct.inputs["x"].shape[2:]
    best = _most_columns(*size) * _inside(*size)
    yield finding(
        "moving columns per matmul",
        lambda run: run.columns,
        f"≥ {best:.4g}",
        lambda columns: columns >= best,
    )


def _most_columns(OH: int, OW: int) -> float:
    """Columns per matmul if each covers all whole output rows that fit a PSUM bank.

    The fewest matmuls per tap that cover the rows; a row longer than a bank is split evenly.
    """
    most = hardware().psum_bank_bytes // 4  # float32 results per partition
    if most < OW:
        return OW / ceil_div(OW, most)
    return OH * OW / ceil_div(OH, most // OW)


def _inside(OH: int, OW: int) -> float:
    """Share of the products of outputs and taps that lie in the image: the rest are of padding."""
    return (K * OH - 2) * (K * OW - 2) / (K * K * OH * OW)
