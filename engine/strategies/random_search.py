"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

from engine.strategies.individuals import Effect, distinct
from engine.strategies.selection import PopulationStrategy
from genomes.genome import Genome


class RandomSearch(PopulationStrategy):
    """Independent random genomes; the population is the best of all so far."""

    name = "random"

    def ask(self) -> list[Genome]:
        seen: set[Effect] = {individual.effect for individual in self.individuals}
        first = not self.individuals
        size = self.config.population
        wanted = size if first else self.config.offspring or size
        known = distinct(self.space, lambda _: [Genome()], 1, seen, rounds=1) if first else []
        return known + distinct(self.space, self.random_genomes, wanted - len(known), seen)
