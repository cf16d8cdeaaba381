"""Strategies by name: the shipped ones and those of installed packages."""

from __future__ import annotations

from engine.config import SearchConfig
from engine.strategies.base import Strategy, StrategyError
from genomes.operators import Space
from genomes.plugins import Plugins

STRATEGIES = Plugins[Strategy](
    group="loopgene.strategies",
    noun="strategy",
    base=Strategy,  # type: ignore[type-abstract]
    error=StrategyError,
    shipped={
        "evolution": "engine.strategies.evolution:Evolution",
        "random": "engine.strategies.random_search:RandomSearch",
    },
)


def create_strategy(name: str, space: Space, config: SearchConfig) -> Strategy:
    """The strategy called `name`.

    Raises:
        StrategyError: There is none (the message names the nearest one), or the package that
            has it cannot be imported.
    """
    return STRATEGIES.load(name)(space, config)
