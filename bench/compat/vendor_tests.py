"""The vendor's own tests of nki-library, with the simulator in place of a fleet of devices.

A test of theirs hands a description of the launch (kernel, inputs, target, cores, reference,
tolerances) to the method `execute` of its test manager.  `Manager` has that method.
"""

from __future__ import annotations

import importlib
import inspect
import os
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from nkiconv.bench.compat.case import Array
from nkiconv.bench.compat.judge import Judge
from nkiconv.bench.compat.stand_ins import packed_name, unpack

__all__ = ["Manager", "call_test"]

_TARGETS = {"trn3_a0": "trn3"}


class Manager:
    """Runs what a vendor test asks for, and judges the result by the test's own rule."""

    trace_mode = None  # of the vendor's modes, which compile or run on a device, none

    def __init__(self, judge: Judge, target: str = "") -> None:
        self.judge = judge
        self.target = target

    def execute(self, launch: Any) -> None:
        """Run one launch; `launch` is the vendor's ``KernelArgs``."""
        import nki

        compiler = launch.compiler_input
        target = self.target or str(compiler.platform_target.value)
        os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = _TARGETS.get(target, target)
        if launch.inference_args.collective_ranks > 1:
            raise NotImplementedError("collectives over several devices are not simulated")
        kernel = nki.jit(launch.kernel_func)
        grid = compiler.logical_nc_config
        launched = kernel if grid == 1 else kernel[grid]
        # Copies, as on a device: references are computed later, from what the kernel was given.
        inputs = {
            name.removesuffix(".must_alias_input"): (
                value.copy() if isinstance(value, np.ndarray) else value
            )
            for name, value in (launch.kernel_input or {}).items()
        }
        result = launched(**inputs)
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        if launch.validation_args is not None:
            self._compare(results, launch.validation_args)

    def _compare(self, results: list[Any], asked: Any) -> None:
        expected = asked.golden_output
        if not isinstance(expected, dict):
            expected = expected.golden
        if expected is None:
            return
        if len(results) != len(expected):
            self.judge.fail(f"{len(results)} results, the reference has {len(expected)}")
            return
        for (name, right), found in zip(expected.items(), results, strict=True):
            if hasattr(right, "validator"):
                self._validate(name, right.validator, np.asarray(found))
                continue
            self.judge.compare(
                str(name),
                *_as_numbers(np.asarray(found), np.asarray(right)),
                asked.relative_accuracy,
                asked.absolute_accuracy,
            )

    def _validate(self, name: str, validator: Any, found: Array) -> None:
        """Let a test's own validator look at the bytes of a result."""
        flat = np.ascontiguousarray(found).reshape(-1).view(np.uint8)
        if not validator(None).validate(flat):
            self.judge.fail(f"{name}: the test's own validator refuses the result")
        elif self.judge.right is None:
            self.judge.right = True


def _as_numbers(found: Array, right: Array) -> tuple[Array, Array]:
    """Return result and reference, packed elements as the numbers that they hold."""
    name = packed_name(right.dtype)
    return (unpack(found, name), unpack(right, name)) if name else (found, right)


class _Collector:
    """Takes the figures that a test reports about itself, and forgets them."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def call_test(module: ModuleType, test: str, arguments: str, manager: Manager) -> None:
    """Call one test of a module with a manager and written-out arguments."""
    *classes, name = test.split(".")
    holder: Any = module
    for part in classes:
        holder = getattr(holder, part)()
    function = getattr(holder, name)
    parameters = inspect.signature(function).parameters
    platforms = importlib.import_module("test.utils.common_dataclasses").Platforms
    supplied = {
        "test_manager": manager,
        "collector": _Collector(),
        "is_negative_test_case": False,
        "neg_case": None,
        "platform_target": platforms.TRN2,
    }
    own = [name for name in parameters if name not in supplied]

    def take(*values: Any, **named: Any) -> dict[str, Any]:
        return dict(zip(own, values, strict=False)) | named

    language = importlib.import_module("nki.language")
    known = {"_take": take, "Platforms": platforms, "namespace": SimpleNamespace, "nl": language}
    given = eval(f"_take({arguments})", vars(module) | known)  # our own text, from the case table
    function(**{n: v for n, v in supplied.items() if n in parameters} | given)
