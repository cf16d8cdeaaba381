"""Search strategies: who proposes the next candidates, looked up by name."""

from __future__ import annotations

from engine.strategies.base import Strategy, StrategyError
from engine.strategies.registry import create_strategy, strategy_names

__all__ = ["Strategy", "StrategyError", "create_strategy", "strategy_names"]
