"""From genomes to evaluations: cheap before dear, every rejection with its reason.

    structure -> parameters -> capacity (cached) -> legality -> build, numbers, latency -> fitness

In the constrained mode a candidate of capacity C below the floor C0 * (1 - tolerance) is never
measured; its fitness is the original's latency times 1 + penalty * (1 - C / C0).  The same holds
for one that keeps too few parameters, with the least number in the place of C0.  In the Pareto
mode both are objectives and every candidate is measured.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from backends.base import BackendError, Failed, Measured
from backends.store import MeasurementStore
from engine.capacity.base import CapacityMetric
from engine.evaluation import CAPACITY, OK, PARAMETERS, Evaluation
from engine.kernels import Between, Kernels
from engine.latency import LatencyModel
from engine.stages import Stages
from genomes.errors import IllegalTransformation
from genomes.genome import Genome, replay
from genomes.nest import LoopNest
from genomes.sites import Site

ILLEGAL = "illegal"
"""The status of a candidate of which a gene does not apply."""

FAILURE_FACTOR = 10.0
"""The latency that counts for a candidate without one, in latencies of the original."""

ROUNDING = 1e-6
"""Relative difference of two capacities that the order of summation alone can make."""

Mode = Literal["constrained", "pareto"]


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes:
        mode: Constrained or Pareto.
        original_s: Latency of the untransformed network, in seconds.
        original_capacity: C0.
        tolerance: Relative loss of capacity that is still legal.
        penalty: Factor of the relative loss in the fitness of an illegal candidate.
        least_parameters: Parameters that a legal candidate keeps at least.
    """

    mode: Mode
    original_s: float
    original_capacity: float
    tolerance: float = 0.0
    penalty: float = 10.0
    least_parameters: float = 0.0

    def loss(self, capacity: float) -> float:
        """max(0, 1 - C / C0); 1 for a capacity that is no number."""
        if not math.isfinite(capacity):
            return 1.0
        if self.original_capacity <= 0:
            return 0.0
        return max(0.0, 1.0 - capacity / self.original_capacity)

    def legal(self, capacity: float) -> bool:
        """Whether C >= C0 * (1 - tolerance), up to `ROUNDING`."""
        return capacity >= self.original_capacity * (1.0 - self.tolerance - ROUNDING)

    def fitness(self, latency_s: float, capacity: float, parameters: int) -> tuple[float, ...]:
        """The objectives of a measured candidate."""
        if self.mode == "pareto":
            return _finite(latency_s, self.loss(capacity), float(parameters))
        return _finite(latency_s)

    def illegal(self, capacity: float) -> tuple[float, ...]:
        """The fitness below the floor: worse than the original, and the more so the lower."""
        return _finite(self.original_s * (1.0 + self.penalty * self.loss(capacity)))

    def large_enough(self, parameters: int) -> bool:
        """Whether a legal candidate may have so few parameters."""
        return parameters >= self.least_parameters

    def too_small(self, parameters: int) -> tuple[float, ...]:
        """The fitness with too few parameters: as `illegal`."""
        return _finite(
            self.original_s * (1.0 + self.penalty * (1.0 - parameters / self.least_parameters))
        )

    def failed(self, capacity: float | None, parameters: int) -> tuple[float, ...]:
        """The fitness without a latency."""
        known = -math.inf if capacity is None else capacity
        return self.fitness(FAILURE_FACTOR * self.original_s, known, parameters)


def _finite(*values: float) -> tuple[float, ...]:
    """The one place through which every fitness goes: no inf and no NaN enters a selection."""
    if not all(map(math.isfinite, values)):
        raise AssertionError(f"a fitness must be finite: {values}")
    return values


@dataclass(frozen=True)
class _Candidate:
    """A genome whose genes apply."""

    genome: Genome
    nests: Mapping[str, LoopNest]
    macs: int
    parameters: int


class Evaluator:
    """Evaluates candidates; equal candidates get equal evaluations, in any order.

    Args:
        sites: All sites, in the order in which their latencies are added.
        metric: Scores capacity.
        kernels: Knows latencies; those of the original are already measured.
        store: Remembers capacities for other runs.
        objective: What is minimised.
        model: Tells the latency of a network from the sum of its kernels.
        stages: Counts the seconds of the capacity.

    Attributes:
        scored: Capacities computed, those from the store excluded.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        metric: CapacityMetric,
        kernels: Kernels,
        store: MeasurementStore,
        objective: Objective,
        model: LatencyModel,
        stages: Stages,
    ) -> None:
        self.objective = objective
        self.scored = 0
        self._sites = tuple(sites)
        self._metric = metric
        self._kernels = kernels
        self._store = store
        self._model = model
        self._stages = stages
        self._scores = {Genome().key: objective.original_capacity}
        self._sizes: dict[str, tuple[int, int]] = {}

    def evaluate(
        self, genomes: Sequence[Genome], between: Between = lambda: None
    ) -> list[Evaluation]:
        """Evaluate a batch.

        Args:
            genomes: Candidates.
            between: Called before each measurement, and while a device is waited for.

        Returns:
            Evaluations in the order of `genomes`.

        Raises:
            BackendError: The device or the tool chain is not usable, or a kernel could not be
                measured for no fault of its own.
            StoreError: The measurement store is not usable.
        """
        candidates = [self._structure(genome) for genome in genomes]
        applicable = [c for c in candidates if isinstance(c, _Candidate)]
        self._score([c.genome.neural for c in applicable])
        measured = [c for c in applicable if self._is_measured(c)]
        self._kernels.measure((n for c in measured for n in c.nests.values()), between)
        return [c if isinstance(c, Evaluation) else self._evaluation(c) for c in candidates]

    def measured(self, genomes: Sequence[Genome]) -> list[Evaluation]:
        """Those of `genomes` whose evaluation needs no more measurement."""
        found = []
        for genome in genomes:
            candidate = self._structure(genome)
            with contextlib.suppress(KeyError, BackendError):
                found.append(
                    candidate if isinstance(candidate, Evaluation) else self._evaluation(candidate)
                )
        return found

    def exactly(self, evaluation: Evaluation) -> Evaluation:
        """`evaluation` with the capacity computed in full: always anew, known or not."""
        capacity = math.fsum(self._metric.per_site(evaluation.genome.neural).values())
        return replace(evaluation, capacity=capacity if math.isfinite(capacity) else 0.0)

    def retimed(self, evaluation: Evaluation) -> Evaluation:
        """`evaluation` with the latency and the fitness that its kernels give it by now."""
        candidate = self._structure(evaluation.genome)
        assert isinstance(candidate, _Candidate)
        try:
            now = self._evaluation(candidate)
        except BackendError:  # the device failed it this time
            return evaluation
        if now.latency_s is None:
            return evaluation
        return replace(evaluation, latency_s=now.latency_s, fitness=now.fitness)

    def is_legal(self, evaluation: Evaluation) -> bool:
        """Whether a candidate was measured and keeps its capacity and enough parameters."""
        return (
            evaluation.status == OK
            and evaluation.capacity is not None
            and self.objective.large_enough(evaluation.parameters)
            and self.objective.legal(evaluation.capacity)
        )

    def _structure(self, genome: Genome) -> _Candidate | Evaluation:
        try:
            nests = {s.name: replay(s.shape, genome.genes(s.name)) for s in self._sites}
        except IllegalTransformation as error:
            fitness = self.objective.failed(None, 0)
            return Evaluation(genome, ILLEGAL, fitness, message=error.reason)
        sizes = [self._size(nest) for nest in nests.values()]
        macs = sum(site.calls * size[0] for site, size in zip(self._sites, sizes, strict=True))
        parameters = sum(size[1] for size in sizes)
        if self.objective.mode == "constrained" and not self.objective.large_enough(parameters):
            return Evaluation(
                genome,
                PARAMETERS,
                self.objective.too_small(parameters),
                macs=macs,
                parameters=parameters,
                message=f"keeps {parameters} parameters of the convolutions, fewer than "
                f"{self.objective.least_parameters:.0f}",
            )
        return _Candidate(genome, nests, macs, parameters)

    def _size(self, nest: LoopNest) -> tuple[int, int]:
        """(multiply-accumulates of one call, parameters)."""
        if nest.key not in self._sizes:
            self._sizes[nest.key] = (nest.macs, nest.parameters)
        return self._sizes[nest.key]

    def _score(self, neural: Iterable[Genome]) -> None:
        """Make the capacity of all `neural` genomes known."""
        missing: dict[str, Genome] = {}
        for genome in neural:
            if genome.key not in self._scores and genome.key not in missing:
                stored = self._store.get_capacity(self._stored_as(genome))
                if stored is None:
                    missing[genome.key] = genome
                else:
                    self._scores[genome.key] = stored[0]
        if not missing:
            return
        with self._stages.timed("capacity"):
            scores = self._metric.score(list(missing.values()))
        for (key, genome), score in zip(missing.items(), scores, strict=True):
            # What is no number is no capacity; a database would not keep it either.
            value = score.value if math.isfinite(score.value) else 0.0
            self._scores[key] = value
            self._store.put_capacity(self._stored_as(genome), value, {"exact": score.exact})
            self.scored += 1

    def _stored_as(self, neural: Genome) -> str:
        return f"{self._metric.identity}:{neural.key}"

    def _is_measured(self, candidate: _Candidate) -> bool:
        if self.objective.mode == "pareto":
            return True
        return self.objective.legal(self._scores[candidate.genome.neural.key])

    def _evaluation(self, candidate: _Candidate) -> Evaluation:
        genome, parameters = candidate.genome, candidate.parameters
        capacity = self._scores[genome.neural.key]
        if not self._is_measured(candidate):
            return Evaluation(
                genome,
                CAPACITY,
                self.objective.illegal(capacity),
                capacity=capacity,
                macs=candidate.macs,
                parameters=parameters,
                message=f"capacity {capacity:.6g} of {self.objective.original_capacity:.6g}",
            )
        kernels: list[Measured] = []
        for site in self._sites:
            outcome = self._kernels.best(candidate.nests[site.name])
            if isinstance(outcome, Failed):
                if not outcome.kind.charged_to_candidate:
                    raise BackendError(
                        f"{site.name} could not be measured ({outcome.kind.value}: "
                        f"{outcome.message}); see that the device is free and go on with --resume"
                    )
                return Evaluation(
                    genome,
                    outcome.kind.value,
                    self.objective.failed(capacity, parameters),
                    capacity=capacity,
                    macs=candidate.macs,
                    parameters=parameters,
                    message=f"{site.name}: {outcome.message}",
                )
            kernels.append(outcome)
        seconds = zip(self._sites, self._kernels.together(kernels), strict=True)
        kernels_s = math.fsum(site.calls * per_call_s for site, per_call_s in seconds)
        latency_s = self._model.latency_s(kernels_s)
        fitness = self.objective.fitness(latency_s, capacity, parameters)
        return Evaluation(genome, OK, fitness, latency_s, capacity, candidate.macs, parameters)
