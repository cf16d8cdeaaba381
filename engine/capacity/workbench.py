"""A private copy of a network in which sites are exchanged without copying the network again."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.capacity.nests import is_original, merged
from genomes.errors import ModelError
from genomes.genome import Genome, replay
from genomes.modules import SiteConv2d
from genomes.nest import LoopNest
from genomes.sites import Sites, replace_module

Nests = Mapping[str, LoopNest]
"""What is computed at the sites that differ from the original, by site name."""

Watch = Callable[[str, Tensor], Tensor]
"""Sees the output of every call of a site, by site name, and returns what the network gets."""


class SiteSlot(nn.Module):
    """Stands where a site's convolution stood; computes it or its transformed form.

    Attributes of the convolution that a network reads (`stride`, `weight`, ...) are the
    original's.
    """

    def __init__(self, site: str, original: nn.Conv2d) -> None:
        super().__init__()
        self.site = site
        self.original = original
        self.current: nn.Module = original
        self.watch: Watch | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.current(x)
        return out if self.watch is None else self.watch(self.site, out)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)


class Workbench:
    """A copy of a network, in training mode, with a slot for every site.

    Whatever a forward pass leaves in its buffers is undone; state that a network keeps elsewhere
    is not.

    Attributes:
        network: The copy; its parameters need no gradient.
        sites: Its sites.
    """

    def __init__(self, model: nn.Module, sites: Sites) -> None:
        self.sites = sites
        self.network = copy.deepcopy(model).train()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        for site in sites.sites:
            conv = self.network.get_submodule(site.name)
            assert isinstance(conv, nn.Conv2d)
            replace_module(self.network, conv, SiteSlot(site.name, conv))
        self._index()

    def _index(self) -> None:
        slots = (m for m in self.network.modules() if isinstance(m, SiteSlot))
        self.slots = {slot.site: slot for slot in slots}
        self._buffers = [
            (module, name, buffer, buffer.clone())
            for module in self.network.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def fork(self) -> Workbench:
        """Another workbench for another thread; both read the same parameters."""
        new = copy.copy(self)
        shared = {id(p): p for p in self.network.parameters()}
        new.network = copy.deepcopy(self.network, shared)
        new._index()
        return new

    def changes(self, genome: Genome) -> dict[str, LoopNest]:
        """The sites at which `genome` changes the network at initialisation.

        Raises:
            IllegalTransformation: A gene does not apply.
            ModelError: The genome names a site that the network does not have.
        """
        known = self.sites.named()
        found: dict[str, LoopNest] = {}
        for name, genes in genome.neural.sites:
            if name not in known:
                raise ModelError(
                    f"the genome transforms {name}, which is no site of this network; "
                    "run `loopgene inspect` for its sites"
                )
            nest = merged(replay(known[name].shape, genes))
            if not is_original(nest):
                found[name] = nest
        return found

    @contextlib.contextmanager
    def transformed(self, nests: Nests) -> Iterator[nn.Module]:
        """The network with `nests` at their sites, as long as the context lasts.

        Weights of kept iterations are kept.
        """
        for name, nest in nests.items():
            self.slots[name].current = SiteConv2d.from_conv(self.slots[name].original, nest)
        try:
            yield self.network
        finally:
            for name in nests:
                self.slots[name].current = self.slots[name].original

    @contextlib.contextmanager
    def watched(self, watch: Watch | None = None) -> Iterator[nn.Module]:
        """The network for one forward pass; what that leaves in buffers is undone at the end.

        Args:
            watch: Sees the output of every site.
        """
        for slot in self.slots.values():
            slot.watch = watch
        try:
            yield self.network
        finally:
            for slot in self.slots.values():
                slot.watch = None
            with torch.no_grad():
                for module, name, buffer, value in self._buffers:
                    module._buffers[name] = buffer
                    buffer.copy_(value)
