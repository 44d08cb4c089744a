"""Every code that no sheet states has an example that breaks it and is refused under that code.

Rules of sheets have theirs in test_sheets.py, constructs of Python in test_subset.py.  One example
for each code, hence the length.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nkiconv.simulate import errors, hardware, loops, profile, simulate_kernel, subset, use_dma
from nkiconv.simulate.advice import ADVICE
from nkiconv.simulate.errors import NkiconvError, ShapeError
from nkiconv.simulate.memory import Allocation
from nkiconv.simulate.nki import collectives, jit
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl
from nkiconv.simulate.nki import typing as nt
from nkiconv.simulate.placement import place
from nkiconv.simulate.program import Program
from nkiconv.simulate.registers import VirtualRegister
from nkiconv.simulate.rules import _SAID, CATALOGUE
from nkiconv.simulate.sheet import SHEETS
from nkiconv.simulate.slugs import rule_slugs
from nkiconv.simulate.strictness import all_codes, generations, limits_of, near
from nkiconv.simulate.subset import check_kernel

torch = pytest.importorskip("torch")

SOURCES = Path(errors.__file__).resolve().parent
X = np.ones((4, 8), np.float32)
HBM = nl.shared_hbm


def new(*shape: int, dtype: str = "float32", buffer: Any = nl.sbuf) -> Any:
    return nl.ndarray(shape or (4, 8), dtype, buffer)


def full(tensor: Any) -> Any:
    tensor._array[...] = 1
    tensor._storage.mark(tensor, tensor._element, 1)
    return tensor


def matmul(dst: Any, **options: Any) -> None:
    nisa.nc_matmul(dst=dst, stationary=full(new(4, 4)), moving=full(new()), **options)


def half_written() -> None:
    dst = new(buffer=nl.psum)
    nisa.nc_matmul(dst=dst[:, 0:4], stationary=full(new(4, 4)), moving=full(new(4, 4)))
    matmul(dst)


def after_memset() -> None:
    dst = new(buffer=nl.psum)
    nisa.memset(dst=dst, value=0)
    matmul(dst, accumulate=True)


def later() -> None:
    first = nisa.memset(dst=new(), value=0)
    first.depends_on(nisa.memset(dst=new(), value=0))


def live(space: str, *ranges: tuple[int, int, int]) -> None:
    """Place tensors of so many bytes, each in use from one instruction to another."""
    made = []
    for number, (size, first, last) in enumerate(ranges):
        made.append(Allocation(number, space, (1, size), "uint8", "", "k.py:1"))
        made[-1].first_use, made[-1].last_use = first, last
    place(made, hardware.HARDWARE["trn1"], "kernel")


def fragmented(space: str, unit: int, size: int) -> None:
    """Two tensors that stay split what the others leave, whichever address they are given."""
    half = size // 2 // unit * unit
    pieces = [(unit, i, 100 if i % 2 else 50 + i) for i in range(size // unit)]
    live(space, *pieces, (half, 99, 100))


def too_large(chip: Any) -> None:
    small = dataclasses.replace(chip.program.hardware, program_max_instructions=3)
    chip.program.hardware = small
    for _ in range(4):
        nisa.memset(dst=new(), value=0)


def read_only(chip: Any) -> None:
    out = chip.program.wrap_input(X, "float32", "out", read_only=True)
    nisa.dma_copy(dst=out, src=full(new()))


def loop_without_reorder(chip: Any) -> None:
    chip.program.no_reorder_depth = 1
    nl.fori_loop(0, 1, lambda i: None)


def endless() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "_MOST_ITERATIONS", 10)
        nl.while_loop(VirtualRegister(1), lambda r: r)


def differing_iterations() -> None:
    tiles = [new(), new()]

    def body(i: Any) -> None:
        tiles.append(tiles[0])
        if len(tiles) > 3:
            nisa.memset(dst=tiles[0], value=0)

    nl.fori_loop(0, 2, body)


# Inside a running kernel for trn1.
INSIDE: dict[str, Callable[[Any], object]] = {
    "tensor.buffer": lambda c: nl.ndarray((4, 8), nl.float32, "sbuf"),  # type: ignore[arg-type]
    "tensor.address": lambda c: nl.ndarray((4, 8), nl.float32, address=(5, 0)),
    "tensor.whole_number": lambda c: new(4, 8 / 2),  # type: ignore[arg-type]
    "tensor.shape": lambda c: nl.ndarray((), nl.float32),
    "tensor.size": lambda c: new(4, 0),
    "tensor.free_dimension": lambda c: new(4),
    "tensor.partitions": lambda c: new(129, 8),
    "tensor.index_count": lambda c: new()[0, 0, 0],
    "tensor.index_bounds": lambda c: new()[0, 8],
    "tensor.slice_bounds": lambda c: new()[:, 0:9],
    "tensor.slice_step": lambda c: new()[:, 0:8:0],
    "tensor.partition_step": lambda c: new()[0:4:2, :],
    "tensor.partition_first": lambda c: new().permute((1, 0)),
    "tensor.ds": lambda c: nl.ds(-1, 4),
    "tensor.assignment": lambda c: new().__setitem__(0, 1),
    "tensor.dimension": lambda c: new().slice(2, 0, 1),
    "tensor.rank": lambda c: new(4, 1).squeeze_dim(1),
    "tensor.permutation": lambda c: new().permute((0, 0)),
    "tensor.broadcast": lambda c: new().broadcast(1, 2),
    "tensor.squeeze": lambda c: new(4, 2, 2).squeeze_dim(1),
    "tensor.flatten_order": lambda c: new(4, 2, 2).flatten_dims(2, 1),
    "tensor.flatten_dense": lambda c: new(4, 2, 4)[:, :, 0:2].flatten_dims(1, 2),
    "tensor.reshape_copy": lambda c: new(4, 2, 4)[:, :, 0:2].reshape((4, 4)),
    "tensor.elements": lambda c: new().reshape((4, 9)),
    "tensor.rearrange": lambda c: new().rearrange(["p", "a"], ["p", "b"]),
    "tensor.ap_offset": lambda c: new(dtype="int8")[:, 1:8].ap([[2, 4], [1, 1]], dtype="int32"),
    "tensor.ap_pattern": lambda c: new().ap([[8, 4], [1]]),
    "tensor.ap_bounds": lambda c: new().ap([[8, 4], [1, 9]])[0:1],
    "tensor.ap_row": lambda c: new(4, 3, dtype="int8").ap([[1, 4], [1, 1]], dtype="int16"),
    "tensor.ap_partition_stride": lambda c: new().ap([[4, 4], [1, 4]]),
    "tensor.view_contiguous": lambda c: new()[:, 0:8:2].view(nl.int16),
    "tensor.view_size": lambda c: new(4, 3, dtype="int8").view(nl.int16),
    "dtype.unknown": lambda c: new(dtype="float64"),
    "sbuf.tensor_size": lambda c: new(4, 45_057),
    "psum.tensor_size": lambda c: new(4, 4097, buffer=nl.psum),
    "program.instructions": too_large,
    "order.producer": lambda c: nisa.memset(dst=new(), value=0).depends_on("first"),  # type: ignore[arg-type]
    "order.later": lambda c: later(),
    "tensor.condition": lambda c: bool(nl.equal(full(new()), 2.0)),
    "language.tile": lambda c: nl.add(1, 2),
    "language.result_dtype": lambda c: nl.add(full(new()), full(new(dtype="bfloat16"))),
    "language.broadcast": lambda c: nl.add(full(new()), full(new(4, 1))),
    "language.axis": lambda c: nl.sum(full(new()), axis=0),
    "language.truth_values": lambda c: nl.where(two(), full(new()), full(new())),
    "language.fill_value": lambda c: nl.full((4, 8), full(new()), nl.float32),
    "language.constant": lambda c: nl.shared_constant(3.0),
    "language.constant_dtype": lambda c: nl.shared_constant(np.zeros(3, np.bool_)),
    "language.constant_empty": lambda c: nl.shared_constant(np.zeros((0, 3), np.float32)),
    "language.identity_size": lambda c: nl.shared_identity_matrix(129),
    "language.identity_dst": lambda c: nl.shared_identity_matrix(4, dst=new()),
    "language.bits_dtype": lambda c: nl.invert(full(new(dtype="int32")), dtype=nl.int8),
    "language.power": lambda c: nl.power(full(new()), 2),
    "language.on_device": lambda c: nl.fmod(full(new()), full(new())),
    "language.operator_only": lambda c: nl.bypass(full(new())),
    "language.load": lambda c: nl.load(full(new())),
    "language.store": lambda c: nl.store(new(), full(new())),
    "language.two_dimensions": lambda c: nl.transpose(full(new(4, 2, 2))),
    "language.transpose_x": lambda c: nl.matmul(full(new()), full(new())),
    "language.gather_axis": lambda c: nl.gather_flattened(
        full(new()), full(new(dtype="uint32")), axis=1
    ),
    "language.expand_dims": lambda c: nl.expand_dims(new(), 9),
    "language.broadcast_to": lambda c: nl.broadcast_to(full(new()), (4, 9)),
    "language.on_chip": lambda c: nl.broadcast_to(full(new(4, 1, buffer=HBM)), (4, 8)),
    "language.rms_norm": lambda c: nl.rms_norm(full(new()), full(new()), axis=1, n=0),
    "language.rsqrt": lambda c: nl.rsqrt(full(new(buffer=nl.psum))),
    "language.print_prefix": lambda c: nl.device_print(1, full(new())),
    "language.print_memory": lambda c: nl.device_print("x", full(new(buffer=nl.psum))),
    "register.empty": lambda c: VirtualRegister()._read("op"),
    "register.store_range": lambda c: nisa.register_store(
        new(1, 1, dtype="int8"), nisa.register_alloc(300)
    ),
    "register.counter": lambda c: VirtualRegister(0, frozen=True)._write(1, "op"),
    "register.range": lambda c: VirtualRegister()._write(2**32, "op"),
    "launch.axis": lambda c: nl.program_id(1),
    "loop.result": lambda c: nl.fori_loop(0, 1, lambda i: 1),
    "loop.body": lambda c: nl.fori_loop(0, 1, 3),  # type: ignore[arg-type]
    "loop.no_reorder": lambda c: loop_without_reorder(c),
    "loop.step": lambda c: nl.fori_loop(0, 1, lambda i: None, step=0),
    "loop.bounds": lambda c: nl.fori_loop(0, 1.5, lambda i: None),  # type: ignore[arg-type]
    "loop.condition": lambda c: nl.while_loop(1, lambda r: r),  # type: ignore[arg-type, return-value]
    "loop.endless": lambda c: endless(),
    "loop.iterations_differ": lambda c: differing_iterations(),
    "language.rand_dtype": lambda c: nl.rand((4, 8), nl.int32),
    "language.random_seed": lambda c: nl.random_seed(1),
    "language.dropout_tile": lambda c: nl.dropout(1, 0.5),
    "columns.generation": lambda c: columns_of(
        full(new(32, 20)), index(*SNAKE, rows=32, dtype="uint32")
    ),
    "option.not_modelled": lambda c: nisa.tensor_scalar_reduce(
        dst=new(), data=new(), op0=nl.add, operand0=1.0, reduce_op=nl.add, reverse0=True
    ),
    "option.engine": lambda c: nisa.memset(dst=new(), value=0, engine=nisa.tensor_engine),
    "operand.tensor": lambda c: nisa.tensor_copy(dst=new(), src="x"),
    "operand.list": lambda c: nisa.dma_compute(dst=new(), srcs=[], reduce_op=nl.add),
    "operand.memory": lambda c: nisa.tensor_copy(dst=new(), src=new(buffer=nl.shared_hbm)),
    "operand.dtype": lambda c: nisa.nc_matmul(
        dst=new(buffer=nl.psum), stationary=new(4, 4, dtype="int8"), moving=new()
    ),
    "operand.packed_generation": lambda c: nisa.memset(
        dst=new(4, 8, dtype="float8_e5m2_x4"), value=0
    ),
    "operand.repeats": lambda c: nisa.memset(dst=new(4, 1).broadcast(1, 8), value=0),
    "operand.free_size": lambda c: nisa.bn_stats(dst=new(4, 6), data=new(4, 513)),
    "operand.per_partition": lambda c: nisa.tensor_scalar(
        dst=new(), data=new(), op0=nl.add, operand0=new(4, 2)
    ),
    "operand.partition_start": lambda c: nisa.memset(dst=new(8, 8)[4:8, :], value=0),
    "operand.free_dims": lambda c: nisa.memset(dst=new(4, 2, 2, 2, 2, 2), value=0),
    "operand.stride": lambda c: nisa.memset(dst=new(4, 65_536, dtype="int8"), value=0),
    "operand.read_only": read_only,
    "operand.unwritten": lambda c: nisa.tensor_copy(dst=new(), src=new()),
    "psum.accumulate_mixed": lambda c: half_written(),
    "psum.accumulate_unwritten": lambda c: matmul(new(buffer=nl.psum), accumulate=True),
    "psum.accumulate_foreign": lambda c: after_memset(),
}


def two() -> Any:
    tile = full(new())
    tile._array[...] = 2
    return tile


def index(*values: int, dtype: str = "int32", rows: int = 0) -> Any:
    """Return a column of indices that have been written."""
    tile = full(new(rows or len(values), 1, dtype=dtype))
    tile._array[...] = np.resize(values, tile.shape)
    return tile


def table(*shape: int) -> Any:
    return full(new(*(shape or (8, 4)), buffer=HBM))


def scattered(target: Any, *places: int, **options: Any) -> None:
    rows = full(new(len(places), 4))
    rows._array[...] = np.arange(len(places))[:, None]
    nisa.dma_copy(dst=target.vector_select(0, index(*places)), src=rows, **options)


def transposed_onto_a_sum() -> None:
    dst = new(8, 4, dtype="bfloat16", buffer=nl.psum)
    half, eye = full(new(4, 8, dtype="bfloat16")), full(new(4, 4, dtype="bfloat16"))
    eye._array[...] = np.eye(4)
    for _ in range(2):
        nisa.nc_matmul(dst=dst, stationary=half, moving=eye, is_transpose=True)


def added_twice() -> None:
    rows = table().vector_select(0, index(1, 1))
    nisa.dma_compute(dst=rows, srcs=[rows, full(new(2, 4))], reduce_op=nl.add)


def columns_of(tile: Any, chosen: Any, count: int = 16) -> Any:
    """Copy columns of a tile with the embedded NKI's only view of columns."""
    view = tile.indirect(chosen, count)
    return nisa.tensor_copy(dst=new(tile.shape[0], count), src=view)


SNAKE = tuple(range(16))
REG = VirtualRegister(1)

# Inside a running kernel for trn3: addresses of run time.
ON_TRN3: dict[str, Callable[[Any], object]] = {
    "indirect.index_tensor": lambda c: table().vector_select(0, REG),
    "indirect.index_dtype": lambda c: table().vector_select(0, index(1, dtype="int16")),
    "indirect.index_shape": lambda c: table().select(0, index(1, 2)),
    "indirect.index_unwritten": lambda c: nisa.dma_copy(
        dst=new(1, 4), src=table().select(0, new(1, 1, dtype="int32"))
    ),
    "indirect.bounds": lambda c: nisa.dma_copy(
        dst=new(1, 4), src=table().vector_select(0, index(8))
    ),
    "indirect.alignment": lambda c: nisa.dma_copy(
        dst=new(1, 2, dtype="int32"),
        src=full(new(8, 3, dtype="int16", buffer=HBM)).ap(
            [[1, 1], [1, 2]], scalar_offset=REG, dtype="int32"
        ),
    ),
    "indirect.partition": lambda c: new().select(0, index(1)),
    "indirect.repeated": lambda c: table(8, 1).broadcast(1, 3).select(1, index(1)),
    "indirect.rows_memory": lambda c: new().vector_select(0, index(1)),
    "indirect.rows_dimension": lambda c: table().vector_select(1, index(1)),
    "indirect.rows_first": lambda c: table().vector_select(0, index(1, 2))[0:1],
    "indirect.second_offset": lambda c: table().select(0, index(1)).select(0, index(1)),
    "indirect.dimension": lambda c: table().ap(
        [[4, 8], [1, 4]], scalar_offset=index(1), indirect_dim=2
    ),
    "indirect.without_offset": lambda c: table().ap([[4, 8], [1, 4]], indirect_dim=1),
    "indirect.dense": lambda c: table()[:, 0:3].ap([[4, 8], [1, 3]], scalar_offset=index(1)),
    "indirect.item_size": lambda c: table().ap(
        [[8, 1], [1, 8]], vector_offset=index(1), dtype="bfloat16"
    ),
    "indirect.view": lambda c: table().select(0, index(1)).view("int32"),
    "indirect.read": lambda c: table().select(0, REG)._array,
    "indirect.operand": lambda c: nisa.reciprocal(dst=new(4, 2), data=new(4, 3, 2).select(1, REG)),
    "indirect.columns_whole": lambda c: new(32, 20).indirect(index(1, rows=32), 5)[:, 0:2],
    "indirect.columns_tensor": lambda c: table().indirect(index(1)),
    "indirect.count": lambda c: new(32, 20).indirect(index(1, rows=32, dtype="uint16"), 0),
    "indirect.unique": lambda c: added_twice(),
    "indirect.collision": lambda c: scattered(table(), 2, 2),
    "operand.packed": lambda c: nisa.reciprocal(
        dst=new(4, 8), data=full(new(4, 8, dtype="uint32")).view("float8_e5m2_x4")
    ),
    "nc_matmul.transpose_adds": lambda c: transposed_onto_a_sum(),
    "columns.engine": lambda c: nisa.tensor_copy(
        dst=new(32, 16),
        src=full(new(32, 20)).indirect(index(*SNAKE, rows=32, dtype="uint32"), 16),
        engine=nisa.gpsimd_engine,
    ),
    "columns.operands": lambda c: nisa.tensor_scalar(
        dst=new(32, 16, dtype="uint32"),
        data=full(new(32, 20, dtype="int32")).indirect(index(*SNAKE, rows=32, dtype="uint32"), 16),
        op0=nl.add,
        operand0=1.0,
    ),
    "columns.index_start": lambda c: columns_of(
        full(new(64, 20))[32:48], index(*SNAKE, rows=64, dtype="uint32")[16:32]
    ),
    "columns.same_start": lambda c: columns_of(
        full(new(128, 20))[64:96], index(*SNAKE, rows=128, dtype="uint32")[32:64]
    ),
    "columns.dtype": lambda c: nisa.nc_matmul(
        dst=new(8, 16, buffer=nl.psum),
        stationary=full(new(32, 8)),
        moving=full(new(32, 20)).indirect(index(*SNAKE, rows=32, dtype="uint32"), 16),
    ),
    "columns.scalar_psum": lambda c: nisa.tensor_copy(
        dst=new(32, 20, buffer=nl.psum).indirect(index(*SNAKE, rows=32, dtype="uint32"), 16),
        src=full(new(32, 16)),
        engine=nisa.scalar_engine,
    ),
    "columns.groups": lambda c: columns_of(
        full(new(24, 20)), index(*SNAKE, rows=24, dtype="uint32"), 5
    ),
    "columns.count": lambda c: columns_of(
        full(new(32, 20)), index(*SNAKE, rows=32, dtype="uint32"), 17
    ),
    "columns.groups_equal": lambda c: columns_of(
        full(new(32, 20)), index(*range(20), rows=32, dtype="uint32")
    ),
}


def stored(x_hbm: Any, buffer: Any = nl.shared_hbm) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=buffer)
    nisa.dma_copy(dst=y_hbm, src=x_hbm)
    return y_hbm


def twice(x_hbm: Any) -> Any:
    y_hbm = stored(x_hbm)
    return y_hbm, y_hbm[0:1, :]


class _Plain:
    pass


class _Slotted(nl.NKIObject):
    __slots__ = ("size",)


def declares(x_hbm: nt.tensor[5, 8]) -> Any:  # type: ignore[valid-type]
    return x_hbm


def overwrite(x_hbm: Any, out_hbm: Any) -> None:
    nisa.dma_copy(dst=out_hbm, src=x_hbm)


def cast(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, nl.float8_e4m3, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=y_hbm, src=x_hbm)
    return y_hbm


CONSTANT = 1


def reads_constant(x_hbm: Any) -> Any:
    return x_hbm[CONSTANT]


def changed_constant(patch: pytest.MonkeyPatch) -> None:
    check_kernel(reads_constant)
    patch.setitem(reads_constant.__globals__, "CONSTANT", 2)
    check_kernel(reads_constant)


def with_mode(mode: str) -> None:
    with use_dma(mode):
        pass


def two_targets() -> None:
    for target in ("trn1", "trn2"):
        with hardware.use_target(target):
            simulate_kernel(stored, X)


def second_copy(patch: pytest.MonkeyPatch) -> None:
    from nkiconv.simulate import embedded

    raise embedded._no_twin(len, "it has no source")


def with_environment(patch: pytest.MonkeyPatch, name: str, value: str) -> None:
    from nkiconv.simulate import embedded

    patch.setenv(name, value)
    embedded.status()
    hardware.current_target()


def vendor_variable(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("NKI_PRECISE_FP", "0")
    simulate_kernel(stored, X)


def without_jinja2(patch: pytest.MonkeyPatch) -> None:
    from nkiconv.simulate.report.html import write_html

    patch.setitem(__import__("sys").modules, "jinja2", None)
    _, seen = profile(jit(stored), X)
    write_html(seen, "page.html")


def passes(x_hbm: Any) -> Any:
    pass


def without_pass(patch: pytest.MonkeyPatch) -> None:
    """Check a kernel with a statement that the tables do not know, as a newer Python may have."""
    patch.setattr(subset, "ALLOWED", subset.ALLOWED - {ast.Pass})
    check_kernel(passes)


# Outside of any kernel.
OUTSIDE: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "argument.kind": lambda m: __import__("nkiconv.simulate.arrays", fromlist=["x"]).as_numpy("x"),
    "argument.device": lambda m: simulate_kernel(stored, torch.ones(2, 3, device="meta")),
    "argument.gradients": lambda m: simulate_kernel(stored, torch.ones(2, 3, requires_grad=True)),
    "argument.dtype_torch": lambda m: simulate_kernel(stored, torch.ones(2, 3).to_sparse()),
    "argument.dtype": lambda m: simulate_kernel(stored, np.ones((2, 3))),
    "argument.empty": lambda m: simulate_kernel(stored, np.ones((0, 3), np.float32)),
    "argument.class": lambda m: simulate_kernel(stored, X, _Plain()),
    "argument.slots": lambda m: simulate_kernel(stored, X, _Slotted()),
    "argument.declared": lambda m: simulate_kernel(declares, 3),
    "argument.declared_shape": lambda m: simulate_kernel(declares, X),
    "argument.list": lambda m: simulate_kernel(stored, [1, 2]),
    "argument.shared": lambda m: simulate_kernel(overwrite, *[np.ones((2, 3), np.float32)] * 2),
    "result.memory": lambda m: simulate_kernel(lambda_free(nl.sbuf), X),
    "result.private": lambda m: simulate_kernel(stored, X, nl.hbm),
    "result.dict": lambda m: simulate_kernel(returns_dict, X),
    "result.unwritten": lambda m: simulate_kernel(returns_fresh, X),
    "result.input": lambda m: simulate_kernel(returns_input, X),
    "result.twice": lambda m: simulate_kernel(twice, X),
    "result.dtype_torch": lambda m: simulate_kernel(cast, torch.ones(2, 3)),
    "launch.grid": lambda m: jit(stored)[3],
    "launch.generation": lambda m: jit(stored)[2](X),
    "cores.shared_tensors": lambda m: on_two_cores(different_tensors),
    "cores.missing": lambda m: on_two_cores(one_barrier),
    "cores.mismatch": lambda m: on_two_cores(other_barrier),
    "cores.race": lambda m: on_two_cores(reads_the_others),
    "sendrecv.tiles_differ": lambda m: on_two_cores(other_tile),
    "result.not_shared": lambda m: on_two_cores(returns_own),
    "result.cores_differ": lambda m: on_two_cores(returns_other),
    "loop.left": lambda m: simulate_kernel(breaks, X),
    "order.edge": lambda m: jit(stored).with_schedule([("a",)]),
    "order.name": lambda m: jit(stored).with_schedule([("a", "b")])(X),
    "tensor.address_overlap": lambda m: simulate_kernel(overlapping, X),
    "jit.options": lambda m: jit(debug=True),
    "jit.function": lambda m: jit(3),  # type: ignore[arg-type]
    "sbuf.capacity": lambda m: live("sbuf", (100_000, 0, 1), (100_000, 1, 2)),
    "psum.capacity": lambda m: live("psum", *[(2048, 0, 1)] * 9),
    "sbuf.fragmentation": lambda m: fragmented("sbuf", 22_528, 180_224),
    "psum.fragmentation": lambda m: fragmented("psum", 2048, 16_384),
    "program.outside": lambda m: new(),
    "dma.mode": lambda m: with_mode("lazy"),
    "setup.variable": lambda m: with_environment(m, "NKICONV_SIMULATOR", "coffee"),
    "setup.vendor": lambda m: with_environment(m, "NKICONV_SIMULATOR", "vendor"),
    "setup.target": lambda m: with_environment(m, hardware.TARGET_VARIABLE, "trn9"),
    "setup.vendor_variable": vendor_variable,
    "setup.second_copy": second_copy,
    "collectives.not_simulated": lambda m: collectives.rank_id(),
    "collectives.groups": lambda m: collectives.ReplicaGroup([]),
    "profile.no_kernel": lambda m: profile(len, []),
    "profile.targets": lambda m: profile(two_targets),
    "report.file": lambda m: profile(jit(stored), X)[1].save_trace("no/such/folder/x.json"),
    "report.jinja2": without_jinja2,
    "python.other": without_pass,
    "python.no_function": lambda m: check_kernel(len),
    "python.changed_constant": changed_constant,
}


def on_two_cores(kernel: Callable[..., Any]) -> Any:
    with hardware.use_target("trn2"):
        return jit(kernel)[2](X)


def different_tensors(x_hbm: Any) -> Any:
    return nl.ndarray((4, 8 + nl.program_id(0)), x_hbm.dtype, buffer=nl.shared_hbm)


def one_barrier(x_hbm: Any) -> None:
    if nl.program_id(0) == 0:
        nisa.core_barrier(data=x_hbm, cores=(0, 1))


def other_barrier(x_hbm: Any) -> None:
    if nl.program_id(0) == 0:
        nisa.core_barrier(data=x_hbm, cores=(0, 1))
    else:
        other_tile(x_hbm)


def other_tile(x_hbm: Any) -> None:
    core = nl.program_id(0)
    mine = nl.zeros((4, 8 - core), x_hbm.dtype)
    theirs = nl.ndarray((4, 8 - core), x_hbm.dtype)
    nisa.sendrecv(mine, theirs, send_to_rank=1 - core, recv_from_rank=1 - core, pipe_id=0)


def reads_the_others(x_hbm: Any) -> Any:
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    if nl.program_id(0) == 0:
        nisa.dma_copy(dst=y_hbm, src=x_hbm)
    else:
        stored(y_hbm)
    return y_hbm


def returns_own(x_hbm: Any) -> Any:
    return nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.private_hbm)


def returns_other(x_hbm: Any) -> Any:
    first = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    second = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    return first if nl.program_id(0) == 0 else second


def breaks(x_hbm: Any) -> Any:
    for _ in nl.dynamic_range(2):
        break
    return stored(x_hbm)


def overlapping(x_hbm: Any) -> Any:
    first = nl.ndarray((4, 8), x_hbm.dtype, address=(0, 0))
    second = nl.ndarray((4, 8), x_hbm.dtype, address=(0, 16))
    nisa.dma_copy(dst=first, src=x_hbm)
    nisa.dma_copy(dst=second, src=x_hbm)
    nisa.tensor_tensor(dst=first, data1=first, data2=second, op=nl.add)
    return stored(x_hbm)


def lambda_free(buffer: Any) -> Any:
    def stays(x_hbm: Any) -> Any:
        return stored(x_hbm, buffer)

    return stays


def returns_dict(x_hbm: Any) -> Any:
    return {"y": stored(x_hbm)}


def returns_fresh(x_hbm: Any) -> Any:
    return nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)


def returns_input(x_hbm: Any) -> Any:
    return x_hbm.reshape((2, 16))


# Of Python: what a kernel refers to, where no construct is to blame; X is not allowed there.
class _WithProperty(nl.NKIObject):
    @property
    def size(self) -> int:
        return 1


class _Callable:
    def __call__(self) -> int:
        return 1


_CALLABLE = _Callable()
_LIST = [1]


def grow() -> None:
    _LIST.append(2)


def calls_sum(x: Any) -> Any:
    return sum(x)


def calls_numpy(x: Any) -> Any:
    return np.ceil(x)


def calls_object(x: Any) -> Any:
    return _CALLABLE()


def reads_list(x: Any) -> Any:
    return _LIST[x]


neuronxcc = types.ModuleType("neuronxcc.nki")


def uses_old_names(x: Any) -> Any:
    return neuronxcc.language


def sets_module(x: Any) -> None:
    np.pi = x  # type: ignore[misc]


def makes_plain(x: Any) -> Any:
    return _Plain()


def makes_property(x: Any) -> Any:
    return _WithProperty()


REFERRING: dict[str, Callable[..., object]] = {
    "python.old_namespace": uses_old_names,
    "python.builtin": calls_sum,
    "python.host_function": calls_numpy,
    "python.host_object": calls_object,
    "python.outer_variable": reads_list,
    "python.module_assignment": sets_module,
    "python.class_bases": makes_plain,
    "python.property": makes_property,
}


def code_of(run: Callable[[], object]) -> tuple[NkiconvError, str]:
    with pytest.raises(NkiconvError) as caught:
        run()
    return caught.value, caught.value.code


def check(error: NkiconvError, code: str) -> None:
    entry = CATALOGUE[code]
    assert error.code == code
    assert type(error).__name__ == entry.error
    said = code in _SAID or code.startswith("python.")
    ending = f" [{code}]" if said else f"\n  Cure: {entry.cure} [{code}]"
    assert ending in str(error)


@pytest.mark.parametrize("code", ON_TRN3)
def test_refused_inside_a_kernel_for_trn3(code: str, start: Any) -> None:
    with start("trn3") as chip:
        error, _ = code_of(lambda: ON_TRN3[code](chip))
    check(error, code)


@pytest.mark.parametrize("code", INSIDE)
def test_refused_inside_a_kernel(code: str, chip: Any) -> None:
    error, _ = code_of(lambda: INSIDE[code](chip))
    check(error, code)


@pytest.mark.filterwarnings("ignore:nl.dynamic_range is deprecated")
@pytest.mark.parametrize("code", OUTSIDE)
def test_refused_outside_a_kernel(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, _ = code_of(lambda: OUTSIDE[code](monkeypatch))
    check(error, code)


@pytest.mark.parametrize("code", REFERRING)
def test_refused_by_what_it_refers_to(code: str) -> None:
    error, _ = code_of(lambda: check_kernel(REFERRING[code]))
    check(error, code)


def test_no_code_is_without_an_example() -> None:
    assert {*INSIDE, *ON_TRN3, *OUTSIDE, *REFERRING} == set(CATALOGUE)


# --- No error without a code ---------------------------------------------------------------------

ERRORS = {name for name in errors.__all__}


def raised() -> list[tuple[str, ast.Call]]:
    """Every place in the simulator where one of its errors is made."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).strip("_") in ERRORS:
                found.append((f"{path.relative_to(SOURCES)}:{node.lineno}", node))
    return found


def test_every_error_names_a_known_code() -> None:
    """Give a new error ``code="group.slug"``, an entry in simulate/rules.py and an example here."""
    spaces = {"{space.name}": ("sbuf", "psum"), "{space}": ("sbuf", "psum")}
    wrong = []
    for where, call in raised():
        given = [ast.unparse(k.value) for k in call.keywords if k.arg == "code"] or ["none"]
        given = [given[0].removeprefix("f").strip("'")]
        names = {given[0].replace(k, s) for k, v in spaces.items() if k in given[0] for s in v}
        if not (names or set(given)) <= set(all_codes()) and "python_code" not in given[0]:
            wrong.append(where)
    assert not wrong


def test_every_refusal_of_python_names_its_code() -> None:
    """But for those of the tables, whose codes come from the names of the constructs."""
    tree = ast.parse((SOURCES / "subset.py").read_text("utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    refusing = [n for n in calls if ast.unparse(n.func) == "self.refuse"]
    assert len(refusing) > 5
    for call in refusing:
        tables = [a for a in call.args if isinstance(a, ast.Starred)]
        assert tables or [k for k in call.keywords if k.arg == "code"], ast.unparse(call)


# --- Codes of sheets -----------------------------------------------------------------------------


def test_codes_are_short_and_can_be_read() -> None:
    for code in all_codes():
        assert re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]{1,39}", code), code
        assert not re.search(r"_\d$", code), f"{code}: give the rule a code= of its own"


def test_codes_within_a_sheet_differ() -> None:
    for sheet in SHEETS.values():
        assert len(set(sheet.codes)) == len(sheet.rules)
        assert all(code.startswith(f"{sheet.name}.") for code in sheet.codes)


def _one_bank(call: Any) -> bool:
    return True


_nameless = lambda call: True  # noqa: E731 - it has no name for the slug


def factory() -> Callable[[Any], bool]:
    return lambda call: True


def test_slugs_come_from_names_or_sentences() -> None:
    made = [
        ("", _one_bank, "dst must lie in one bank"),
        ("", factory(), "a and b must have the same dtype"),
        ("", _nameless, "dst must be float32 on the older cores, which add in it"),
        ("own", _one_bank, "whatever"),
        ("", _nameless, "cast needs trn3"),
    ]
    assert rule_slugs("cast", made) == (
        "one_bank", "factory", "dst_float32_older_cores", "own", "generation",
    )  # fmt: skip
    # Two of one predicate are told apart by their sentences.
    alike = [("", _one_bank, "dst must be even"), ("", _one_bank, "src must be odd")]
    assert rule_slugs("cast", alike) == ("dst_even", "src_odd")
    assert rule_slugs("cast", [("same", _one_bank, "a"), ("same", _one_bank, "b")]) == (
        "same", "same_2",
    )  # fmt: skip


def test_every_advice_is_used() -> None:
    codes = {code for sheet in SHEETS.values() for code in sheet.codes}
    known = codes | {code.partition(".")[2] for code in codes}
    assert {key for key in ADVICE} <= known
    shared = {"same_elements", "same_dtype", "both_in_psum", "gpsimd_in_psum", "bitvec_integers"}
    assert all(ADVICE[slug].cure for slug in shared)


def test_facts_behind_codes() -> None:
    with_limits = [entry for entry in all_codes().values() if entry.limits]
    assert len(with_limits) >= 10
    assert all(limits_of(entry.limits) for entry in with_limits)
    assert limits_of(("generation",)) == [
        "generation: 2 on trn1, 3 on trn2, 4 on trn3 (NeuronCore version; isa nc_version)"
    ]
    assert limits_of(("program_max_instructions",))[0].startswith(
        "program_max_instructions: 5,000,000 on all targets (instructions; "
    )
    assert generations("activate2") == ("trn3",)
    assert generations("range_select") == ("trn2", "trn3")
    assert generations("nc_matmul") == ("trn1", "trn2", "trn3")


def test_codes_that_resemble() -> None:
    assert "nc_matmul.one_bank" in near("nc_matmul.onebank")
    assert near("report") == ["report.file", "report.jinja2"]
    assert near("") == []


# --- Which engine reaches which memory -----------------------------------------------------------


def test_engines_reach_their_memories_alone(start: Any) -> None:
    from nkiconv.bench.generated import engines

    for sheet in SHEETS.values():
        reaching = engines(sheet.lane)
        spaces = {name: operand.spaces for name, operand in sheet.operands.items()}
        reaches_psum = any("psum" in found for found in spaces.values())
        if "DMA" in reaching:
            assert not reaches_psum, sheet.name
        elif reaching != ["SyncE"]:
            assert not any("hbm" in found for found in spaces.values()), sheet.name
        if "GpSimdE" in reaching and reaches_psum:
            assert f"{sheet.name}.gpsimd_in_psum" in sheet.codes
        if reaching == ["TensorE"]:
            assert all(spaces[name] == {"psum"} for name in sheet.outputs), sheet.name
            reads = spaces.keys() - set(sheet.outputs)
            assert all(spaces[name] == {"sbuf"} for name in reads), sheet.name


# --- Messages ------------------------------------------------------------------------------------


def outer(x_hbm: Any) -> Any:
    x_sb = nl.ndarray((4, 8), nl.float32)
    middle(x_sb, x_hbm)
    return x_hbm


def middle(dst: Any, src: Any) -> None:
    nisa.dma_copy(dst=dst, src=src[0:2, :])


def test_a_message_ends_with_the_calls_that_lead_to_its_line() -> None:
    error, code = code_of(lambda: simulate_kernel(outer, X))
    first, second = outer.__code__.co_firstlineno + 2, middle.__code__.co_firstlineno + 1
    assert code == "dma_copy.same_size"
    assert str(error).splitlines()[-1] == (
        f"  Called: outer test_strictness.py:{first} -> middle test_strictness.py:{second}"
    )


def test_an_error_without_a_code_is_left_as_it_is() -> None:
    assert str(ShapeError("conv2d: no")) == "conv2d: no"
    assert ShapeError("conv2d: no").code == ""
    assert ShapeError().args == ()


def test_too_many_instructions_are_counted_by_line(chip: Any) -> None:
    error, _ = code_of(lambda: too_large(chip))
    line = too_large.__code__.co_firstlineno + 4
    assert str(error).startswith(
        f"test_strictness.py:{line}: kernel: more than 3 instructions, every loop unrolled; the "
        "limit is 3 (compiler errors NCC_EBVF030 and NCC_EVRF007)\n"
        f"          3 of them at test_strictness.py:{line}\n  Cure: "
    )
    assert Program("k", "trn1").hardware.program_max_instructions == 5_000_000
