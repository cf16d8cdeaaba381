from __future__ import annotations

import time

import pytest

from engine.bench import turns


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
