"""Site discovery: which convolutions of a network may be transformed, and why others may not.

Convolutions are found by `named_modules` and shape hooks in one forward pass; there is no graph
of the network.  What is not understood is left alone, with a reason.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genomes.errors import ModelError
from genomes.genome import Genome, replay
from genomes.modules import SiteConv2d
from genomes.nest import ConvShape, LoopNest


@dataclass(frozen=True)
class Site:
    """A convolution that may be transformed.

    Attributes:
        name: Qualified module name (the first, if the module has several).
        shape: Its shapes in the network.
        calls: How often one forward pass calls it.
    """

    name: str
    shape: ConvShape
    calls: int = 1


@dataclass(frozen=True)
class NotASite:
    """A module that looks like a convolution and is left alone.

    Attributes:
        name: Qualified module name.
        kind: Its class.
        reason: Why it is not transformed.
    """

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Sites:
    """What `find_sites` found.

    Attributes:
        sites: In order of the first call.
        others: Convolution-like modules that are not sites.
        input_shape: (N, C, H, W) of the network's input.
    """

    sites: tuple[Site, ...]
    others: tuple[NotASite, ...]
    input_shape: tuple[int, ...]

    def named(self) -> dict[str, Site]:
        """Sites by name."""
        return {site.name: site for site in self.sites}

    def nests(self, genome: Genome) -> dict[str, LoopNest]:
        """The nest of every site after the genes of `genome`.

        Raises:
            IllegalTransformation: A gene does not apply.
        """
        return {s.name: replay(s.shape, genome.genes(s.name)) for s in self.sites}


def find_sites(model: nn.Module, input_shape: Sequence[int]) -> Sites:
    """Find the sites of `model`.

    Args:
        model: Any module that maps one tensor of shape `input_shape`; it is not changed.
        input_shape: (N, C, H, W).

    Raises:
        ModelError: The forward pass fails on this shape.
    """
    convolutions = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    }
    calls: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    handles = []
    for name, module in convolutions.items():

        def record(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            calls[name][tuple(args[0].shape)] += 1

        handles.append(module.register_forward_pre_hook(record))
    try:
        _forward_once(model, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    owners = _parameter_owners(model)
    sites, others = [], []
    for name in [*calls, *(n for n in convolutions if n not in calls)]:
        module = convolutions[name]
        reason = _why_not(module, calls.get(name), owners)
        if reason:
            others.append(NotASite(name, type(module).__name__, reason))
            continue
        assert isinstance(module, nn.Conv2d)
        ((shape, count),) = calls[name].items()
        sites.append(Site(name, conv_shape(module, shape), count))
    return Sites(tuple(sites), tuple(others), tuple(input_shape))


def _forward_once(model: nn.Module, input_shape: Sequence[int]) -> None:
    training = model.training
    model.eval()
    reference = next(model.parameters(), torch.zeros(()))
    x = torch.zeros(*input_shape, device=reference.device, dtype=reference.dtype)
    try:
        with torch.no_grad():
            model(x)
    except Exception as error:  # the user's own code may raise anything
        line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ModelError(
            f"the network fails on an input of shape {tuple(input_shape)}: "
            f"{type(error).__name__}: {line}; check the input shape"
        ) from error
    finally:
        model.train(training)


def _parameter_owners(model: nn.Module) -> dict[int, set[int]]:
    """Modules (by id) that hold each parameter (by id)."""
    owners: dict[int, set[int]] = defaultdict(set)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].add(id(module))
    return owners


def _why_not(
    module: nn.Module, calls: Counter[tuple[int, ...]] | None, owners: dict[int, set[int]]
) -> str | None:
    """Why a convolution is not a site; None if it is one."""
    if type(module) is not nn.Conv2d:
        return f"{type(module).__name__} is not a plain torch.nn.Conv2d"
    if not calls:
        return "the forward pass does not call it"
    if len(calls) > 1:
        return f"it is called with {len(calls)} different input shapes"
    if len(next(iter(calls))) != 4:
        return "it is called without a batch dimension"
    if module.weight.dtype != torch.float32:
        return f"its weights are {str(module.weight.dtype).removeprefix('torch.')}, not float32"
    if any(len(owners[id(p)]) > 1 for p in module.parameters(recurse=False)):
        return "it shares a parameter with another module"
    return None


def conv_shape(conv: nn.Conv2d, input_shape: Sequence[int]) -> ConvShape:
    """The shape of `conv` on an input (N, C_in, H, W), with `same` padding resolved."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    return ConvShape(
        batch=input_shape[0],
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        in_size=(input_shape[2], input_shape[3]),
        kernel=(conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        padding=(top, bottom, left, right),
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        padding_mode=conv.padding_mode,
        bias=conv.bias is not None,
    )


def transform(model: nn.Module, sites: Sites, genome: Genome) -> nn.Module:
    """A copy of `model` with the convolutions of `genome` replaced.

    Weights of kept iterations are kept. A module with several names is replaced under all.

    Raises:
        IllegalTransformation: A gene does not apply.
        ModelError: The genome names a site that the network does not have.
    """
    known = sites.named()
    unknown = [name for name, _ in genome.sites if name not in known]
    if unknown:
        raise ModelError(
            f"the genome transforms {unknown[0]}, which is no site of this network; "
            "run `loopgene inspect` for its sites"
        )
    new = copy.deepcopy(model)
    for name, genes in genome.sites:
        nest = replay(known[name].shape, genes)
        if nest.unscheduled() == LoopNest.fresh(nest.shape):
            continue
        old = new.get_submodule(name)
        assert isinstance(old, nn.Conv2d)
        replace_module(new, old, SiteConv2d.from_conv(old, nest))
    return new


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` is registered in `model`."""
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                parent._modules[key] = new
