from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.evaluation import Evaluation, Generation
from engine.tracking import SafeTracker, Tracker, create_tracker, mlflow_store
from engine.tracking.safe import one_line, uninterrupted
from tests.engine.tracking.synthetic import CONFIG, FACTS, evaluation, generation
from tests.engine.tracking.test_mlflow_store import make_read_only
from tests.engine.tracking.test_mlflow_tracker import runs_of, steps


class Fragile(Tracker):
    """Raises in the methods that `broken` names, and counts the calls."""

    def __init__(self, *broken: str, error: Exception | None = None) -> None:
        self.broken = set(broken)
        self.calls: list[str] = []
        self.error = error or RuntimeError("no tracking today\nwith a second line")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise self.error

    def start(self, run_dir: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self._called("start")

    def generation(self, generation: Generation) -> None:
        self._called("generation")

    def finalist(self, name: str, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        self._called("finalist")

    def artifact(self, path: Path) -> None:
        self._called("artifact")

    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        self._called("finish")


METHODS = ["start", "generation", "finalist", "artifact", "finish"]


def search(tracker: Tracker, run_dir: Path = Path("run"), generations: int = 1) -> None:
    """What a search tells its tracker."""
    tracker.start(run_dir, CONFIG, FACTS)
    for number in range(generations):
        tracker.generation(generation(number))
    tracker.finalist("finalist-1", evaluation(2, 0.008), {})
    tracker.artifact(run_dir / "report.md")
    tracker.finish("finished", {})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_raises_costs_one_line(caplog, method: str):
    inner = Fragile(method)
    search(SafeTracker(inner))
    (warning,) = warnings(caplog)
    assert "RuntimeError: no tracking today)" in warning
    assert "the search goes on" in warning
    assert "\n" not in warning
    assert inner.calls == (["start"] if method == "start" else METHODS)


def test_everything_raising_costs_one_line(caplog):
    search(SafeTracker(Fragile(*METHODS)), generations=5)
    assert len(warnings(caplog)) == 1


def test_it_is_off_after_some_failures_in_a_row():
    inner = Fragile("generation")
    search(SafeTracker(inner, patience=3), generations=10)
    assert inner.calls == ["start", "generation", "generation", "generation"]


def test_a_success_in_between_keeps_it_on(caplog):
    inner = Fragile("generation")
    safe = SafeTracker(inner, patience=2)
    safe.start(Path("run"), CONFIG, FACTS)
    for number in range(6):
        inner.broken = {"generation"} if number % 2 else set()
        safe.generation(generation(number))
    assert inner.calls.count("generation") == 6
    assert len(warnings(caplog)) == 1


def test_it_is_off_when_failures_cost_too_much_time(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr("engine.tracking.safe.monotonic", lambda: now_s[0])

    class Slow(Fragile):
        def generation(self, generation: Generation) -> None:
            now_s[0] += 20
            super().generation(generation)

    inner = Slow("generation")
    search(SafeTracker(inner, patience=100, lost_s=30), generations=10)
    assert inner.calls.count("generation") == 2


def test_an_interrupt_is_no_failure():
    inner = Fragile("generation")
    inner.error = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        search(SafeTracker(inner))


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_waits_for_the_end_of_a_call(method: str):
    done = []

    class Interrupted(Fragile):
        def _called(self, name: str) -> None:
            if name == method:
                # Twice, as an impatient user does.
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            done.append(name)

    safe = SafeTracker(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        search(safe)
    assert done == METHODS[: METHODS.index(method) + 1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if method != "finish":
        safe.finish("interrupted", {})
        assert done[-1] == "finish"


def test_an_interrupt_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_nothing_is_told_before_the_start():
    inner = Fragile()
    SafeTracker(inner).finish("interrupted", {})
    assert inner.calls == []


def test_one_line_of_an_error():
    assert one_line(ValueError("a\n[SQL: insert]")) == "ValueError: a"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 1000))) < 250


def safe_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setattr(mlflow_store, "BUSY_S", 0.02)
    return create_tracker(True, None, "loopgene", home)


def test_a_read_only_store(home: Path, run_dir: Path, monkeypatch, caplog):
    make_read_only(home / "mlflow.db")
    search(safe_on(home, monkeypatch), run_dir)
    (warning,) = warnings(caplog)
    assert "at the start" in warning
    assert "readonly database" in warning


def test_a_home_that_is_a_file(home: Path, run_dir: Path, monkeypatch, caplog):
    (home.parent / "file").write_text("")
    search(safe_on(home.parent / "file", monkeypatch), run_dir)
    assert len(warnings(caplog)) == 1


def test_a_store_deleted_during_the_search(home: Path, run_dir: Path, monkeypatch, caplog):
    tracker = safe_on(home, monkeypatch)
    tracker.start(run_dir, CONFIG, FACTS)
    tracker.generation(generation(0))
    (home / "mlflow.db").unlink()
    shutil.rmtree(home / "mlflow-artifacts")
    for number in range(1, 4):
        tracker.generation(generation(number))
    tracker.finish("finished", {})
    (warning,) = warnings(caplog)
    assert "generation 1" in warning
    assert "unable to open database file" in warning
    assert not (home / "mlflow.db").exists()


def test_what_a_lock_kept_out_is_written_later(home: Path, run_dir: Path, monkeypatch, caplog):
    tracker = safe_on(home, monkeypatch)
    tracker.start(run_dir, CONFIG, FACTS)
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        started_s = time.monotonic()
        tracker.generation(generation(0))
        tracker.generation(generation(1))
        # MLflow alone would have waited for 20 s each.
        assert time.monotonic() - started_s < 10
    tracker.generation(generation(2))
    tracker.finish("finished", {})
    (warning,) = warnings(caplog)
    assert "database is locked" in warning
    assert steps(home, runs_of(home)[0].info.run_id, "best/latency_ms") == [0, 1, 2]


def test_a_server_that_is_not_there(run_dir: Path, home: Path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    search(create_tracker(True, "http://127.0.0.1:9", "loopgene", home), run_dir)
    (warning,) = warnings(caplog)
    assert "at the start" in warning


def test_a_uri_that_means_nothing(run_dir: Path, home: Path, caplog):
    search(create_tracker(True, "nonsense://x", "loopgene", home), run_dir)
    assert len(warnings(caplog)) == 1
