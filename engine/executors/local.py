"""The local executor: everything is done by the search's own process, and by the backend's."""

from __future__ import annotations

from backends.builder import Workshop
from engine.executors.base import Executor, Spread
from engine.executors.scoring import Scoring


class LocalExecutor(Executor):
    """Takes nothing over."""

    name = "local"

    def spread(self, scoring: Scoring | None, workshop: Workshop | None) -> Spread:
        return Spread()
