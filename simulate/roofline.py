"""How fast a kernel could be at best: ``max(FLOP / peak, HBM bytes / bandwidth)``.

Below the ridge, where FLOP per byte equal peak over bandwidth, no schedule gets past the memory;
above it none gets past TensorE.  Peaks are the documented ones of each dtype.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Roofline:
    """Where a kernel stands, launch cost left out.

    Attributes
    ----------
    flops, hbm_bytes
        Two for each multiply-accumulate of a matmul; bytes read from and written to HBM.
    peak_tflops
        TensorE's documented peak for the dtypes of these matmuls, on all cores of the launch; for
        bfloat16 where there is none.
    hbm_gb_per_s
        HBM bandwidth of those cores.
    body_us
        Modelled time without launch.
    """

    flops: int
    hbm_bytes: int
    peak_tflops: float
    hbm_gb_per_s: float
    body_us: float

    @property
    def intensity(self) -> float:
        """FLOP per byte of HBM traffic."""
        return self.flops / self.hbm_bytes if self.hbm_bytes else float("inf")

    @property
    def ridge(self) -> float:
        """Intensity above which TensorE is the limit."""
        return self.peak_tflops * 1e3 / self.hbm_gb_per_s

    @property
    def limit(self) -> str:
        """What limits a kernel of this intensity: ``"TensorE"`` or ``"HBM bandwidth"``."""
        return "TensorE" if self.flops and self.intensity >= self.ridge else "HBM bandwidth"

    @property
    def attainable_tflops(self) -> float:
        """Rate at this intensity, at best."""
        if not self.flops:
            return 0.0
        return min(self.peak_tflops, self.intensity * self.hbm_gb_per_s / 1e3)

    @property
    def attained_tflops(self) -> float:
        """Modelled rate."""
        return self.flops / self.body_us / 1e6 if self.body_us else 0.0

    @property
    def attained_gb_per_s(self) -> float:
        """Modelled HBM rate."""
        return self.hbm_bytes / self.body_us / 1e3 if self.body_us else 0.0

    @property
    def least_us(self) -> float:
        """Time at the roof."""
        return max(self.flops / self.peak_tflops / 1e6, self.hbm_bytes / self.hbm_gb_per_s / 1e3)

    @property
    def share(self) -> float:
        """Attained over attainable, 0 to 1."""
        return self.least_us / self.body_us if self.body_us else 0.0

    def to_dict(self) -> dict[str, float | str | None]:
        """Return every number, ready for JSON; an infinite intensity is None."""
        return {
            **asdict(self),
            "intensity": self.intensity if self.hbm_bytes else None,
            "ridge": self.ridge,
            "limit": self.limit,
            "attainable_tflops": self.attainable_tflops,
            "attained_tflops": self.attained_tflops,
            "attained_gb_per_s": self.attained_gb_per_s,
            "least_us": self.least_us,
            "share": self.share,
        }
