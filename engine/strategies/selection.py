"""A population with its selection in both modes, shared by the strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deap import tools

from engine.config import SearchConfig
from engine.evaluation import Evaluation
from engine.packing import pack, unpack
from engine.strategies.base import Strategy, StrategyError
from engine.strategies.individuals import Individual, evaluated, evaluations
from engine.strategies.randomness import Randomness
from genomes.errors import LoopGeneError
from genomes.genome import Genome
from genomes.operators import Space, random_genome


class PopulationStrategy(Strategy):
    """Keeps the best candidates of all that it was told: elitism over parents and children.

    Attributes:
        individuals: The survivors, best first; empty before the first `tell`.
        randomness: All that `ask` and `tell` draw from.
    """

    name: str

    def __init__(self, space: Space, config: SearchConfig) -> None:
        super().__init__(space, config)
        self.individuals: list[Individual] = []
        self.randomness = Randomness(config.seed)

    @property
    def population(self) -> tuple[Evaluation, ...]:
        return evaluations(self.individuals)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        new = [evaluated(self.space, e, self.config.mode) for e in evaluations]
        known = {individual.effect for individual in self.individuals}
        candidates = [*self.individuals, *(i for i in new if i.effect not in known)]
        with self.randomness.lent():
            self.individuals = self.survivors(candidates)

    def survivors(self, candidates: list[Individual]) -> list[Individual]:
        """The best of `candidates`, best first: by fitness, or by NSGA-II in Pareto mode."""
        size = min(self.config.population, len(candidates))
        if self.config.mode == "pareto":
            return list(tools.selNSGA2(candidates, size))
        return list(tools.selBest(candidates, size))

    def state(self) -> dict[str, Any]:
        return {
            "strategy": self.name,
            "population": pack(self.population),
            "randomness": self.randomness.state(),
        }

    def restore(self, data: dict[str, Any]) -> None:
        if not isinstance(data, dict) or data.get("strategy") != self.name:
            raise StrategyError(f"this is no saved state of the strategy {self.name!r}")
        try:
            saved = unpack(data["population"])
            self.individuals = [evaluated(self.space, e, self.config.mode) for e in saved]
            self.randomness.restore(data["randomness"])
        except (LookupError, TypeError, ValueError, AssertionError, LoopGeneError) as error:
            raise StrategyError(
                f"the saved state of the strategy {self.name!r} is damaged: {error!r}"
            ) from error

    def random_genomes(self, count: int) -> list[Genome]:
        """Independent genomes; some may be alike."""
        rng, share = self.randomness.own, self.config.share
        return [random_genome(self.space, rng, share) for _ in range(count)]
