"""Search strategies: who proposes the next candidates, looked up by name."""

from __future__ import annotations

from engine.strategies.base import Strategy, StrategyError
from engine.strategies.registry import STRATEGIES, create_strategy

__all__ = ["STRATEGIES", "Strategy", "StrategyError", "create_strategy"]
