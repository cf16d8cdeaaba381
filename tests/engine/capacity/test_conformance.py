from __future__ import annotations

from torch import Tensor, nn

from engine.capacity import CapacityMetric, create_metric
from engine.capacity.conformance import CapacityConformance
from genomes.sites import Sites


class TestFisher(CapacityConformance):
    def create(self, model: nn.Module, sites: Sites, x: Tensor, y: Tensor) -> CapacityMetric:
        return create_metric("fisher", model, sites, x, y)


class TestExactFisher(CapacityConformance):
    def create(self, model: nn.Module, sites: Sites, x: Tensor, y: Tensor) -> CapacityMetric:
        return create_metric("fisher", model, sites, x, y, exact=True, threads=1)


class TestSynFlow(CapacityConformance):
    def create(self, model: nn.Module, sites: Sites, x: Tensor, y: Tensor) -> CapacityMetric:
        return create_metric("synflow", model, sites, x, y)
