from __future__ import annotations

import json
from pathlib import Path

import yaml

from engine.bench.calibration import main

NETWORK = """
import torch
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
"""


def experiment(folder: Path, backend: str) -> Path:
    (folder / "net.py").write_text(NETWORK)
    path = folder / "experiment.yaml"
    config = {
        "name": "toy",
        "model": {"spec": f"{folder / 'net.py'}:net", "input_shape": [1, 3, 16, 16]},
        "capacity": {"batch": 4, "tolerance": 0.9},
        "backend": {"name": backend},
        "home": str(folder / "home"),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_candidates_are_measured_both_ways(tmp_path, capfd) -> None:
    options = ["--candidates", "2", "--builds", "2", "--rounds", "2"]
    assert main([str(experiment(tmp_path, "cpu")), *options]) == 0
    out = capfd.readouterr().out
    assert "times as long in the network; the rest takes" in " ".join(out.split())
    assert "measured 2 of 2 builds" in out
    report = json.loads(out.splitlines()[-1])
    assert report["candidates"] == 2
    assert report["spearman"] in (-1, 1)
    assert report["repeatability"] in (-1, 1)
    assert report["median_error"] >= 0


def test_a_backend_without_networks_is_refused(tmp_path, capfd) -> None:
    assert main([str(experiment(tmp_path, "table"))]) == 1
    assert "runs no whole networks" in capfd.readouterr().out
