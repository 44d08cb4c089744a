"""A profile's numbers in the form that the text table, the page and `to_dict` share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from nkiconv.simulate.report._protocol import ProfileLike

__all__ = [
    "engine_rows",
    "error_rows",
    "facts",
    "instruction_rows",
    "kernel_names",
    "lost_rows",
    "microseconds",
    "percent",
    "printable",
    "profile_dict",
    "roofline_rows",
    "time_rows",
]

_MATMUL = "nc_matmul"
_ENGINES = ("TensorE", "VectorE", "ScalarE", "GpSimdE", "DMA")


def profile_dict(p: ProfileLike) -> dict[str, object]:
    """Every field but the events, in types that `json.dumps` takes.

    Times are modelled and in µs, ``mfu`` and ``mbu`` lie between 0 and 1.  The key ``"timing"``
    always has the value ``"modelled"``.
    """
    return {
        "timing": "modelled",
        "target": str(p.target),
        "kernels": [str(name) for name in p.kernels],
        "latency_us": float(p.latency_us),
        "launch_us": float(p.launch_us),
        "body_us": float(p.body_us),
        "error_bar": p.error_bar.to_dict(),
        "bound": str(p.bound),
        "time_us": {str(name): float(us) for name, us in p.time_us.items()},
        "critical_path": [asdict(part) for part in p.critical_path],
        "lost_us": {
            str(engine): {str(cause): float(us) for cause, us in causes.items()}
            for engine, causes in p.lost_us.items()
        },
        "roofline": p.roofline.to_dict(),
        "advice": [asdict(each) for each in p.advice],
        "lines": [asdict(line) for line in p.lines],
        "engine_busy_us": {str(name): float(busy) for name, busy in p.engine_busy_us.items()},
        "mfu": float(p.mfu),
        "mbu": float(p.mbu),
        "macs": int(p.macs),
        "hbm_read_bytes": int(p.hbm_read_bytes),
        "hbm_write_bytes": int(p.hbm_write_bytes),
        "hbm_read_bytes_by_tensor": {
            str(name): int(read) for name, read in p.hbm_read_bytes_by_tensor.items()
        },
        "dma_transfers": int(p.dma_transfers),
        "instructions": {str(opcode): int(count) for opcode, count in p.instructions.items()},
        "lane_instructions": {str(lane): int(n) for lane, n in p.lane_instructions.items()},
        "static_instructions": int(p.static_instructions),
        "sbuf_peak_bytes": int(p.sbuf_peak_bytes),
        "psum_peak_banks": int(p.psum_peak_banks),
        "moving_columns": int(p.moving_columns),
    }


def error_rows(p: ProfileLike) -> list[tuple[str, str]]:
    """How far the latency may be off, and why that may not hold for this kernel."""
    bar = p.error_bar
    rows = [("may be off by", str(bar))]
    if bar.outside:
        rows.append(("outside what was calibrated", "; ".join(bar.outside)))
    return rows


def printable(text: str) -> str:
    """``text`` without the characters that move a terminal's cursor or colour it."""
    return "".join(char if char.isprintable() else "?" for char in text)


def microseconds(value: float) -> str:
    """``value`` µs with its unit and thousands separators."""
    return f"{value:,.2f} µs"


def percent(share: float) -> str:
    """``share`` (0 to 1) in per cent."""
    return f"{100 * share:.1f} %"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.3f} MiB ({count:,} bytes)"


def kernel_names(p: ProfileLike) -> list[str]:
    """Names of the launched kernels in order; one launched ``n`` times once, with ``" x n"``."""
    counts = Counter(p.kernels)
    return [printable(name) + (f" x {n}" if n > 1 else "") for name, n in counts.items()]


def facts(p: ProfileLike) -> list[tuple[str, str]]:
    """Pairs of name and value for the numbers that are no time and no share."""
    matmuls = p.instructions.get(_MATMUL, 0)
    columns = f"{p.moving_columns / matmuls:,.1f}" if matmuls else "no matmul"
    return [
        ("MACs", f"{p.macs:,}"),
        ("HBM read", _mebibytes(p.hbm_read_bytes)),
        ("HBM written", _mebibytes(p.hbm_write_bytes)),
        ("DMA transfers", f"{p.dma_transfers:,}"),
        ("instructions, executed", f"{sum(p.instructions.values()):,}"),
        ("instructions, static", f"{p.static_instructions:,}"),
        ("moving columns per matmul, mean", columns),
        ("SBUF peak", f"{p.sbuf_peak_bytes / 2**10:,.2f} KiB per partition"),
        ("PSUM peak", f"{p.psum_peak_banks:,} banks"),
    ]


def engine_rows(p: ProfileLike) -> list[tuple[str, float, float]]:
    """Engine, modelled busy µs, and its share of the body; always in the same order."""
    busy: Mapping[str, float] = p.engine_busy_us
    known = [name for name in _ENGINES if name in busy]
    names = known + sorted(set(busy) - set(known))
    return [(name, busy[name], busy[name] / p.body_us if p.body_us > 0 else 0.0) for name in names]


def time_rows(p: ProfileLike) -> list[tuple[str, float, float]]:
    """What the latency was spent on, modelled µs, and their share; what took none is left out."""
    whole = p.latency_us if p.latency_us > 0 else 1.0
    rows = [(name, us, us / whole) for name, us in p.time_us.items() if us > 0]
    return sorted(rows, key=lambda row: -row[1])


def lost_rows(p: ProfileLike, engine: str) -> list[tuple[str, float]]:
    """What an engine waited for and how long, modelled, longest first."""
    return sorted(p.lost_us.get(engine, {}).items(), key=lambda row: (-row[1], row[0]))


def roofline_rows(p: ProfileLike) -> list[tuple[str, str]]:
    """Pairs of name and value; every rate is modelled or, as attainable, documented."""
    r = p.roofline
    rows = [("FLOP per byte of HBM", f"{r.intensity:,.1f} (ridge at {r.ridge:,.1f})")]
    if r.flops:
        rows.append(
            (
                "attained, modelled",
                f"{r.attained_tflops:,.2f} of {r.attainable_tflops:,.2f} TFLOP/s",
            )
        )
    else:
        rows[0] = ("FLOP per byte of HBM", "no matmul")
        rows.append(
            ("attained, modelled", f"{r.attained_gb_per_s:,.1f} of {r.hbm_gb_per_s:,.1f} GB/s")
        )
    rows.append(("at the roof, modelled", f"{microseconds(r.least_us)}, limited by {r.limit}"))
    rows.append(("share of the roof, modelled", percent(r.share)))
    return rows


def instruction_rows(p: ProfileLike) -> list[tuple[str, int]]:
    """Opcode and count, most frequent first, equal counts by name."""
    return sorted(p.instructions.items(), key=lambda row: (-row[1], row[0]))
