"""Capacity metrics: how much representational capacity a candidate keeps, before training.

A metric is built once for a network, its sites and one minibatch; it scores genomes.  Scores
depend on nothing but these and the metric's options: the same genome has the same score in any
order of evaluation, in any process, on a resumed run.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from genomes.genome import Genome


@dataclass(frozen=True)
class Score:
    """The capacity of one candidate.

    Attributes:
        value: The score; comparable only within one metric object.
        exact: False when a cheaper bound decided the verdict and `value` is that estimate.
    """

    value: float
    exact: bool = True


class CapacityMetric(abc.ABC):
    """Scores genomes of one network on one minibatch.

    Args of implementations: `(model, sites, x, y, options)` with `model` the untransformed
    network, `x` (N, C, H, W) float32 and `y` (N,) int64.
    """

    name: str

    @property
    @abc.abstractmethod
    def original(self) -> float:
        """C0: the score of the untransformed network."""

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """Content hash of everything a score depends on besides the genome.

        The measurement store keeps scores under `identity` and the key of the genome's neural
        part, so that a second run recomputes nothing.
        """

    @abc.abstractmethod
    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        """Scores in the order of `genomes`; only their neural part matters.

        Raises:
            IllegalTransformation: A gene does not apply.
        """

    @abc.abstractmethod
    def per_site(self, genome: Genome) -> dict[str, float]:
        """The contribution of every site of the transformed network, exactly."""
