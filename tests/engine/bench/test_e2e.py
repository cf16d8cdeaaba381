from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backends.network import CompiledNetwork
from engine import turns
from engine.bench import e2e, metaschedule_network
from engine.config import load_config
from genomes.gene import Gene
from genomes.genome import Genome
from tests.engine.bench.test_calibration import experiment

HALVES = Genome.of({"2": (Gene.of("bottleneck", loop="co", factor=2),)})
FAST = ("--rounds", "2", "--threads", "1")


def record(path: Path) -> None:
    """Leave a result beside an experiment, as a search does."""
    config = load_config(path).model_dump(mode="json")
    result = {"config": config, "found": {"genome": HALVES.to_json()}, "schedules": {}}
    path.with_suffix(".json").write_text(json.dumps(result))


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is compiled fast, and a peer that cannot be timed."""
    kept = {name: e2e.PEERS[name] for name in ("onnxruntime_ms", "eager_ms")}
    monkeypatch.setattr(e2e, "PEERS", {**kept, "tvm_default_ms": lambda _: None})


@pytest.mark.usefixtures("peers")
def test_found_and_original_are_compared_with_the_peers(tmp_path, monkeypatch, capfd) -> None:
    rests: list[None] = []
    monkeypatch.setattr(turns, "rest", lambda: rests.append(None))
    path = experiment(tmp_path, "cpu")
    record(path)
    assert e2e.main([str(path), *FAST]) == 0
    *told, last = capfd.readouterr().out.splitlines()
    ((name, row),) = json.loads(last).items()
    assert name.endswith("net.py:net")
    timed = {"found_ms", "ours_ms", "onnxruntime_ms", "eager_ms"}
    assert set(row) == {*timed, "speedup", "original_ratio"}
    assert len(rests) == len(timed) * (1 + 2), "threads of one peer spin while the next is timed"
    assert all(value > 0 for value in row.values())
    assert max(map(len, told[:-1])) <= 120
    assert any("original_ratio >= 1" in line for line in told)


@pytest.mark.usefixtures("peers")
def test_a_network_without_a_result_has_its_row(tmp_path, capfd) -> None:
    assert e2e.main([str(experiment(tmp_path, "cpu")), *FAST]) == 0
    (row,) = json.loads(capfd.readouterr().out.splitlines()[-1]).values()
    assert set(row) == {"ours_ms", "onnxruntime_ms", "eager_ms", "original_ratio"}


def test_what_deviates_from_torch_is_not_timed(tmp_path, monkeypatch, capfd) -> None:
    wrong = np.zeros((1, 10), np.float32)
    monkeypatch.setattr(e2e, "PEERS", {"eager_ms": lambda _: (lambda: None, wrong)})
    assert e2e.main([str(experiment(tmp_path, "cpu")), *FAST]) == 1
    assert "torch eager deviates from PyTorch by 1.0e+00" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml: no such file"),
        (["experiment.yaml"], "cannot read the recorded result"),
        (["table/experiment.yaml"], "the backend 'table' runs no whole networks; name another"),
        (["table/experiment.yaml", "--only", "vgg"], "no network has 'vgg' in its name; there"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capfd, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    experiment(tmp_path, "cpu").with_suffix(".json").write_text('{"version": 1')
    (tmp_path / "table").mkdir()
    experiment(tmp_path / "table", "table")
    assert e2e.main([*arguments, *FAST]) == 1
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("bench-e2e: error: ")
    assert message in line


def test_a_network_for_a_gpu_needs_one(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(CompiledNetwork, "trouble", lambda _: "there is no GPU; get one")
    assert e2e.main([str(experiment(tmp_path, "cuda")), *FAST]) == 1
    (line,) = capfd.readouterr().out.splitlines()
    assert line == "bench-e2e: error: there is no GPU; get one"


def test_figures() -> None:
    medians = {"found_ms": 2.0, "ours_ms": 8.0, "onnxruntime_ms": 10.0, "eager_ms": 30.0}
    assert e2e.figures(medians) == {**medians, "original_ratio": 1.25, "speedup": 4.0}
    del medians["found_ms"]
    assert "speedup" not in e2e.figures(medians)


def test_a_peer_that_rounds_is_not_compared_with() -> None:
    figures = e2e.figures({"ours_ms": 2.0, "eager_ms": 5.0, "graph_tf32_ms": 1.0})
    assert figures["original_ratio"] == 2.5


def test_every_shipped_experiment_has_targets() -> None:
    specs = [load_config(path).model.spec for path in metaschedule_network.EXPERIMENTS]
    assert specs == list(e2e.TARGETS)
