"""SynFlow: synaptic flow through a network whose weights are all positive.

    S(site) = sum over its weights w of |w * dR/dw|,    R = sum of the outputs on an input of ones

with every parameter replaced by its absolute value and BatchNorm by the identity (Tanaka et
al., arXiv 2006.05467; as a measure of whole networks Abdelfattah et al., arXiv 2101.08134).  A
network's score is the sum over its sites.  Neither the images nor the labels play a part.

Flow falls with every weight that is removed, by orders of magnitude in a deep network: the score
orders networks, as the Pareto mode needs it; it is no threshold to stay above.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.capacity.base import CapacityError, CapacityMetric, MetricOptions, Score
from engine.capacity.identity import content_key
from engine.capacity.workbench import Nests, Workbench
from genomes.genome import Genome
from genomes.sites import Sites, replace_module


class SynFlow(CapacityMetric):
    """Synaptic flow, in float64: it spans more orders of magnitude than float32 has."""

    name = "synflow"

    def __init__(
        self, model: nn.Module, sites: Sites, x: Tensor, y: Tensor, options: MetricOptions
    ) -> None:
        self._bench = Workbench(_positive(model), sites)
        self._bench.network.eval()
        self._ones = torch.ones(1, *x.shape[1:], dtype=torch.float64)
        self._original = math.fsum(self._run({}).values())
        if not math.isfinite(self._original) or self._original <= 0:
            raise CapacityError(
                f"the synaptic flow of the network is {self._original}: its outputs do not "
                "depend on its convolutions, or overflow; choose another capacity metric"
            )
        names = [site.name for site in sites.sites]
        facts = (names, tuple(self._ones.shape), self._original, model)
        self._identity = content_key(self.name, facts, model.state_dict())

    @property
    def original(self) -> float:
        return self._original

    @property
    def identity(self) -> str:
        return self._identity

    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        return [Score(math.fsum(self.per_site(genome).values())) for genome in genomes]

    def per_site(self, genome: Genome) -> dict[str, float]:
        return self._run(self._bench.changes(genome))

    def _run(self, nests: Nests) -> dict[str, float]:
        with (
            self._bench.transformed(nests),
            self._bench.watched() as network,
            torch.enable_grad(),
        ):
            weights = {
                name: [p for key, p in slot.current.named_parameters() if key != "bias"]
                for name, slot in self._bench.slots.items()
            }
            flat = [p.requires_grad_() for of_site in weights.values() for p in of_site]
            gradients = torch.autograd.grad(
                network(self._ones).sum(), flat, materialize_grads=True
            )
            flows = iter(
                [(p * g).abs().sum().item() for p, g in zip(flat, gradients, strict=True)]
            )
            for parameter in flat:
                parameter.requires_grad_(False)
        return {name: math.fsum(next(flows) for _ in each) for name, each in weights.items()}


def _positive(model: nn.Module) -> nn.Module:
    """A copy in float64 with absolute parameters and without BatchNorm."""
    network = copy.deepcopy(model)
    for module in list(network.modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            replace_module(network, module, nn.Identity())
    with torch.no_grad():
        for parameter in network.to(torch.float64).parameters():
            parameter.abs_()
    return network
