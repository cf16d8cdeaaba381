"""How a worker scores genomes exactly as the search's own process would."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.capacity.base import CapacityMetric, Score
from engine.config import ExperimentConfig
from engine.executors.base import ExecutorError
from engine.metric import capacity_metric
from engine.network import build_model
from genomes.genome import Genome
from genomes.sites import Sites


@dataclass(frozen=True)
class Scoring:
    """What a worker needs to build a metric; plain data that travels.

    Attributes:
        config: The experiment, resolved.
        sites: What is transformed.
        identity: That of the metric in the search's process.
        threads: Threads of torch there: they decide how sums are rounded.
        folder: The current directory there: relative paths begin in it.
    """

    config: ExperimentConfig
    sites: Sites
    identity: str
    threads: int
    folder: Path

    @classmethod
    def like_here(cls, config: ExperimentConfig, sites: Sites, metric: CapacityMetric) -> Scoring:
        """What builds `metric` again in another process."""
        return cls(config, sites, metric.identity, torch.get_num_threads(), Path.cwd())

    def prepare(self) -> Callable[[Genome], Score]:
        """Build network, images and metric in this process; changes its current directory.

        Returns:
            The score of one genome.

        Raises:
            ExecutorError: The metric is another one than that of the search's process.
            LoopGeneError: A part cannot be built.
        """
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ExecutorError(
                f"cannot work in {self.folder}: {error.strerror}; start the search in a folder "
                "that all machines share"
            ) from error
        torch.set_num_threads(self.threads)
        model = build_model(self.config.model)
        metric = capacity_metric(self.config, model, self.sites)
        if metric.identity != self.identity:
            raise ExecutorError(
                "capacity is computed otherwise here than where the search runs: the network, the "
                "images, the version of torch or the kind of CPU differ; use machines that are "
                "alike"
            )
        return lambda genome: metric.score([genome])[0]


class SpreadMetric(CapacityMetric):
    """A metric whose scores are computed elsewhere, and everything else here.

    Args:
        metric: The one of this process.
        scores: Gives the scores of genomes, in order.
    """

    name = "spread"

    def __init__(
        self, metric: CapacityMetric, scores: Callable[[Sequence[Genome]], list[Score]]
    ) -> None:
        self._metric = metric
        self._scores = scores

    @property
    def original(self) -> float:
        return self._metric.original

    @property
    def identity(self) -> str:
        return self._metric.identity

    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        return self._scores([genome.neural for genome in genomes])

    def per_site(self, genome: Genome) -> dict[str, float]:
        return self._metric.per_site(genome)
