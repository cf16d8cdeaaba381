"""Executors: who computes the capacities of a search's candidates and builds their kernels."""

from __future__ import annotations

from engine.executors.base import Executor, ExecutorError, ExecutorOptions, Spread
from engine.executors.registry import EXECUTORS, create_executor, executor_options

__all__ = [
    "EXECUTORS",
    "Executor",
    "ExecutorError",
    "ExecutorOptions",
    "Spread",
    "create_executor",
    "executor_options",
]
