"""A machine of which a test says how fast it is."""

from __future__ import annotations

import time

import pytest

from backends.timing import IMPATIENT, SHARED


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
    monkeypatch.delenv(SHARED, raising=False)
    return Machine(monkeypatch)
