"""How well the latency that the search uses foretells that of the whole network.

    python -m engine.bench.calibration [EXPERIMENT.yaml] [--candidates 30] [--builds 3]

Random legal candidates of an experiment are evaluated as the search does it, from their kernels
and two whole networks, and then compiled, checked against PyTorch and timed end to end, some at a
time with the original in every turn: the machine's speed drifts from one lot to the next, and
what counts is a candidate's share of the original in the same turns.  Two builds of one network
differ, too, by where their memory lies, so each is built and timed several times, in lots of
other candidates, and the median is compared.  The last line is one JSON object with the rank
correlation, the median relative error, and the repeatability: how well the times of one build
foretell those of another, as a rank correlation.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from backends.base import Failed
from engine.bench import command
from engine.bench.command import Target
from engine.config import load_config
from engine.evaluation import Evaluation
from engine.finalists import ORIGINAL
from engine.fitness import Evaluator
from engine.latency import LatencyModel, measured_model
from engine.network import NetworkTimes, Variant, measure_networks
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
    parser.add_argument("--builds", type=int, default=3, help="of every network")
    parser.add_argument("--rounds", type=int, default=11, help="turns of every build")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args(arguments)
    if options.candidates < 2:
        parser.error("--candidates must be at least 2")
    if options.builds < 1 or options.rounds < 1:
        parser.error("--builds and --rounds must be at least 1")
    return command.run("calibration", lambda console: _benchmark(options, console), TARGETS)


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, float]:
    # As patient with a busy machine as a search that has the time.
    settings = ["budget.wall_clock_s=3600", *options.set]
    config = resolve(load_config(options.experiment, settings))
    with open_problem(config) as problem:
        target = problem.backend.network_target()
        if target is None:
            raise ProblemError(
                f"the backend {config.backend.name!r} runs no whole networks; name another"
            )
        model = measured_model(problem)
        kernels_ms = 1e3 * problem.objective.original_s
        console.print(
            f"the original's kernels take {kernels_ms:.3f} ms alone, {model.scale:.3f} times as "
            f"long in the network; the rest takes {1e3 * model.rest_s:.3f} ms"
        )
        rng = random.Random(options.seed)
        chosen = _legal(problem, model, options.candidates, rng, console)
        networks = {str(i): problem.variant(e.genome) for i, e in enumerate(chosen)}
        originals: list[float] = []
        builds = []
        for number in range(options.builds):
            lots = _lots(networks, problem.variant(Genome()), rng)
            times = [measure_networks(config, lot, target, options.rounds) for lot in lots]
            builds.append(_shares(times, originals))
            console.print(f"measured {number + 1} of {options.builds} builds")
    original_s = statistics.median(originals)
    console.print(f"the original takes {1e3 * original_s:.3f} ms")
    measured = [original_s * statistics.median(b[name] for b in builds) for name in networks]
    estimated = [evaluation.latency_s or 0.0 for evaluation in chosen]
    console.print(_table(chosen, estimated, measured))
    errors = [abs(e / m - 1) for e, m in zip(estimated, measured, strict=True)]
    report = {
        "spearman": round(float(spearmanr(estimated, measured).statistic), 4),
        "median_error": round(statistics.median(errors), 4),
        "candidates": len(measured),
    }
    if len(builds) > 1:
        report["repeatability"] = round(_repeatability(builds), 4)
    return report


def _lots(
    networks: Mapping[str, Variant], original: Variant, rng: random.Random
) -> list[dict[str, Variant]]:
    """All networks in random order, `TOGETHER` at a time with the original."""
    names = rng.sample(list(networks), len(networks))
    firsts = range(0, len(names), TOGETHER)
    lots = ({n: networks[n] for n in names[first : first + TOGETHER]} for first in firsts)
    return [{ORIGINAL: original, **lot} for lot in lots]


def _shares(
    lots: Sequence[Mapping[str, NetworkTimes | Failed]], originals: list[float]
) -> dict[str, float]:
    """The latency of every network relative to the original of its lot, which is noted."""
    shares = {}
    for times in lots:
        seconds = {name: _seconds(times, name) for name in times}
        originals.append(seconds.pop(ORIGINAL))
        shares.update({name: s / originals[-1] for name, s in seconds.items()})
    return shares


def _repeatability(builds: Sequence[Mapping[str, float]]) -> float:
    """Mean rank correlation of every two builds."""
    names = list(builds[0])
    ranked = [[build[name] for name in names] for build in builds]
    return statistics.mean(
        float(spearmanr(one, other).statistic) for one, other in combinations(ranked, 2)
    )


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
    problem: Problem, model: LatencyModel, count: int, rng: random.Random, console: Console
) -> list[Evaluation]:
    evaluator = Evaluator(
        problem.sites.sites,
        problem.metric,
        problem.kernels,
        problem.store,
        problem.objective,
        model,
        problem.stages,
    )
    found = dict[str, Evaluation]()
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
