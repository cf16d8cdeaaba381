from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine import search as search_module
from engine.checkpoint import CheckpointError
from engine.search import run_experiment
from tests.engine.searches import Recorded, outcome, run_dir
from tests.engine.toys import experiment


class Killed(BaseException):
    """As sudden as a signal."""


@pytest.mark.usefixtures("cheap_metric")
class TestResume:
    def config(self, home):
        return experiment(
            home,
            backend={"name": "table", "failures": {"crashed": 0.05}},
            search={"population": 8, "generations": 2, "tune": 2},
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
