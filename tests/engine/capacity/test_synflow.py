from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.capacity import CapacityError, CapacityMetric, create_metric
from genomes import presets
from genomes.genome import Genome
from genomes.sites import find_sites

Y = torch.tensor([0, 1])


def metric_of(model: nn.Module, x: torch.Tensor) -> CapacityMetric:
    return create_metric("synflow", model, find_sites(model, (1, *x.shape[1:])), x, Y)


def chain() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 2, 1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 2, 1, bias=False),
        nn.Flatten(),
        nn.Linear(2, 1, bias=False),
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0]]).view(2, 2, 1, 1))
        model[0].bias.copy_(torch.tensor([-5.0, 0.0]))
        model[1].weight.fill_(7.0)
        model[1].running_mean.fill_(100.0)
        model[3].weight.copy_(torch.tensor([[1.0, 2.0], [-4.0, 1.0]]).view(2, 2, 1, 1))
        model[5].weight.copy_(torch.tensor([[1.0, -10.0]]))
    return model


def test_equals_a_hand_computation() -> None:
    metric = metric_of(chain(), torch.randn(2, 2, 1, 1))
    # Forward on ones: hidden = (1 + 2 + 5, 3 + 0) = (8, 3).
    # R = 1 * (1 * h0 + 2 * h1) + 10 * (4 * h0 + 1 * h1): dR/dh = (41, 12).
    # Flow through the first weights: 41 * (1 + 2) + 12 * 3; the bias is no part of it.
    # Flow through the second: 1 * (8 + 2 * 3) + 10 * (4 * 8 + 3).
    assert metric.per_site(Genome()) == pytest.approx({"0": 159.0, "3": 364.0})
    assert metric.original == pytest.approx(523.0)


def test_a_removed_weight_removes_its_flow() -> None:
    metric = metric_of(chain(), torch.randn(2, 2, 1, 1))
    # Depthwise: 1 and 0 are left of the first weights: hidden = (6, 0).
    genome = Genome.of({"0": presets.depthwise()})
    assert metric.per_site(genome) == pytest.approx({"0": 41.0, "3": 6.0 + 10 * 24.0})
    (score,) = metric.score([genome])
    assert score.exact
    assert score.value < metric.original


def test_images_and_labels_play_no_part() -> None:
    one = metric_of(chain(), torch.zeros(2, 2, 1, 1))
    other = metric_of(chain(), torch.randn(2, 2, 1, 1))
    assert one.identity == other.identity
    assert one.original == other.original


def test_a_network_without_flow_is_refused() -> None:
    model = chain()
    with torch.no_grad():
        model[5].weight.zero_()
    with pytest.raises(CapacityError, match="synaptic flow of the network is 0"):
        metric_of(model, torch.randn(2, 2, 1, 1))
