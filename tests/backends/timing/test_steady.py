"""Timings on a machine that others disturb."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.timing import Look, steady, steady_difference
from backends.timing.steady import MOST, SLIGHT, Timings


def given_in_turn(values: Iterator[float]) -> Callable[[], float]:
    return lambda: next(values)


def timings(
    timed: Callable[[], float], slowdowns: Callable[[], float], *arguments: Any, **options: Any
) -> Timings:
    """Those of a machine that is not waited for."""

    def look() -> Look:
        now = slowdowns()
        return Look(now, now)

    return steady(timed, look, *arguments, **options)


def repeated(*values: float) -> Callable[[], float]:
    return given_in_turn(itertools.cycle(values))


def test_a_quiet_machine_is_asked_no_more_often_than_wanted() -> None:
    times = iter([3.0, 3.01, 3.1, 3.02, 3.03])
    assert timings(given_in_turn(times), repeated(1.0), 5).times_s == (3.0, 3.01, 3.1, 3.02, 3.03)
    assert next(times, None) is None


def test_timings_between_slow_probes_are_left_out() -> None:
    # Before the first timing and after each: the second and third are beside a slow probe.
    slowdowns = given_in_turn(iter([1.0, 1.01, 1.3, 1.0, 1.0, 1.02]))
    times = given_in_turn(iter([2.0, 1.9, 2.0, 2.01, 2.02]))
    assert timings(times, slowdowns, 3).times_s == (2.0, 2.01, 2.02)


def test_a_timing_that_was_interrupted_is_left_out() -> None:
    assert timings(repeated(90.0, 2.0, 2.0, 2.0), repeated(1.0), 3).times_s == (2.0, 2.0, 2.0)


def test_a_machine_without_rest_gives_the_fastest_timings() -> None:
    times = list(range(100, 100 + 3 * MOST))
    assert timings(given_in_turn(iter(times[::-1])), repeated(2.0), 3).times_s == (100, 101, 102)


def test_a_disturbance_that_has_passed_when_it_was_waited_for_spoils_what_was_timed() -> None:
    looks = iter([Look(1.0, 1.0), Look(4.0, 1.0), Look(1.0, 1.0), Look(2.0, 1.0), Look(1.0, 1.0)])
    taken = given_in_turn(iter([9.0, 5.0, 8.0, 5.1]))
    assert steady(taken, lambda: next(looks), 2) == Timings((5.0, 5.1), calm=True)
    assert next(looks, None) is None


@pytest.mark.parametrize(
    ("slow", "hopeless_s", "calm"),
    [(1.0, None, True), (1.0, 1.0, True), (1.08, None, True), (1.2, None, False), (9, 1.0, False)],
)
def test_timings_tell_whether_the_machine_was_calm(slow, hopeless_s, calm) -> None:
    found = timings(repeated(5.0), repeated(slow), 3, hopeless_s)
    assert found.calm is calm
    assert found.hopeless is (calm and hopeless_s is not None)


def test_one_timing_is_like_no_other() -> None:
    taken = iter([13.0, 10.0, 10.3, 10.1])
    assert timings(given_in_turn(taken), repeated(1.08), 1).times_s == (10.0,)
    assert next(taken, None) is None


@pytest.mark.parametrize(
    ("slow", "times", "kept"),
    [
        (1.08, [2.02, 2.0, 2.03, 2.1, 2.01, 2.01], (2.0, 2.01, 2.01)),
        # Nothing is believed of a machine that is slower,
        (1.2, [2.0] * 11 + [1.9], (1.9, 2.0, 2.0)),
        # or of timings that are not alike.
        (1.08, list(range(10, 22)), (10, 11, 12)),
    ],
)
def test_a_machine_that_stays_a_little_slow_is_believed_when_timings_are_alike(
    slow, times, kept
) -> None:
    taken = iter(times)
    assert timings(given_in_turn(taken), repeated(slow), 3).times_s == kept
    assert next(taken, None) is None


@pytest.mark.parametrize(
    ("hopeless_s", "kept"), [(None, (5.0, 5.0, 5.0)), (4.0, (5.0,)), (6.0, (5.0, 5.0, 5.0))]
)
def test_one_timing_of_a_hopeless_kernel_is_kept(hopeless_s, kept) -> None:
    assert timings(repeated(9.0, 5.0, 5.0, 5.0), repeated(1.0), 3, hopeless_s).times_s == kept


def test_disturbed_timings_make_no_kernel_hopeless() -> None:
    times = given_in_turn(iter([9.0, 9.0, 9.0, 5.0, 5.0, 5.0]))
    slowdowns = given_in_turn(iter([1.4, 1.4, 1.4, 1.0, 1.0, 1.0, 1.0]))
    assert timings(times, slowdowns, 2, hopeless_s=6.0).times_s == (5.0, 5.0)


def test_no_timing_begins_when_time_has_run_out(machine) -> None:
    def timed() -> float:
        machine.now_s += 1.0
        return 1.0

    assert timings(timed, repeated(2.0), 5, most_s=2.5).times_s == (1.0, 1.0, 1.0)
    assert timings(timed, repeated(2.0), 5, most_s=0.0).times_s == (1.0,)

    def waits() -> float:
        machine.now_s += 10.0
        return 2.0

    assert timings(timed, waits, 5, most_s=2.5).times_s == (1.0, 1.0, 1.0)


@given(
    st.lists(st.floats(1e-6, 1e-3), min_size=4 * MOST, max_size=4 * MOST),
    st.lists(
        st.tuples(st.floats(1.0, 3.0), st.floats(0.9, 1.1)),
        min_size=4 * MOST + 1,
        max_size=4 * MOST + 1,
    ),
    st.integers(1, 4),
)
def test_as_many_as_wanted_come_back_and_all_were_measured(times, states, repeats) -> None:
    looks = iter([Look(slow, slow, pace) for slow, pace in states])
    kept = steady(given_in_turn(iter(times)), lambda: next(looks), repeats).times_s
    beside = list(itertools.pairwise(states))
    paces = [(a[1] + b[1]) / 2 if max(a[0], b[0]) <= SLIGHT else 1.0 for a, b in beside]
    usual = [seconds / pace for seconds, pace in zip(times, paces, strict=True)]
    assert len(kept) == repeats
    assert not Counter(kept) - Counter(usual)


def test_timings_are_those_of_the_usual_pace() -> None:
    looks = iter([Look(1.0, 1.0, pace) for pace in (1.0, 0.96, 1.04, 1.0)])
    taken = given_in_turn(iter([2.0 * 0.98, 2.0, 2.0 * 1.02]))
    assert steady(taken, lambda: next(looks), 3).times_s == pytest.approx((2.0, 2.0, 2.0))


def test_a_machine_that_is_busy_tells_nothing_of_the_pace() -> None:
    def look() -> Look:
        return Look(1.4, 1.4, 1.3)

    assert steady(repeated(2.0), look, 2) == Timings((2.0, 2.0), calm=False)
    # That is the pace after it was waited for.
    looks = iter([Look(1.0, 1.0), Look(4.0, 1.0, 0.5)])
    assert steady(lambda: 4.0, lambda: next(looks), 1, most_s=0.0) == Timings((4.0,), calm=False)


@pytest.mark.parametrize(
    ("slow", "differences", "median", "calm"),
    [
        ([1.0], [1.0, -9.0, 2.0, 8.0, 3.0], 2.0, True),
        # The calmest ones count,
        ([1.0, 1.0, 1.3, 1.0, 1.0, 1.0, 1.0], [1.0, 9.0, -9.0, 2.0, 2.0, 3.0, 3.0], 2.0, True),
        # and those of a machine that stays a little slow,
        ([1.08], [1.0, 2.0, 3.0, 4.0, 5.0] * 2, 3.0, True),
        ([1.2], [1.0, 2.0, 3.0, 4.0, 5.0] * MOST, 3.0, False),
    ],
)
def test_a_difference_is_the_median_of_calm_ones(slow, differences, median, calm) -> None:
    slowdowns = itertools.chain(slow, itertools.repeat(slow[-1]))
    taken = iter(differences)

    def look() -> Look:
        now = next(slowdowns)
        return Look(now, now)

    assert steady_difference(lambda: next(taken), look, 5) == (median, calm)
    assert next(taken, None) is None
