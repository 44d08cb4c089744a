"""The embedded ``nki.collectives``: every name can be imported, and refuses when it is called.

One device is simulated, and nobody is there to communicate with; the vendor's simulator does not
have these functions either (NKI CPU simulator guide, Known Gaps).
"""

from __future__ import annotations

from typing import Any
from typing import NoReturn as _NoReturn

from nkiconv.simulate.errors import ConstraintError as _ConstraintError
from nkiconv.simulate.tensor import NKIObject as _NKIObject
from nkiconv.simulate.tensor import NkiTensor as _NkiTensor

__all__ = [
    "ReplicaGroup",
    "all_gather",
    "all_gather_v",
    "all_reduce",
    "all_to_all",
    "all_to_all_v",
    "collective_permute",
    "collective_permute_implicit",
    "collective_permute_implicit_current_processing_rank_id",
    "collective_permute_implicit_reduce",
    "rank_id",
    "reduce_scatter",
]

_Tensors = list[_NkiTensor]


def _refuse(name: str, instead: str = "") -> _NoReturn:
    raise _ConstraintError(
        f"nki.collectives.{name}: collectives across devices are not simulated; "
        + (
            instead
            or "run what each rank computes as a kernel of its own, and combine the results on the "
            "host"
        ),
        code="collectives.not_simulated",
    )


class ReplicaGroup(_NKIObject):
    """Groups of ranks that take part in a collective operation.

    Parameters
    ----------
    groups
        Lists of ranks, integers from 0 on; no rank is in two of them.

    Raises
    ------
    ConstraintError
        The groups are anything else.
    """

    def __init__(self, groups: Any, /) -> None:
        if not isinstance(groups, (list, tuple)) or not groups:
            raise _wrong_groups("a list of lists of ranks", groups)
        seen: list[int] = []
        for group in groups:
            if not isinstance(group, (list, tuple)) or not group:
                raise _wrong_groups("a list of lists of ranks, none empty", groups)
            for rank in group:
                if type(rank) is not int or rank < 0:
                    raise _wrong_groups("ranks that are integers from 0 on", groups)
                seen.append(rank)
        if len(set(seen)) < len(seen):
            raise _wrong_groups("no rank twice", groups)
        self.groups = [list(group) for group in groups]


def _wrong_groups(what: str, groups: object) -> _ConstraintError:
    return _ConstraintError(
        f"nki.collectives.ReplicaGroup: needs {what}, got {groups!r} "
        "(nki.collectives.ReplicaGroup, NKI 0.6.0)",
        code="collectives.groups",
    )


def all_reduce(
    srcs: _Tensors,
    dsts: _Tensors,
    replica_group: ReplicaGroup,
    op: Any,
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: ``dsts`` = the ranks' `srcs`, reduced."""
    _refuse("all_reduce")


def all_gather(
    srcs: _Tensors,
    dsts: _Tensors,
    replica_group: ReplicaGroup,
    collective_dim: int,
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: ``dsts`` = the ranks' `srcs`, one after another."""
    _refuse("all_gather")


def all_gather_v(
    srcs: _Tensors,
    dsts: _Tensors,
    replica_group: ReplicaGroup,
    metadata_tensor: _NkiTensor,
    recv_counts_known: bool = False,
    has_rdispls: bool = False,
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: as `all_gather`, with a length for each rank."""
    _refuse("all_gather_v")


def reduce_scatter(
    srcs: _Tensors,
    dsts: _Tensors,
    replica_group: ReplicaGroup,
    collective_dim: int,
    op: Any,
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: ``dsts`` = this rank's part of the ranks' `srcs`, reduced."""
    _refuse("reduce_scatter")


def all_to_all(
    srcs: _Tensors,
    dsts: _Tensors,
    replica_group: ReplicaGroup,
    collective_dim: int,
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: ``dsts`` = what each rank has for this one."""
    _refuse("all_to_all")


def all_to_all_v(
    srcs: _Tensors,
    dsts: _Tensors,
    replica_group: ReplicaGroup,
    metadata_tensor: _NkiTensor,
    recv_counts_known: bool = False,
    has_rdispls: bool = False,
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: as `all_to_all`, with a length for each rank."""
    _refuse("all_to_all_v")


def collective_permute(
    srcs: _Tensors,
    dsts: _Tensors,
    source_target_pairs: list[tuple[int, int]],
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: ``dsts`` = the `srcs` of the rank that is paired with this one."""
    _refuse("collective_permute")


def collective_permute_implicit(
    srcs_by_channel: list[_Tensors],
    dsts_by_channel: list[_Tensors],
    replica_group: ReplicaGroup,
    channel_ids: list[int] = [0],  # noqa: B006 - the vendor's default
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: ``dsts_by_channel`` = the tensors of the rank before this one in the ring."""
    _refuse("collective_permute_implicit")


def collective_permute_implicit_reduce(
    srcs0_by_channel: list[_Tensors],
    srcs1_by_channel: list[_Tensors],
    dsts_by_channel: list[_Tensors],
    replica_group: ReplicaGroup,
    op: Any,
    channel_ids: list[int] = [0],  # noqa: B006 - the vendor's default
    priority: int | None = None,
    name: str | None = None,
) -> None:
    """Refuse: as `collective_permute_implicit`, of two tensors reduced."""
    _refuse("collective_permute_implicit_reduce")


def collective_permute_implicit_current_processing_rank_id(
    iteration_id: int,
    replica_group: ReplicaGroup,
    channel_id: int = 0,
    name: str | None = None,
) -> Any:
    """Refuse: the rank whose data a step of the ring works on."""
    _refuse("collective_permute_implicit_current_processing_rank_id")


def rank_id(name: str | None = None) -> Any:
    """Refuse: the rank of this device."""
    _refuse("rank_id", "pass the rank to the kernel as an argument")


def __getattr__(name: str) -> Any:
    from nkiconv.simulate.coverage import missing

    raise missing("nki.collectives", name)
