"""What a report needs to know of a profile.

`nkiconv.simulate.profile` calls the reports, so the reports describe its classes here instead of
importing them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from nkiconv.simulate.curves import Curve
from nkiconv.simulate.error_bar import ErrorBar
from nkiconv.simulate.explain import LineTime, PathPart
from nkiconv.simulate.listing import Listing
from nkiconv.simulate.roofline import Roofline
from nkiconv.simulate.tuning import Advice

__all__ = ["EventLike", "ProfileLike"]


class EventLike(Protocol):
    """One instruction, DMA transfer or kernel launch on the modelled timeline."""

    @property
    def engine(self) -> str:
        """Lane, such as ``"TensorE"``, ``"DMA load"`` or ``"launch"``."""

    @property
    def opcode(self) -> str:
        """Instruction name, such as ``"nc_matmul"``."""

    @property
    def start_us(self) -> float:
        """Modelled start, in µs from the start of the profile."""

    @property
    def end_us(self) -> float:
        """Modelled end, in µs from the start of the profile."""

    @property
    def source(self) -> str:
        """Source line, as ``"conv2d.py:123"``; may be empty."""

    @property
    def label(self) -> str:
        """The instruction's ``name=`` argument; may be empty."""

    @property
    def kernel(self) -> str:
        """Name of the kernel that issued it."""


class ProfileLike(Protocol):
    """The fields of `nkiconv.simulate.Profile` that the reports read."""

    @property
    def target(self) -> str:
        """Modelled chip: ``"trn1"``, ``"trn2"`` or ``"trn3"``."""

    @property
    def latency_us(self) -> float:
        """Modelled latency in µs, launch included."""

    @property
    def launch_us(self) -> float:
        """Modelled launch overhead in µs."""

    @property
    def body_us(self) -> float:
        """Modelled latency in µs without the launch."""

    @property
    def error_bar(self) -> ErrorBar:
        """How far the latency may be off."""

    @property
    def bound(self) -> str:
        """What held the run back."""

    @property
    def time_us(self) -> Mapping[str, float]:
        """Modelled latency by what it was spent on, along the critical path."""

    @property
    def critical_path(self) -> Sequence[PathPart]:
        """Critical path by source line, engine and part; longest first."""

    @property
    def lost_us(self) -> Mapping[str, Mapping[str, float]]:
        """What each engine waited for, modelled."""

    @property
    def roofline(self) -> Roofline:
        """Attainable and attained rate."""

    @property
    def advice(self) -> Sequence[Advice]:
        """What to change; most promising first."""

    @property
    def lines(self) -> Sequence[LineTime]:
        """What each source line cost on each engine."""

    @property
    def curves(self) -> Sequence[Curve]:
        """SBUF, PSUM and HBM bandwidth over the modelled time."""

    @property
    def listings(self) -> Sequence[Listing]:
        """Source text of the kernels."""

    @property
    def engine_busy_us(self) -> Mapping[str, float]:
        """Modelled busy time in µs per engine."""

    @property
    def mfu(self) -> float:
        """Useful multiply-adds as a share (0 to 1) of TensorE's peak."""

    @property
    def mbu(self) -> float:
        """HBM traffic as a share (0 to 1) of the peak bandwidth."""

    @property
    def macs(self) -> int:
        """Useful multiply-adds."""

    @property
    def hbm_read_bytes(self) -> int:
        """Bytes read from HBM."""

    @property
    def hbm_write_bytes(self) -> int:
        """Bytes written to HBM."""

    @property
    def dma_transfers(self) -> int:
        """Number of DMA transfers."""

    @property
    def hbm_read_bytes_by_tensor(self) -> Mapping[str, int]:
        """`hbm_read_bytes` by tensor."""

    @property
    def lane_instructions(self) -> Mapping[str, int]:
        """Executed instructions per engine or DMA ring."""

    @property
    def instructions(self) -> Mapping[str, int]:
        """Executed instructions per opcode."""

    @property
    def static_instructions(self) -> int:
        """Instructions that a compiler would see: on-chip loops counted once."""

    @property
    def sbuf_peak_bytes(self) -> int:
        """Largest SBUF use, in bytes per partition."""

    @property
    def psum_peak_banks(self) -> int:
        """Largest number of PSUM banks in use."""

    @property
    def moving_columns(self) -> int:
        """Columns streamed by the ``nc_matmul`` instructions that do arithmetic."""

    @property
    def kernels(self) -> Sequence[str]:
        """Names of the launched kernels, in order."""

    @property
    def events(self) -> Iterable[EventLike]:
        """The timeline, sorted by start."""

    def path_events(self) -> Iterable[tuple[str, EventLike]]:
        """Critical path in order of time: each piece, whose label says what it is, with its kind.

        Kinds are the keys of `time_us`.
        """
