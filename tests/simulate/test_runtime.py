"""Kernels on host arrays: what goes in, what comes out, and what is refused at the border."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import nkiconv.simulate.nki as nki
from nkiconv.simulate import (
    ConstraintError,
    DtypeError,
    HazardError,
    NkiconvError,
    OutOfBoundsError,
    UninitializedReadError,
    profile,
    simulate,
    simulate_kernel,
    use_target,
)
from nkiconv.simulate.coverage import available
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

torch = pytest.importorskip("torch")


@nki.jit
def double(x_hbm: Any) -> Any:
    """2 x, in x's shape and dtype."""
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    x_sb = nl.ndarray((1, x_hbm.size), x_hbm.dtype)
    nisa.dma_copy(dst=x_sb, src=x_hbm.reshape((1, x_hbm.size)))
    nisa.tensor_scalar(dst=x_sb, data=x_sb, op0=nl.multiply, operand0=2.0)
    nisa.dma_copy(dst=y_hbm.reshape((1, x_hbm.size)), src=x_sb)
    return y_hbm


@nki.jit
def overwrite(x_hbm: Any, out_hbm: Any) -> Any:
    """Write x to the second argument."""
    nisa.dma_copy(dst=out_hbm, src=x_hbm)
    return out_hbm


# --- In and out ----------------------------------------------------------------------------------

NUMPY_TYPES = ["float32", "float16", "int8", "int16", "int32", "uint8", "uint16", "uint32"]
ML_TYPES = ["bfloat16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2"]
TORCH_TYPES = ["float32", "float16", "bfloat16", "int8", "int16", "int32", "uint8", "uint16",
               "float8_e4m3fn", "float8_e5m2"]  # fmt: skip


@nki.jit
def row_of_each_core(x_hbm: Any, region: Any) -> Any:
    """x, moved by as many cores as it has rows, from the memory that a kernel may ask about."""
    assert x_hbm.buffer == region
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    nisa.dma_copy(dst=y_hbm[core], src=x_hbm[core])
    return y_hbm


@pytest.mark.parametrize(("cores", "region"), [(1, nl.hbm), (2, nl.shared_hbm)])
def test_arguments_lie_where_the_vendors_simulator_has_them(cores: int, region: Any) -> None:
    x = np.arange(3.0 * cores, dtype=np.float32).reshape(cores, 3)
    with use_target("trn2"):
        np.testing.assert_array_equal(row_of_each_core[cores](x, region), x)


@pytest.mark.parametrize("name", NUMPY_TYPES + ML_TYPES)
def test_numpy_arrays(name: str) -> None:
    x = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, name, name))
    y = simulate_kernel(double, x)
    assert (type(y), y.dtype) == (np.ndarray, x.dtype)
    np.testing.assert_array_equal(y.astype(float), [[0, 2, 4], [6, 8, 10]])
    np.testing.assert_array_equal(x.astype(float), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("name", TORCH_TYPES)
def test_torch_tensors(name: str) -> None:
    x = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
    y = simulate_kernel(double, x)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == x.dtype
    assert y.float().tolist() == [[0, 2, 4], [6, 8, 10]]


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_truth_values_stay_truth_values(convert: Any) -> None:
    x = convert([[True, False]])
    y = simulate_kernel(overwrite, x, convert([[False, False]]))
    assert (type(y), y.dtype) == (type(x), x.dtype)
    assert y.tolist() == [[True, False]]


def test_every_way_to_run_a_kernel() -> None:
    x = np.ones((2, 3), np.float32)
    for run in (
        double,
        double[1],
        double[(1,)],
        simulate(double),
        simulate(double.func),  # a plain function is decorated first
        nki.simulate(double),
        nki.jit()(double.func),
        nki.jit(double),
        lambda x: nki.simulate_kernel(double, x_hbm=x),
    ):
        assert run(x).tolist() == [[2.0] * 3] * 2
    assert double.__name__ == "double"
    assert repr(double) == "<nki.jit kernel double>"


def test_other_arguments_pass_as_they_are() -> None:
    def several(a_hbm: Any, scale: Any, sizes: Any, flag: Any = None) -> Any:
        y_hbm = nl.ndarray(sizes, a_hbm.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=y_hbm, src=a_hbm[0:1, 0:scale])
        nisa.dma_copy(dst=a_hbm[1:2, :], src=a_hbm[0:1, :])
        return y_hbm, flag, [a_hbm, 3]

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y, flag, (same, three) = simulate_kernel(several, x, 2, (1, 2), flag="word")
    assert (y.tolist(), flag, three) == ([[0.0, 1.0]], "word", 3)
    assert same.tolist() == x.tolist() == [[0.0, 1.0, 2.0]] * 2
    assert not np.shares_memory(same, x)


def test_results_are_of_the_first_arrays_kind() -> None:
    x, t = np.ones((2, 3), np.float32), torch.ones(2, 3)
    assert isinstance(simulate_kernel(overwrite, x, t), np.ndarray)
    assert isinstance(simulate_kernel(overwrite, t, x), torch.Tensor)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_arrays_of_any_layout(convert: Any) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    for x in (convert(values)[::2, 1::2], convert(values).T, convert(values)[0]):
        assert simulate_kernel(double, x).tolist() == (2 * x).tolist()
    assert simulate_kernel(double, np.flip(values)).tolist() == (2 * np.flip(values)).tolist()
    frozen = values.copy()
    frozen.setflags(write=False)
    assert simulate_kernel(double, frozen).tolist() == (2 * values).tolist()
    assert simulate_kernel(double, np.array(3, np.float32)).tolist() == [6.0]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.bool_])
def test_what_a_kernel_writes_to_an_argument_is_seen_outside(dtype: Any) -> None:
    x = np.ones((2, 3), dtype)
    for out in (
        np.zeros((2, 3), dtype),
        np.zeros((3, 2), dtype).T,
        np.zeros((2, 6), dtype)[:, ::2],
    ):
        simulate_kernel(overwrite, x, out)
        assert (out == x).all()
    bits = torch.zeros(2, 6, dtype=torch.bfloat16)[:, ::2]
    simulate_kernel(overwrite, torch.ones(2, 3, dtype=torch.bfloat16), bits)
    assert bits.tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("columns", [slice(None), slice(None, None, 2)], ids=["dense", "strided"])
def test_writing_to_a_read_only_array_is_refused(columns: slice) -> None:
    out = np.zeros((2, 6), np.float32)[:, columns]
    out.setflags(write=False)
    with pytest.raises(HazardError, match=r"dst writes to out_hbm .*read-only"):
        simulate_kernel(overwrite, np.ones_like(out), out)
    assert not out.any()


def test_writing_to_an_array_that_was_passed_twice_is_refused() -> None:
    x = np.ones((2, 6), np.float32)
    for source, out in ((x, x), (x[:, 0:3], x[:, 2:5])):
        with pytest.raises(HazardError, match="shares memory with another argument"):
            simulate_kernel(overwrite, source, out)
    simulate_kernel(overwrite, 2 * x[:, ::2], x[:, 1::2])
    simulate_kernel(overwrite, x[:, 1::2], x[:, ::2])  # side by side, not on top of each other
    assert (x == 2).all()


# --- Refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        np.ones((2, 3)),
        np.ones((2, 3), np.int64),
        np.ones((2, 3), np.complex64),
        np.ones((2, 3), ">f4"),
        np.array([["a"]]),
        torch.ones(2, 3, dtype=torch.float64),
        torch.ones(2, 3, dtype=torch.int64),
        torch.ones(2, 3).to_sparse(),
    ],
)
def test_element_types_that_the_chip_lacks(x: Any) -> None:
    with pytest.raises(DtypeError, match=r"double\(x_hbm\): "):
        simulate_kernel(double, x)


def test_a_result_that_torch_cannot_hold() -> None:
    def cast(x_hbm: Any) -> Any:
        y_hbm = nl.ndarray(x_hbm.shape, nl.float8_e4m3, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=y_hbm, src=x_hbm)
        return y_hbm

    assert simulate_kernel(cast, np.ones((2, 3), np.float32)).dtype == ml_dtypes.float8_e4m3
    with pytest.raises(DtypeError, match="torch has no float8_e4m3 elements"):
        simulate_kernel(cast, torch.ones(2, 3))


def test_empty_arrays_and_tensors_elsewhere() -> None:
    with pytest.raises(ConstraintError, match=r"no elements, shape \(0, 3\)"):
        simulate_kernel(double, np.ones((0, 3), np.float32))
    with pytest.raises(ConstraintError, match=r"on meta; the simulator takes CPU tensors"):
        simulate_kernel(double, torch.ones(2, 3, device="meta"))
    with pytest.raises(ConstraintError, match=r"requires gradients, .* x\.detach\(\)"):
        simulate_kernel(double, torch.ones(2, 3, requires_grad=True))
    with pytest.raises(ConstraintError, match=r"double\(x_hbm\): the array has no elements"):
        simulate_kernel(double, x_hbm=np.ones((2, 0), np.float32))


def test_unwritten_results() -> None:
    def half(x_hbm: Any) -> Any:
        y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm, name="y")
        nisa.dma_copy(dst=y_hbm[:, 0:2], src=x_hbm[:, 0:2])
        return y_hbm

    def half_of_each_element(x_hbm: Any) -> Any:
        y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=y_hbm.view(nl.int16)[:, ::2], src=x_hbm.view(nl.int16)[:, ::2])
        return y_hbm

    x = np.ones((2, 5), np.float32)
    line = half.__code__.co_firstlineno + 1
    words = rf"half: returns y float32\[2, 5\] in HBM \(test_runtime.py:{line}\), of which 6 of 10 "
    with pytest.raises(UninitializedReadError, match=words):
        simulate_kernel(half, x)
    with pytest.raises(UninitializedReadError, match="10 of 10 elements were never written"):
        simulate_kernel(half_of_each_element, x)


def test_results_that_are_not_in_hbm() -> None:
    def stays(x_hbm: Any) -> Any:
        return nl.zeros((2, 3), nl.float32)

    def wrapped(x_hbm: Any) -> Any:
        return {"y": x_hbm}

    x = np.ones((2, 3), np.float32)
    with pytest.raises(ConstraintError, match=r"stays: returns .* SBUF>; results must be in HBM"):
        simulate_kernel(stays, x)
    with pytest.raises(ConstraintError, match="wrapped: returns a dict; a kernel returns"):
        simulate_kernel(wrapped, x)


def test_jit_takes_a_function_and_no_options() -> None:
    with pytest.raises(ConstraintError, match=r"options \['debug', 'lnc'\] are not modelled"):
        nki.jit(lnc=2, debug=True)
    with pytest.raises(ConstraintError, match=r"nki.jit: 3 is not a function"):
        nki.jit(3)
    for grid in (0, 3, (1, 1), (4,), 2.0):
        with pytest.raises(ConstraintError, match="a launch grid is one number, of the 1 to 2"):
            double[grid]


@nki.jit
def two_copies(x_hbm: Any) -> Any:
    """Two instructions on engines of their own, which nothing orders."""
    y_hbm = nl.ndarray(x_hbm.shape, x_hbm.dtype, buffer=nl.shared_hbm)
    x = nl.ndarray(x_hbm.shape, x_hbm.dtype)
    y = nl.ndarray(x_hbm.shape, x_hbm.dtype)
    z = nl.ndarray(x_hbm.shape, x_hbm.dtype)
    nisa.dma_copy(dst=x, src=x_hbm)
    nisa.tensor_copy(dst=y, src=x, engine=nisa.engine.vector, name="first")
    nisa.tensor_copy(dst=z, src=x, engine=nisa.engine.gpsimd, name="second")
    nisa.dma_copy(dst=y_hbm, src=z)
    return y_hbm


@pytest.mark.parametrize(
    "edge", [("second", "first"), ("second", ["first"]), ["second", ("first",)]]
)
def test_with_schedule_orders_named_instructions(edge: Any) -> None:
    x = np.ones((2, 3), np.float32)
    for kernel, ordered in ((two_copies, False), (two_copies.with_schedule([edge]), True)):
        _, seen = profile(kernel, x)
        first, second = (e for e in seen.events if e.opcode == "tensor_copy")
        assert (second.start_us >= first.end_us) is ordered


@pytest.mark.parametrize(
    ("edge", "error", "words"),
    [
        (("third", "first"), ConstraintError, "'third' is the name of 0 instructions"),
        (("second", ""), ConstraintError, "'' is the name of 2 instructions"),
        (("first", "second"), HazardError, "'first' is to wait for 'second', which comes later"),
        ("first", ConstraintError, "'first' is not .instruction, instruction or list"),
        (("second", 1), ConstraintError, "is not .instruction, instruction or list"),
    ],
)
def test_with_schedule_refuses(edge: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        two_copies.with_schedule([edge])(np.ones((2, 3), np.float32))


def test_a_kernel_called_in_a_kernel_is_a_part_of_it() -> None:
    def calls(x_hbm: Any) -> Any:
        return double(double(x_hbm))

    y, seen = profile(nki.jit(calls), np.ones((2, 3), np.float32))
    assert (y == 4.0).all()
    assert seen.kernels == ("calls",)


@pytest.mark.parametrize("use", [lambda: nl.ndarray((2, 3), nl.int8), lambda: nisa.memset(None, 0)])
def test_outside_a_kernel(use: Any) -> None:
    with pytest.raises(ConstraintError, match="only works inside a kernel"):
        use()


def test_errors_name_the_line_of_the_kernel() -> None:
    def wrong(x_hbm: Any) -> Any:
        x_sb = nl.ndarray((2, 3), nl.float32)
        helper(x_sb, x_hbm)
        return x_hbm

    def helper(dst: Any, src: Any) -> None:
        nisa.dma_copy(dst=dst, src=src)

    line = helper.__code__.co_firstlineno + 1
    with pytest.raises(NkiconvError, match=rf"^test_runtime\.py:{line}: nisa\.dma_copy: "):
        simulate_kernel(wrong, np.ones((2, 4), np.float32))


def test_a_kernels_own_exceptions_pass() -> None:
    def divides(x_hbm: Any) -> Any:
        return x_hbm[0 // 0]

    with pytest.raises(ZeroDivisionError):
        simulate_kernel(divides, np.ones((2, 4), np.float32))


def test_what_the_embedded_nki_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(nisa, "dropout")
    with pytest.raises(AttributeError, match=r"nki\.isa\.dropout is part of NKI 0\.6\.0 but not"):
        _ = nisa.dropout
    for module in (nki, nl, nisa):
        with pytest.raises(AttributeError, match=r"no attribute .nonsense., in NKI 0\.6\.0 either"):
            _ = module.nonsense
    assert "nc_matmul" in available("nki.isa")
    assert "dropout" not in available("nki.isa")
    assert nki.__version__.startswith("0.6.0")


@pytest.mark.parametrize("shape", [(256, 8), (8, 0)])
def test_a_wrong_shape_is_an_assertion_as_with_the_vendor(shape: tuple[int, int]) -> None:
    def wrong(x_hbm: Any) -> Any:
        return nl.ndarray(shape, x_hbm.dtype)

    for kind in (AssertionError, ValueError, nisa.NkiValidationError):
        line = wrong.__code__.co_firstlineno + 1
        with pytest.raises(kind, match=rf"^test_runtime\.py:{line}: nl\.ndarray"):
            simulate_kernel(wrong, np.ones((2, 4), np.float32))


def test_a_slice_that_leaves_its_tensor_says_where() -> None:
    def wrong(x_hbm: Any) -> Any:
        return x_hbm[0:3, :]

    line = wrong.__code__.co_firstlineno + 1
    with pytest.raises(OutOfBoundsError, match=rf"^test_runtime\.py:{line}: .*slice 0:3"):
        simulate_kernel(wrong, np.ones((2, 4), np.float32))
