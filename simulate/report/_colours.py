"""One colour for each engine and each cause, the same all over the page, and its shades."""

from __future__ import annotations

from nkiconv.simulate.report._lanes import SECOND_CORE

__all__ = ["OTHER", "colour_of", "shade"]

# One luminance (0.285) for all: 3:1 against a light and a dark page, and dark text on them reads at
# 6:1.
_COLOURS = {
    "TensorE": "#5492ec",
    "VectorE": "#d07e26",
    "ScalarE": "#4aa361",
    "GpSimdE": "#a380de",
    "DMA": "#2aa0a6",
    "DMA load": "#2aa0a6",
    "DMA store": "#2aa0a6",
    "DMA local": "#2aa0a6",
    "DMA bandwidth": "#2aa0a6",
    "DMA latency": "#e9696a",
    "dependency": "#d66eac",
    "SyncE": "#d66eac",
    "launch": "#959734",
}
OTHER = "#8a929e"
_WHITE = (0.0, 0.3, 0.5, 0.15, 0.42)  # mixed in, by rank of the opcode on its engine


def colour_of(name: str) -> str:
    """Colour of an engine, DMA ring or cause."""
    return _COLOURS.get(name.removesuffix(SECOND_CORE), OTHER)


def shade(name: str, rank: int) -> str:
    """Colour of the opcode that stands at this place among those of its engine."""
    base = colour_of(name)
    white = _WHITE[rank % len(_WHITE)]
    parts = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)
