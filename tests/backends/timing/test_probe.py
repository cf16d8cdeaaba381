"""What tells how fast the machine runs."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable

import numpy as np
import pytest
import tvm

from backends.devices import cpu_target, host
from backends.timing import (
    IMPATIENT,
    PATIENCE,
    PATIENCE_S,
    SHARED,
    SHARED_BYTES,
    Probe,
    helpers,
    most_waited_s,
)
from backends.timing.helpers import EXCHANGED_LINES, LINE, exchange_kernel
from backends.timing.probe import (
    CALM,
    FAR,
    FIRST_PATIENCE_S,
    LATER,
    REFILL,
    USUAL,
)
from tests.backends.lowering.kernels import TARGET
from tests.backends.timing.conftest import Machine

LATER_S, SHARE = LATER * PATIENCE_S, REFILL * PATIENCE_S


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
    assert machine.slept_s == pytest.approx(LATER_S / (1 - SHARE), rel=0.01)
    assert machine.slept_s <= most_waited_s(0.0)
    before_s = machine.slept_s
    probe.look()
    assert machine.slept_s - before_s < 0.1
    machine.now_s += 20.0
    probe.look()
    assert machine.slept_s - before_s == pytest.approx(20.0 * SHARE / (1 - SHARE), rel=0.02)


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
    assert machine.slept_s - before_s == pytest.approx(SHARE * passed_s, rel=0.05)


def test_cores_that_are_far_apart_are_waited_for(machine) -> None:
    farness = [1.0] * 10 + [3.0] * 25
    probe = Probe(machine.call, machine.alone, Exchange(machine, farness))
    assert [probe.look().last for _ in range(3)] == pytest.approx([1.0] * 3)
    assert machine.slept_s == pytest.approx(5 * 0.02)


def test_cores_that_are_far_apart_at_first_are_waited_for(machine) -> None:
    probe = Probe(machine.call, machine.alone, exchange := Exchange(machine, [3.0] * 25))
    assert probe.look()[:2] == pytest.approx((1.0, 1.0), rel=1e-2)
    assert machine.slept_s == pytest.approx(5 * 0.02)
    exchange.far = 3.0
    assert probe.look().first == pytest.approx(3.0, rel=1e-2)


def test_cores_that_are_always_far_apart_are_usual_when_waiting_does_not_help(machine) -> None:
    probe = Probe(machine.call, machine.alone, exchange := Exchange(machine))
    exchange.far = 3.0
    assert probe.look()[:2] == pytest.approx((1.0, 1.0))
    assert machine.slept_s == pytest.approx(PATIENCE_S, rel=0.05)
    assert machine.slept_s <= most_waited_s(0.0)


@pytest.mark.parametrize("patience_s", [0.0, 6.0, PATIENCE_S])
def test_who_has_less_time_waits_less(machine, monkeypatch, patience_s) -> None:
    monkeypatch.setenv(PATIENCE, str(patience_s))
    probe = Probe(machine.call, machine.alone, exchange := Exchange(machine))
    exchange.far = 3.0
    probe.look()
    assert machine.slept_s == pytest.approx(patience_s, rel=0.01, abs=0.05)
    machine.slow, before_s = 2.0, machine.slept_s
    probe.look()
    later_s = LATER * patience_s / (1 - REFILL * patience_s)
    assert machine.slept_s - before_s == pytest.approx(later_s, rel=0.05)
    assert machine.slept_s <= most_waited_s(0.0, patience_s)


def test_cores_that_have_no_cache_in_common_are_not_waited_for(machine) -> None:
    exchange = Exchange(machine, [3.0] * 100)
    probe = Probe(machine.call, machine.alone, exchange, together=False)
    assert [probe.look().last for _ in range(10)] == pytest.approx([1.0] * 10, rel=1e-2)
    assert machine.slept_s == 0


def test_cores_that_are_nearer_than_usual_teach_the_probe(machine) -> None:
    probe = Probe(machine.call, machine.alone, Exchange(machine, [0.5] * 100))
    for _ in range(20):
        probe.look()
    assert probe.look()[:2] == pytest.approx((2.0, 2.0), rel=2e-2)


def test_what_was_waited_for_is_told(machine) -> None:
    farness = [1.0] * 10 + [3.0] * 10
    probe = Probe(machine.call, machine.alone, Exchange(machine, farness))
    assert probe.look()[:2] == pytest.approx((1.0, 1.0))
    assert probe.look()[:2] == pytest.approx((3.0, 1.0), rel=1e-2)


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
    for _ in range(1000):
        assert probe.look().last > FAR
    assert [probe.look().last for _ in range(8000)][-1] == pytest.approx(1.0)


def test_the_pace_is_told_by_comparison_with_a_long_time(machine) -> None:
    probe = Probe(machine.call, machine.alone, Exchange(machine))
    paces = []
    for slow in [1.0] * 500 + [1.04] * 20:
        machine.slow = slow
        paces.append(probe.look().pace)
    assert paces[:500] == pytest.approx([1.0] * 500)
    assert paces[-1] == pytest.approx(1.04, abs=2e-3)


def test_the_pace_of_long_ago_is_forgotten(machine, monkeypatch) -> None:
    monkeypatch.setattr("backends.timing.probe.MEMORY", 50)
    probe = Probe(machine.call, machine.alone)
    for _ in range(500):
        probe.look()
    machine.slow = 0.97
    assert [probe.look().pace for _ in range(300)][-1] == pytest.approx(1.0, abs=1e-3)


def test_a_disturbed_machine_teaches_no_pace(machine) -> None:
    probe = Probe(machine.call, machine.alone)
    probe.look()
    machine.slow = CALM + 0.03
    for _ in range(100):
        probe.look()
    machine.slow = 1.0
    assert probe.look().pace == pytest.approx(1.0)


def test_no_more_is_waited_than_is_said(machine) -> None:
    def slow_call() -> None:
        machine.now_s += 0.01 if machine.slow > 1 else 1e-5

    probe = Probe(slow_call, machine.alone)
    probe.look()
    machine.slow, before_s = 2.0, machine.now_s
    probe.look()
    assert LATER_S < machine.now_s - before_s <= most_waited_s(0.0)


def test_probes_that_are_told_of_the_same_file_know_the_same(machine, monkeypatch, tmp_path):
    file = tmp_path / "known"
    file.write_bytes(bytes(SHARED_BYTES))
    monkeypatch.setenv(SHARED, str(file))
    Probe(machine.call, machine.alone).look()
    machine.slow = 1.2
    assert Probe(machine.call, machine.alone).look().last == pytest.approx(1.2, rel=1e-3)
    file.unlink()
    assert Probe(machine.call, machine.alone).look().last == pytest.approx(1.0)


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
    probe = Probe(machine.call, machine.alone, exchange := Exchange(machine))
    exchange.far = 3.0
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
    assert 0 < probe._known.least_s < 0.1


def test_the_helper_is_a_probe_of_this_machine() -> None:
    beside = helpers(TARGET)
    assert helpers(dict(reversed(TARGET.items()))) is beside
    look = beside.probe.look()
    assert all(1.0 <= slow < float("inf") for slow in look[:2])
    assert 0.5 < look.pace < float("inf")
    assert beside.probe._together is host().together


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
