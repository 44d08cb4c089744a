"""The log of attempts: readable, complete, and refreshed with the layers' times of today."""

from __future__ import annotations

import pytest

from nkiconv.bench import attempts
from nkiconv.bench.attempts import attempts_page, attempts_table, known_attempts, refresh
from nkiconv.bench.errors import UserError
from nkiconv.bench.plans import find_layer
from nkiconv.reference._dtypes import DTYPES
from nkiconv.simulate.hardware import TARGETS

pytest.importorskip("rich", reason="the log is printed as a table")


def test_every_attempt_is_of_a_layer_that_can_be_modelled() -> None:
    for attempt in known_attempts():
        assert find_layer(attempt.layer).macs > 0
        assert attempt.dtype in DTYPES
        assert attempt.target in TARGETS
        assert attempt.tried
        assert attempt.expected


def test_failures_are_in() -> None:
    kept = [attempt.kept for attempt in known_attempts()]
    assert kept.count(False) >= 5
    assert kept.count(True) >= 10


def test_a_layer_is_modelled_once_and_shown_with_each_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "_body_us", lambda layer, dtype, target: 12.34)
    announced: list[str] = []
    rows = list(refresh(known_attempts("course conv 256 32x16"), announced.append))
    assert len(rows) > len(announced) == len(set(announced))
    made, legend = attempts_table(rows)
    assert made.row_count == len(rows)
    assert "Modelled" in legend
    page = attempts_page(rows)
    assert page.count(" 12.3 |") == len(rows)
    assert "## direct" in page


def test_today_s_time_is_the_kernel_s() -> None:
    (row, *_) = refresh(known_attempts("warm"), lambda _: None)
    assert 5 < row.now_us < 30  # the course's small case: 6.3 µs of TensorE alone


def test_nothing_found_is_said() -> None:
    with pytest.raises(UserError, match="no attempt has 'winograd'"):
        known_attempts("winograd")
