from __future__ import annotations

import random

import pytest

from backends.base import Failed, FailureKind
from engine import problem as problem_module
from engine.network import NetworkTimes
from engine.search import run_experiment
from tests.engine.searches import Recorded, run_dir
from tests.engine.toys import experiment


@pytest.mark.usefixtures("cheap_metric")
class TestEndToEnd:
    """Whole networks: only the timing is replaced, by a function of the genome."""

    def searched(self, tmp_path, monkeypatch, times, **overrides):
        asked = []

        def measure(variants):
            asked.append(variants)
            return {name: times(name, variant) for name, variant in variants.items()}

        monkeypatch.setattr(problem_module, "end_to_end", lambda config, backend: measure)
        config = experiment(tmp_path, capacity__tolerance=0.5, **overrides)
        tracker = Recorded()
        result = run_experiment(config, run_dir(tmp_path), tracker, resume=True)
        return result.record, asked, tracker

    def test_the_rest_is_added_and_finalists_are_measured_with_the_original(
        self, tmp_path, monkeypatch
    ):
        def times(name, variant):
            return NetworkTimes((1.0,) if name == "original" else (0.5,), 1e-7)

        record, asked, tracker = self.searched(tmp_path, monkeypatch, times)
        assert record["original"]["latency_s"] == pytest.approx(1.0)
        assert record["original"]["end_to_end_s"] == 1.0
        assert record["found"]["end_to_end_s"] == 0.5
        assert [list(variants) for variants in asked] == [
            ["original", "small"],
            ["original", "finalist-1", "finalist-2", "finalist-3"],
        ]
        assert all(variant.schedules for variant in asked[1].values())
        assert (
            "finalist-1",
            pytest.approx(
                {
                    "end_to_end_ms": 500.0,
                    "end_to_end_error": 1e-7,
                    "original_end_to_end_ms": 1000.0,
                }
            ),
        ) in tracker.calls
        assert tracker.calls[-1][1]["end_to_end_speedup"] == pytest.approx(2.0)

    def test_the_fastest_whole_network_wins(self, tmp_path, monkeypatch):
        seconds = {
            "original": 1.0,
            "small": 0.1,
            "finalist-1": 0.9,
            "finalist-2": 0.7,
            "finalist-3": 0.8,
        }
        record, _, _ = self.searched(
            tmp_path, monkeypatch, lambda name, _: NetworkTimes((seconds[name],), 0.0)
        )
        assert record["found"]["name"] == "finalist-2"
        assert record["found"]["genome"] == record["finalists"][1]["genome"]

    def test_slower_whole_networks_leave_the_original(self, tmp_path, monkeypatch):
        record, _, _ = self.searched(tmp_path, monkeypatch, lambda *_: NetworkTimes((1.0,), 0.0))
        assert record["improved"] is False
        assert record["found"]["end_to_end_s"] == 1.0
        assert len(record["finalists"]) == 3

    def test_failures_are_recorded(self, tmp_path, monkeypatch):
        def times(name, _):
            if name == "finalist-1":
                return Failed(FailureKind.CRASHED, "signal 11")
            return NetworkTimes((1.0 if name == "original" else 0.5,), 0.0)

        record, _, _ = self.searched(tmp_path, monkeypatch, times)
        assert record["finalists"][0]["end_to_end_failure"] == "crashed: signal 11"
        assert record["found"]["name"] == "finalist-2"

    def test_an_original_that_cannot_be_compiled_leaves_sums_of_kernels(
        self, tmp_path, monkeypatch
    ):
        record, _, _ = self.searched(
            tmp_path, monkeypatch, lambda *_: Failed(FailureKind.BUILD_ERROR, "no")
        )
        assert record["improved"] is True
        assert "end_to_end_s" not in record["found"]

    def test_without_the_original_the_fastest_whole_network_is_found(self, tmp_path, monkeypatch):
        def times(name, _):
            if name in ("original", "finalist-1"):
                return Failed(FailureKind.WRONG_RESULT, "no")
            return NetworkTimes((0.5 if name == "finalist-3" else 0.6,), 0.0)

        record, _, _ = self.searched(tmp_path, monkeypatch, times)
        assert record["found"]["name"] == "finalist-3"

    def test_no_network_that_computes_something_else_is_found(self, tmp_path, monkeypatch):
        def times(name, _):
            kind = FailureKind.WRONG_RESULT if name == "finalist-1" else FailureKind.CRASHED
            return Failed(kind, "no")

        record, _, _ = self.searched(tmp_path, monkeypatch, times)
        assert record["found"]["name"] == "finalist-2"

    def test_the_rest_is_measured_once(self, tmp_path, monkeypatch):
        def times(name, variant):
            return NetworkTimes((random.Random(name).random() + 1.0,), 0.0)

        first, _, _ = self.searched(tmp_path, monkeypatch, times, search__generations=1)
        _, asked, _ = self.searched(tmp_path, monkeypatch, times, search__generations=2)
        assert len(asked) == 1
        assert len(first["finalists"]) == 3
