"""What a launch looks at before the kernel runs: options, settings, arguments, declared shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pytest

import nkiconv.simulate.nki as nki
import nkiconv.simulate.nki.typing as nt
from nkiconv.simulate import ConstraintError, ShapeError
from nkiconv.simulate.nki import collectives, isa, language
from nkiconv.simulate.subset import check_kernel

nl, nisa = language, isa
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def copied(x: Any) -> Any:
    y_hbm = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=y_hbm, src=x)
    return y_hbm


@nki.jit
def same(x: Any, anything: Any = None) -> Any:
    return copied(x)


def nothing(x: Any) -> None:
    """Do nothing."""


# Options of nki.jit ------------------------------------------------------------------------------


def test_mode_has_no_effect_and_says_so() -> None:
    words = r"^nki\.jit: mode='trace' is deprecated and has no effect"
    with pytest.warns(DeprecationWarning, match=words):
        kernel = nki.jit(mode="trace")(same.func)
    assert kernel(X).tolist() == X.tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"platform_target": "trn2"}, "platform_target='trn2' is an error since NKI 0.3.0"),
        ({"debug": True}, r"options \['debug'\] are not modelled"),
    ],
)
def test_other_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConstraintError, match=rf"^nki\.jit: {words}"):
        nki.jit(same.func, **options)


# Settings of the vendor's simulator --------------------------------------------------------------


@pytest.mark.parametrize("name", ["NKI_SIMULATOR", "NKI_PRECISE_FP"])
def test_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for value in ("1", ""):
        monkeypatch.setenv(name, value)
        assert nki.simulate(same)(X).tolist() == X.tolist()
    monkeypatch.setenv(name, "0")
    with pytest.raises(ConstraintError, match=rf'^{name} is "0", and only "1" \(or unset\)'):
        same(X)


# Arguments ---------------------------------------------------------------------------------------


class Sizes(nl.NKIObject):
    rows: int
    columns: int = 3


class Outsider:
    """A class that the compiler has not been told of."""


@dataclass
class Slotted(nl.NKIObject):
    __slots__ = ("rows",)
    rows: int


class Layout(Enum):
    NCHW = 1


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 1.5, "word", (1, ("a", None)), {"key": 1}, Layout.NCHW, Sizes(2), Sizes,
     nl.float32, nl.add, nl.sbuf, nothing, np.float32, np.int64(3), np.dtype("int8"),
     collectives.ReplicaGroup([[0, 1]])],
    ids=repr,
)  # fmt: skip
def test_arguments_that_the_compiler_takes(value: Any) -> None:
    assert same(X, value).tolist() == X.tolist()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], r"same\(anything\): a list cannot be an argument; pass a tuple"),
        ((1, [2]), r"same\(anything\)\[1\]: a list cannot be an argument"),
        (Outsider(), r"same\(anything\): Outsider does not derive from nl\.NKIObject"),
        (Slotted(2), r"same\(anything\): Slotted keeps rows in __slots__"),
    ],
)
def test_arguments_that_it_does_not_take(value: Any, words: str) -> None:
    for call in (lambda: same(X, value), lambda: same(X, anything=value)):
        with pytest.raises(ConstraintError, match=words):
            call()


# Declared shapes ---------------------------------------------------------------------------------


def declares(x: nt.tensor[2, 3], y: nt.tensor[6] = None, z: nt.tensor = None) -> Any:  # type: ignore
    return copied(x)


def declares_at_once(x: Any, y: Any = 1) -> Any:
    return copied(x)


declares_at_once.__annotations__ = {"x": nt.tensor[2, 3], "y": "nowhere.tensor[2, 3]"}  # type: ignore


@pytest.mark.parametrize("kernel", [declares, declares_at_once])
def test_declared_shapes(kernel: Any) -> None:
    assert nki.simulate(kernel)(X).tolist() == X.tolist()
    words = rf"^{kernel.__name__}\(x\): declared as nt\.tensor\[2, 3\], got a tensor of shape \(3, "
    with pytest.raises(ShapeError, match=words):
        nki.simulate(kernel)(X.T.copy())
    with pytest.raises(ConstraintError, match=r"\(x\): declared as nt\.tensor\[2, 3\], got 4 \("):
        nki.simulate(kernel)(x=4)


def test_declared_shape_of_an_option() -> None:
    assert nki.simulate(declares)(X, None).tolist() == X.tolist()
    with pytest.raises(ShapeError, match=r"^declares\(y\): declared as nt\.tensor\[6\]"):
        nki.simulate(declares)(X, X)


def test_only_whole_sizes_can_be_declared() -> None:
    for sizes in ((2, 0), (2.0,), "n"):
        with pytest.raises(ShapeError, match=r"^nt\.tensor: "):
            nt.tensor[sizes]


# NKIObject ---------------------------------------------------------------------------------------


def test_annotated_names_are_fields() -> None:
    """The language guide's class, without the decorator: by position, by name, or by default."""
    assert vars(Sizes(2)) == {"rows": 2, "columns": 3}
    assert vars(Sizes(columns=5, rows=4)) == {"rows": 4, "columns": 5}
    assert vars(Sizes()) == {"rows": None, "columns": 3}
    assert vars(More(1, 2, 4)) == {"rows": 1, "columns": 2, "depth": 4, "volume": 8}


class More(Sizes):
    depth: int

    def __post_init__(self) -> None:
        self.volume = self.rows * self.columns * self.depth


@dataclass
class Section(nl.NKIObject):
    start = None
    length = 4

    def end(self) -> Any:
        return self.start + self.length


@dataclass(frozen=True)
class Fixed(nl.NKIObject):
    start = None


@dataclass
class Tiles(nl.NKIObject):
    count: int
    sizes: list[int] = field(default_factory=list)
    last: int = 3


def test_dataclass_changes_nothing() -> None:
    """The guide: classes are compiled in the same way with the decorator and without."""
    assert vars(Tiles()) == {"count": None, "sizes": [], "last": 3}  # type: ignore[call-arg]
    assert vars(Tiles(1, last=4)) == {"count": 1, "sizes": [], "last": 4}
    assert Tiles(1).sizes is not Tiles(1).sizes
    assert Slotted().rows is None  # type: ignore[call-arg]
    assert Slotted(2).rows == 2


def test_values_of_a_class_without_annotations_are_fields() -> None:
    """As in the vendor's attention kernels, where ``@dataclass`` by itself would see no field."""
    assert vars(Section(start=2)) == {"start": 2, "length": 4}
    assert Section(2, 3).end() == 5
    assert vars(Fixed(7)) == {"start": 7}
    with pytest.raises(TypeError, match="Section: 'end' is not a field"):
        Section(end=3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Sizes(1, 2, 3), r"Sizes: 3 values for the fields \('rows', 'columns'\)"),
        (lambda: Sizes(1, rows=1), "Sizes: 'rows' is given twice"),
        (lambda: Sizes(size=1), "Sizes: 'size' is not a field"),
    ],
)
def test_what_is_no_field_is_refused(call: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


def test_objects_are_equal_when_their_fields_are() -> None:
    assert Sizes(2) == Sizes(2, 3)
    assert Sizes(2) != Sizes(2, 4)
    assert Sizes(2) != Outsider()
    assert hash(Sizes(2)) == hash(Sizes(2, 3))


@nki.jit
def toggles(x: Any, sizes: Any) -> Any:
    """Use an object as the guide does: methods change it, and it can be made inside."""
    y = nl.ndarray((sizes.rows, sizes.columns), x.dtype, buffer=nl.shared_hbm)
    held = Sizes(sizes.rows)
    held.columns = sizes.columns
    if held == sizes:
        nisa.dma_copy(y, x)
    return y


def test_objects_inside_a_kernel() -> None:
    assert toggles(X, Sizes(2)).tolist() == X.tolist()


def test_instructions_and_tensors_are_themselves_alone(chip: Any) -> None:
    first, second = chip.new((4, 8)), chip.new((4, 8))
    assert (first == second, first == first, len({first, second})) == (False, True, 2)
    assert nisa.memset(first, 0) != nisa.memset(second, 0)


# Collectives -------------------------------------------------------------------------------------

OPERATIONS = sorted(set(collectives.__all__) - {"ReplicaGroup"})


@pytest.mark.parametrize("name", OPERATIONS)
def test_collectives_refuse(name: str) -> None:
    words = rf"^nki\.collectives\.{name}: collectives across devices are not simulated; "
    count = {"rank_id": 0, "collective_permute_implicit_current_processing_rank_id": 2}
    values = [None] * count.get(name, 5)
    if name in ("collective_permute", "collective_permute_implicit"):
        values = values[:3]
    with pytest.raises(ConstraintError, match=words):
        getattr(collectives, name)(*values)


@nki.jit
def asks_for_its_rank(x: Any) -> Any:
    y = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    return y[collectives.rank_id()]


def test_a_kernel_with_a_collective_names_its_line() -> None:
    check_kernel(asks_for_its_rank)
    with pytest.raises(ConstraintError, match=r"^test_launch\.py:\d+: nki\.collectives\.rank_id: "):
        asks_for_its_rank(X)


@pytest.mark.parametrize("groups", [[], [[]], [0, 1], 3, [[0, 1], [1, 2]], [[0, -1]], [[True]]])
def test_groups_that_are_refused(groups: Any) -> None:
    words = r"^nki\.collectives\.ReplicaGroup: needs .*, got "
    with pytest.raises(ConstraintError, match=words):
        collectives.ReplicaGroup(groups)


def test_groups_may_be_any_size() -> None:
    assert collectives.ReplicaGroup(((0, 2), (1,))).groups == [[0, 2], [1]]
