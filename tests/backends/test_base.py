"""What outcomes and options say of kernels in networks of other sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Losses, Measured, MeasureOptions

MB = 1 << 20
OPTIONS = MeasureOptions(weight_bytes=44 * MB, cached_bytes=16 * MB)


@pytest.mark.parametrize(
    ("weights_mb", "distance"),
    [(0, 0.0), (16, 0.0), (30, 0.5), (44, 1.0), (58, 1.5), (64, 48 / 28), (1000, 48 / 28)],
)
def test_a_network_lies_between_the_last_cache_and_the_original(weights_mb, distance) -> None:
    assert OPTIONS.distance(weights_mb * MB) == pytest.approx(distance)


@pytest.mark.parametrize(("weight_mb", "cached_mb"), [(44, 0), (16, 16), (10, 16), (0, 16)])
def test_one_size_tells_nothing_of_others(weight_mb, cached_mb) -> None:
    options = MeasureOptions(weight_bytes=weight_mb * MB, cached_bytes=cached_mb * MB)
    assert not options.knows_caches
    assert options.distance(3 * MB) == options.distance(300 * MB) == 1.0


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 30), st.integers(17, 1000))
def test_more_weights_are_never_nearer(one, other, original_mb) -> None:
    options = replace(OPTIONS, weight_bytes=original_mb * MB)
    fewer, more = sorted((one, other))
    assert 0.0 <= options.distance(fewer) <= options.distance(more) <= 2.0


def test_a_kernel_takes_what_it_loses_in_a_network() -> None:
    kernel = Measured((5.0, 6.0, 9.0), lost=Losses(far_s=3.0, near_s=1.0))
    assert [kernel.among(distance) for distance in (0.0, 0.5, 1.0, 2.0)] == [4.0, 5.0, 6.0, 8.0]
