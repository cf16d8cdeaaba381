"""Fold and fuse what follows a site: BatchNorm, a residual addition, an activation.

The graph is the one that `torch.export` gives, before decomposition, so operators may still be
in place; an in-place operator on a site's output that nothing else reads is as good as another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from genomes.nest import LoopNest

SITE_OP = "site.default"
_ATEN = torch.ops.aten
_ADDITIONS = (_ATEN.add.Tensor, _ATEN.add_.Tensor)
_ACTIVATIONS = {
    _ATEN.relu.default: "relu",
    _ATEN.relu_.default: "relu",
    _ATEN.hardtanh.default: "relu6",
    _ATEN.hardtanh_.default: "relu6",
    _ATEN.relu6.default: "relu6",
    _ATEN.silu.default: "silu",
    _ATEN.silu_.default: "silu",
}


@dataclass
class SiteKernel:
    """One convolution of the network, with its weights.

    Attributes:
        name: Qualified module name.
        measured: Its nest in the network, as the search measures it.
        weights: In the order of `measured.weights`.
        bias: (C_out,) or None; a BatchNorm that is folded in gives a bias to a site without.
    """

    name: str
    measured: LoopNest
    weights: list[np.ndarray]
    bias: np.ndarray | None

    def compiled(self, scheduled: LoopNest) -> LoopNest:
        """The scheduled nest, with the bias that the compiled kernel adds."""
        shape = replace(scheduled.shape, bias=self.bias is not None)
        return LoopNest(shape, scheduled.statements)


@dataclass
class CapturedNetwork:
    """A network as an exported graph with numbered site kernels.

    Attributes:
        program: The exported graph; it calls `loopgene::site`.
        kernels: By number.
    """

    program: torch.export.ExportedProgram
    kernels: list[SiteKernel]


@torch.library.custom_op("loopgene::site", mutates_args=())
def site(
    x: Tensor, residual: Tensor | None, number: int, shape: list[int], activation: str
) -> Tensor:
    """activation(site `number` of x + residual); exists for tracing, never executed by torch."""
    return x.new_zeros(shape)


@site.register_fake
def _(
    x: Tensor, residual: Tensor | None, number: int, shape: list[int], activation: str
) -> Tensor:
    return x.new_empty(shape)


def fuse_followers(captured: CapturedNetwork) -> None:
    """Move BatchNorms, residual additions and activations into the sites that they follow."""
    graph = captured.program.graph_module.graph
    _fold_batch_norms(captured)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _ADDITIONS:
            _fuse_addition(node)
        elif node.target in _ACTIVATIONS:
            _fuse_activation(node)
    captured.program.graph_module.recompile()


def _fuse_addition(node: fx.Node) -> None:
    """Let the later of two summands add the other, if it is a site that nothing else reads."""
    first, second = node.args[:2]
    if node.kwargs.get("alpha", 1) != 1 or not isinstance(second, fx.Node):
        return
    assert isinstance(first, fx.Node)
    if first.meta["val"].shape != second.meta["val"].shape:
        return
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    for summand, other in sorted(
        ((first, second), (second, first)), key=lambda pair: -order[pair[0]]
    ):
        if _absorbs(summand) and summand.args[1] is None and summand.args[4] == "":
            _replace(node, summand, residual=other)
            return


def _fuse_activation(node: fx.Node) -> None:
    (source, *bounds) = node.args
    name = _ACTIVATIONS[node.target]  # type: ignore[index]
    if "hardtanh" in str(node.target) and tuple(bounds) != (0.0, 6.0):
        return
    if _absorbs(source) and source.args[4] == "":  # type: ignore[union-attr]
        _replace(node, source, activation=name)


def _absorbs(node: Any) -> bool:
    return is_site(node) and len(node.users) == 1


def _replace(
    node: fx.Node, call: Any, residual: fx.Node | None = None, activation: str | None = None
) -> None:
    """Replace `node`, the only reader of the site `call`, by the site with a longer epilogue."""
    x, old_residual, number, shape, old_activation = call.args
    arguments = (x, residual or old_residual, number, shape, activation or old_activation)
    with node.graph.inserting_before(node):
        new = node.graph.call_function(torch.ops.loopgene.site.default, arguments)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
    call.graph.erase_node(call)


def _fold_batch_norms(captured: CapturedNetwork) -> None:
    """Fold each BatchNorm whose input is a site used by nothing else into that site."""
    graph = captured.program.graph_module.graph
    tensors = _tensors(captured.program)
    site_nodes = [n for n in graph.nodes if is_site(n)]
    numbers = [n.args[2] for n in site_nodes]
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not torch.ops.aten.batch_norm.default:
            continue
        source, weight, bias, mean, variance, training, _, epsilon = node.args[:8]
        if training or not is_site(source) or len(source.users) > 1:
            continue
        if numbers.count(source.args[2]) > 1:
            continue
        values = [None if n is None else tensors(n) for n in (weight, bias, mean, variance)]
        kernel = captured.kernels[source.args[2]]
        if not _fold(kernel, values, epsilon):
            continue
        node.replace_all_uses_with(source)
        graph.erase_node(node)


def is_site(node: Any) -> bool:
    """Whether a node of the graph calls a site kernel."""
    return (
        isinstance(node, fx.Node)
        and node.op == "call_function"
        and node.target is torch.ops.loopgene.site.default
    )


def _tensors(program: torch.export.ExportedProgram) -> Callable[[fx.Node], Tensor]:
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}

    def value(node: fx.Node) -> Tensor:
        name = names[node.name]
        found = program.state_dict.get(name)
        tensor = found if found is not None else program.constants[name]
        assert isinstance(tensor, Tensor)
        return tensor

    return value


def _fold(kernel: SiteKernel, values: list[Tensor | None], epsilon: float) -> bool:
    """Fold y = (x - mean) / sqrt(variance + epsilon) * weight + bias into `kernel`.

    Returns:
        False when channels that repeat one computed channel have different scales.
    """
    weight, bias, mean, variance = (
        None if v is None else v.detach().double().cpu().numpy() for v in values
    )
    assert mean is not None
    assert variance is not None
    scale = 1.0 / np.sqrt(variance + epsilon)
    if weight is not None:
        scale = scale * weight
    old = 0.0 if kernel.bias is None else kernel.bias
    shift = (old - mean) * scale + (0.0 if bias is None else bias)
    scaled: list[np.ndarray] = []
    for s, w in zip(kernel.measured.weights, kernel.weights, strict=True):
        box = scale[s.co.start : s.co.stop].reshape(-1, s.kept_co)
        if not np.allclose(box, box[0], rtol=1e-6, atol=0.0):
            return False
        scaled.append((w * box[0][:, None, None, None]).astype(w.dtype))
    kernel.weights = scaled
    kernel.bias = shift.astype(np.float32)
    return True
