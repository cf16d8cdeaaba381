"""How well the latency that the search uses foretells that of the whole network.

    python -m engine.bench.calibration [EXPERIMENT.yaml] [--candidates 30]

Random legal candidates of an experiment are evaluated as the search does it, by the sum of their
kernels and the fixed rest, and then compiled, checked against PyTorch and timed end to end, some
at a time with the original in every turn.  The machine's speed drifts from one lot to the next:
what counts is a candidate's share of the original in the same turns.  The last line is one JSON
object with the rank correlation and the median relative error.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from backends.base import Failed
from engine.bench import command
from engine.bench.command import Target
from engine.config import load_config
from engine.evaluation import Evaluation
from engine.finalists import ORIGINAL, rest_s
from engine.fitness import Evaluator
from engine.network import NetworkTimes
from engine.problem import Problem, ProblemError, open_problem
from engine.resolve import resolve
from genomes.genome import Genome
from genomes.operators import random_genome

EXPERIMENT = Path("experiments/resnet18_cifar10_cpu.yaml")
SHARES = (0.1, 0.9)
"""Least and greatest share of transformed sites."""

TOGETHER = 5
"""Networks that are timed in turns."""

MOST_DRAWN = 50
"""Random candidates for each legal one that is wanted, at most."""

TARGETS = (Target("spearman", 0.97), Target("median_error", 0.10, at_most=True))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("experiment", nargs="?", default=EXPERIMENT, type=Path)
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args(arguments)
    if options.candidates < 2:
        parser.error("--candidates must be at least 2")
    return command.run("calibration", lambda console: _benchmark(options, console), TARGETS)


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, float]:
    config = resolve(load_config(options.experiment, options.set))
    with open_problem(config) as problem:
        estimated, measured = _compare(problem, options.candidates, options.seed, console)
    errors = [abs(e / m - 1) for e, m in zip(estimated, measured, strict=True)]
    return {
        "spearman": round(float(spearmanr(estimated, measured).statistic), 4),
        "median_error": round(statistics.median(errors), 4),
        "candidates": len(measured),
    }


def _compare(
    problem: Problem, count: int, seed: int, console: Console
) -> tuple[list[float], list[float]]:
    """Estimated and measured seconds of `count` legal candidates."""
    measure = problem.measure_end_to_end
    if measure is None:
        raise ProblemError(
            f"the backend {problem.config.backend.name!r} runs no whole networks; name another"
        )
    rest = rest_s(measure, problem.variant(Genome()), problem.objective.original_s)
    console.print(f"the fixed rest takes {1e3 * rest:.3f} ms")
    chosen = _legal(problem, rest, count, seed, console)
    originals, shares = [], []
    for first in range(0, len(chosen), TOGETHER):
        lot = chosen[first : first + TOGETHER]
        variants = {str(i): problem.variant(e.genome) for i, e in enumerate(lot)}
        times = measure({ORIGINAL: problem.variant(Genome()), **variants})
        seconds = [_seconds(times, name) for name in (ORIGINAL, *variants)]
        originals.append(seconds[0])
        shares += [s / seconds[0] for s in seconds[1:]]
        console.print(f"measured {len(shares)} of {len(chosen)} networks")
    original_s = statistics.median(originals)
    console.print(f"the original takes {1e3 * original_s:.3f} ms")
    measured = [share * original_s for share in shares]
    estimated = [evaluation.latency_s or 0.0 for evaluation in chosen]
    console.print(_table(chosen, estimated, measured))
    return estimated, measured


def _seconds(times: Mapping[str, NetworkTimes | Failed], name: str) -> float:
    outcome = times[name]
    if not isinstance(outcome, NetworkTimes):
        raise ProblemError(f"the network {name} failed: {outcome.message}")
    return outcome.median_s


def _table(
    chosen: Sequence[Evaluation], estimated: Sequence[float], measured: Sequence[float]
) -> Table:
    table = Table("candidate", "estimated ms", "measured ms", "error", "parameters")
    rows = zip(chosen, estimated, measured, strict=True)
    for number, (evaluation, estimate, seconds) in enumerate(rows, 1):
        table.add_row(
            str(number),
            f"{1e3 * estimate:.3f}",
            f"{1e3 * seconds:.3f}",
            f"{100 * (estimate / seconds - 1):+.1f} %",
            str(evaluation.parameters),
        )
    return table


def _legal(
    problem: Problem, rest: float, count: int, seed: int, console: Console
) -> list[Evaluation]:
    evaluator = Evaluator(
        problem.sites.sites,
        problem.metric,
        problem.kernels,
        problem.store,
        problem.objective,
        rest,
        problem.stages,
    )
    rng, found = random.Random(seed), dict[str, Evaluation]()
    for _ in range(MOST_DRAWN * count):
        genome = random_genome(problem.space, rng, rng.uniform(*SHARES))
        if genome.key in found or not genome.sites:
            continue
        (evaluation,) = evaluator.evaluate([genome])
        if evaluator.is_legal(evaluation):
            found[genome.key] = evaluation
            if len(found) % TOGETHER == 0:
                console.print(f"{len(found)} of {count} legal candidates")
        if len(found) == count:
            return list(found.values())
    raise ProblemError(
        f"only {len(found)} of {MOST_DRAWN * count} random candidates are legal; lower "
        "capacity.parameters or raise capacity.tolerance"
    )


if __name__ == "__main__":
    sys.exit(main())
