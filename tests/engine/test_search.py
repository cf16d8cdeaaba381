from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.base import Failed, FailureKind
from engine import problem as problem_module
from engine import search as search_module
from engine.checkpoint import CheckpointError
from engine.evaluation import OK, Evaluation, Generation
from engine.network import NetworkTimes
from engine.runs import RunDir
from engine.search import run_experiment
from engine.tracking import NullTracker
from genomes.genome import Genome
from tests.engine.toys import experiment

VOLATILE = ("seconds", "work", "elapsed_s", "measurements", "store_hits", "config")
"""What depends on the clock, on how often a search was interrupted, or on its folder."""


class Recorded(NullTracker):
    """Remembers what it was told."""

    def __init__(self):
        self.calls = []

    def start(self, run_dir, config, facts):
        self.calls.append(("start", facts))

    def generation(self, generation):
        self.calls.append(("generation", generation.number))

    def finalist(self, name, evaluation, metrics):
        self.calls.append((name, metrics))

    def artifact(self, path):
        self.calls.append(("artifact", path.name))

    def finish(self, state, metrics):
        self.calls.append((state, metrics))


class Killed(BaseException):
    """As sudden as a signal."""


def run_dir(home, name="run"):
    path = home / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def without(data, names=VOLATILE):
    return {k: v for k, v in data.items() if k not in names}


def outcome(path):
    """All that a search leaves behind, apart from times."""
    run = RunDir(path)
    checkpoint = json.loads(run.checkpoint_path.read_text())
    history = [without(record) for record in run.history()]
    return without(run.result()), without(checkpoint["state"]), history


@pytest.mark.usefixtures("cheap_metric")
class TestRun:
    def test_it_finds_something_faster_and_says_what(self, tmp_path):
        config = experiment(tmp_path, capacity__tolerance=0.5, search__generations=6)
        seen: list[tuple[Generation, Evaluation]] = []
        result = run_experiment(
            config, run_dir(tmp_path), on_generation=lambda *args: seen.append(args)
        )
        record = RunDir(tmp_path / "run").result()
        assert record == result.record
        assert (result.state, result.reason) == ("finished", "generations")
        assert (record["version"], record["name"], record["improved"]) == (1, "toy", True)
        assert record["found"]["latency_s"] < 0.9 * record["original"]["latency_s"]
        assert record["found"]["capacity"] >= 0.5 * record["original"]["capacity"]
        assert len(Genome.from_json(record["found"]["genome"]))
        assert [f["name"] for f in record["finalists"]] == [f"finalist-{i}" for i in (1, 2, 3)]
        assert record["device"]["fingerprint"]
        for name in ("before_us", "after_us"):
            total = sum(site[name] for site in record["sites"]) / 1e6
            network = record["original" if name == "before_us" else "found"]
            assert total == pytest.approx(network["latency_s"])
        numbers = [generation.number for generation, _ in seen]
        assert numbers == list(range(7))
        best = [generation.best.latency_s for generation, _ in seen]
        assert best == sorted(best, reverse=True)
        assert seen[-1][1].latency_s == record["original"]["latency_s"]

    def test_counts_and_times_add_up(self, tmp_path):
        config = experiment(
            tmp_path,
            backend={"name": "table", "failures": {"crashed": 0.1}},
            capacity__tolerance=0.5,
            search={"population": 8, "generations": 5, "offspring": 10},
        )
        seen = []
        record = run_experiment(
            config, run_dir(tmp_path), on_generation=lambda *args: seen.append(args[0])
        ).record
        counts, history = record["counts"], RunDir(tmp_path / "run").history()
        assert counts["evaluations"] == sum(len(g.evaluated) for g in seen) <= 58
        assert counts["evaluations"] == seen[-1].evaluations == history[-1]["evaluations"]
        for name in ("rejected", "dropped_genes"):
            total: dict[str, int] = {}
            for line in history:
                for reason, count in line[name].items():
                    total[reason] = total.get(reason, 0) + count
            assert counts[name] == total
        statuses = [e.status for g in seen for e in g.evaluated]
        assert counts["rejected"] == {s: statuses.count(s) for s in set(statuses) - {OK}}
        assert set(counts["rejected"]) == {"capacity", "crashed"}
        assert not any(c.isdigit() for reason in counts["dropped_genes"] for c in reason)
        assert counts["dropped_genes"]
        assert seen[-1].measurements == record["work"]["measurements"] > 0
        assert record["seconds"]["propose"] > 0
        assert record["seconds"]["checkpoint"] > 0
        stages = sum(v for k, v in record["seconds"].items() if k != "elapsed")
        assert stages <= record["seconds"]["elapsed"]

    def test_nothing_faster_is_said_plainly(self, tmp_path):
        config = experiment(
            tmp_path, search__transformations=["depthwise"], search__presets=["depthwise"]
        )
        record = run_experiment(config, run_dir(tmp_path)).record
        assert record["improved"] is False
        assert "no candidate beat the original" in record["note"]
        assert record["found"]["latency_s"] == record["original"]["latency_s"]
        assert record["found"]["genome"]["sites"] == {}
        assert record["finalists"] == []
        assert all(site["before_us"] == site["after_us"] for site in record["sites"])

    def test_pareto(self, tmp_path):
        config = experiment(
            tmp_path, search__mode="pareto", search__population=16, search__generations=10
        )
        record = run_experiment(config, run_dir(tmp_path)).record
        latencies = [point["latency_s"] for point in record["pareto"]]
        assert latencies == sorted(latencies)
        assert len(latencies) > 3
        assert min(p["capacity"] for p in record["pareto"]) < record["original"]["capacity"]
        assert len(record["finalists"]) == 3

    def test_every_fitness_is_finite(self, tmp_path):
        for mode in ("constrained", "pareto"):
            config = experiment(
                tmp_path / mode,
                backend={"name": "table", "failures": {"crashed": 0.1}},
                search__mode=mode,
                capacity__tolerance=0.5,
            )
            run_experiment(config, run_dir(tmp_path / mode))
            history = RunDir(tmp_path / mode / "run").history()
            fitness = [f for line in history for c in line["candidates"] for f in c["fitness"]]
            assert fitness
            assert all(map(math.isfinite, fitness))

    def test_the_seed_decides_and_the_globals_do_not(self, tmp_path):
        def searched(name, seed, disturb):
            def between(*_):
                if disturb:
                    random.random()
                    np.random.random()
                    torch.rand(1)

            config = experiment(tmp_path / name, search__seed=seed, capacity__tolerance=0.5)
            run_experiment(config, run_dir(tmp_path / name), on_generation=between)
            return outcome(tmp_path / name / "run")

        first = searched("first", 1, disturb=False)
        before = random.getstate(), torch.get_rng_state()
        assert searched("again", 1, disturb=False)[0::2] == first[0::2]
        # Nothing in the search but DEAP draws from the globals, and DEAP gives them back.
        assert random.getstate() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
        assert searched("disturbed", 1, disturb=True)[0::2] == first[0::2]
        assert searched("other", 2, disturb=False)[0::2] != first[0::2]

    def test_the_tracker_is_told_in_order(self, tmp_path):
        tracker = Recorded()
        config = experiment(tmp_path, capacity__tolerance=0.5, search__generations=1)
        run_experiment(config, run_dir(tmp_path), tracker)
        names = [name for name, _ in tracker.calls]
        assert names == [
            "start",
            "generation",
            "generation",
            "finalist-1",
            "finalist-2",
            "finalist-3",
            "artifact",
            "finished",
        ]
        facts = tracker.calls[0][1]
        assert facts["original"]["latency_s"] > 0
        assert tracker.calls[-1][1]["latency_speedup"] > 1

    def test_the_checkpoint_does_not_grow(self, tmp_path):
        sizes = []
        config = experiment(tmp_path, capacity__tolerance=0.5, search__generations=30)
        path = run_dir(tmp_path) / "checkpoint.json"

        def note(*_):
            sizes.append(path.stat().st_size)

        run_experiment(config, run_dir(tmp_path), on_generation=note)
        # Genomes grow a little; something kept for each generation would make it five times.
        assert sizes[-1] < 2 * sizes[5]


@pytest.mark.usefixtures("cheap_metric")
class TestLimits:
    def searched(self, tmp_path, **overrides):
        config = experiment(tmp_path, **overrides)
        return run_experiment(config, run_dir(tmp_path), resume=True)

    def test_evaluations(self, tmp_path):
        result = self.searched(tmp_path, budget__evaluations=19, search__generations=50)
        assert (result.state, result.reason) == ("stopped", "evaluations")
        assert result.record["counts"]["evaluations"] == 19

    def test_patience(self, tmp_path):
        result = self.searched(
            tmp_path, search={"population": 8, "generations": 50, "patience": 2}
        )
        assert (result.state, result.reason) == ("stopped", "patience")
        best = [line["best"]["latency_s"] for line in RunDir(tmp_path / "run").history()]
        assert best[-1] == best[-3]
        assert len(best) < 51

    def test_wall_clock_ends_within_a_generation_and_can_go_on(self, tmp_path, monkeypatch):
        measured = []
        original = search_module.Search._between

        def between(self):
            measured.append(1)
            if len(measured) == 30:
                self._started_s -= 100.0
            original(self)

        monkeypatch.setattr(search_module.Search, "_between", between)
        result = self.searched(tmp_path, budget__wall_clock_s=50, capacity__tolerance=0.5)
        assert (result.state, result.reason) == ("stopped", "wall_clock")
        done = result.record["counts"]["generations"]
        assert done < 5
        assert result.record["original"]["latency_s"] > 0
        again = self.searched(tmp_path, budget__wall_clock_s=1000, capacity__tolerance=0.5)
        assert again.record["counts"]["generations"] == 5
        undisturbed = tmp_path / "other"
        config = experiment(undisturbed, capacity__tolerance=0.5)
        run_experiment(config, run_dir(undisturbed))
        assert outcome(tmp_path / "run") == outcome(undisturbed / "run")

    def test_an_exhausted_space_is_finished(self, tmp_path):
        result = self.searched(
            tmp_path, search__transformations=["depthwise"], search__presets=["depthwise"]
        )
        assert (result.state, result.reason) == ("finished", "exhausted")
        assert result.record["counts"]["evaluations"] <= 4

    def test_a_finished_search_can_be_given_more_generations(self, tmp_path):
        self.searched(tmp_path, search__generations=2)
        more = self.searched(tmp_path, search__generations=4)
        assert more.record["counts"]["generations"] == 5
        other = tmp_path / "other"
        run_experiment(experiment(other), run_dir(other))
        assert outcome(other / "run") == outcome(tmp_path / "run")


@pytest.mark.usefixtures("cheap_metric")
class TestResume:
    def config(self, home):
        return experiment(
            home,
            backend={"name": "table", "failures": {"crashed": 0.05}},
            search={"population": 8, "generations": 2},
            capacity__tolerance=0.5,
        )

    @pytest.mark.parametrize("mode", ["constrained", "pareto"])
    @pytest.mark.parametrize("where", ["save_checkpoint", "history_record", "write_atomic"])
    def test_it_ends_as_if_never_interrupted(self, tmp_path, monkeypatch, where, mode):
        def config(home):
            return self.config(home).model_copy(
                update={"search": self.config(home).search.model_copy(update={"mode": mode})}
            )

        whole = tmp_path / "whole"
        run_experiment(config(whole), run_dir(whole))
        expected = outcome(whole / "run")
        real = getattr(search_module, where)
        for after in (False, True):
            home = tmp_path / f"{after}"
            calls = []

            def killing(*args, after=after, calls=calls):
                calls.append(1)
                dies = len(calls) % 2
                done = real(*args) if after or not dies else None
                if dies:
                    raise Killed
                return done

            monkeypatch.setattr(search_module, where, killing)
            deaths = 0
            while True:
                try:
                    run_experiment(config(home), run_dir(home), resume=True)
                    break
                except Killed:
                    deaths += 1
            assert deaths >= 1
            assert outcome(home / "run") == expected

    def test_it_measures_nothing_twice(self, tmp_path, monkeypatch):
        run_experiment(self.config(tmp_path), run_dir(tmp_path))
        again = run_experiment(self.config(tmp_path), run_dir(tmp_path, "again")).record
        assert again["work"]["measurements"] == 0
        assert again["work"]["capacities"] == 0
        assert again["work"]["store_hits"] > 0

    def test_a_run_that_has_begun_is_not_overwritten(self, tmp_path):
        run_experiment(self.config(tmp_path), run_dir(tmp_path))
        before = outcome(tmp_path / "run")
        with pytest.raises(CheckpointError, match="has begun; go on with --resume"):
            run_experiment(self.config(tmp_path), run_dir(tmp_path))
        assert outcome(tmp_path / "run") == before

    def test_another_config_is_refused(self, tmp_path):
        run_experiment(self.config(tmp_path), run_dir(tmp_path))
        with pytest.raises(CheckpointError, match="another experiment"):
            run_experiment(experiment(tmp_path, search__seed=9), run_dir(tmp_path), resume=True)

    def test_a_damaged_checkpoint_loses_nothing(self, tmp_path):
        run_experiment(self.config(tmp_path), run_dir(tmp_path))
        path = tmp_path / "run" / "checkpoint.json"
        path.write_bytes(path.read_bytes()[:-100])
        before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
        with pytest.raises(CheckpointError, match="damaged"):
            run_experiment(self.config(tmp_path), run_dir(tmp_path), resume=True)
        assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before

    @pytest.mark.parametrize(
        ("error", "state"),
        [(KeyboardInterrupt, "interrupted"), (ZeroDivisionError, "failed")],
    )
    def test_the_tracker_hears_how_it_ended(self, tmp_path, error, state):
        tracker = Recorded()

        def fail(*_):
            raise error

        with pytest.raises(error):
            run_experiment(self.config(tmp_path), run_dir(tmp_path), tracker, fail)
        assert tracker.calls[-1] == (state, {})


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
            ["original"],
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
        seconds = {"original": 1.0, "finalist-1": 0.9, "finalist-2": 0.7, "finalist-3": 0.8}
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

    def test_the_rest_is_measured_once(self, tmp_path, monkeypatch):
        def times(name, variant):
            return NetworkTimes((random.Random(name).random() + 1.0,), 0.0)

        first, _, _ = self.searched(tmp_path, monkeypatch, times, search__generations=1)
        _, asked, _ = self.searched(tmp_path, monkeypatch, times, search__generations=2)
        assert len(asked) == 1
        assert len(first["finalists"]) == 3


class TestFisher:
    def test_a_search_with_the_real_metric(self, tmp_path):
        config = experiment(tmp_path, capacity={"batch": 16, "tolerance": 0.1})
        record = run_experiment(config, run_dir(tmp_path)).record
        assert record["original"]["capacity"] > 0
        assert record["found"]["capacity"] >= 0.9 * record["original"]["capacity"] * (1 - 1e-6)
        assert record["work"]["capacities"] > 5

    def test_killed_twenty_times_it_ends_as_if_it_had_not_been(self, tmp_path):
        script = [sys.executable, "-m", "tests.engine.killed_search", str(tmp_path), "20", "1"]
        root = Path(__file__).parents[2]
        done = subprocess.run(script, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        kills, generations = map(int, done.stdout.split())
        assert kills == 20
        assert generations >= 3, "it was always killed at the same place"
        assert outcome(tmp_path / "killed" / "run") == outcome(tmp_path / "whole" / "run")
