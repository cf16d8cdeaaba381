"""Capture a network for compilation: its convolutions as kernels, the rest as a torch graph.

Every site becomes a call of the opaque operator `loopgene::site`, so that `torch.export` traces
the rest of the network and each convolution is compiled from the very loop nest that the search
measured.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backends.network.fusion import (
    CapturedNetwork,
    SiteKernel,
    flatten_concatenations,
    fuse_followers,
    simplify,
)
from genomes.errors import ModelError
from genomes.modules import SiteConv2d
from genomes.nest import LoopNest
from genomes.sites import find_sites, replace_module

_ATEN = torch.ops.aten
KEPT_WHOLE = (
    _ATEN.adaptive_avg_pool2d.default,
    _ATEN.elu.default,
    _ATEN.hardsigmoid.default,
    _ATEN.hardswish.default,
    _ATEN.leaky_relu.default,
    _ATEN.max_pool2d.default,
    _ATEN.relu6.default,
    _ATEN.silu.default,
)
"""Operators that stay as they are: one of them is easier to recognise than its parts."""


_CHANGES = (
    "the network changes its own {} whenever it runs, and a compiled network cannot; compute that "
    "in a new tensor, or do it in training only"
)


class _SiteCall(nn.Module):
    """Stands for a site while the network is traced.

    Attributes of the convolution that a network reads (`stride`, `out_channels`, ...) are there.
    """

    def __init__(self, number: int, shape: Sequence[int], site: nn.Module) -> None:
        super().__init__()
        self.number = number
        self.shape = list(shape)
        # No submodule: its weights are no part of what is traced.
        self.__dict__["site"] = site

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["site"], name)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.loopgene.site(x, None, self.number, self.shape, "")


def capture(model: nn.Module, input_shape: Sequence[int], *, fuse: bool = True) -> CapturedNetwork:
    """Trace `model` with its sites as opaque kernels.

    Args:
        model: The original network or a transformed one; it is not changed. Plain convolutions
            that are sites and `SiteConv2d` modules become kernels.
        input_shape: (N, C, H, W).
        fuse: Whether kernels take in what follows them.

    Raises:
        ModelError: The network cannot be traced by `torch.export`, or changes its own buffers or
            parameters. One that changes its input is captured; its caller's input then stays.
    """
    network = copy.deepcopy(model).eval()
    kernels: list[SiteKernel] = []
    modules: dict[str, SiteConv2d] = {
        name: module for name, module in network.named_modules() if isinstance(module, SiteConv2d)
    }
    for found in find_sites(network, input_shape).sites:
        conv = network.get_submodule(found.name)
        assert isinstance(conv, nn.Conv2d)
        modules[found.name] = SiteConv2d.from_conv(conv, LoopNest.fresh(found.shape))
    for name, module in modules.items():
        site = network.get_submodule(name)
        call = _SiteCall(len(kernels), module.nest.shape.output_shape, site)
        replace_module(network, site, call)
        weights = [w.detach().cpu().numpy().copy() for w in module.weights]
        bias = None if module.bias is None else module.bias.detach().cpu().numpy().copy()
        kernels.append(SiteKernel(name, module.nest, weights, bias))
    program = _export(network, input_shape)
    captured = CapturedNetwork(program, kernels)
    simplify(captured)
    if fuse:
        fuse_followers(captured)
    # Last: an activation in place that is a part of one has become part of a site.
    flatten_concatenations(program.graph_module.graph)
    program.graph_module.recompile()
    captured.program = _decomposed(captured.program)
    return captured


def _decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program in core operators, but for those that can be told apart from others later."""
    table = torch.export.default_decompositions()
    for name in KEPT_WHOLE:
        table.pop(name, None)
    with warnings.catch_warnings():
        # PyTorch's own use of what it deprecates is nothing that a user can change.
        warnings.filterwarnings("ignore", "`isinstance", FutureWarning)
        try:
            decomposed = program.run_decompositions(table)
        except RuntimeError as error:
            # A tensor that is neither a buffer nor a parameter has no place in the signature.
            if "is mutated in the forward" not in str(error):
                raise
            raise ModelError(_CHANGES.format(str(error).split()[1])) from error
    signature = decomposed.graph_signature
    if changed := {**signature.buffers_to_mutate, **signature.parameters_to_mutate}:
        raise ModelError(_CHANGES.format(next(iter(changed.values()))))
    return decomposed


def _export(network: nn.Module, input_shape: Sequence[int]) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(network, (torch.zeros(*input_shape),))
    except Exception as error:  # torch.export raises a large family of unrelated types
        line = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"torch.export cannot trace the network: {type(error).__name__}: {line}; "
            "remove data-dependent control flow from its forward"
        ) from error
