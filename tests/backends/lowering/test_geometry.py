from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.lowering.geometry import Span, statement_forms
from tests.backends.lowering.kernels import after, conv, gene

SIZES = st.integers(1, 12)


@given(st.integers(-8, 4), st.integers(1, 3), st.integers(1, 3), SIZES, SIZES, st.integers(1, 5))
def test_the_share_of_taps_inside_is_what_counting_gives(
    first, step, dilation, size, computed, taps
):
    span = (computed - 1) * step + (taps - 1) * dilation + 1
    reads = [first + y * step + k * dilation for y in range(computed) for k in range(taps)]
    inside = sum(0 <= at < size for at in reads)
    share = Span(first, step, dilation, span, size).share_inside(computed, taps)
    assert share == pytest.approx(inside / len(reads))


def test_needed_multiply_adds_are_those_with_the_input():
    (form,) = statement_forms(conv(8, 16, 4))
    assert form.needed_macs == pytest.approx(16 * 8 * 10 * 10)
    (mirrored,) = statement_forms(conv(8, 16, 4, padding_mode="reflect"))
    assert mirrored.needed_macs == 16 * 8 * 12 * 12
    parts = after(conv(8, 16, 4), gene("split_domain", loop="ho", parts=2))
    assert sum(f.needed_macs for f in statement_forms(parts)) == pytest.approx(form.needed_macs)
