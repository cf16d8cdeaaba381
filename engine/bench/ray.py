"""What a second Ray worker gives: the same search with one worker and with two.

    python -m engine.bench.ray [--model resnet18_cifar] [--generations 2] [--population 16]

A search by modelled latencies and the Fisher potential of 32 images, three times: with the
threads of this process, then with one and with two Ray workers on this machine.  Times are those
of the search alone; what it takes to start Ray and to build network and metric in every worker is
given apart.  The last line is one JSON object with `equal` (all three results are the same, times
apart), `speedup_2` (seconds with one worker over seconds with two) and `overhead_ms` (a worker's
answer to a task that takes no time).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.bench import command
from engine.bench.command import Target
from engine.config import ExperimentConfig, parse_config
from engine.models import get_model
from engine.problem import Problem, open_problem
from engine.resolve import resolve
from engine.runs import RunDir
from engine.search import search_problem
from engine.tracking import NullTracker
from genomes.genome import Genome

TARGETS = (Target("equal", 1),)

LOCAL = "local"
TASKS = 200
"""Tasks that take no time."""

UNEQUAL = ("seconds", "config")
"""Parts of a result that differ between two runs of one search."""


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        start_s: Seconds until it could begin: Ray, and a metric for every worker.
        search_s: Seconds of the search.
        capacity_s: Of these, waiting for capacities.
        overhead_ms: Of one task; 0 without workers.
        result: What was found, without times.
    """

    start_s: float
    search_s: float
    capacity_s: float
    overhead_ms: float
    result: Mapping[str, Any]


def experiment(home: Path, workers: int | None, model: str, search: Any) -> ExperimentConfig:
    """The search; `workers` is None for this process alone."""
    shape = get_model(model).input_shape
    executor = LOCAL if workers is None else {"name": "ray", "workers": workers}
    return resolve(
        parse_config(
            {
                "name": "bench-ray",
                "model": {"spec": model, "input_shape": [1, *shape]},
                "backend": {"name": "table"},
                "executor": executor,
                "search": {"tune": 0, **search},
                "home": str(home),
            }
        )
    )


def run(config: ExperimentConfig) -> Run:
    """Search, with the clock running."""
    config.home.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with open_problem(config) as problem:
        opened = time.perf_counter()
        record = search_problem(problem, RunDir(config.home), NullTracker()).record
        ended = time.perf_counter()
        overhead_ms = 0.0 if config.executor.name == LOCAL else _overhead_ms(problem)
    return Run(
        start_s=opened - start,
        search_s=ended - opened,
        capacity_s=record["seconds"]["capacity"],
        overhead_ms=overhead_ms,
        result={key: value for key, value in record.items() if key not in UNEQUAL},
    )


def _overhead_ms(problem: Problem) -> float:
    """Milliseconds of a task; the score of the original is known without computing it."""
    start = time.perf_counter()
    problem.metric.score([Genome()] * TASKS)
    return 1e3 * (time.perf_counter() - start) / TASKS


def _table(runs: Mapping[int | None, Run]) -> Table:
    table = Table("workers", "start, s", "search, s", "capacity, s", "overhead of a task, ms")
    for workers, each in runs.items():
        name = "none: threads of this process" if workers is None else str(workers)
        overhead = f"{each.overhead_ms:.2f}" if each.overhead_ms else "-"
        seconds = (each.start_s, each.search_s, each.capacity_s)
        table.add_row(name, *(f"{value:.1f}" for value in seconds), overhead)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--model", default="resnet18_cifar")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--population", type=int, default=16)
    options = parser.parse_args(arguments)
    search = {"generations": options.generations, "population": options.population}

    def benchmark(console: Console) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="loopgene-bench-") as folder:
            experiments = {
                workers: experiment(Path(folder) / str(workers), workers, options.model, search)
                for workers in (None, 1, 2)
            }
            runs = {workers: run(config) for workers, config in experiments.items()}
        local, one, two = runs.values()
        console.print(_table(runs))
        return {
            "equal": local.result == one.result == two.result,
            "speedup_2": round(one.search_s / two.search_s, 3),
            "capacity_speedup_2": round(one.capacity_s / two.capacity_s, 3),
            "overhead_ms": round(one.overhead_ms, 3),
            "candidates": local.result["counts"]["evaluations"],
            "search_s_local": round(local.search_s, 2),
            "search_s_1": round(one.search_s, 2),
            "search_s_2": round(two.search_s, 2),
            "start_s_1": round(one.start_s, 2),
            "start_s_2": round(two.start_s, 2),
        }

    return command.run("ray", benchmark, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
