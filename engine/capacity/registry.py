"""Capacity metrics by name: the shipped ones and those of installed packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from engine.capacity.base import CapacityError, CapacityMetric
from engine.capacity.fisher import FisherPotential
from engine.capacity.synflow import SynFlow
from engine.config_errors import explain, nearest
from genomes.sites import Sites

ENTRY_POINTS = "loopgene.capacity"
METRICS: dict[str, type[CapacityMetric]] = {"fisher": FisherPotential, "synflow": SynFlow}


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def metric_names() -> tuple[str, ...]:
    """All names that `create_metric` takes."""
    return tuple(sorted({*METRICS, *_installed()}))


def create_metric(
    name: str, model: nn.Module, sites: Sites, x: Tensor, y: Tensor, **options: Any
) -> CapacityMetric:
    """The metric called `name` for a network and one minibatch.

    Args:
        name: One of `metric_names()`.
        model: The untransformed network; it is not changed.
        sites: Its sites.
        x: Images, float32 (N, C, H, W).
        y: Labels, int64 (N,).
        options: Those of `MetricOptions`, and the metric's own.

    Raises:
        CapacityError: There is no such metric or option, an option's value is invalid, or the
            network cannot be scored on this minibatch; the message says which.
    """
    metric: Any = _metric(name)
    try:
        checked = metric.Options.model_validate(options)
    except ValidationError as error:
        raise CapacityError(explain(error, metric.Options, f"capacity metric {name!r}")) from error
    made: CapacityMetric = metric(model, sites, x, y, checked)
    return made


def _metric(name: str) -> type[CapacityMetric]:
    if name in METRICS:
        return METRICS[name]
    if name not in _installed():
        raise CapacityError(f"unknown capacity metric {name!r}; {nearest(name, metric_names())}")
    point = _installed()[name]
    try:
        found = point.load()
    except Exception as error:  # another package's import may raise anything
        raise CapacityError(
            f"capacity metric {name!r} ({point.value}) cannot be imported: "
            f"{type(error).__name__}: {error}; repair or remove the package that installs it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, CapacityMetric)):
        raise CapacityError(
            f"capacity metric {name!r} ({point.value}) is no subclass of "
            "engine.capacity.CapacityMetric; repair or remove the package that installs it"
        )
    return found
