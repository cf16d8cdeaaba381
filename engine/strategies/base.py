"""The strategy interface: ask for candidates, tell what became of them.

A strategy knows no backend, no capacity metric and no file.  Everything that decides its next
proposal is in `state()`, so that a search can go on in another process as if nothing had been.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from engine.config import SearchConfig
from engine.evaluation import Evaluation
from genomes.errors import LoopGeneError
from genomes.genome import Genome
from genomes.operators import Space


class StrategyError(LoopGeneError):
    """A strategy is unknown, or a saved state does not belong to it."""


class Strategy(abc.ABC):
    """Proposes genomes.

    Third parties publish a subclass as an entry point of the group `loopgene.strategies` and
    prove it with `engine.strategies.conformance.StrategyConformance`.  Randomness comes from
    `engine.strategies.randomness.Randomness`, never from global generators.

    Args:
        space: What may be proposed.
        config: Sizes, rates, mode and seed.
    """

    def __init__(self, space: Space, config: SearchConfig) -> None:
        self.space = space
        self.config = config

    @abc.abstractmethod
    def ask(self) -> list[Genome]:
        """The candidates of the next generation.

        Returns:
            Legal canonical genomes, no two with the same effect; the first generation has the
            untransformed one.  Empty when there is nothing new to propose: the search ends.
        """

    @abc.abstractmethod
    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """What became of the candidates of the last `ask`, in its order.

        A budget may have cut the list short.
        """

    @property
    @abc.abstractmethod
    def population(self) -> tuple[Evaluation, ...]:
        """The survivors of the last `tell`, best first; `config.population` of them at most."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain JSON data, between a `tell` and the next `ask`; bounded in size."""

    @abc.abstractmethod
    def restore(self, data: dict[str, Any]) -> None:
        """Go on from `state()` of a strategy with the same space and config.

        Raises:
            StrategyError: The data is no state of this strategy.
        """
