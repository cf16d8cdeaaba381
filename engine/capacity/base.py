"""Capacity metrics: how much representational capacity a candidate keeps, before training.

A metric is built once for a network, its sites and one minibatch; it scores genomes.  Scores
depend on nothing but these and the metric's options: the same genome has the same score in any
order of evaluation, in any process, on a resumed run.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from genomes.errors import LoopGeneError
from genomes.genome import Genome


class CapacityError(LoopGeneError):
    """A capacity metric is unknown, its options are invalid, or the network cannot be scored."""


@dataclass(frozen=True)
class Score:
    """The capacity of one candidate.

    Attributes:
        value: The score, finite; comparable only within one metric object.
        exact: False when a cheaper estimate decided the verdict and `value` is that estimate.
    """

    value: float
    exact: bool = True


class MetricOptions(BaseModel):
    """What every metric takes; a metric with options of its own subclasses this."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seed: int = Field(default=0, ge=0, description="Seed of whatever the metric draws.")
    tolerance: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="A candidate is legal when C >= C0 * (1 - tolerance); tells a metric which "
        "verdicts an estimate may decide.",
    )
    exact: bool = Field(
        default=False,
        description="Compute every score in full, because the score itself is an objective.",
    )


class CapacityMetric(abc.ABC):
    """Scores genomes of one network on one minibatch.

    `create_metric` makes it as `Metric(model, sites, x, y, options)`: the untransformed network,
    which is not changed (and may be changed later: no score follows it), its `Sites`, images
    float32 (N, C, H, W), labels int64 (N,) and an instance of `Options`.

    Attributes:
        name: Its name in experiments.
        Options: The class of its options.
    """

    name: ClassVar[str]
    Options: ClassVar[type[MetricOptions]] = MetricOptions

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
            ModelError: A genome names a site that the network does not have.
        """

    @abc.abstractmethod
    def per_site(self, genome: Genome) -> dict[str, float]:
        """The contribution of every site of the transformed network, exactly.

        The contributions add up to the exact score.

        Raises:
            IllegalTransformation: A gene does not apply.
            ModelError: The genome names a site that the network does not have.
        """
