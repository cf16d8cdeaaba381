"""What DEAP works on: genomes with a fitness, and what makes two of them the same.

Plain subclasses instead of `deap.creator`, which breaks pickling in worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deap import base

from engine.evaluation import Evaluation
from genomes.genome import Genome, replay
from genomes.operators import Space

Effect = tuple[tuple[str, str], ...]
"""(site, key of its nest) of every site that is not as it was: what a genome does."""


class Latency(base.Fitness):
    """The one objective of the constrained mode, in seconds."""

    weights = (-1.0,)


class Objectives(base.Fitness):
    """Latency in seconds, relative capacity loss, parameters."""

    weights = (-1.0, -1.0, -1.0)


FITNESS: dict[str, type[base.Fitness]] = {"constrained": Latency, "pareto": Objectives}
"""By the mode of the search."""


class Individual:
    """A genome in a population.

    Attributes:
        genome: Replaced by variation; itself immutable, so that copies cost nothing.
        fitness: Valid after the evaluation.
        evaluation: None before the evaluation.
        effect: Of the evaluated genome.
    """

    __slots__ = ("effect", "evaluation", "fitness", "genome")

    def __init__(self, genome: Genome, fitness: Any) -> None:
        self.genome = genome
        self.fitness = fitness
        self.evaluation: Evaluation | None = None
        self.effect: Effect = ()

    def clone(self) -> Individual:
        """A copy with its own fitness."""
        new = Individual(self.genome, type(self.fitness)())
        new.fitness.wvalues = self.fitness.wvalues
        new.evaluation, new.effect = self.evaluation, self.effect
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Individual:
        # DEAP's archives copy what they keep.
        return self.clone()


def effect(space: Space, genome: Genome) -> Effect:
    """What `genome` does; equal for genomes that differ only in genes that change nothing."""
    found = []
    for site in space.sites:
        genes = genome.genes(site.name)
        if genes:
            nest = replay(site.shape, genes)
            if nest.key != replay(site.shape, ()).key:
                found.append((site.name, nest.key))
    return tuple(found)


def evaluated(space: Space, evaluation: Evaluation, mode: str) -> Individual:
    """The individual of an evaluated genome."""
    individual = Individual(evaluation.genome, FITNESS[mode](evaluation.fitness))
    individual.evaluation = evaluation
    individual.effect = effect(space, evaluation.genome)
    return individual


def evaluations(individuals: Iterable[Individual]) -> tuple[Evaluation, ...]:
    """The evaluations of evaluated individuals."""
    return tuple(i.evaluation for i in individuals if i.evaluation is not None)


def distinct(
    space: Space,
    propose: Callable[[int], Sequence[Genome]],
    count: int,
    seen: set[Effect],
    rounds: int = 8,
) -> list[Genome]:
    """Up to `count` genomes of which no two, and none with those in `seen`, have one effect.

    Args:
        space: Where the genomes live.
        propose: Makes n genomes; called again for those that turned out not to be new.
        count: Genomes wanted.
        seen: Known effects; the new ones are added.
        rounds: Calls of `propose` at most.
    """
    found: list[Genome] = []
    for _ in range(rounds):
        if len(found) == count:
            break
        for genome in propose(count - len(found)):
            does = effect(space, genome)
            if does not in seen:
                seen.add(does)
                found.append(genome)
    return found
