"""One convolution through the simulator, and through PyTorch on this machine.

Both results are judged before any time counts.  Operands are whole numbers, on which a right kernel
is exact, or a photograph and a filter's taps, on which reference/bounds.py says what is allowed.
The device's time is modelled; the host's is a median on the clock of this machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from nkiconv.bench.filters import FILTERS
from nkiconv.bench.layers import Layer, LayerData, floor_us
from nkiconv.bench.photograph import photograph_rgb
from nkiconv.bench.suites.works import Work
from nkiconv.kernels import conv2d
from nkiconv.reference import bounds
from nkiconv.reference._dtypes import DTYPES, Array, round_once
from nkiconv.reference.conv2d import conv2d_float64, magnitude
from nkiconv.simulate import Profile, profile
from nkiconv.simulate.arrays import as_numpy, like
from nkiconv.simulate.hardware import HARDWARE, Hardware

__all__ = ["BenchRow", "Host", "Modelled", "Trial", "run_trials", "trials_of"]

HOST_SECONDS = 5.0
"""Repeats on the host end after this long, but not before the first."""


@dataclass(frozen=True)
class Trial:
    """One row to be."""

    work: Work
    target: str
    dtype: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells rows apart, also between runs."""
        return self.work.suite, self.work.name, self.target, self.dtype


def trials_of(works: Iterable[Work], targets: Iterable[str], dtypes: Iterable[str]) -> list[Trial]:
    """Return every work in every element type on every target, work by work."""
    targets, dtypes = tuple(targets), tuple(dtypes)
    return [Trial(work, target, dtype) for work in works for dtype in dtypes for target in targets]


@dataclass(frozen=True)
class Modelled:
    """What the timing model says, and what the kernel counted.

    `body_ps` is without launch, as are all rates; `mfu` counts useful FLOP alone; `time_us` is the
    critical path by what holds it, launch included; `floor_us` as in layers.py.
    """

    algorithm: str
    body_ps: int
    launch_us: float
    floor_us: float
    bound: str
    time_us: dict[str, float]
    gflop_per_s: float
    gb_per_s: float
    mfu: float
    mbu: float
    peak_gflop_per_s: float
    peak_gb_per_s: float
    hbm_read_bytes: int
    hbm_write_bytes: int
    sbuf_peak_bytes: int
    psum_peak_banks: int
    dma_transfers: int
    moving_columns: int
    static_instructions: int
    instructions: dict[str, int]
    lane_instructions: dict[str, int]

    @property
    def body_us(self) -> float:
        """Modelled time without launch."""
        return self.body_ps / 1e6

    @property
    def hbm_bytes(self) -> int:
        """Bytes that crossed HBM."""
        return self.hbm_read_bytes + self.hbm_write_bytes


@dataclass(frozen=True)
class Host:
    """PyTorch on this machine's clock, in the same element type."""

    median_s: float
    best_s: float
    repeats: int
    gflop_per_s: float


@dataclass(frozen=True)
class BenchRow:
    """What came of one trial.

    `problem` says what is wrong with our result, `host_problem` why there is no time of PyTorch;
    `error_ratio` is the largest error over its allowance, None where results had to be exact.
    """

    suite: str
    name: str
    target: str
    dtype: str
    series: str
    value: int
    sizes: str
    flop: int
    least_bytes: int
    problem: str = ""
    error_ratio: float | None = None
    modelled: Modelled | None = None
    host: Host | None = None
    host_problem: str = ""
    simulated_s: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells rows apart, also between runs."""
        return self.suite, self.name, self.target, self.dtype

    @property
    def intensity(self) -> float:
        """Useful FLOP per byte that crossed HBM; 0 without a result."""
        return self.flop / self.modelled.hbm_bytes if self.modelled else 0.0


def run_trials(
    trials: Iterable[Trial], repeats: int, announce: Callable[[str], None]
) -> Iterator[BenchRow]:
    """Yield a row for each trial; what one raises does not stop the next."""
    hosts: dict[tuple[Work, str], tuple[Host | None, str]] = {}
    for trial in trials:
        announce(" ".join(trial.key))
        layer = trial.work.layer
        operands: _Operands | None = None
        fields: dict[str, object] = {}
        try:
            operands = _Operands.of(trial.work, trial.dtype)
            fields = _simulated(trial, operands)
        except Exception as error:  # also an error that nkiconv never meant to raise is a finding
            fields["problem"] = f"{type(error).__name__}: {error}"
        place = trial.work, trial.dtype
        if place not in hosts and operands is not None and not fields.get("problem"):
            hosts[place] = _hosted(operands, repeats)
        host, host_problem = hosts.get(place, (None, "not timed: our result is wrong"))
        yield BenchRow(
            suite=trial.work.suite,
            name=trial.work.name,
            target=trial.target,
            dtype=trial.dtype,
            series=trial.work.series,
            value=trial.work.value,
            sizes=_sizes(layer),
            flop=2 * layer.macs,
            least_bytes=_least_bytes(trial.work, trial.dtype),
            host=None if fields.get("problem") else host,
            host_problem=host_problem,
            **fields,  # type: ignore[arg-type]  # named as the fields are
        )


def _sizes(layer: Layer) -> str:
    """Return the sizes in the words of reference/cases.py."""
    text = "x".join(map(str, layer.kernel))
    for letter, (rows, cols) in zip(
        "spd", (layer.stride, layer.padding, layer.dilation), strict=True
    ):
        if letter != "d" or (rows, cols) != (1, 1):
            text += f"-{letter}{rows}" + (f"x{cols}" if rows != cols else "")
    if layer.groups > 1:
        text += f"-g{layer.groups}"
    text += f"-c{layer.C_in}-k{layer.C_out}-{layer.size[0]}x{layer.size[1]}"
    return text + (f"-n{layer.N}" if layer.N > 1 else "")


def _least_bytes(work: Work, dtype: str) -> int:
    """Return the bytes of x, w, bias and y once; kernels take a bias in float32."""
    bias = 4 * work.layer.C_out if work.bias else 0
    return work.layer.least_elems * DTYPES[dtype].itemsize + bias


# --- What goes in, and what should come out -------------------------------------------------------


@dataclass(frozen=True)
class _Operands:
    """x, w and bias in one element type, with what a right result is.

    `sizes` is None where the result has to be `wanted` rounded once; else bounds.py decides, and
    `sizes` is what it calls magnitude.
    """

    layer: Layer
    x: Array
    w: Array
    bias: Array | None
    wanted: Array
    sizes: Array | None

    @classmethod
    def of(cls, work: Work, dtype_name: str) -> _Operands:
        """Return the operands of a work."""
        dtype, layer = DTYPES[dtype_name], work.layer
        if work.filter:
            x = photograph_rgb()[:, None].astype(dtype)
            w = round_once(FILTERS[work.filter].taps[:, None], dtype)
            wanted = conv2d_float64(x, w, **layer.arguments())
            return cls(layer, x, w, None, wanted, magnitude(x, w, **layer.arguments()))
        data = LayerData(layer, bias=work.bias)
        bias = None if data.bias is None else data.bias.astype(dtype)
        return cls(layer, data.x.astype(dtype), data.w.astype(dtype), bias, data.wanted, None)

    def judge(self, y: Array) -> tuple[float | None, str]:
        """Return the error over its allowance where one is allowed, and what is wrong."""
        if y.shape != self.wanted.shape or y.dtype != self.x.dtype:
            return None, f"the result is {y.dtype} {y.shape}"
        if self.sizes is None:
            wrong = int(np.count_nonzero(y != self.wanted.astype(y.dtype)))
            return None, f"{wrong} of {y.size} results are wrong" if wrong else ""
        terms = self.w[0].size + (self.bias is not None)
        ratio = bounds.max_error_ratio(y, self.wanted, self.sizes, terms, self.x.dtype)
        return ratio, "" if ratio <= 1 else f"error {ratio:.3g} of its allowance"


# --- Ours -----------------------------------------------------------------------------------------


def _simulated(trial: Trial, operands: _Operands) -> dict[str, object]:
    """Return the fields of a row that the simulator fills."""
    started = time.perf_counter()
    y, seen = profile(
        conv2d,
        operands.x,
        operands.w,
        operands.bias,
        **operands.layer.arguments(),
        target=trial.target,
    )
    simulated_s = time.perf_counter() - started
    ratio, problem = operands.judge(np.asarray(y))
    fields: dict[str, object] = {
        "simulated_s": simulated_s,
        "error_ratio": ratio,
        "problem": problem,
    }
    if not problem:
        fields["modelled"] = _modelled(trial, seen)
    return fields


def _modelled(trial: Trial, seen: Profile) -> Modelled:
    layer, hw = trial.work.layer, HARDWARE[trial.target]
    body_us = seen.body_us
    hbm_bytes = seen.hbm_read_bytes + seen.hbm_write_bytes
    rate, bandwidth = 2 * layer.macs / body_us / 1e3, hbm_bytes / body_us / 1e3
    peak = _peak_gflop_per_s(hw, trial.dtype)
    columns = min(layer.columns_packed, seen.moving_columns or layer.columns_packed)
    return Modelled(
        # kernels are named after their algorithm
        algorithm="+".join(dict.fromkeys(name.removeprefix("conv2d_") for name in seen.kernels)),
        # Sums of whole picoseconds, turned into microseconds: nothing is lost in turning back.
        body_ps=round(body_us * 1e6),
        launch_us=seen.launch_us,
        floor_us=floor_us(hw, trial.dtype, columns, _least_bytes(trial.work, trial.dtype)),
        bound=seen.bound,
        time_us=seen.time_us,
        gflop_per_s=rate,
        gb_per_s=bandwidth,
        mfu=rate / peak,
        mbu=bandwidth / hw.hbm_bytes_per_ns,
        peak_gflop_per_s=peak,
        peak_gb_per_s=hw.hbm_bytes_per_ns,
        hbm_read_bytes=seen.hbm_read_bytes,
        hbm_write_bytes=seen.hbm_write_bytes,
        sbuf_peak_bytes=seen.sbuf_peak_bytes,
        psum_peak_banks=seen.psum_peak_banks,
        dma_transfers=seen.dma_transfers,
        moving_columns=seen.moving_columns,
        static_instructions=seen.static_instructions,
        instructions=seen.instructions,
        lane_instructions=seen.lane_instructions,
    )


def _peak_gflop_per_s(hw: Hardware, dtype: str) -> float:
    """Return TensorE's documented peak."""
    passes = hw.float32_matmul_passes * hw.float32_matmul_row_cycles if dtype == "float32" else 1
    return 2 * hw.partitions * hw.stationary_max_columns * hw.tensor_peak_ghz / passes


# --- PyTorch --------------------------------------------------------------------------------------


def _hosted(operands: _Operands, repeats: int) -> tuple[Host | None, str]:
    """Return PyTorch's time, or why there is none."""
    try:
        import torch
    except ImportError:
        return None, "torch is not installed"
    layer = operands.layer

    def conv(x_array: Array, w_array: Array, bias_array: Array | None) -> Callable[[], Array]:
        anything = torch.empty(0)  # `like` makes a tensor beside a tensor
        x, w = like(x_array, anything), like(w_array, anything)
        bias = None if bias_array is None else like(bias_array, anything)

        def run() -> Array:
            with torch.inference_mode():
                return as_numpy(torch.nn.functional.conv2d(x, w, bias, **layer.arguments()))

        return run

    run = conv(operands.x, operands.w, operands.bias)
    try:
        y = run()
        problem = operands.judge(y)[1]
        if problem and operands.sizes is None:
            # PyTorch need not be exact, but as near as one rounding allows
            sizes = conv(
                _absolute(operands.x),
                _absolute(operands.w),
                None if operands.bias is None else _absolute(operands.bias),
            )()
            problem = replace(operands, sizes=sizes).judge(y)[1]
    except (RuntimeError, ValueError) as error:
        return None, f"torch: {error}"
    if problem:
        return None, f"torch: {problem}"
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - begun < HOST_SECONDS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    return Host(median, min(times), len(times), 2 * layer.macs / median / 1e9), ""


def _absolute(values: Array) -> Array:
    """Return whole numbers without their signs, in float32."""
    result: Array = np.abs(values).astype(np.float32)
    return result
