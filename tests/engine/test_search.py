from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from engine.clock import Clock
from engine.evaluation import OK, Evaluation, Generation
from engine.runs import RunDir
from engine.search import run_experiment
from genomes.genome import Genome
from tests.engine.searches import Recorded, outcome, run_dir
from tests.engine.toys import experiment


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
            backend={"name": "table", "failures": {"crashed": 0.4}},
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
        original = Clock.check

        def check(self):
            measured.append(1)
            if len(measured) == 30:
                self._started_s -= 100.0
            original(self)

        monkeypatch.setattr(Clock, "check", check)
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

    def test_what_a_first_generation_measured_in_time_is_not_lost(self, tmp_path, monkeypatch):
        measured = []
        original = Clock.check

        def check(self):
            measured.append(1)
            if len(measured) == 8:
                self._started_s -= 100.0
            original(self)

        monkeypatch.setattr(Clock, "check", check)
        result = self.searched(tmp_path, budget__wall_clock_s=50, capacity__tolerance=0.5)
        assert (result.state, result.reason) == ("stopped", "wall_clock")
        assert result.record["counts"]["generations"] == 0
        assert 0 < result.record["counts"]["evaluations"] < 8
        assert result.record["improved"]
        assert result.record["found"]["latency_s"] < result.record["original"]["latency_s"]

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
