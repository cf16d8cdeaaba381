"""Fisher potential: how much the loss would change if a channel were removed, summed up.

Per channel c of a site's output activation a (N, C, H, W) with gradient g of the loss:

    Delta_c = 1 / (2 N) * sum_n (sum_hw a * g)^2

A site's potential is the sum over its channels, a network's the sum over its sites.  One
minibatch at initialisation (BlockSwap, arXiv 1906.04113; NAS-PTE, arXiv 2102.06599, section 5).
"""

from __future__ import annotations

import copy
import hashlib
from collections import defaultdict
from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from engine.capacity.base import CapacityMetric, Score
from genomes.genome import Genome, replay
from genomes.modules import SiteConv2d
from genomes.nest import LoopNest
from genomes.sites import Sites, replace_module


class FisherOptions(BaseModel):
    """Options of the metric.

    Attributes:
        seed: Seed of the random layers of the network (dropout).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0


class FisherPotential(CapacityMetric):
    """Fisher potential of one minibatch."""

    name = "fisher"
    Options = FisherOptions

    def __init__(
        self, model: nn.Module, sites: Sites, x: Tensor, y: Tensor, options: FisherOptions
    ) -> None:
        self._model = copy.deepcopy(model).train()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self._sites = sites
        self._x, self._y = x, y
        self._options = options
        self._identity = _digest(model, x, y, options)
        self._original = sum(self.per_site(Genome()).values())

    @property
    def original(self) -> float:
        return self._original

    @property
    def identity(self) -> str:
        return self._identity

    def score(self, genomes: Sequence[Genome]) -> list[Score]:
        return [Score(sum(self.per_site(genome).values())) for genome in genomes]

    def per_site(self, genome: Genome) -> dict[str, float]:
        originals = {s.name: self._model.get_submodule(s.name) for s in self._sites.sites}
        swapped: list[tuple[nn.Module, nn.Module]] = []
        modules: dict[str, nn.Module] = dict(originals)
        for site in self._sites.sites:
            nest = replay(site.shape, genome.genes(site.name)).unscheduled()
            conv = originals[site.name]
            if nest == LoopNest.fresh(site.shape) or not isinstance(conv, nn.Conv2d):
                continue
            modules[site.name] = SiteConv2d.from_conv(conv, nest)
            replace_module(self._model, conv, modules[site.name])
            swapped.append((conv, modules[site.name]))
        try:
            return self._potentials(modules)
        finally:
            for conv, module in swapped:
                replace_module(self._model, module, conv)

    def _potentials(self, modules: dict[str, nn.Module]) -> dict[str, float]:
        found: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        handles = []
        for name, module in modules.items():

            def watch(
                _: nn.Module, __: tuple[Tensor, ...], out: Tensor, name: str = name
            ) -> Tensor:
                if not out.requires_grad:
                    out.requires_grad_(True)
                kept = out.detach()

                def add(gradient: Tensor) -> None:
                    products = (kept * gradient).sum((2, 3), dtype=torch.float64)
                    found[name] = found[name] + products.square().sum() / (2 * len(kept))

                out.register_hook(add)
                # A layer that works in place must not overwrite what the gradient is taken of.
                return out.clone()

            handles.append(module.register_forward_hook(watch))
        try:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(self._options.seed)
                functional.cross_entropy(self._model(self._x), self._y).backward()
        finally:
            for handle in handles:
                handle.remove()
        return {name: float(found[name]) for name in modules}


def _digest(model: nn.Module, x: Tensor, y: Tensor, options: FisherOptions) -> str:
    """Content hash of everything but the genome."""
    content = hashlib.sha256(f"fisher-1 {model} {options.model_dump_json()}".encode())
    for name, tensor in [*model.state_dict().items(), ("x", x), ("y", y)]:
        content.update(f"{name} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:24]
