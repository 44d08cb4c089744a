"""What lies outside an image: for each padded place the pixel that it shows, by padding mode.

reflect    2 1 | 0 1 2 3 | 2 1
replicate  0 0 | 0 1 2 3 | 3 3
circular   2 3 | 0 1 2 3 | 0 1
"""

from __future__ import annotations

from dataclasses import dataclass

import nki.language as nl


@dataclass(frozen=True)
class Run(nl.NKIObject):
    """`size` padded places from `place` on show as many neighbouring pixels from `pixel` on."""

    place: int
    pixel: int
    size: int


def source_pixel(place: int, size: int, mode: str) -> int:
    """Return the pixel that a place shows; the image has `size` pixels, from place 0 on."""
    if 0 <= place < size:
        return place
    if mode == "reflect":
        return -place if place < 0 else 2 * (size - 1) - place
    if mode == "replicate":
        return 0 if place < 0 else size - 1
    return place % size


def runs(first: int, num_places: int, size: int, mode: str) -> tuple[Run, ...]:
    """Return what `num_places` show from place `first` on (negative before the image)."""
    found: list[Run] = []
    for i in range(num_places):
        pixel = source_pixel(first + i, size, mode)
        last = found[-1] if found else None
        if last is not None and pixel == last.pixel + last.size:
            found[-1] = Run(last.place, last.pixel, last.size + 1)
        else:
            found.append(Run(i, pixel, 1))
    return tuple(found)
