"""Strategies by name: the shipped ones and those of installed packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from engine.config import SearchConfig
from engine.config_errors import nearest
from engine.strategies.base import Strategy, StrategyError
from engine.strategies.evolution import Evolution
from engine.strategies.random_search import RandomSearch
from genomes.operators import Space

ENTRY_POINTS = "loopgene.strategies"
SHIPPED: dict[str, type[Strategy]] = {"evolution": Evolution, "random": RandomSearch}


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def strategy_names() -> tuple[str, ...]:
    """All names that `create_strategy` takes."""
    return tuple(sorted({*SHIPPED, *_installed()}))


def create_strategy(name: str, space: Space, config: SearchConfig) -> Strategy:
    """The strategy called `name`.

    Raises:
        StrategyError: There is none (the message names the nearest one), or the package that
            has it cannot be imported.
    """
    if name in SHIPPED:
        return SHIPPED[name](space, config)
    if name not in _installed():
        raise StrategyError(f"unknown strategy {name!r}; {nearest(name, strategy_names())}")
    return _load(_installed()[name])(space, config)


def _load(point: EntryPoint) -> type[Strategy]:
    try:
        found = point.load()
    except Exception as error:  # another package's import may raise anything
        raise StrategyError(
            f"strategy {point.name!r} ({point.value}) cannot be imported: "
            f"{type(error).__name__}: {error}; repair or remove the package that installs it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise StrategyError(
            f"strategy {point.name!r} ({point.value}) is no subclass of "
            "engine.strategies.Strategy; repair or remove the package that installs it"
        )
    return found
