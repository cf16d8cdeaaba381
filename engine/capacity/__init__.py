"""Capacity metrics: what a candidate keeps of the original's representational capacity."""

from __future__ import annotations

from engine.capacity.base import CapacityError, CapacityMetric, MetricOptions, Score
from engine.capacity.registry import METRICS, create_metric, metric_options

__all__ = [
    "METRICS",
    "CapacityError",
    "CapacityMetric",
    "MetricOptions",
    "Score",
    "create_metric",
    "metric_options",
]
