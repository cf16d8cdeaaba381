"""Generations with known figures, as a search of a network of two sites would report them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.evaluation import CAPACITY, OK, Evaluation, Generation
from engine.tracking.mlflow_tracker import MlflowTracker
from genomes.gene import Gene
from genomes.genome import Genome

CONFIG: dict[str, Any] = {
    "name": "small",
    "model": {"spec": "resnet20_cifar", "input_shape": [1, 3, 32, 32], "weights": None},
    "backend": {"name": "cpu"},
    "search": {"strategy": "evolution", "mode": "constrained", "population": 2},
}
FACTS: dict[str, Any] = {
    "device": {"name": "Some CPU, 2 threads"},
    "versions": {"loopgene": "0.1.0"},
    "original": {"latency_s": 0.010, "capacity": 100.0},
    "sites": [{"name": "conv1"}, {"name": "conv2"}],
}


def evaluation(factor: int, latency_s: float | None, capacity: float = 100.0) -> Evaluation:
    """A candidate that bottlenecks a site by `factor`."""
    genome = Genome.of({"conv1": [Gene.of("bottleneck", loop="co", factor=factor)]})
    status = CAPACITY if latency_s is None else OK
    fitness = (1.0 if latency_s is None else latency_s,)
    return Evaluation(genome, status, fitness, latency_s, capacity, 2_500_000, 1234)


def generation(number: int) -> Generation:
    """Generation 0 takes 8 ms, every later one is 1 % faster than the one before it."""
    best = evaluation(2 + number, 0.008 * 0.99**number, 105.0)
    population = (best, evaluation(3 + number, 0.009), evaluation(4 + number, None, 90.0))
    return Generation(
        number=number,
        population=population,
        evaluated=population,
        best=best,
        rejected={"capacity": 1},
        seconds={"build": 2.0, "measure": 0.5},
        evaluations=3 * (number + 1),
        measurements=5,
        store_hits=number,
        elapsed_s=2.5 * (number + 1),
    )


def tracked(home: Path, run_dir: Path, **options: Any) -> MlflowTracker:
    """A tracker that has started."""
    tracker = MlflowTracker(None, "loopgene", home, **options)
    tracker.start(run_dir, CONFIG, FACTS)
    return tracker
