"""The local executor: capacities are computed by the threads of the search's own process."""

from __future__ import annotations

from engine.capacity.base import CapacityMetric
from engine.executors.base import Executor
from engine.executors.scoring import Scoring


class LocalExecutor(Executor):
    """Leaves a metric as it is."""

    name = "local"

    def spread(self, metric: CapacityMetric, scoring: Scoring) -> CapacityMetric:
        return metric
