"""From kernels to a network: what the sum of measured kernels says of the whole.

    latency = scale * kernels + rest

In a network, kernels take a little longer than in a loop of their own, and there is a rest that
no candidate changes: what is no site, and the calls.  Two networks that are far apart tell both:
the original, and one of which little is left.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from backends.base import Failed, FailureKind
from engine.finalists import ORIGINAL
from engine.network import NetworkTimes
from engine.strategies.seeding import uniform_presets
from genomes.genome import Genome, replay

if TYPE_CHECKING:
    from engine.problem import Problem

SMALL = "small"
FAR_APART = 0.7
"""The kernels of the small network take at most such a share of the original's."""

SCALES = (0.8, 1.5)
"""Least and greatest scale that is believed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatencyModel:
    """The latency of a network from the sum of its kernels.

    Attributes:
        scale: How many times as long a kernel takes in the network as on its own.
        rest_s: Seconds of everything that is no site.
    """

    scale: float = 1.0
    rest_s: float = 0.0

    def latency_s(self, kernels_s: float) -> float:
        """Seconds of a network whose kernels take `kernels_s`, all calls of all sites."""
        return self.scale * kernels_s + self.rest_s

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> LatencyModel:
        """Inverse of `to_json`."""
        return cls(**data)

    @classmethod
    def through(
        cls, original: tuple[float, float], small: tuple[float, float] | None
    ) -> LatencyModel:
        """The model that two networks tell, or the rest alone where they do not tell a scale.

        Args:
            original, small: (sum of kernels, whole network), in seconds.
        """
        kernels_s, whole_s = original
        if small is not None and small[0] <= FAR_APART * kernels_s:
            scale = (whole_s - small[1]) / (kernels_s - small[0])
            # There is no rest below zero.
            scale = min(scale, whole_s / kernels_s)
            if SCALES[0] <= scale <= SCALES[1]:
                return cls(scale, whole_s - scale * kernels_s)
        return cls(1.0, max(0.0, whole_s - kernels_s))


def measured_model(
    problem: Problem, is_patient: Callable[[], bool] = lambda: False
) -> LatencyModel:
    """The model of a problem's network; kernels alone where the backend runs no networks.

    Args:
        problem: The kernels of its original network are known.
        is_patient: Asked each time when no device was free for the networks: whether to go on
            waiting for one.
    """
    measure = problem.measure_end_to_end
    if measure is None:
        return LatencyModel()
    original = Genome()
    genomes = {ORIGINAL: original}
    small = _small(problem)
    if small is not None:
        genomes[SMALL] = small
    variants = {name: problem.variant(genome) for name, genome in genomes.items()}
    times = measure(variants)
    while _waits(whole := times[ORIGINAL]) and is_patient():
        logger.warning("the search waits for a device to run the original network")
        times = measure(variants)
    if isinstance(whole, Failed):
        logger.warning(
            "the original network could not be measured end to end (%s: %s); latencies are sums "
            "of kernels only",
            whole.kind.value,
            whole.message,
        )
        return LatencyModel()
    point = None
    if small is not None:
        kernels_s, outcome = _kernels_s(problem, small), times[SMALL]
        if isinstance(outcome, NetworkTimes) and kernels_s is not None:
            point = (kernels_s, outcome.median_s)
        else:
            logger.warning(
                "a small network could not be measured (%s); kernels are taken to be as fast in "
                "the network as alone",
                outcome.message if isinstance(outcome, Failed) else "a kernel failed",
            )
    return LatencyModel.through((problem.objective.original_s, whole.median_s), point)


def _waits(answer: NetworkTimes | Failed) -> bool:
    """Whether a network was not run for want of a device."""
    return isinstance(answer, Failed) and answer.kind is FailureKind.QUEUE_TIMEOUT


def _small(problem: Problem) -> Genome | None:
    """The preset that leaves least of the network, with its kernels measured; None without one."""
    genome = min(
        uniform_presets(problem.space), key=lambda genome: _macs(problem, genome), default=None
    )
    if genome is not None:
        nests = (problem.nest(site, genome) for site in problem.sites.sites)
        problem.kernels.measure(nests, lambda: None)
    return genome


def _macs(problem: Problem, genome: Genome) -> int:
    sites = problem.sites.sites
    return sum(s.calls * replay(s.shape, genome.genes(s.name)).macs for s in sites)


def _kernels_s(problem: Problem, genome: Genome) -> float | None:
    """Seconds of all kernels; None if one of them failed."""
    seconds = problem.site_latencies_s(genome)
    return math.fsum(s for s in seconds if s is not None) if None not in seconds else None
