"""Timings on a machine that others disturb."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from backends.devices import cpu_target
from backends.timing import Look, Probe, helpers, most_waited_s, steady
from backends.timing.helpers import EXCHANGED_LINES, LINE, exchange_kernel
from backends.timing.steady import (
    FIRST_PATIENCE_S,
    IMPATIENT,
    MOST,
    PATIENCE_S,
    REFILL,
    USUAL,
    Timings,
)
from tests.backends.lowering.kernels import TARGET


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
    st.lists(st.floats(1.0, 3.0), min_size=4 * MOST + 1, max_size=4 * MOST + 1),
    st.integers(1, 4),
)
def test_as_many_as_wanted_come_back_and_all_were_measured(times, slowdowns, repeats) -> None:
    kept = timings(given_in_turn(iter(times)), given_in_turn(iter(slowdowns)), repeats).times_s
    assert len(kept) == repeats
    assert all(kept.count(t) <= times.count(t) for t in kept)


class Machine:
    """Calls that take as long as the machine says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.slow = 0.0, 1.0
        self.slept_s = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s += seconds

    def call(self) -> None:
        self.now_s += 1e-5 * self.slow

    def alone(self) -> None:
        self.now_s += 1e-5


@pytest.fixture
def machine(monkeypatch) -> Machine:
    monkeypatch.delenv(IMPATIENT)
    return Machine(monkeypatch)


def test_the_probe_compares_with_the_least_that_it_ever_took(machine) -> None:
    probe = Probe(machine.call, machine.alone)
    for slow, expected in [(1.2, 1.0), (1.2, 1.0), (1.0, 1.0), (1.2, 1.2), (1.0, 1.0)]:
        machine.slow = slow
        assert probe.look().last == pytest.approx(expected, rel=1e-3)
    assert machine.slept_s == 0


def test_the_probe_forgets_what_was_long_ago(machine) -> None:
    probe = Probe(machine.call, machine.alone)
    probe.look()
    machine.slow = 1.03
    assert probe.look().last == pytest.approx(1.03, rel=1e-3)
    assert [probe.look().last for _ in range(1000)][-1] == pytest.approx(1.0, rel=1e-3)


def test_missing_cores_are_waited_for_but_not_for_ever(machine) -> None:
    probe = Probe(machine.call, machine.alone)
    probe.look()
    machine.slow = 2.0
    assert probe.look().last == pytest.approx(2.0, rel=1e-2)
    # What comes back meanwhile is waited, too.
    assert machine.slept_s == pytest.approx(PATIENCE_S / (1 - REFILL), rel=0.01)
    assert machine.slept_s <= most_waited_s(0.0)
    before_s = machine.slept_s
    probe.look()
    assert machine.slept_s - before_s < 0.1
    machine.now_s += 20.0
    probe.look()
    assert machine.slept_s - before_s == pytest.approx(20.0 * REFILL / (1 - REFILL), rel=0.02)


class Exchange:
    """An exchange that takes so many times as long as usual, or the next of the values."""

    def __init__(self, machine: Machine, values: Iterable[float] = ()) -> None:
        self._machine, self._values = machine, iter(values)
        self.far = 1.0

    def __call__(self) -> None:
        self._machine.now_s += USUAL * 1e-5 * next(self._values, self.far)


def test_patience_comes_back_while_the_machine_is_asked_again_and_again(machine) -> None:
    probe = Probe(machine.call, machine.alone)
    probe.look()
    machine.slow = 2.0
    probe.look()
    before_s, start_s = machine.slept_s, machine.now_s
    for _ in range(400):
        machine.now_s += 0.05
        probe.look()
    passed_s = machine.now_s - start_s
    assert machine.slept_s - before_s == pytest.approx(REFILL * passed_s, rel=0.05)


def test_cores_that_are_far_apart_are_waited_for(machine) -> None:
    farness = [1.0] * 10 + [3.0] * 25
    probe = Probe(machine.call, machine.alone, Exchange(machine, farness))
    assert [probe.look().last for _ in range(3)] == pytest.approx([1.0] * 3)
    assert machine.slept_s == pytest.approx(5 * 0.02)


def test_cores_that_are_far_apart_at_first_are_waited_for(machine) -> None:
    probe = Probe(machine.call, machine.alone, exchange := Exchange(machine, [3.0] * 25))
    assert probe.look() == pytest.approx((1.0, 1.0), rel=1e-2)
    assert machine.slept_s == pytest.approx(5 * 0.02)
    exchange.far = 3.0
    assert probe.look().first == pytest.approx(3.0, rel=1e-2)


def test_cores_that_are_always_far_apart_are_usual_when_waiting_does_not_help(machine) -> None:
    probe = Probe(machine.call, machine.alone, exchange := Exchange(machine))
    exchange.far = 3.0
    assert probe.look() == pytest.approx((1.0, 1.0))
    assert machine.slept_s == pytest.approx(PATIENCE_S, rel=0.05)
    assert machine.slept_s <= most_waited_s(0.0)


def test_cores_that_are_nearer_than_usual_teach_the_probe(machine) -> None:
    probe = Probe(machine.call, machine.alone, Exchange(machine, [0.5] * 100))
    for _ in range(20):
        probe.look()
    assert probe.look() == pytest.approx((2.0, 2.0), rel=2e-2)


def test_what_was_waited_for_is_told(machine) -> None:
    farness = [1.0] * 10 + [3.0] * 10
    probe = Probe(machine.call, machine.alone, Exchange(machine, farness))
    assert probe.look() == pytest.approx((1.0, 1.0))
    assert probe.look() == pytest.approx((3.0, 1.0), rel=1e-2)


def test_one_quick_exchange_does_not_make_the_others_slow(machine) -> None:
    probe = Probe(machine.call, machine.alone, Exchange(machine, [1.0] * 50 + [0.3] * 5))
    assert [probe.look().last for _ in range(100)] == pytest.approx([1.0] * 100)


def test_how_fast_one_core_exchanges_with_itself_is_not_taken_for_usual(machine) -> None:
    exchange = Exchange(machine)
    probe = Probe(machine.call, machine.alone, exchange)
    probe.look()
    machine.slow, exchange.far = 2.0, 0.3
    assert probe.look().last == pytest.approx(2.0, rel=1e-2)
    machine.slow, exchange.far = 1.0, 1.0
    assert probe.look().last == pytest.approx(1.0, rel=1e-2)


def test_cores_that_come_to_share_one_during_an_exchange_teach_nothing_either(machine) -> None:
    exchange = Exchange(machine)

    def shares_one_core() -> None:
        exchange()
        machine.slow = 2.0

    probe = Probe(machine.call, machine.alone, exchange)
    probe.look()
    probe._exchange, exchange.far = shares_one_core, 0.3
    for _ in range(10):
        machine.slow = 1.0
        probe._now()
    machine.slow, exchange.far, probe._exchange = 1.0, 1.0, exchange
    assert probe.look().last == pytest.approx(1.0, rel=1e-2)


def test_cores_that_stay_far_apart_become_usual(machine) -> None:
    probe = Probe(machine.call, machine.alone, exchange := Exchange(machine))
    probe.look()
    exchange.far = 2.0
    assert probe.look().last == pytest.approx(2.0, rel=1e-2)
    assert [probe.look().last for _ in range(1000)][-1] == pytest.approx(1.0)


def test_a_probe_that_starts_without_its_cores_waits_for_them(machine) -> None:
    machine.slow = 2.0
    calls = itertools.count()

    def call() -> None:
        machine.slow = 2.0 if next(calls) < 250 else 1.0
        machine.call()

    probe = Probe(call, machine.alone)
    assert probe.look().last == pytest.approx(1.0)
    assert next(calls) > 250


@pytest.mark.parametrize(
    ("shared_s", "waited_s", "slow"), [(3.0, 3.0, 2.0), (60.0, FIRST_PATIENCE_S, 1.0)]
)
def test_a_probe_waits_for_its_cores_for_as_long_as_a_host_takes_to_move_them(
    machine, shared_s, waited_s, slow
) -> None:
    """In the second case two cores are never seen, and one is taken for all there is."""
    ends_s = shared_s

    def call() -> None:
        machine.slow = 2.0 if machine.now_s < ends_s else 1.0
        machine.call()

    probe = Probe(call, machine.alone)
    probe.look()
    assert machine.now_s == pytest.approx(waited_s, abs=0.1)
    ends_s = float("inf")
    assert probe.look().first == pytest.approx(slow, rel=1e-2)


def test_nothing_is_waited_for_by_who_says_so(machine, monkeypatch) -> None:
    monkeypatch.setenv(IMPATIENT, "1")
    probe = Probe(machine.call, machine.alone)
    probe.look()
    machine.slow = 2.0
    assert probe.look().last == pytest.approx(2.0, rel=1e-2)
    assert machine.slept_s == 0


def test_forked_processes_share_what_the_probe_knows() -> None:
    def call() -> None:
        time.sleep(1e-4)

    probe = Probe(call, call)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            probe.look()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert 0 < probe._shared[0] < 0.1


def test_the_helper_is_a_probe_of_this_machine() -> None:
    beside = helpers(TARGET)
    assert helpers(dict(reversed(TARGET.items()))) is beside
    assert all(1.0 <= slow < float("inf") for slow in beside.probe.look())


def test_threads_exchange_what_they_have_written() -> None:
    one, two = np.zeros((2, EXCHANGED_LINES, LINE), np.float32), np.zeros((2, 1, 1), np.float32)
    two[1] = 1.0
    one += two
    call = exchange_kernel(cpu_target(2), 2)
    arguments = [tvm.runtime.tensor(array) for array in (one, np.full_like(one, np.nan))]
    call(*arguments)
    np.testing.assert_array_equal(arguments[1].numpy(), one[::-1])
    assert helpers(cpu_target(2)).probe._exchange is not None
    assert helpers(cpu_target(1)).probe._exchange is None
