"""Capacity metrics by name: the shipped ones and those of installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from engine.capacity.base import CapacityError, CapacityMetric, MetricOptions
from genomes.explain import explain
from genomes.plugins import Plugins
from genomes.sites import Sites

METRICS = Plugins[CapacityMetric](
    group="loopgene.capacity",
    noun="capacity metric",
    base=CapacityMetric,  # type: ignore[type-abstract]
    error=CapacityError,
    shipped={
        "fisher": "engine.capacity.fisher:FisherPotential",
        "synflow": "engine.capacity.synflow:SynFlow",
    },
    options=MetricOptions,
)


def metric_options(name: str, options: Mapping[str, Any]) -> MetricOptions:
    """The checked options of the metric called `name`.

    Raises:
        CapacityError: There is no such metric or option, or an option's value is invalid.
    """
    model = METRICS.load(name).Options
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise CapacityError(explain(error, model, f"capacity metric {name!r}")) from error


def create_metric(
    name: str, model: nn.Module, sites: Sites, x: Tensor, y: Tensor, **options: Any
) -> CapacityMetric:
    """The metric called `name` for a network and one minibatch.

    Args:
        name: One of `METRICS.names()`.
        model: The untransformed network; it is not changed.
        sites: Its sites.
        x: Images, float32 (N, C, H, W).
        y: Labels, int64 (N,).
        options: Those of `MetricOptions`, and the metric's own.

    Raises:
        CapacityError: There is no such metric or option, an option's value is invalid, or the
            network cannot be scored on this minibatch; the message says which.
    """
    checked = metric_options(name, options)
    metric: Any = METRICS.load(name)
    made: CapacityMetric = metric(model, sites, x, y, checked)
    return made
