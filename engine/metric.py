"""The capacity metric of an experiment: the same in every process that builds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.capacity import CapacityMetric, create_metric
from engine.config import ExperimentConfig
from engine.data import load_data
from genomes.errors import ModelError
from genomes.sites import Sites

if TYPE_CHECKING:
    from torch import nn


def capacity_metric(config: ExperimentConfig, model: nn.Module, sites: Sites) -> CapacityMetric:
    """The metric that `config` names.

    Args:
        config: The experiment, resolved.
        model: Its untransformed network; it is not changed.
        sites: What is transformed in it.

    Raises:
        LoopGeneError: The images cannot be read, or the network cannot be scored on them.
    """
    capacity, shape = config.capacity, config.model.input_shape
    data = load_data(config.data.kind, config.data.path)
    x, y = data.minibatch(
        capacity.batch,
        config.data.seed,
        (shape[1], shape[2], shape[3]),
        num_classes=_classes(model, shape),
    )
    options = {
        "seed": capacity.seed,
        "tolerance": capacity.tolerance,
        # Every value is an objective there, not only its side of the threshold.
        "exact": config.search.mode == "pareto",
        **capacity.options,
    }
    return create_metric(capacity.metric, model, sites, x, y, **options)


def _classes(model: nn.Module, shape: Sequence[int]) -> int:
    """Length of the network's output."""
    import torch

    training = model.training
    with torch.no_grad():
        out = model.eval()(torch.zeros(*shape))
    model.train(training)
    if not isinstance(out, torch.Tensor) or out.ndim != 2:
        form = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ModelError(
            f"the network's output is {form}; a search needs class scores of shape "
            "(N, classes): wrap the network in a module that returns them"
        )
    return out.shape[1]
