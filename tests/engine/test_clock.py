"""The wall clock of a search: its budget, over all resumptions."""

from __future__ import annotations

import time

import pytest

from engine.clock import Clock, OutOfTimeError


def clock(spent_s: float, limit_s: float | None, kept: float = 0.0) -> Clock:
    return Clock(time.monotonic() - spent_s, limit_s, kept)


def test_without_a_budget_there_is_always_time() -> None:
    clock(1e9, None).check()


def test_a_spent_budget_ends_the_search() -> None:
    clock(5, 10).check()
    with pytest.raises(OutOfTimeError):
        clock(11, 10).check()


def test_seconds_of_earlier_processes_count() -> None:
    resumed = clock(5, 10)
    resumed.resume(6)
    assert resumed.elapsed_s == pytest.approx(11, abs=1)
    assert resumed.out_of_time


def test_what_is_kept_can_be_spent_once_it_is_released() -> None:
    nearly = clock(9, 10, kept=0.2)
    assert nearly.out_of_time
    nearly.release()
    nearly.check()
