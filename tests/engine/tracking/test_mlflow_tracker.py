from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Run

from engine.tracking import create_tracker
from engine.tracking.mlflow_tracker import TABLES, MlflowTracker
from genomes.genome import Genome
from tests.engine.tracking.synthetic import CONFIG, FACTS, evaluation, generation, tracked

END_TO_END = {"end_to_end_ms": 7.5, "original_end_to_end_ms": 10.0}


def client_of(home: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home}/mlflow.db")


def runs_of(home: Path) -> list[Run]:
    """All runs, the oldest first."""
    client = client_of(home)
    experiment = client.get_experiment_by_name("loopgene")
    return list(client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]))


def steps(home: Path, run_id: str, name: str) -> list[int]:
    return [point.step for point in client_of(home).get_metric_history(run_id, name)]


def artifacts(home: Path, run_id: str) -> Path:
    return home / "mlflow-artifacts" / run_id / "artifacts"


def test_a_search_is_one_run_with_metrics_by_generation(home: Path, run_dir: Path):
    (run_dir / "config.yaml").write_text("name: small\n")
    tracker = tracked(home, run_dir)
    for number in range(3):
        tracker.generation(generation(number))
    tracker.finish("finished", {"found_end_to_end_ms": 8.0, "original_end_to_end_ms": 10.0})

    (run,) = runs_of(home)
    assert run.info.run_id == tracker.run_id
    assert run.info.run_name == run_dir.name
    assert run.info.status == "FINISHED"
    assert run.data.params["search.population"] == "2"
    assert run.data.params["model.weights"] == "null"
    assert run.data.tags["state"] == "finished"
    assert run.data.tags["device"] == "Some CPU, 2 threads"
    assert run.data.tags["folder"] == str(run_dir)
    assert run.data.tags["mlflow.note.content"].startswith("**1.25x faster**")
    assert run.data.metrics["best/latency_ms"] == pytest.approx(8 * 0.99**2)
    assert run.data.metrics["rejected/capacity"] == 3
    assert run.data.metrics["result/found_end_to_end_ms"] == 8.0
    assert steps(home, run.info.run_id, "best/latency_ms") == [0, 1, 2]
    kept = artifacts(home, run.info.run_id)
    names = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml",
        "best_genome.json",
        "population.json",
        "population/generation_0000.json",
        "population/generation_0001.json",
        "population/generation_0002.json",
    }
    best = Genome.loads((kept / "best_genome.json").read_text())
    assert best == generation(2).best.genome


def test_one_call_and_one_time_for_a_generation(home: Path, run_dir: Path, monkeypatch):
    tracker = tracked(home, run_dir)
    calls = []
    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, **batch: Any) -> Any:
        calls.append(batch)
        return log_batch(self, run_id, **batch)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    tracker.generation(generation(0))
    (batch,) = calls
    assert len(batch["metrics"]) > 10
    assert len({metric.timestamp for metric in batch["metrics"]}) == 1


def test_the_fluent_state_of_mlflow_is_left_alone(home: Path, run_dir: Path):
    before = mlflow.get_tracking_uri()
    tracker = tracked(home, run_dir)
    tracker.generation(generation(0))
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


def test_tables_of_the_latest_populations_are_listed_for_the_viewer(home: Path, run_dir: Path):
    tracker = tracked(home, run_dir)
    tracker.generation(generation(0))
    tracker.generation(replace(generation(1), number=12345))
    tag = runs_of(home)[0].data.tags["mlflow.loggedArtifacts"]
    tables = [table["path"] for table in json.loads(tag)]
    assert tables[:3] == [
        "population.json",
        "population/generation_12345.json",
        "population/generation_12344.json",
    ]
    assert len(tables) == TABLES + 1
    # MLflow cuts a longer tag, and its own log_table fails ever after.
    assert len(tag) < 8000


def test_the_cost_of_a_generation_does_not_grow(home: Path, run_dir: Path):
    tracker = tracked(home, run_dir)
    statements: list[int] = []

    def count(*_: Any) -> None:
        statements[-1] += 1

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    try:
        for number in range(40):
            statements.append(0)
            tracker.generation(generation(number))
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", count)
    assert statements[5] > 0
    assert len(set(statements[1:])) == 1


def test_long_parameters_and_infinite_metrics_do_not_reach_the_store(home: Path, run_dir: Path):
    tracker = MlflowTracker(None, "loopgene", home)
    tracker.start(run_dir, {**CONFIG, "sites": ["x" * 50] * 500}, FACTS)
    tracker.generation(replace(generation(0), best=evaluation(2, math.inf, math.nan)))
    tracker.finish("finished", {"speedup": math.nan})
    (run,) = runs_of(home)
    assert len(run.data.params["sites"]) <= 6000
    assert "best/latency_ms" not in run.data.metrics
    assert "result/speedup" not in run.data.metrics
    assert max(run.data.metrics.values()) < 1e6


def test_more_parameters_than_mlflow_takes_at_once(home: Path, run_dir: Path):
    tracker = MlflowTracker(None, "loopgene", home)
    tracker.start(run_dir, {f"key{i}": i for i in range(250)}, {})
    assert len(runs_of(home)[0].data.params) == 250


def test_finalists_are_child_runs_with_their_genomes(home: Path, run_dir: Path):
    tracker = tracked(home, run_dir)
    found = evaluation(4, 0.008, 101.0)
    tracker.finalist("finalist-1", found, END_TO_END)
    tracker.finish("finished", {})
    parent, child = runs_of(home)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.run_name == f"{run_dir.name}/finalist-1"
    assert child.info.status == "FINISHED"
    assert child.data.metrics == pytest.approx(
        {
            "finalist/end_to_end_ms": 7.5,
            "finalist/original_end_to_end_ms": 10.0,
            "finalist/kernels_ms": 8.0,
            "finalist/kernels_speedup": 1.25,
            "finalist/capacity_ratio": 1.01,
            "finalist/MMACs": 2.5,
            "finalist/parameters": 1234,
        }
    )
    kept = artifacts(home, child.info.run_id)
    assert Genome.loads((kept / "genome.json").read_text()) == found.genome
    assert (kept / "genome.txt").read_text() == "conv1: bottleneck(factor=4, loop=co)"


def test_artifacts_keep_their_folder(home: Path, run_dir: Path):
    plots = run_dir / "artifacts" / "plots"
    plots.mkdir(parents=True)
    (plots / "a.png").write_bytes(b"png")
    (run_dir / "artifacts" / "report.md").write_text("report")
    (run_dir / "result.json").write_text("{}")
    tracker = tracked(home, run_dir)
    for path in (plots / "a.png", run_dir / "artifacts" / "report.md", run_dir / "result.json"):
        tracker.artifact(path)
    kept = artifacts(home, str(tracker.run_id))
    assert (kept / "plots" / "a.png").read_bytes() == b"png"
    assert (kept / "report.md").exists()
    assert (kept / "result.json").exists()


def test_a_resumed_search_continues_its_run_without_duplicates(home: Path, run_dir: Path):
    first = tracked(home, run_dir)
    for number in range(3):
        first.generation(generation(number))
    # Killed after generation 2 was tracked and before its checkpoint.
    second = tracked(home, run_dir)
    for number in range(2, 5):
        second.generation(generation(number))
    second.finish("finished", {})
    (run,) = runs_of(home)
    assert second.run_id == first.run_id == run.info.run_id
    assert steps(home, run.info.run_id, "best/latency_ms") == [0, 1, 2, 3, 4]
    assert run.data.metrics["seconds/build"] == 10.0
    assert run.data.metrics["rejected/capacity"] == 5


def test_finalists_of_a_resumed_search_are_the_same_runs(home: Path, run_dir: Path):
    for _ in range(2):
        tracker = tracked(home, run_dir)
        tracker.finalist("finalist-1", evaluation(4, 0.008), END_TO_END)
        tracker.finish("stopped", {"found_latency_ms": 8.0})
    parent, child = runs_of(home)
    assert steps(home, child.info.run_id, "finalist/end_to_end_ms") == [0, 1]
    assert steps(home, parent.info.run_id, "result/found_latency_ms") == [0, 1]


def test_a_resumed_search_runs_again(home: Path, run_dir: Path):
    tracked(home, run_dir).finish("failed", {})
    assert runs_of(home)[0].info.status == "FAILED"
    tracked(home, run_dir)
    (run,) = runs_of(home)
    assert (run.info.status, run.data.tags["state"]) == ("RUNNING", "running")


def test_parameters_that_a_resumption_changes_do_not_stop_it(home: Path, run_dir: Path):
    tracked(home, run_dir)
    tracker = MlflowTracker(None, "loopgene", home)
    changed = {**CONFIG["search"], "population": 99, "generations": 7}
    tracker.start(run_dir, {**CONFIG, "search": changed}, FACTS)
    (run,) = runs_of(home)
    assert run.data.params["search.population"] == "2"
    assert run.data.params["search.generations"] == "7"


def test_a_kill_between_making_a_run_and_noting_it(home: Path, run_dir: Path):
    first = tracked(home, run_dir)
    first.finalist("finalist-1", evaluation(4, 0.008), END_TO_END)
    file = run_dir / "mlflow.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "run_id": None, "finalists": {}}))
    second = tracked(home, run_dir)
    second.finalist("finalist-1", evaluation(4, 0.008), END_TO_END)
    assert second.run_id == first.run_id
    assert len(runs_of(home)) == 2


def test_a_run_that_the_user_deleted_is_not_written_to(home: Path, run_dir: Path):
    first = tracked(home, run_dir)
    client_of(home).delete_run(first.run_id)
    second = tracked(home, run_dir)
    assert second.run_id != first.run_id
    second.generation(generation(5))
    assert steps(home, str(second.run_id), "best/latency_ms") == [5]


def test_another_store_gets_a_run_of_its_own(home: Path, run_dir: Path):
    first = tracked(home, run_dir)
    other = MlflowTracker(None, "another experiment", home)
    other.start(run_dir, CONFIG, FACTS)
    assert other.run_id != first.run_id


@pytest.mark.parametrize(
    ("state", "status"),
    [("finished", "FINISHED"), ("stopped", "FINISHED"), ("failed", "FAILED"), ("?", "KILLED")],
)
def test_states(home: Path, run_dir: Path, state: str, status: str):
    tracker = tracked(home, run_dir)
    tracker.finish(state, {})
    run = client_of(home).get_run(str(tracker.run_id))
    assert (run.info.status, run.data.tags["state"]) == (status, state)


def test_plots_are_drawn_again_from_time_to_time(home: Path, run_dir: Path, monkeypatch):
    drawn = []

    def draw_run(folder: Path, original: Any) -> list[Path]:
        path = folder / "artifacts" / "plots" / "best_latency.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"png")
        drawn.append((folder, original))
        return [path]

    monkeypatch.setattr("engine.plots.draw_run", draw_run)
    now_s = [1000.0]
    monkeypatch.setattr("engine.tracking.mlflow_tracker.monotonic", lambda: now_s[0])
    tracker = tracked(home, run_dir, refresh_s=60)
    tracker.generation(generation(0))
    assert drawn == []
    now_s[0] += 61
    tracker.generation(generation(1))
    tracker.generation(generation(2))
    assert drawn == [(run_dir, FACTS["original"])]
    assert (artifacts(home, str(tracker.run_id)) / "plots" / "best_latency.png").exists()
    now_s[0] += 61
    tracker.generation(generation(3))
    assert len(drawn) == 2


def test_slow_drawing_is_done_less_often(home: Path, run_dir: Path, monkeypatch):
    drawn = []
    now_s = [1000.0]

    def draw_run(folder: Path, original: Any) -> list[Path]:
        now_s[0] += 10
        drawn.append(now_s[0])
        return []

    monkeypatch.setattr("engine.plots.draw_run", draw_run)
    monkeypatch.setattr("engine.tracking.mlflow_tracker.monotonic", lambda: now_s[0])
    tracker = tracked(home, run_dir, refresh_s=60)
    for number in range(20):
        now_s[0] += 61
        tracker.generation(generation(number))
    # 20 minutes; 10 s may be spent every 500 s.
    assert 2 <= len(drawn) <= 3


def test_kill_at_any_moment_leaves_a_readable_store(home: Path, run_dir: Path):
    script = [sys.executable, "-m", "tests.engine.tracking.tracked_forever"]
    command = [*script, str(home), str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 3:
                break
        process.send_signal(signal.SIGKILL)
    (run,) = runs_of(home)
    assert run.info.status == "RUNNING"
    written = steps(home, run.info.run_id, "best/latency_ms")
    assert written == list(range(len(written)))
    assert len(written) >= 4
    # Every metric of a generation is there, or none.
    assert steps(home, run.info.run_id, "seconds/measure") == written
    tracker = tracked(home, run_dir)
    tracker.generation(generation(len(written)))
    tracker.finish("finished", {})
    assert tracker.run_id == run.info.run_id
    assert steps(home, run.info.run_id, "best/latency_ms") == list(range(len(written) + 1))


def test_the_factory(home: Path):
    assert create_tracker(False, None, "loopgene", home).run_id is None
    assert not (home / "mlflow-artifacts").exists()
