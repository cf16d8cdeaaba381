"""Capacity metrics by name: the shipped ones and those of the entry points `loopgene.capacity`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from engine.capacity.base import CapacityMetric, Score
from engine.capacity.fisher import FisherPotential
from engine.config_errors import nearest
from genomes.errors import LoopGeneError
from genomes.sites import Sites

__all__ = ["METRICS", "CapacityError", "CapacityMetric", "Score", "create_metric", "metric_names"]

ENTRY_POINTS = "loopgene.capacity"
METRICS: dict[str, Callable[..., CapacityMetric]] = {"fisher": FisherPotential}


class CapacityError(LoopGeneError):
    """A capacity metric is unknown, or its options are invalid."""


def metric_names() -> tuple[str, ...]:
    """All names that `create_metric` takes."""
    return tuple(sorted({*METRICS, *(p.name for p in entry_points(group=ENTRY_POINTS))}))


def create_metric(
    name: str, model: nn.Module, sites: Sites, x: Tensor, y: Tensor, **options: Any
) -> CapacityMetric:
    """The metric called `name` for a network and one minibatch.

    Raises:
        CapacityError: There is none, or an option is unknown or invalid.
    """
    if name not in METRICS and name not in metric_names():
        raise CapacityError(f"unknown capacity metric {name!r}; {nearest(name, metric_names())}")
    made: Any = METRICS.get(name)
    if made is None:
        made = next(p for p in entry_points(group=ENTRY_POINTS) if p.name == name).load()
    try:
        checked = made.Options.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CapacityError(f"capacity metric {name!r}, option {key}: {first['msg']}") from error
    return made(model, sites, x, y, checked)
