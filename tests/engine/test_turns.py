from __future__ import annotations

import time

import pytest

from backends.timing import Look
from backends.timing.probe import IMPATIENT
from engine import turns
from engine.turns import interleaved, quiet


def test_every_round_goes_through_all_workloads(monkeypatch) -> None:
    monkeypatch.setattr(turns, "_turn_s", lambda run: run())
    order: list[str] = []
    times = {"a": iter((3.0, 2.0, 4.0)), "b": iter((5.0, 7.0, 6.0))}

    def way(name: str):
        return lambda: (order.append(name), next(times[name]))[1]

    assert turns.least_s({"x": {"a": way("a")}, "y": {"b": way("b")}}, 3) == {
        "x": {"a": 2.0},
        "y": {"b": 5.0},
    }
    assert order == ["a", "b"] * 3


def test_disturbed_calls_do_not_count(monkeypatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.05)
    calls = 0

    def mostly_slow() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.001 if calls % 8 == 0 else 0.006)

    found = turns.least_s({"x": {"a": mostly_slow}}, 2)["x"]["a"]
    assert found == pytest.approx(0.001, abs=0.004)


def test_functions_are_timed_in_turns() -> None:
    calls: list[str] = []
    times = interleaved({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=4)
    assert [len(values) for values in times.values()] == [4, 4]
    order = [n for n, before in zip(calls[4:], ["", *calls[4:]], strict=False) if n != before]
    assert order == ["a", "b"] * 4


def test_a_disturbed_turn_is_repeated(monkeypatch) -> None:
    monkeypatch.delenv(IMPATIENT)
    clock = iter([0.0, 9.0, 9.0, 15.0, 15.0, 19.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    # Before the first attempt and after each: the third is between two that are calm.
    looks = iter(Look(slow, slow) for slow in [1.0, 1.4, 1.0, 1.01])
    calls: list[None] = []
    assert turns._calm_s(lambda: calls.append(None), 2, lambda: next(looks)) == 2.0
    assert len(calls) == 6


def test_a_disturbed_turn_counts_where_nobody_waits(monkeypatch) -> None:
    clock = iter([0.0, 9.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls: list[None] = []
    assert turns._calm_s(lambda: calls.append(None), 2, lambda: Look(1.4, 1.4)) == 4.5
    assert len(calls) == 2


def test_turns_in_which_everything_is_slow_are_left_out() -> None:
    times = {"a": [1.0, 1.5, 1.1, 1.0, 9.0], "b": [10.0, 14.0, 10.1, 10.2, 10.0]}
    assert quiet(times) == {"a": [1.0, 1.1, 1.0], "b": [10.0, 10.1, 10.2]}
    assert quiet({"a": [2.0]}) == {"a": [2.0]}
    assert quiet({}) == {}


def test_who_rests_waits_until_nothing_spins(monkeypatch) -> None:
    # Before and after each of three looks: busy, busy, as good as idle.
    used_s = iter([0.0, 0.01, 0.01, 0.015, 0.02, 0.021])
    slept_s: list[float] = []
    monkeypatch.setattr(time, "process_time", lambda: next(used_s))
    monkeypatch.setattr(time, "sleep", slept_s.append)
    turns.rest()
    assert slept_s == [turns.LOOK_S] * 3


def test_nobody_rests_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(turns, "LONGEST_REST_S", 0.05)
    monkeypatch.setattr(time, "process_time", iter(range(1000)).__next__)
    began = time.perf_counter()
    turns.rest()
    assert 0.05 <= time.perf_counter() - began < 5


def test_turns_begin_rested_where_it_is_asked_for(monkeypatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(turns, "rest", lambda: events.append("rest"))
    runs = {"a": lambda: time.sleep(0.03)}
    interleaved(runs, 2, settle_s=0)
    assert not events
    interleaved(runs, 2, settle_s=0, rested=True)
    turns.least_s({"x": runs}, 1)
    assert events == ["rest"] * 4, "the calls that are only counted begin rested, too"
