"""Evolution on DEAP: (mu + lambda) with tournaments, or NSGA-II in Pareto mode."""

from __future__ import annotations

from deap import algorithms, base, tools

from engine.config import SearchConfig
from engine.strategies.individuals import Effect, Individual, distinct
from engine.strategies.seeding import uniform_presets
from engine.strategies.selection import PopulationStrategy
from genomes.genome import Genome
from genomes.operators import Space, mate, mutate


class Evolution(PopulationStrategy):
    """Children come from selected parents by crossover or mutation; the best of both survive.

    The first generation is the untransformed network, uniform presets (half of the population
    at most) and random genomes.
    """

    name = "evolution"

    def __init__(self, space: Space, config: SearchConfig) -> None:
        super().__init__(space, config)
        self.toolbox = base.Toolbox()
        self.toolbox.register("clone", Individual.clone)
        self.toolbox.register("mate", self._mate)
        self.toolbox.register("mutate", self._mutate)

    def ask(self) -> list[Genome]:
        if not self.individuals:
            return self._initial()
        seen = {individual.effect for individual in self.individuals}
        wanted = self.config.offspring or self.config.population
        children = distinct(self.space, self._children, wanted, seen)
        # A population that has converged gets fresh blood instead of copies.
        return children + distinct(self.space, self.random_genomes, wanted - len(children), seen)

    def _initial(self) -> list[Genome]:
        size = self.config.population
        presets = uniform_presets(self.space)[: size // 2]
        seeded = [Genome(), *presets]
        seen: set[Effect] = set()
        first = distinct(self.space, lambda n: seeded[:n], size, seen, rounds=1)
        return first + distinct(self.space, self.random_genomes, size - len(first), seen)

    def _children(self, count: int) -> list[Genome]:
        mating = self.config.mate
        mutating = min(self.config.mutate, 1.0 - mating)
        with self.randomness.lent():
            parents = self._parents()
            children = algorithms.varOr(parents, self.toolbox, count, mating, mutating)
        return [child.genome for child in children]

    def _parents(self) -> list[Individual]:
        """A pool of the size of the population in which the better ones are more frequent."""
        present = self.individuals
        if self.config.mode == "constrained":
            size = max(2, len(present))
            return list(tools.selTournament(present, size, self.config.tournament))
        # Crowding distances are no part of a saved state: selection assigns them anew.
        ranked = tools.selNSGA2(present, len(present))
        if len(ranked) < 4:
            return list(ranked * 2)
        return list(tools.selTournamentDCD(ranked, len(ranked) // 4 * 4))

    def _mate(self, first: Individual, second: Individual) -> tuple[Individual, Individual]:
        genomes = mate(self.space, first.genome, second.genome, self.randomness.own)
        first.genome, second.genome = genomes
        return first, second

    def _mutate(self, individual: Individual) -> tuple[Individual]:
        changes = self.randomness.own.randint(1, self.config.changes)
        individual.genome = mutate(self.space, individual.genome, self.randomness.own, changes)
        return (individual,)
