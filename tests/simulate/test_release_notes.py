"""Faults and rules that the vendor's release notes of NKI 0.4, 0.5 and 0.6 record, as tests.

What is about matmul and MX, DMA and run-time addresses, functions of nki.language, and loops has
its tests beside those.

=======  ==============================================================  ==========================
release  item                                                            test
=======  ==============================================================  ==========================
0.6.0    float-to-integer casts round to even and saturate               casts
0.6.0    nc_match_replace8 goes through its values in reverse            match_replace8
0.6.0    nc_find_index8: all ones where nothing is found; duplicates     find_index8 (two)
0.6.0    activation with reduce_res in dst keeps the reduction           reduce_res_inside_dst
0.6.0    predicated copies of different rank                             ranks_may_differ (two)
0.6.0    range_select, affine_select take a float as on_false_value      python_float (two)
0.6.0    operands of more than 128 partitions are an error               more_than_128_partitions
0.6.0    tensor_scalar_reduce without reduce_res within a chain          chain_without_reduce_res
0.6.0    known issue: num_elem_per_idx of local_gather                   num_elem_per_idx
0.5.0    reshape must preserve the number of elements                    reshape
0.5.0    an allocation that does not fit says what to do                 memory_that_does_not_fit
0.5.0    collectives take a name                                         collectives_take_a_name
0.5.0    tile_size.psum_num_banks                                        psum_banks
0.4.0    nc_stream_shuffle: 255 keeps what is in dst                     shuffle_mask_255
0.4.0    local_gather into a sub-view or access pattern                  local_gather_into_views
0.4.0    logical_and as an operator                                      logical_and
0.4.0    frozen data classes from NKIObject                              frozen_object
0.4.0    data classes without a hash as arguments                        object_without_a_hash
0.4.0    None as an argument                                             none_as_an_argument
0.4.0    results of truth values keep their type                         truth_values
0.4.0    engine= of nc_transpose is honoured                             transposing_engine
0.4.0    abs_max, abs_min, square, relu on VectorE of trn3 only          operators_of_trn3
0.4.0    tensor_copy_dynamic_src and _dst are gone                       removed_instructions
0.4.0    total_available_sbuf_size is deprecated, with its old value     deprecated_size
0.4.0    the namespace neuronxcc.nki is an error inside a kernel         old_namespace
=======  ==============================================================  ==========================
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import nkiconv.simulate.nki as nki
from nkiconv.simulate import simulate_kernel, use_target
from nkiconv.simulate.errors import (
    CapacityError,
    ConstraintError,
    NkiconvError,
    ShapeError,
    UnsupportedPythonError,
)
from nkiconv.simulate.nki import collectives
from nkiconv.simulate.nki import isa as nisa
from nkiconv.simulate.nki import language as nl

torch = pytest.importorskip("torch")

E = nisa.engine
ALL_ONES = 2**32 - 1
FLOAT32_MIN = float(np.finfo(np.float32).min)

# 0.6.0 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "least", "greatest"),
    [("int8", -128, 127), ("uint8", 0, 255), ("int16", -32768, 32767), ("uint16", 0, 65535),
     ("int32", -(2**31), 2**31 - 1), ("uint32", 0, 2**32 - 1)],
)  # fmt: skip
def test_casts(chip: Any, dtype: str, least: int, greatest: int) -> None:
    """0.6.0, bug fixes: casts to integers round to nearest, ties to even, and saturate."""
    x = chip.put([[0.5, 1.5, 2.5, 3.4999, -0.5, -1.5, 1e30, -1e30, np.inf, -np.inf]])
    dst = chip.new((1, 10), dtype)
    nisa.tensor_copy(dst, x)
    expected = [0, 2, 2, 3, 0, max(-2, least), greatest, least, greatest, least]
    assert dst._array[0].tolist() == expected


def test_match_replace8(start: Any) -> None:
    """0.6.0, bug fixes: nc_match_replace8 takes its values in reverse, which ties show."""
    with start("trn2") as chip:
        x = chip.put([[7.0, 1, 7, 2, 7, 3, 4, 5]])
        out, places = chip.new((1, 8)), chip.new((1, 8), "uint32")
        nisa.nc_match_replace8(out, x, chip.put([[7.0, 7, 0, 0, 0, 0, 0, 0]]), 9.0, places)
        # The last slot with 7 is served first, and gets the first 7.
        assert places._array[0, :2].tolist() == [2, 0]
        assert out._array[0].tolist() == [9, 1, 9, 2, 7, 3, 4, 5]


def test_find_index8_marks_what_is_missing(chip: Any) -> None:
    """0.6.0, bug fixes: slots of nc_find_index8 without a match are all ones, not 0."""
    dst = chip.new((1, 8), "uint32")
    nisa.nc_find_index8(dst, chip.put([np.arange(8.0)]), chip.put([[3.0, 50, 0] + [-1] * 5]))
    assert dst._array[0].tolist() == [3, ALL_ONES, 0] + [ALL_ONES] * 5


def test_find_index8_advances_through_duplicates(chip: Any) -> None:
    """0.6.0, bug fixes: equal search values find one occurrence after another."""
    dst = chip.new((1, 8), "uint16")
    nisa.nc_find_index8(
        dst, chip.put([[4.0, 2, 4, 4, 9, 2, 0, 1]]), chip.put([[4.0] * 4 + [2] * 4])
    )
    assert dst._array[0].tolist() == [0, 2, 3, 65535, 1, 5, 65535, 65535]


@pytest.mark.parametrize("column", [0, 3])
def test_reduce_res_inside_dst(chip: Any, column: int) -> None:
    """0.6.0, bug fixes: a reduce_res that aliases dst holds the reduction."""
    x = chip.put([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    dst = chip.new((2, 4))
    nisa.activation(
        dst, nl.copy, x, reduce_op=nl.add, reduce_res=dst[:, column : column + 1],
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )  # fmt: skip
    expected = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    expected[:, column] = [10, 26]
    assert dst._array.tolist() == expected.tolist()


def test_ranks_may_differ_in_a_predicated_copy(chip: Any) -> None:
    """0.6.0, bug fixes: tensor_copy_predicated with a 2-D source, 4-D dst and predicate."""
    dst = chip.put(np.zeros((2, 2, 2, 3)))
    predicate = chip.put(np.tile([1, 0, 2], (2, 2, 2, 1)), "uint8")
    nisa.tensor_copy_predicated(dst, chip.put(np.arange(24.0).reshape(2, 12)), predicate)
    expected = np.arange(24.0).reshape(8, 3) * [1, 0, 1]
    assert dst._array.reshape(8, 3).tolist() == expected.tolist()


def test_ranks_may_differ_in_a_selection(chip: Any) -> None:
    """0.6.0, bug fixes: select_reduce with operands of different rank."""
    dst = chip.new((2, 2, 3))
    predicate = chip.put([[1, 0, 1, 0, 1, 0]] * 2, "uint8")
    nisa.select_reduce(dst, predicate, chip.put(np.arange(12.0).reshape(2, 1, 2, 3)), -1.0)
    expected = [[0, -1, 2, -1, 4, -1], [6, -1, 8, -1, 10, -1]]
    assert dst._array.reshape(2, 6).tolist() == expected


def test_range_select_takes_a_python_float(start: Any) -> None:
    """0.6.0, bug fixes: float(np.finfo(np.float32).min) as on_false_value of range_select."""
    with start("trn2") as chip:
        dst = chip.new((1, 4), "float32")
        bounds = chip.put([[1.0]]), chip.put([[3.0]])
        nisa.range_select(
            dst, chip.put([[5.0, 6, 7, 8]]), nl.greater_equal, nl.less, *bounds,
            on_false_value=FLOAT32_MIN,
        )  # fmt: skip
        assert dst._array[0].tolist() == [FLOAT32_MIN, 6, 7, FLOAT32_MIN]


@pytest.mark.parametrize("value", [FLOAT32_MIN, 0.5])
def test_affine_select_takes_a_python_float(chip: Any, value: float) -> None:
    """0.6.0, bug fixes: a Python float as on_false_value of affine_select."""
    dst = chip.new((2, 2))
    x = chip.put([[1.0, 2], [3, 4]])
    nisa.affine_select(dst, [[-1, 2]], 1, x, value, cmp_op=nl.greater_equal)  # p - i >= 0
    assert dst._array.tolist() == [[1, value], [3, 4]]


def test_more_than_128_partitions(chip: Any) -> None:
    """0.6.0, improvements: an operand of more than 128 partitions is a clear error."""
    for buffer, words in ((nl.sbuf, "SBUF has 128"), (nl.psum, "PSUM has 128")):
        with pytest.raises(ShapeError, match=rf"129 partitions in \(129, 4\); {words}"):
            nl.ndarray((129, 4), nl.float32, buffer)
    tile = chip.new((128, 4))
    for make in (lambda: tile.reshape((256, 2)), lambda: tile.ap([[4, 129], [1, 4]])):
        with pytest.raises(NkiconvError, match="partition"):
            nisa.memset(make(), 0)


def test_a_chain_without_reduce_res(chip: Any) -> None:
    """0.6.0, new features: tensor_scalar_reduce keeps its sum until reduce_res asks for it."""
    total, out = chip.new((2, 1)), chip.new((2, 3))
    for i, (command, result) in enumerate(
        [(nisa.reduce_cmd.reset_reduce, None), (nisa.reduce_cmd.reduce, None),
         (nisa.reduce_cmd.reduce, total)],
    ):  # fmt: skip
        x = chip.put([[1.0 + i] * 3, [10.0] * 3])
        nisa.tensor_scalar_reduce(out, x, nl.multiply, 2.0, nl.add, result, reduce_cmd=command)
    assert total._array.ravel().tolist() == [2 * 3 * (1 + 2 + 3), 2 * 3 * 30]


def test_num_elem_per_idx(chip: Any) -> None:
    """0.6.0, known issues: it would be ignored where dst does not have as many elements."""
    src, index = chip.put(np.arange(160.0).reshape(16, 10)), chip.put(np.zeros((16, 1)), "uint16")
    nisa.local_gather(chip.new((16, 8)), src, index, num_elem_per_idx=2, num_valid_indices=4)
    for valid in (None, 8):
        with pytest.raises(ShapeError, match="known issues: else num_elem_per_idx is ignored"):
            nisa.local_gather(chip.new((16, 8)), src, index, 2, valid)


# 0.5.0 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 7), (4, 9), (8, 2)])
def test_reshape_preserves_the_number_of_elements(chip: Any, shape: tuple[int, int]) -> None:
    """0.5.0, improvements: reshape asserts that no element is lost."""
    with pytest.raises(AssertionError, match=rf"{shape[0]}, {shape[1]}"):
        chip.new((4, 8), buffer=nl.shared_hbm).reshape(shape)


def allocates_too_much(x_hbm: Any) -> Any:
    held = []
    for i in range(5):
        tile = nl.ndarray((128, 16384), nl.float32, name=f"tile{i}")
        nisa.memset(tile, 0)
        held.append(tile)
    for tile in held:
        nisa.tensor_scalar(tile, tile, nl.add, 1.0)
    return x_hbm


def test_memory_that_does_not_fit() -> None:
    """0.5.0, improvements: allocator errors name what is live and what to do."""
    with pytest.raises(CapacityError, match=r"SBUF") as caught:
        simulate_kernel(allocates_too_much, np.ones((2, 2), np.float32))
    assert "tile0" in str(caught.value)
    assert "test_release_notes.py" in str(caught.value)


def test_collectives_take_a_name() -> None:
    """0.5.0, improvements: every function of nki.collectives takes a name."""
    with pytest.raises(ConstraintError, match="rank_id: collectives across devices"):
        collectives.rank_id(name="whoami")


def test_psum_banks() -> None:
    """0.5.0, new features: tile_size.psum_num_banks."""
    assert nl.tile_size.psum_num_banks == 8


# 0.4.0 -------------------------------------------------------------------------------------------


def test_shuffle_mask_255(chip: Any) -> None:
    """0.4.0, bug fixes: 255 in a shuffle mask keeps what dst holds."""
    dst, src = chip.put(np.full((32, 2), 9.0)), chip.put(np.arange(64.0).reshape(32, 2))
    nisa.nc_stream_shuffle(dst, src, [1, 255] + [0] * 30)
    assert dst._array[:3].tolist() == [[2, 3], [9, 9], [0, 1]]


@pytest.mark.parametrize("view", ["slice", "ap"])
def test_local_gather_into_views(chip: Any, view: str) -> None:
    """0.4.0, bug fixes: local_gather into a sub-view, or through ap()."""
    whole = chip.put(np.full((16, 12), -1.0))
    dst = whole[:, 4:8] if view == "slice" else whole.ap([[12, 16], [2, 4]], offset=4)
    src = chip.put(np.arange(160.0).reshape(16, 10))
    index = chip.put(np.arange(16).reshape(16, 1) % 10, "uint16")
    nisa.local_gather(dst, src, index, num_elem_per_idx=1, num_valid_indices=4)
    columns = [4, 5, 6, 7] if view == "slice" else [4, 6, 8, 10]
    expected = np.full((16, 12), -1.0)
    expected[:, columns] = np.arange(160.0).reshape(16, 10)[:, :4]
    assert whole._array.tolist() == expected.tolist()


def test_logical_and(chip: Any) -> None:
    """0.4.0, bug fixes: logical_and of numbers other than 0 and 1 is 1."""
    dst = chip.new((1, 4))
    nisa.tensor_tensor(dst, chip.put([[0.0, 2, 4, 0]]), chip.put([[0.0, 1, 2, 3]]), nl.logical_and)
    assert dst._array[0].tolist() == [0, 1, 1, 0]


@dataclass(frozen=True)
class Frozen(nl.NKIObject):
    rows: int
    columns: int = 2


@dataclass
class Changing(nl.NKIObject):
    rows: int
    columns: int = 2


@nki.jit
def first_rows(x_hbm: Any, sizes: Any, extra: Any = None) -> Any:
    y_hbm = nl.ndarray((sizes.rows, sizes.columns), x_hbm.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(y_hbm, x_hbm[0 : sizes.rows, 0 : sizes.columns])
    if extra is not None:
        nisa.dma_copy(y_hbm, extra)
    return y_hbm


X = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_frozen_object() -> None:
    """0.4.0, bug fixes: a frozen data class from NKIObject can be made, and stays frozen."""
    sizes = Frozen(2)
    assert first_rows(X, sizes).tolist() == [[0, 1], [3, 4]]
    assert hash(sizes) == hash(Frozen(2, 2))
    with pytest.raises(FrozenInstanceError):
        sizes.rows = 3  # type: ignore[misc]


def test_object_without_a_hash() -> None:
    """0.4.0, bug fixes: @dataclass takes the hash away; the object is an argument all the same."""
    sizes = Changing(2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(sizes)
    assert first_rows(X, sizes).tolist() == [[0, 1], [3, 4]]
    sizes.rows = 1  # no result is kept from the launch before
    assert first_rows(X, sizes).tolist() == [[0, 1]]


def test_none_as_an_argument() -> None:
    """0.4.0, bug fixes: None as an argument, and a tensor there the next time."""
    zeros = np.zeros((2, 2), np.float32)
    assert first_rows(X, Frozen(2), None).tolist() == [[0, 1], [3, 4]]
    assert first_rows(X, Frozen(2), zeros).tolist() == [[0, 0], [0, 0]]
    assert first_rows(X, Frozen(2), extra=None).tolist() == [[0, 1], [3, 4]]


def is_positive(x_hbm: Any) -> Any:
    x_sb, y_sb = nl.ndarray((4, 3), nl.float32), nl.ndarray((4, 3), nl.bool_)
    y_hbm = nl.ndarray((4, 3), nl.bool_, buffer=nl.shared_hbm)
    nisa.dma_copy(x_sb, x_hbm)
    nisa.tensor_scalar(y_sb, x_sb, nl.greater, 5.0)
    nisa.dma_copy(y_hbm, y_sb)
    return y_hbm


@pytest.mark.parametrize(("convert", "dtype"), [(np.asarray, np.bool_), (torch.tensor, torch.bool)])
def test_truth_values(convert: Any, dtype: Any) -> None:
    """0.4.0, bug fixes: bool results come back as bool, not as uint8."""
    y = simulate_kernel(is_positive, convert(X))
    assert y.dtype == dtype
    assert y.tolist() == [[False] * 3, [False] * 3, [True] * 3, [True] * 3]


@pytest.mark.parametrize(
    ("engine", "buffer", "lane"),
    [
        (E.vector, nl.psum, "VectorE"),
        (E.vector, nl.sbuf, "VectorE"),
        (E.tensor, nl.psum, "TensorE"),
        (E.unknown, nl.psum, "TensorE"),
        (E.unknown, nl.sbuf, "VectorE"),
    ],
)
def test_transposing_engine(chip: Any, engine: Any, buffer: Any, lane: str) -> None:
    """0.4.0, bug fixes: nc_transpose honours engine=; unknown follows dst's memory."""
    dst = chip.new((4, 8), buffer=buffer)
    nisa.nc_transpose(dst, chip.put(np.arange(32.0).reshape(8, 4)), engine=engine)
    assert chip.last.lane.label == lane
    assert dst._array.tolist() == np.arange(32.0).reshape(8, 4).T.tolist()


@pytest.mark.parametrize(
    ("op", "operand", "expected"),
    [(nl.abs_max, 2.0, [-3, 2]), (nl.abs_min, 2.0, [2, 1]), (nl.square, None, [9, 1]),
     (nl.relu, None, [0, 1])],
)  # fmt: skip
def test_operators_of_trn3(start: Any, op: Any, operand: Any, expected: list[float]) -> None:
    """0.4.0, new features: these operators of tensor_scalar exist on trn3 only."""
    for target in ("trn1", "trn2", "trn3"):
        with start(target) as chip:
            x, dst = chip.put([[-3.0, 1]]), chip.new((1, 2))
            if target != "trn3":
                with pytest.raises(ConstraintError, match="does not exist on this generation"):
                    nisa.tensor_scalar(dst, x, op, operand)
                continue
            nisa.tensor_scalar(dst, x, op, operand)
            assert dst._array[0].tolist() == expected


@pytest.mark.parametrize("name", ["tensor_copy_dynamic_src", "tensor_copy_dynamic_dst"])
def test_removed_instructions(name: str) -> None:
    """0.4.0, deprecated and removed: use tensor_copy with ap() instead."""
    with pytest.raises(AttributeError, match=rf"no attribute '{name}', in NKI 0\.6\.0 either"):
        getattr(nisa, name)


def test_deprecated_size() -> None:
    """0.4.0, deprecated: total_available_sbuf_size is bytes per partition still."""
    for target in ("trn1", "trn2", "trn3"):
        with use_target(target):
            assert nl.tile_size.total_available_sbuf_size == nl.tile_size.sbuf_fmax_bytes


old = ModuleType("neuronxcc.nki.language")
vars(old)["float32"] = "float32"


def old_load(x: Any) -> Any:
    return x


old_load.__module__ = old.__name__


def names_an_old_module(x_hbm: Any) -> Any:
    return nl.ndarray(x_hbm.shape, old.float32, buffer=nl.shared_hbm)


def calls_an_old_function(x_hbm: Any) -> Any:
    return old_load(x_hbm)


@pytest.mark.parametrize(
    ("kernel", "name"),
    [(names_an_old_module, ""), (calls_an_old_function, r"\.old_load")],
)
def test_old_namespace(kernel: Any, name: str) -> None:
    """0.4.0, breaking changes: neuronxcc.nki inside a kernel is an error."""
    words = rf"neuronxcc\.nki\.language{name} at .*NKI 0\.4\.0 release notes"
    with pytest.raises(UnsupportedPythonError, match=words):
        simulate_kernel(kernel, X)
