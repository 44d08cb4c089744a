"""Layers on a NeuronCore: right first, then timed, then compared with the modelled time.

A row's times are of the device alone (`total_time` of the profiler, some 13 µs of preamble and the
teardown included, as the modelled time with launch has them) and of the host that calls it (`host`:
with copies to and from the device and the runtime's own work).
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nkiconv.bench.device import sdk
from nkiconv.bench.errors import UserError
from nkiconv.bench.layers import LayerData, LayerTrial, profile_layer
from nkiconv.bench.plans import problem_of
from nkiconv.kernels import pack_weights
from nkiconv.kernels._algorithm import Operands
from nkiconv.kernels._choice import ALGORITHMS, choose, run
from nkiconv.reference._dtypes import DTYPES, Array
from nkiconv.simulate import use_target
from nkiconv.simulate.arrays import as_numpy, like
from nkiconv.simulate.hardware import HARDWARE

__all__ = ["SCHEMA", "DeviceRow", "report", "require_device", "run_on_device"]

SCHEMA = "nkiconv-device-times/1"
_WARM_UP = 5


@dataclass(frozen=True)
class DeviceRow:
    """One layer on the device; times in microseconds.

    `wrong` is empty where the device's result is the reference's, bit for bit: data are small whole
    numbers, whose sums are exact.  A wrong row has no times.
    """

    layer: str
    dtype: str
    target: str
    algorithm: str
    wrong: str
    runs: int = 0
    device_p50_us: float = 0.0
    device_p99_us: float = 0.0
    host_p50_us: float = 0.0
    host_p99_us: float = 0.0
    modelled_us: float = 0.0
    mfu: float = 0.0

    @property
    def modelled_over_measured(self) -> float | None:
        """Modelled time, launch included, over the median measured on the device."""
        return self.modelled_us / self.device_p50_us if self.device_p50_us else None

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self) | {"modelled_over_measured": self.modelled_over_measured}


def require_device() -> None:
    """Refuse to go on without a device.

    Raises
    ------
    UserError
        One line that says what is missing.
    """
    lacks = sdk.missing()
    if lacks is not None:
        raise UserError(
            f"--device neuron: missing here: {lacks} (docs/run-on-trn1.md sets a machine up)"
        )


def run_on_device(
    trials: Iterable[LayerTrial], runs: int, announce: Callable[[str], None]
) -> Iterator[DeviceRow]:
    """Compile, check and time one layer after the other."""
    for trial in trials:
        announce(trial.name)
        with use_target(trial.target), tempfile.TemporaryDirectory() as folder:
            yield _run_one(trial, runs, Path(folder))


def report(rows: Iterable[DeviceRow]) -> dict[str, object]:
    """Return everything for the JSON file that `nkiconv calibrate --measured` takes in."""
    return {
        "schema": SCHEMA,
        "machine": {"node": platform.machine(), "system": platform.platform()},
        "versions": sdk.versions(),
        "rows": [row.to_dict() for row in rows],
    }


def _run_one(trial: LayerTrial, runs: int, folder: Path) -> DeviceRow:
    layer, data = trial.layer, LayerData(trial.layer)
    x, w = data.x.astype(DTYPES[trial.dtype]), data.w.astype(DTYPES[trial.dtype])
    best = choose(problem_of(layer, trial.dtype)).candidates[0]
    packed = ALGORITHMS[best.algorithm].pack(pack_weights(w, layer.groups), best.plan)

    def call_kernel(kernel: Any, *arguments: Any) -> Any:
        return kernel(*arguments)  # with XLA tensors: the vendor's guide for custom operators

    def function(x_device: Any, w_device: Any) -> Any:
        return run(call_kernel, best, Operands(x=x_device, w=w_device))

    inputs = (_tensor(x), _tensor(packed))
    compiled = sdk.trace(function, inputs, folder)
    row = DeviceRow(layer.name, trial.dtype, trial.target, best.algorithm, wrong="")
    wrong = _difference(as_numpy(compiled(*inputs)), data.wanted.astype(x.dtype))
    if wrong:
        return replace(row, wrong=wrong)  # no speed of a wrong result
    host_us = _host_times_us(compiled, inputs, runs)
    device_us = sdk.device_times_us(folder, {}, runs)
    _, seen = profile_layer(layer, trial.dtype, trial.target, data=data)
    peak_macs = HARDWARE[trial.target].tensor_peak_ghz * 1e3 * 128 * 128
    p50 = float(np.percentile(device_us, 50))
    return replace(
        row,
        runs=len(device_us),
        device_p50_us=p50,
        device_p99_us=float(np.percentile(device_us, 99)),
        host_p50_us=float(np.percentile(host_us, 50)),
        host_p99_us=float(np.percentile(host_us, 99)),
        modelled_us=seen.latency_us,
        mfu=layer.macs * (4 if trial.dtype == "float32" else 1) / (peak_macs * p50),
    )


def _difference(y: Array, wanted: Array) -> str:
    """Where the result first differs, or nothing."""
    if y.shape != wanted.shape:
        return f"shape {y.shape} where {wanted.shape} is right"
    at = np.argwhere(y != wanted)
    if not len(at):
        return ""
    place = tuple(int(i) for i in at[0])
    return f"{len(at)} elements differ, first at {place}: {y[place]} where {wanted[place]} is right"


def _host_times_us(compiled: sdk.Compiled, inputs: tuple[Any, ...], runs: int) -> list[float]:
    """Time calls from the host, after some that warm up."""
    for _ in range(_WARM_UP):
        compiled(*inputs)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        compiled(*inputs)
        times.append((time.perf_counter() - start) * 1e6)
    return times


def _tensor(values: Array) -> Any:
    import torch

    return like(np.array(values), torch.empty(0))
