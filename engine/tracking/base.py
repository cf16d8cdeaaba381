"""The tracker interface.  Tracking that fails never stops a search."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.evaluation import Evaluation, Generation


class Tracker(abc.ABC):
    """Receives what a search does, in order; one tracker belongs to one run folder."""

    @property
    def run_id(self) -> str | None:
        """Where the run is found again: its MLflow run id; None if it is not tracked."""
        return None

    @abc.abstractmethod
    def start(self, run_dir: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """The search starts, or goes on after an interruption.

        Args:
            run_dir: The run's folder; it has `config.yaml`.
            config: The resolved experiment config, plain data.
            facts: What is known before the first generation; the keys that trackers read are
                `device` ({"name": ...}), `versions` ({"loopgene": ...}), `original`
                ({"latency_s", "capacity", "macs", "parameters"}) and `sites` (their number, or
                a list with one entry each).  All may be missing.
        """

    @abc.abstractmethod
    def generation(self, generation: Generation) -> None:
        """A generation has ended."""

    @abc.abstractmethod
    def finalist(self, name: str, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        """A finalist was measured end to end; `metrics` carry units in their names."""

    @abc.abstractmethod
    def artifact(self, path: Path) -> None:
        """Keep a file (plot, report, genome, library) with the run.

        Args:
            path: An existing file; one below `artifacts/` of the run folder keeps its subfolder.
        """

    @abc.abstractmethod
    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        """The search has ended; what is told last holds.

        Args:
            state: `finished`, `stopped` (budget), `failed` or `interrupted`.
            metrics: Of the result; empty if there is none.
        """


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
