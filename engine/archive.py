"""The best candidates that a search has seen, whether or not they are still in its population."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deap import tools

from engine.evaluation import OK, Evaluation
from engine.packing import pack, unpack
from engine.strategies.individuals import Individual, evaluated, evaluations
from genomes.operators import Space

Legal = Callable[[Evaluation], bool]


def _same_effect(first: Individual, second: Individual) -> bool:
    return first.effect == second.effect


class Archive:
    """The fastest legal candidates and, in Pareto mode, the non-dominated ones.

    Both have a bounded size; no two members of one have the same effect.

    Args:
        space: Where the genomes live.
        mode: `constrained` or `pareto`.
        size: Legal candidates kept.
        front_size: Non-dominated candidates kept; the most crowded ones go first.
    """

    def __init__(self, space: Space, mode: str, size: int, front_size: int) -> None:
        self._space = space
        self._mode = mode
        self._front_size = front_size
        self._legal = tools.HallOfFame(size, _same_effect)
        self._front = tools.ParetoFront(_same_effect)

    @property
    def legal(self) -> tuple[Evaluation, ...]:
        """Measured candidates that keep their capacity, the fastest first."""
        return evaluations(self._legal)

    @property
    def front(self) -> tuple[Evaluation, ...]:
        """Measured non-dominated candidates, the fastest first; () in the constrained mode."""
        return evaluations(self._front)

    def update(self, new: Sequence[Evaluation], is_legal: Legal) -> bool:
        """Take in a generation.

        Returns:
            Whether something is better than before: the fastest legal candidate, or any
            member of the front.
        """
        before = self._marks()
        individuals = [evaluated(self._space, e, self._mode) for e in new if e.status == OK]
        self._legal.update([i for i in individuals if i.evaluation and is_legal(i.evaluation)])
        if self._mode == "pareto":
            self._front.update(individuals)
            self._thin_out()
        return bool(self._marks() - before)

    def _marks(self) -> set[tuple[float, ...]]:
        if self._mode == "pareto":
            return {e.fitness for e in self.front}
        return {e.fitness for e in self.legal[:1]}

    def _thin_out(self) -> None:
        if len(self._front) <= self._front_size:
            return
        kept = tools.selNSGA2(list(self._front), self._front_size)
        self._front.clear()
        self._front.update(kept)

    def state(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"legal": pack(self.legal), "front": pack(self.front)}

    def restore(self, data: dict[str, Any]) -> None:
        """Go on from `state()`.

        Raises:
            LookupError, TypeError, AssertionError, GenomeFormatError: The data is no such state.
        """
        for archive, saved in ((self._legal, data["legal"]), (self._front, data["front"])):
            archive.clear()
            # Of equals, the one that is inserted last comes first.
            for evaluation in reversed(unpack(saved)):
                archive.insert(evaluated(self._space, evaluation, self._mode))
