"""What it costs to check the capacity of ResNet-34 candidates, and whether verdicts are right.

    python -m engine.bench.capacity [--candidates 1000] [--check 200] [--images 8] [--searched]

Random candidates of all transformations and presets, from a tenth to nine tenths of the sites
transformed, are scored in batches as a generation of a search is; with `--searched`, the
candidates of an evolutionary search by modelled latencies are.  Of `--check` of them the
verdict (C >= C0 or not) is compared with that of a plain implementation: a transformed copy of
the network, hooks, and one backward pass in float32 with a gradient for every weight.  The last
line is one JSON object with `seconds_per_1000` (making the metric included) and
`verdict_agreement`.
"""

from __future__ import annotations

import copy
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from engine.bench import command
from engine.bench.command import Target
from engine.capacity import CapacityMetric, create_metric
from engine.capacity.base import Score
from engine.config import CapacityConfig, parse_config
from engine.data import load_data
from engine.models import get_model
from engine.problem import open_problem
from engine.resolve import DATA_VARIABLE
from engine.runs import RunDir
from engine.search import search_problem
from engine.tracking import NullTracker
from genomes.genome import Genome
from genomes.operators import Space, random_genome
from genomes.presets import PRESETS
from genomes.sites import Sites, find_sites, transform
from genomes.transformations import REGISTRY, Phase

SHARES = (0.1, 0.9)
"""Least and greatest share of transformed sites."""

GENERATION = 50
SEARCH = {"population": GENERATION, "generations": 10_000, "schedules": 1}
TARGETS = (
    Target("seconds_per_1000", 120.0, at_most=True),
    Target("verdict_agreement", 0.99),
)


def candidates(sites: Sites, count: int, seed: int) -> list[Genome]:
    """Distinct random genomes."""
    names = frozenset(name for name, t in REGISTRY.items() if t.phase is Phase.DOMAIN)
    space = Space(sites.sites, names, tuple(PRESETS))
    rng = random.Random(seed)
    found: dict[str, Genome] = {}
    while len(found) < count:
        genome = random_genome(space, rng, rng.uniform(*SHARES))
        if genome.sites:
            found[genome.key] = genome
    return list(found.values())


def plain_potential(model: nn.Module, sites: Sites, x: Tensor, y: Tensor) -> float:
    """The Fisher potential by its definition."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, out: Tensor) -> None:
        out.retain_grad()
        outputs.append(out)

    model.train()
    for site in sites.sites:
        model.get_submodule(site.name).register_forward_hook(keep)
    functional.cross_entropy(model(x), y).backward()
    total = 0.0
    for out in outputs:
        assert out.grad is not None
        total += (out.detach() * out.grad).sum((2, 3)).square().sum().item() / (2 * len(x))
    return total


class Check:
    """Scores candidates and checks verdicts.

    Attributes:
        metric: The metric that a search uses.
        seconds: Spent on it so far, making it included.
        genomes: The candidates so far.
        ratios: C / C0 of each of them.
        exact: Candidates that were computed in full.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, console: Console) -> None:
        self._model, self._x, self._y, self._console = model, x, y, console
        self.sites = find_sites(model, (1, *x.shape[1:]))
        start = time.perf_counter()
        self.metric: CapacityMetric = create_metric("fisher", model, self.sites, x, y)
        self.seconds = time.perf_counter() - start
        self.genomes: list[Genome] = []
        self.ratios: list[float] = []
        self.exact = 0

    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        """Score a generation."""
        start = time.perf_counter()
        scores = self.metric.score(genomes)
        self.seconds += time.perf_counter() - start
        self.genomes += genomes
        self.ratios += [score.value / self.metric.original for score in scores]
        self.exact += sum(score.exact for score in scores)
        done = len(self.ratios)
        self._console.print(f"scored {done} candidates, {self.seconds / done:.3f} s each")
        return scores

    def plain(self, genomes: Sequence[Genome]) -> tuple[list[float], float]:
        """(C / C0 by the plain implementation, its median seconds for a candidate)."""
        original = plain_potential(copy.deepcopy(self._model), self.sites, self._x, self._y)
        ratios, seconds = [], []
        for genome in genomes:
            start = time.perf_counter()
            network = transform(self._model, self.sites, genome)
            ratios.append(plain_potential(network, self.sites, self._x, self._y) / original)
            seconds.append(time.perf_counter() - start)
            if len(ratios) % GENERATION == 0:
                self._console.print(f"checked {len(ratios)} of {len(genomes)} verdicts")
        return ratios, statistics.median(seconds)


class _Watched(CapacityMetric):
    """The metric of a search, every score of which is counted."""

    name = "watched"

    def __init__(self, check: Check) -> None:
        self._check = check

    @property
    def original(self) -> float:
        return self._check.metric.original

    @property
    def identity(self) -> str:
        return self._check.metric.identity

    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        return self._check.score(genomes)

    def per_site(self, genome: Genome) -> dict[str, float]:
        return self._check.metric.per_site(genome)


def search(check: Check, model_name: str, count: int) -> None:
    """Score the first `count` candidates, at least, of a search by modelled latencies."""
    entry = get_model(model_name)
    with tempfile.TemporaryDirectory() as home:
        config = parse_config(
            {
                "name": "bench-capacity",
                "model": {"spec": model_name, "input_shape": [1, *entry.input_shape]},
                "backend": {"name": "table"},
                "search": SEARCH,
                "budget": {"evaluations": count},
                "home": home,
            }
        )
        with open_problem(config, make_metric=lambda _: _Watched(check)) as problem:
            search_problem(problem, RunDir(Path(home)), NullTracker())


def run(
    model_name: str,
    data: Path | None,
    images: int,
    counts: tuple[int, int],
    console: Console,
    searched: bool = False,
) -> dict[str, float]:
    """Measure; `counts` are those of candidates and of checked verdicts.

    Raises:
        LoopGeneError: There is no such model, or the images cannot be read.
    """
    entry = get_model(model_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = entry.factory()
    x, y = load_data("auto", data).minibatch(images, 0, entry.input_shape)
    check = Check(model, x, y, console)
    if searched:
        search(check, model_name, counts[0])
    else:
        drawn = candidates(check.sites, counts[0], seed=0)
        for first in range(0, len(drawn), GENERATION):
            check.score(drawn[first : first + GENERATION])
    genomes = check.genomes
    chosen = [i * len(genomes) // counts[1] for i in range(counts[1])]
    expected, plain_s = check.plain([genomes[i] for i in chosen])
    pairs = [(check.ratios[i], ratio) for i, ratio in zip(chosen, expected, strict=True)]
    table = Table("candidate", "C / C0", "plain", title="verdicts that differ")
    for i, (ratio, plain) in zip(chosen, pairs, strict=True):
        if (ratio >= 1) != (plain >= 1):
            table.add_row(str(i), f"{ratio:.5f}", f"{plain:.5f}")
    if table.row_count:
        console.print(table)
    console.print(f"a plain evaluation takes {plain_s:.2f} s")
    report = {
        "seconds_per_1000": 1000 * check.seconds / len(genomes),
        "verdict_agreement": statistics.fmean((a >= 1) == (b >= 1) for a, b in pairs),
        "share_exact": check.exact / len(genomes),
        "share_legal": statistics.fmean(ratio >= 1 for ratio in check.ratios),
        "greatest_error": max(abs(a / b - 1) for a, b in pairs),
        "plain_s": plain_s,
        "images": images,
        "candidates": len(genomes),
        "checked": len(pairs),
        "threads": torch.get_num_threads(),
    }
    return {name: round(value, 4) for name, value in report.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--check", type=int, default=200, help="verdicts that are checked")
    parser.add_argument("--images", type=int, default=CapacityConfig().batch)
    parser.add_argument("--model", default="resnet34_cifar")
    parser.add_argument("--searched", action="store_true", help="candidates of a search")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get(DATA_VARIABLE), help="file of images"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.check <= options.candidates:
        parser.error("--check must be from 1 to the number of candidates")
    counts = (options.candidates, options.check)
    return command.run(
        "capacity",
        lambda console: run(
            options.model, options.data, options.images, counts, console, options.searched
        ),
        TARGETS,
    )


if __name__ == "__main__":
    sys.exit(main())
