"""A network, an experiment and a metric that are small enough for tests of the search."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.capacity.base import CapacityMetric, Score
from engine.config import ExperimentConfig, parse_config
from genomes.genome import Genome
from genomes.sites import Sites


def small_cnn() -> nn.Module:
    """Digits in, ten scores out; three sites, two of them of one shape."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


class Slow(nn.Module):
    """Takes its time, and leaves the input as it is."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.03)
        return x


def slow_cnn() -> nn.Module:
    return nn.Sequential(Slow(), *small_cnn())


def unrepeatable_cnn() -> nn.Module:
    """Other weights in every process."""
    model = small_cnn()
    nn.init.constant_(model[0].bias, int.from_bytes(os.urandom(2)) / 65536)
    return model


def no_cnn() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def segmenter() -> nn.Module:
    return nn.Conv2d(1, 10, 3, padding=1)


def experiment(home: Path, **overrides: Any) -> ExperimentConfig:
    """A search of seconds; overrides are dotted paths with `__` for the dot."""
    data: dict[str, Any] = {
        "name": "toy",
        "model": {"spec": f"{Path(__file__)}:small_cnn", "input_shape": [1, 1, 8, 8]},
        "data": {"kind": "digits"},
        "backend": {"name": "table"},
        "search": {"population": 8, "generations": 4},
        "capacity": {"batch": 8},
        "tracking": {"mlflow": False},
        "home": str(home),
    }
    for dotted, value in overrides.items():
        *path, last = dotted.split("__")
        at = data
        for key in path:
            at = at.setdefault(key, {})
        at[last] = value
    data["search"].setdefault("tune", 0)
    return parse_config(data)


class ParameterMetric(CapacityMetric):
    """Capacity is the number of parameters of the sites: cheap, and known beforehand.

    Attributes:
        scored: All genomes that it was asked for.
    """

    name = "parameters"

    def __init__(self, sites: Sites) -> None:
        self._sites = sites
        self.scored: list[Genome] = []

    @property
    def original(self) -> float:
        return self._value(Genome())

    @property
    def identity(self) -> str:
        return "parameters"

    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        self.scored += genomes
        return [Score(self._value(genome)) for genome in genomes]

    def per_site(self, genome: Genome) -> dict[str, float]:
        return {n: float(nest.parameters) for n, nest in self._sites.nests(genome).items()}

    def _value(self, genome: Genome) -> float:
        return sum(self.per_site(genome).values())
