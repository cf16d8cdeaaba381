from __future__ import annotations

import pytest

from engine.numbers import count_text, ratio_text, share_text, span_text, time_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.00 us"),
        (4.6e-6, "4.60 us"),
        (52.44e-6, "52.4 us"),
        (399e-6, "399 us"),
        (1e-3, "1.00 ms"),
        (6.437e-3, "6.44 ms"),
        (1.234, "1234 ms"),
    ],
)
def test_time(seconds: float | None, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (2.34, "2.3 s"),
        (45.4, "45 s"),
        (59.6, "1 min 00 s"),
        (200.0, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500.0, "2 h 05 min"),
    ],
)
def test_span(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (616, "616"),
        (4294, "4.29 k"),
        (999_900, "1 M"),
        (37_748_736, "37.7 M"),
        (4.1e9, "4.1 G"),
    ],
)
def test_count(number: float | None, text: str) -> None:
    assert count_text(number) == text


def test_ratio_and_share() -> None:
    assert ratio_text(6.0, 4.0) == "1.50x"
    assert ratio_text(None, 4.0) == ratio_text(6.0, None) == ratio_text(6.0, 0.0) == "-"
    assert share_text(1.0, 8.0) == "12.5 %"
    assert share_text(0.0, 0.0) == "-"
