from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        (9.996e-6, "10.0 us"),
        (99.9999e-6, "100 us"),
        (999.9e-6, "1.00 ms"),
        (0.9996, "1.00 s"),
        (1.234, "1.23 s"),
        (1234.0, "1230 s"),
    ],
)
def test_time(seconds: float | None, text: str) -> None:
    assert time_text(seconds) == text


@given(
    st.one_of(
        st.floats(0, 1e5),
        # Close to where the number of decimals or the unit changes.
        st.builds(
            lambda exponent, change: 10.0**exponent * (1 + change),
            st.integers(-6, 5),
            st.floats(-0.01, 0.01),
        ),
    )
)
def test_a_time_has_three_digits_and_reads_back(seconds: float) -> None:
    number, unit = time_text(seconds).split()
    read_s = float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    # Half of the third digit, or of the smallest step, 0.01 us.
    assert abs(read_s - seconds) <= max(0.005 * seconds, 0.005e-6) * (1 + 1e-9)
    assert len(number.replace(".", "").strip("0")) <= 3
    assert len(number.replace(".", "")) == 3 or (unit == "s" and float(number) >= 1000)
    assert float(number) >= 1 or unit == "us"


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
