"""Published measurements of single instructions: each is reproduced, or it says why not."""

from __future__ import annotations

import pytest

from nkiconv.bench.micro import DIFFERENT, NOT_MODELLED, MicroRow, measure_micro, micro_sources


@pytest.fixture(scope="module")
def rows() -> dict[str, MicroRow]:
    return {row.id: row for row in measure_micro()}


def test_every_measurement_is_reproduced_or_explained(rows: dict[str, MicroRow]) -> None:
    missed = {name for name, row in rows.items() if not row.within}
    assert missed == DIFFERENT.keys() | NOT_MODELLED.keys()
    assert all(rows[name].why for name in missed)
    assert len(rows) - len(missed) >= 100


def test_every_measurement_has_an_origin(rows: dict[str, MicroRow]) -> None:
    known = micro_sources()
    assert {row.source for row in rows.values()} == known.keys()
    assert all(row.low_ns <= row.high_ns for row in rows.values())
    assert {row.target for row in rows.values()} == {"trn1", "trn2"}


@pytest.mark.parametrize(
    ("name", "nanoseconds"),
    [
        # TensorE: 512 columns and 6 cycles at 2.4 GHz, twice that at half clock
        ("matmul-bf16-512", 518 / 2.4),
        ("matmul-bf16-512-half", 518 / 1.2),
        ("matmul-fp32-512-pass", (1024 + 6) / 2.4),
        ("scalar-copy-psum-512", 572 / 1.2),
        ("scalar-table-load", 1283),
        ("dma-hardware-issue", 550),
        ("dma-static-start", 855),
        ("dma-hop", 335),
        ("trn1-dma-hop", 301),
        ("dma-32k", 130 + 40 + 4 * (4.8 + 8192 / 27.2)),
        ("trn1-scalar-chain", 1 / 1.4 + 133 + 25 + 30),
    ],
)
def test_rows_worked_by_hand(rows: dict[str, MicroRow], name: str, nanoseconds: float) -> None:
    assert rows[name].modelled_ns == pytest.approx(nanoseconds, abs=0.01)


def test_errors_count_from_the_nearest_end() -> None:
    row = MicroRow("x", "trn2", "", "measured", "", 100.0, 200.0, 90.0, "")
    assert (row.error, row.within) == (pytest.approx(-0.1), False)
    row = MicroRow("x", "trn2", "", "measured", "", 100.0, 200.0, 209.0, "")
    assert (row.error, row.within) == (pytest.approx(0.045), True)
    row = MicroRow("x", "trn2", "", "measured", "", 100.0, 200.0, None, "")
    assert (row.error, row.within) == (None, False)
