"""What the search itself costs for each candidate, and whether that grows with time.

    python -m engine.bench.overhead [--generations 205]

A whole search with a backend that answers from a formula: ResNet-34 for CIFAR, population 64,
the real strategy, measurement store, checkpoint and MLflow tracking.  The seconds of the
capacity metric (here a count of parameters) and of the backend (proposing schedules, answering
with latencies) are not the engine's and are left out; everything else from one generation to
the next counts.  The last line is one JSON object with `ms_per_candidate` and `growth`, the
cost around generation 200 divided by that around generation 10.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backends.base import Outcome
from backends.table import TableBackend
from engine.bench import command
from engine.bench.command import Target
from engine.capacity.base import CapacityMetric, Score
from engine.config import ExperimentConfig, parse_config
from engine.evaluation import Evaluation, Generation
from engine.problem import open_problem
from engine.runs import RunDir
from engine.search import search_problem
from engine.tracking import create_tracker
from genomes.genome import Genome
from genomes.nest import LoopNest
from genomes.sites import Sites

EARLY, LATE = slice(4, 15), slice(-11, None)
"""The generations after the initial one that are compared: 5 to 15, and the last ones."""

OWN_STAGES = ("propose", "track", "checkpoint")

TARGETS = (
    Target("ms_per_candidate", 5.0, at_most=True),
    Target("growth", 1.3, at_most=True),
)


class ParameterCount(CapacityMetric):
    """The parameters of all sites: costs next to nothing, and prefers no transformation."""

    name = "parameter_count"

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    @property
    def original(self) -> float:
        return sum(self.per_site(Genome()).values())

    @property
    def identity(self) -> str:
        return self.name

    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        return [Score(sum(self.per_site(genome).values())) for genome in genomes]

    def per_site(self, genome: Genome) -> dict[str, float]:
        return {n: float(nest.parameters) for n, nest in self._sites.nests(genome).items()}


class ClockedTable(TableBackend):
    """Knows how long its work took.

    Attributes:
        seconds: Spent on schedules and latencies so far.
    """

    seconds = 0.0

    @contextlib.contextmanager
    def _clocked(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    def default_schedule(self, nest: LoopNest) -> LoopNest:
        with self._clocked():
            return super().default_schedule(nest)

    def schedule_candidates(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        with self._clocked():
            return super().schedule_candidates(nest)

    def measure_iter(self, nests: Sequence[LoopNest]) -> Iterator[Outcome]:
        answers = super().measure_iter(nests)
        for _ in nests:
            with self._clocked():
                outcome = next(answers)
            yield outcome


class Meter:
    """Takes the engine's own seconds of every generation after the initial one.

    Attributes:
        cost_ms: Milliseconds for each candidate, by generation.
        candidates: Evaluated in these generations.
        seconds: The engine's own, by stage; `all` is everything.
        foreign_s: Seconds of the capacity metric and the backend.
    """

    def __init__(self, backend: ClockedTable) -> None:
        self.cost_ms: list[float] = []
        self.candidates = 0
        self.seconds: dict[str, float] = dict.fromkeys((*OWN_STAGES, "all"), 0.0)
        self.foreign_s = 0.0
        self._backend = backend
        self._last: tuple[float, float] | None = None

    def __call__(self, generation: Generation, original: Evaluation) -> None:
        last, self._last = self._last, (time.perf_counter(), self._backend.seconds)
        if last is None:
            return
        foreign_s = generation.seconds["capacity"] + self._last[1] - last[1]
        own_s = self._last[0] - last[0] - foreign_s
        count = len(generation.evaluated)
        self.cost_ms.append(1e3 * own_s / max(1, count))
        self.candidates += count
        self.foreign_s += foreign_s
        self.seconds["all"] += own_s
        for stage in OWN_STAGES:
            self.seconds[stage] += generation.seconds[stage]

    @property
    def ms_per_candidate(self) -> float:
        """Over the whole search."""
        return 1e3 * self.seconds["all"] / self.candidates

    @property
    def growth(self) -> float:
        """Median cost of the last generations over that of early ones."""
        return statistics.median(self.cost_ms[LATE]) / statistics.median(self.cost_ms[EARLY])


def experiment(home: Path, generations: int, population: int, model: str) -> ExperimentConfig:
    """The search that is measured."""
    return parse_config(
        {
            "name": "overhead",
            "model": {"spec": model, "input_shape": [1, 3, 32, 32]},
            "backend": {"name": "table"},
            "search": {"population": population, "generations": generations},
            # A candidate may lose much, so that most are measured and none of the work is saved.
            "capacity": {"tolerance": 0.9},
            "home": str(home),
        }
    )


def measure(config: ExperimentConfig) -> Meter:
    """Run the search and take its cost."""
    run = RunDir.create(config)
    tracking = config.tracking
    tracker = create_tracker(tracking.mlflow, tracking.uri, tracking.experiment, config.home)
    backend = ClockedTable()
    with open_problem(config, run.name, backend, ParameterCount) as problem:
        meter = Meter(backend)
        search_problem(problem, run, tracker, meter)
    return meter


def _table(meter: Meter) -> Table:
    stages = {stage: meter.seconds[stage] for stage in OWN_STAGES}
    rest = meter.seconds["all"] - sum(stages.values())
    rows = {
        **stages,
        "evaluate, store": rest,
        "all": meter.seconds["all"],
        "backend and capacity, not counted": meter.foreign_s,
    }
    table = Table("stage", "ms per candidate")
    for stage, seconds in rows.items():
        table.add_row(stage, f"{1e3 * seconds / meter.candidates:.3f}")
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--generations", type=int, default=205)
    parser.add_argument("--population", type=int, default=64)
    parser.add_argument("--model", default="resnet34_cifar")
    options = parser.parse_args(arguments)
    if options.generations <= EARLY.start + 1:
        parser.error(f"growth needs at least {EARLY.start + 2} generations")
    return command.run("overhead", lambda console: _benchmark(options, console), TARGETS)


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="loopgene-overhead-") as folder:
        meter = measure(
            experiment(Path(folder), options.generations, options.population, options.model)
        )
    console.print(_table(meter))
    console.print(f"{meter.candidates} candidates in {len(meter.cost_ms)} generations")
    return {
        "ms_per_candidate": round(meter.ms_per_candidate, 3),
        "growth": round(meter.growth, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
