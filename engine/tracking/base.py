"""The tracker interface.  Tracking that fails never stops a search."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.evaluation import Evaluation, Generation


class Tracker(abc.ABC):
    """Receives what a search does, in order; one tracker belongs to one run folder."""

    @abc.abstractmethod
    def start(self, run_dir: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """The search starts, or goes on after an interruption.

        Args:
            run_dir: The run's folder; it has `config.yaml`.
            config: The resolved experiment config, plain data.
            facts: Device, versions, sites, original latency and capacity.
        """

    @abc.abstractmethod
    def generation(self, generation: Generation) -> None:
        """A generation has ended."""

    @abc.abstractmethod
    def finalist(self, name: str, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        """A finalist was measured end to end; `metrics` carry units in their names."""

    @abc.abstractmethod
    def artifact(self, path: Path) -> None:
        """Keep a file (plot, report, genome, library) with the run."""

    @abc.abstractmethod
    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        """The search has ended: state is `finished`, `stopped` (budget) or `failed`."""


class NullTracker(Tracker):
    """Tracks nothing."""

    def start(self, run_dir: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Do nothing."""

    def generation(self, generation: Generation) -> None:
        """Do nothing."""

    def finalist(self, name: str, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def artifact(self, path: Path) -> None:
        """Do nothing."""

    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        """Do nothing."""
