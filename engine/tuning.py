"""The last step before finalists are compiled: better schedules for their kernels.

The search measures few schedules of every kernel, as it has many kernels; the kernels of the
networks that it ends with, and of the original, are worth more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.base import Measured
from backends.tuning import Sample, tune
from engine.kernels import Between, Kernels
from genomes.genome import Genome
from genomes.nest import LoopNest

if TYPE_CHECKING:
    from engine.problem import Problem


TUNING_SHARE = 0.15
"""Of the wall-clock budget, what is kept for tuning when the search is over."""


@dataclass
class Tuning:
    """What tuning took and what it gave.

    Attributes:
        workloads: Kernels that were tuned.
        measurements: Schedules that were measured for them, or known from the store.
        improved: Kernels of which a faster schedule was found.
        log_ratio: Sum over the kernels of log(latency before / after).
    """

    workloads: int = 0
    measurements: int = 0
    improved: int = 0
    log_ratio: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for the record of a search; `speedup` is the geometric mean.

        The seconds are those of the stage `tune`.
        """
        return {
            "workloads": self.workloads,
            "measurements": self.measurements,
            "improved": self.improved,
            "speedup": math.exp(self.log_ratio / max(1, self.workloads)),
        }


def tune_networks(
    problem: Problem, genomes: Sequence[Genome], between: Between, tuning: Tuning
) -> None:
    """`tune_kernels` for the networks that `genomes` make, as the experiment says."""
    search = problem.config.search
    nests = [problem.nest(site, g) for g in genomes for site in problem.sites.sites]
    if search.tune:
        with problem.stages.timed("tune"):
            tune_kernels(problem.kernels, nests, search.tune, search.seed, between, tuning)


def tune_kernels(
    kernels: Kernels,
    nests: Iterable[LoopNest],
    measurements: int,
    seed: int,
    between: Between,
    tuning: Tuning,
) -> None:
    """Find faster schedules for nests that have none of their own, the slowest nests first.

    The ranking learns from what this search knows of these very nests, and from each of them for
    the next.  Other rows of the store are left out: a search that was killed here and resumed
    would see more of them.

    Args:
        kernels: Has measured all `nests`; learns of the schedules that are found.
        nests: Equal ones are tuned once.
        measurements: For each nest, at most.
        seed: Of the random changes.
        between: Called before every measurement; may raise to end the tuning there.
        tuning: Counts what is done, also of what was not finished.

    Raises:
        BackendError: The device is not usable.
    """
    before: dict[str, tuple[float, LoopNest]] = {}
    samples: list[Sample] = []
    for nest in nests:
        outcome = kernels.best(nest)
        free = not any(s.has_schedule for s in nest.statements)
        if free and nest.key not in before and isinstance(outcome, Measured):
            before[nest.key] = (outcome.median_s, nest)
            samples += _samples(kernels, nest)
    for latency_s, nest in sorted(before.values(), key=lambda pair: (-pair[0], pair[1].key)):
        tuned = tune(kernels.backend, nest, measurements, seed, samples, between)
        samples += tuned.samples(kernels.backend)
        tuning.workloads += 1
        tuning.measurements += tuned.measurements
        if tuned.latency_s < latency_s:
            kernels.adopt(tuned.nest, tuned.outcome)
            tuning.improved += 1
            tuning.log_ratio += math.log(latency_s / tuned.latency_s)


def _samples(kernels: Kernels, nest: LoopNest) -> list[Sample]:
    found = []
    for kernel, outcome in kernels.known(nest):
        features = kernels.backend.schedule_features(kernel)
        if features is not None and isinstance(outcome, Measured):
            found.append(Sample(kernel.structure_key, features, outcome.median_s))
    return found
