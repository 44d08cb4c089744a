"""Running kernels: what ``@nki.jit`` makes of a function, and how host arrays go in and out."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np

from nkiconv.simulate import embedded
from nkiconv.simulate.arrays import as_numpy, is_array, like
from nkiconv.simulate.cores import CORES, Accesses, LogicalCore
from nkiconv.simulate.dtypes import Array, from_numpy
from nkiconv.simulate.errors import (
    ConstraintError,
    HazardError,
    NkiconvError,
    UninitializedReadError,
)
from nkiconv.simulate.late import LateTransfers, dma_is_late, use_dma
from nkiconv.simulate.launch import check_argument, check_declared, check_environment
from nkiconv.simulate.placement import place
from nkiconv.simulate.profile import report_launch
from nkiconv.simulate.program import Program, active, is_simulator, running
from nkiconv.simulate.subset import check_kernel
from nkiconv.simulate.tensor import MemoryRegion, NkiTensor, tensors_in

_LOGICAL_CORES_SINCE = 3
"""Generation of the NeuronCore from which on two make a logical one (LNC)."""


class Kernel:
    """A function decorated with ``@nki.jit``.

    Called with host arrays, it runs on the simulator; called from inside another kernel, it is a
    part of that one.

    Attributes
    ----------
    func
        The plain function.
    grid
        The launch grid: ``(cores,)``, or empty where none was given.
    edges
        Instructions by name, ``(consumer, producer)``: the one starts when the other has completed.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        grid: tuple[int, ...] = (),
        edges: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.func = func
        self.grid = grid
        self.edges = edges
        functools.update_wrapper(self, func)

    def __repr__(self) -> str:
        return f"<nki.jit kernel {self.func.__qualname__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the kernel on host arrays, or as a part of the running kernel."""
        if active() is not None:
            return self.func(*args, **kwargs)
        return run_kernel(self, args, kwargs)

    def __getitem__(self, grid: int | tuple[int, ...]) -> Kernel:
        sizes = grid if isinstance(grid, tuple) else (grid,)
        if len(sizes) != 1 or type(sizes[0]) is not int or not 1 <= sizes[0] <= CORES:
            raise ConstraintError(
                f"{self!r}[{grid!r}]: a launch grid is one number, of the 1 to {CORES} cores in a "
                "logical one (Using Logical Neuron Cores)",
                code="launch.grid",
            )
        return Kernel(self.func, sizes, self.edges)

    def with_schedule(self, edges: list[tuple[str, str | list[str]]]) -> Kernel:
        """Return the same kernel with orders between named instructions.

        Parameters
        ----------
        edges
            Pairs of an instruction's ``name=`` and the one, or ones, that it has to wait for.

        Raises
        ------
        ConstraintError
            An edge is no such pair; at the launch: a name that no instruction has, or several.
        HazardError
            At the launch: the first of a pair comes earlier in the program than the second.
        """
        pairs: list[tuple[str, str]] = []
        for edge in edges:
            fits = isinstance(edge, (tuple, list)) and len(edge) == 2
            producers = edge[1] if fits and isinstance(edge[1], (tuple, list)) else [edge[-1]]
            if not fits or not all(isinstance(name, str) for name in (edge[0], *producers)):
                raise ConstraintError(
                    f"{self!r}.with_schedule: {edge!r} is not (instruction, instruction or list of "
                    "instructions), by name (guide to the scheduling APIs)",
                    code="order.edge",
                )
            pairs += [(edge[0], str(producer)) for producer in producers]
        return Kernel(self.func, self.grid, (*self.edges, *pairs))


_HOST_OPTIONS = ("debug_kernel", "experimental_flags", "show_compiler_tb")
"""Options of the vendor's compiler that say nothing about what a kernel computes.

Not documented; the kernel library of the vendor passes them.
"""


def jit(fn: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Make a kernel of a function.

    ``mode`` has no effect since NKI 0.3.0, the options of `_HOST_OPTIONS` none here: they are
    taken with a warning.

    Raises
    ------
    ConstraintError
        Other options are given, or `fn` is no function.
    """
    if "platform_target" in kwargs:
        raise ConstraintError(
            f"nki.jit: platform_target={kwargs['platform_target']!r} is an error since NKI 0.3.0; "
            "set NEURON_PLATFORM_TARGET_OVERRIDE (NKI 0.3.0 update guide)",
            code="jit.options",
        )
    if "mode" in kwargs:
        warnings.warn(
            f"nki.jit: mode={kwargs.pop('mode')!r} is deprecated and has no effect; the embedded "
            "NKI always simulates (NKI 0.3.0 update guide)",
            DeprecationWarning,
            stacklevel=2,
        )
    for name in sorted(set(kwargs) & set(_HOST_OPTIONS)):
        warnings.warn(
            f"nki.jit: {name}={kwargs.pop(name)!r} is for the vendor's compiler, and has no effect "
            "in the simulator",
            stacklevel=2,
        )
    if kwargs:
        raise ConstraintError(
            f"nki.jit: options {sorted(kwargs)} are not modelled by the embedded NKI, and would "
            "have to be ignored",
            code="jit.options",
        )
    if fn is None:
        return jit
    if isinstance(fn, Kernel):
        return fn
    if not callable(fn):
        raise ConstraintError(f"nki.jit: {fn!r} is not a function", code="jit.function")
    return Kernel(fn)


def run_kernel(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute a kernel on host arrays and return host arrays.

    Raises
    ------
    NkiconvError
        Whatever the kernel does that the device or the compiler would refuse.
    """
    check_environment()
    check_kernel(kernel.func)
    name = getattr(kernel.func, "__name__", "kernel")
    program = Program(name)
    program.grid = kernel.grid
    if kernel.grid > (1,) and program.hardware.generation < _LOGICAL_CORES_SINCE:
        raise ConstraintError(
            f"{name}[{kernel.grid[0]}]: {program.hardware.target} has no logical cores of two; "
            "they came with trn2 (Using Logical Neuron Cores)",
            code="launch.generation",
        )
    inputs: list[tuple[Any, Array, NkiTensor]] = []

    def bind(value: Any, label: str) -> Any:
        op = f"{name}({label})"
        if not is_array(value):
            check_argument(value, op)
            return value
        original = as_numpy(value, op=op)
        kind = from_numpy(original.dtype, op=op)
        if original.size == 0:
            raise ConstraintError(
                f"{op}: the array has no elements, shape {original.shape}", code="argument.empty"
            )
        dense = np.ascontiguousarray(original)
        tensor = program.wrap_input(dense, kind.name, label, read_only=not original.flags.writeable)
        inputs.append((value, original, tensor))
        return tensor

    labels = _parameter_names(kernel.func, len(args))
    bound_args = [bind(value, label) for value, label in zip(args, labels, strict=True)]
    bound_kwargs = {key: bind(value, key) for key, value in kwargs.items()}
    check_declared(kernel.func, dict(zip(labels, bound_args, strict=True)) | bound_kwargs)

    def execute(part: Program) -> Any:
        # Infinity and NaN come and go on the device without remark, and so they do here.
        with running(part), np.errstate(all="ignore"):
            try:
                part.late = LateTransfers() if dma_is_late() else None
                result = kernel.func(*bound_args, **bound_kwargs)
                part.settle()
                if part.loops:
                    raise ConstraintError(
                        f"{name}: an on-chip loop was left by break or return; its iterations end "
                        "only when its bound is reached (nki.language.fori_loop)",
                        code="loop.left",
                    )
                return result
            except NkiconvError as error:
                # Instructions say where they stand themselves; views and allocations do not.
                _locate(error)
                raise

    result = execute(program) if kernel.grid <= (1,) else _on_cores(name, program, execute)
    _order(program, kernel.edges)
    placement = place(program.allocations, program.hardware, name)
    _check_results(name, result)
    for _, original, tensor in inputs:
        _refuse_shared(name, tensor, original, [o for _, o, t in inputs if t is not tensor])
        _write_back(original, tensor)
    first = inputs[0][0] if inputs else None
    returned = _to_host(name, result, first)
    report_launch(program, placement)
    return returned


def _order(program: Program, edges: tuple[tuple[str, str], ...]) -> None:
    """Add the orders of `with_schedule` to the record."""
    if not edges:
        return
    found: dict[str, list[int]] = {}
    for index, words in program.trace.raw():
        found.setdefault(program.trace.name(words[3]), []).append(index)
    for pair in edges:
        for name in pair:
            if len(found.get(name, ())) != 1:
                raise ConstraintError(
                    f"{program.kernel}.with_schedule: {name!r} is the name of "
                    f"{len(found.get(name, ()))} instructions; an edge needs one (name= of a nisa "
                    "function; guide to the scheduling APIs)",
                    code="order.name",
                )
        consumer, producer = (found[name][0] for name in pair)
        if producer >= consumer:
            raise HazardError(
                f"{program.kernel}.with_schedule: {pair[0]!r} is to wait for {pair[1]!r}, which "
                "comes later in the program; the embedded NKI keeps the order of the program, so "
                "write them in that order",
                code="order.later",
            )
        program.trace.edges.append((consumer, producer))


def _on_cores(name: str, program: Program, execute: Callable[[Program], Any]) -> Any:
    """Run a kernel on both cores of a logical one, and join their counters in `program`."""
    meeting = LogicalCore(program.grid[0])
    parts = [program, *[program.sibling(core) for core in range(1, meeting.count)]]
    accesses = Accesses()
    for part in parts:
        part.cores, part.race = meeting, accesses
    results = meeting.run(lambda core: execute(parts[core]))
    for core, result in enumerate(results):
        for tensor in tensors_in(result):
            if not meeting.is_shared(tensor._storage):
                raise ConstraintError(
                    f"{name}: core {core} returns {tensor!r}; results of a kernel on two cores "
                    "must be in shared HBM (Using Logical Neuron Cores, Final Notes)",
                    code="result.not_shared",
                )
    kept = [[t._storage for t in tensors_in(result)] for result in results]
    if any(storages != kept[0] for storages in kept):
        raise HazardError(
            f"{name}: the cores return different tensors; both must return the same ones "
            "(Using Logical Neuron Cores, Final Notes)",
            code="result.cores_differ",
        )
    for part in parts[1:]:
        program.join(part)
    return results[0]


def _locate(error: NkiconvError) -> None:
    """Say where in the kernel an error is from, and by way of which calls."""
    frames = [f for f in extract_tb(error.__traceback__) if not is_simulator(f.filename)]
    places = [f"{Path(f.filename).name}:{f.lineno}" for f in frames]
    if not places:  # a late transfer, at the end of the kernel: it knows its line
        return
    error.locate(places[-1])
    if error.place == places[-1] and len(places) > 1:
        route = [f"{f.name} {place}" for f, place in zip(frames, places, strict=True)]
        error.add_route(" -> ".join(route))


def _parameter_names(func: Callable[..., Any], count: int) -> list[str]:
    """Return names for the first `count` positional arguments: those of the parameters."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [n for n, p in inspect.signature(func).parameters.items() if p.kind in kinds]
    return names[:count] + [f"argument {i}" for i in range(len(names), count)]


def _refuse_shared(name: str, tensor: NkiTensor, original: Array, others: list[Array]) -> None:
    """Refuse writes to an array that the caller handed in a second time."""
    if tensor._storage.written and any(np.shares_memory(original, other) for other in others):
        raise HazardError(
            f"{name}: the kernel writes to {tensor!r}, whose array shares memory with another "
            "argument; the device has a tensor of its own for each",
            code="argument.shared",
        )


def _write_back(original: Array, tensor: NkiTensor) -> None:
    """Let the caller see what the kernel wrote to an argument, as on the device."""
    if tensor._storage.written and not np.shares_memory(original, tensor._storage.buffer):
        values = tensor._array.reshape(original.shape)
        np.copyto(original, values.view(original.dtype))  # bool is kept in bytes


def _check_results(name: str, result: Any) -> None:
    """Refuse results that are not buffers of their own."""
    results = tensors_in(result)
    for at, tensor in enumerate(results):
        storage = tensor._storage
        if storage.is_input and not storage.written:
            raise HazardError(
                f"{name}: returns the argument {storage.allocation.name} without having written "
                "to it; a result is a buffer of its own",
                code="result.input",
            )
        for other in results[:at]:
            if other._storage is storage and np.shares_memory(other._array, tensor._array):
                raise HazardError(
                    f"{name}: returns {tensor!r} and {other!r}, which share memory; each result "
                    "is a buffer of its own",
                    code="result.twice",
                )


def _to_host(name: str, result: Any, first: Any, *, alone: bool = True) -> Any:
    """Return a kernel's result as host arrays, each with memory of its own."""
    if isinstance(result, (tuple, list)):
        return type(result)(_to_host(name, item, first, alone=False) for item in result)
    if isinstance(result, dict):
        raise ConstraintError(
            f"{name}: returns a dict; a kernel returns a tensor, or a tuple or list of tensors",
            code="result.dict",
        )
    if not isinstance(result, NkiTensor):
        return result
    storage = result._storage
    if storage.space != "hbm":
        raise ConstraintError(
            f"{name}: returns {result!r}; results must be in HBM (buffer=nl.shared_hbm)",
            code="result.memory",
        )
    if result.buffer is MemoryRegion.private_hbm and not storage.is_input:
        raise ConstraintError(
            f"{name}: returns {result!r} in nl.hbm (private_hbm); results must be in nl.shared_hbm "
            "(NKI 0.3.0 release notes, Breaking Changes)",
            code="result.private",
        )
    missing = storage.count_unwritten(result, result._element)
    if missing:
        raise UninitializedReadError(
            f"{name}: returns {storage.describe()}, of which {missing} of {result.size} elements "
            "were never written",
            code="result.unwritten",
        )
    values = result._array
    if storage.is_input or not alone:  # somebody else may hold the same bytes
        values = np.array(values)
    return like(values.astype(np.bool_) if result.dtype == "bool_" else values, first)


def simulate_kernel(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run one ``@nki.jit`` kernel on host arrays.

    Parameters
    ----------
    kernel
        An ``@nki.jit`` kernel, or a plain function, which is decorated first.
    *args, **kwargs
        NumPy arrays or CPU torch tensors become HBM tensors; everything else is passed on.

    Returns
    -------
    The kernel's result, in the kind of array that its first array argument was.

    Notes
    -----
    Where a real NKI is installed, its own simulator runs the kernel, unless
    ``NKICONV_SIMULATOR=embedded``.  Otherwise the embedded one does.
    """
    if isinstance(kernel, Kernel):
        return kernel(*args, **kwargs)
    if embedded.status().which == "vendor":
        import nki

        dense = [np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a for a in args]
        return nki.simulate(kernel)(*dense, **kwargs)
    return jit(kernel)(*args, **kwargs)


def simulate(kernel: Callable[..., Any], *, dma: str | None = None) -> Callable[..., Any]:
    """Return a function that runs `kernel` on the simulator: ``simulate(kernel)(*args)``.

    With ``dma="late"`` transfers happen as late as dependencies allow (`nkiconv.simulate.late`);
    None is what `use_dma` or the variable NKICONV_DMA say, and otherwise ``"eager"``.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        with use_dma(dma):
            return simulate_kernel(kernel, *args, **kwargs)

    return run
