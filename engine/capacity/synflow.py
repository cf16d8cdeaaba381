"""SynFlow: synaptic flow through a network whose weights are all positive.

    S(site) = sum over its weights w of |w * dR/dw|,    R = sum of the outputs on an input of ones

with every parameter replaced by its absolute value and BatchNorm by the identity (Tanaka et
al., arXiv 2006.05467; as a measure of whole networks Abdelfattah et al., arXiv 2101.08134).  A
network's score is the sum over its sites.  Neither images nor labels play a part.

Flow falls with every weight that is removed, and by orders of magnitude in a deep network: the
score orders networks (the Pareto mode), it is no threshold to stay above.
"""

from __future__ import annotations

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
        self._bench = Workbench(model, sites)
        network = self._bench.network
        for module in list(network.modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                replace_module(network, module, nn.Identity())
        network.eval().to(torch.float64)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.abs_()
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
        changes = [self._bench.changes(genome) for genome in genomes]
        return [Score(math.fsum(self._run(nests).values())) for nests in changes]

    def per_site(self, genome: Genome) -> dict[str, float]:
        return self._run(self._bench.changes(genome))

    def _run(self, nests: Nests) -> dict[str, float]:
        with self._bench.transformed(nests) as network, torch.enable_grad():
            weights = {
                name: [p.requires_grad_() for p in _weights(slot.current)]
                for name, slot in self._bench.slots.items()
            }
            flat = [p for of_site in weights.values() for p in of_site]
            gradients = iter(
                torch.autograd.grad(network(self._ones).sum(), flat, allow_unused=True)
            )
            found = {}
            for name, of_site in weights.items():
                flows = [(p, next(gradients)) for p in of_site]
                found[name] = math.fsum(
                    (p * g).abs().sum().item() for p, g in flows if g is not None
                )
                for p in of_site:
                    p.requires_grad_(False)
        return found


def _weights(module: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in module.named_parameters() if not name.endswith("bias")]
