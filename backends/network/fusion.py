"""Fold and fuse what follows a site: BatchNorm, a residual addition, an activation.

What no site takes is made cheap: a BatchNorm becomes one multiplication and one addition, and a
concatenation of concatenations reads their parts, so that TVM fuses each with what reads it.

The graph is the one that `torch.export` gives, before decomposition, so operators may still be
in place: what moves must find everything as it was (`backends.network.aliasing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from backends.network.aliasing import all_changed, is_free, is_unchanged
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
    _ATEN.relu6_.default: "relu6",
    _ATEN.silu.default: "silu",
    _ATEN.silu_.default: "silu",
}
_DROPOUTS = tuple(
    getattr(_ATEN, f"{kind}dropout{place}").default
    for kind in ("", "alpha_", "feature_", "feature_alpha_")
    for place in ("", "_")
)
"""In evaluation their result is their input itself, which `torch.export` takes for a copy."""

_MOST_PARTS = 16
"""Of one concatenation: every part is code of its own."""


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


def simplify(captured: CapturedNetwork) -> None:
    """Fold BatchNorms into the sites that they follow, and make the rest of the graph cheap."""
    graph = captured.program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in _DROPOUTS and not node.args[2]:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _fold_batch_norms(captured)
    _simplify_batch_norms(captured.program)


def fuse_followers(captured: CapturedNetwork) -> None:
    """Move residual additions and activations into the sites that they follow."""
    graph = captured.program.graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _ADDITIONS:
            _fuse_addition(node)
        elif node.target in _ACTIVATIONS:
            _fuse_activation(node)


def _fuse_addition(node: fx.Node) -> None:
    """Let the later of two summands add the other, if it is a site that nothing else reads."""
    first, second = node.args[:2]
    if node.kwargs.get("alpha", 1) != 1 or not isinstance(second, fx.Node):
        return
    assert isinstance(first, fx.Node)
    values = [summand.meta["val"] for summand in (first, second)]
    if first is second or len({(value.shape, value.dtype) for value in values}) > 1:
        return
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    for summand, other in sorted(
        ((first, second), (second, first)), key=lambda pair: -order[pair[0]]
    ):
        in_place = node.target is _ATEN.add_.Tensor and other is first
        if (
            _absorbs(summand, node)
            and summand.args[1] is None
            and summand.args[4] == ""
            and (not in_place or is_free(other, node))
        ):
            _replace(node, summand, residual=other)
            return


def _fuse_activation(node: fx.Node) -> None:
    (source, *bounds) = node.args
    name = _ACTIVATIONS[node.target]  # type: ignore[index]
    if "hardtanh" in str(node.target) and tuple(bounds) != (0.0, 6.0):
        return
    if _absorbs(source, node) and source.args[4] == "":  # type: ignore[union-attr]
        _replace(node, source, activation=name)


def _absorbs(call: Any, follower: fx.Node) -> bool:
    """Whether a node is a site that may as well run where the only reader of its output stands."""
    return (
        is_site(call)
        and len(call.users) == 1
        and all(is_unchanged(x, call, follower) for x in call.args[:2] if x is not None)
    )


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
    constants = _constants(captured.program)
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
        values = _values(constants, weight, bias, mean, variance)
        if values is None or not _fold(
            captured.kernels[source.args[2]], *_affine(values, epsilon)
        ):
            continue
        node.replace_all_uses_with(source)
        graph.erase_node(node)


def _simplify_batch_norms(program: torch.export.ExportedProgram) -> None:
    """Replace BatchNorms by x * scale + shift, which stand where their statistics stood.

    Those whose statistics are computed, or whose mean is their variance, stay.
    """
    graph, constants = program.graph_module.graph, _constants(program)
    groups: dict[tuple[Any, ...], list[fx.Node]] = {}
    for node in graph.nodes:
        if node.target is _ATEN.batch_norm.default and not node.args[5]:
            key = (*node.args[1:5], node.args[7], node.meta["val"].dim())
            groups.setdefault(key, []).append(node)
    for (weight, bias, mean, variance, epsilon, rank), nodes in groups.items():
        values = _values(constants, weight, bias, mean, variance)
        if values is None or any(set(n.users) != set(nodes) for n in (mean, variance)):
            continue
        if mean is variance:
            continue
        for holder, constant in zip((variance, mean), _affine(values, epsilon), strict=True):
            shape = (1, -1, *(1,) * (rank - 2))
            _replace_tensor(program, holder, torch.from_numpy(constant).float().reshape(shape))
        for node in nodes:
            with graph.inserting_before(node):
                scaled = graph.call_function(_ATEN.mul.Tensor, (node.args[0], variance))
                shifted = graph.call_function(_ATEN.add.Tensor, (scaled, mean))
            scaled.meta, shifted.meta = dict(node.meta), dict(node.meta)
            node.replace_all_uses_with(shifted)
            graph.erase_node(node)


def flatten_concatenations(graph: fx.Graph) -> None:
    """Let concatenations of concatenations read the parts themselves.

    As many elements are copied as before, fewer where nothing else reads the inner one.  It may
    then be fused with its only reader: in a dense block, where each layer reads all before it,
    only one in so many is ever written.
    """
    for node in graph.find_nodes(op="call_function", target=_ATEN.cat.default):
        axis = _concatenated_axis(node)
        parts: list[fx.Node] = []
        for part in node.args[0]:
            inner = list(part.args[0]) if _is_flattened(part, node, axis) else [part]
            is_small = len(parts) + len(inner) + len(node.args[0]) - 1 <= _MOST_PARTS
            parts += inner if is_small else [part]
        node.args = (parts, axis)
    for node in reversed(graph.find_nodes(op="call_function", target=_ATEN.cat.default)):
        if not node.users:
            graph.erase_node(node)


def _is_flattened(part: Any, node: fx.Node, axis: int) -> bool:
    if part.target is not _ATEN.cat.default or _concatenated_axis(part) != axis:
        return False
    return all(is_unchanged(value, part, node) for value in (part, *part.args[0]))


def _concatenated_axis(node: fx.Node) -> int:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return axis % node.meta["val"].dim()


def is_site(node: Any) -> bool:
    """Whether a node of the graph calls a site kernel."""
    return (
        isinstance(node, fx.Node)
        and node.op == "call_function"
        and node.target is torch.ops.loopgene.site.default
    )


def _constants(program: torch.export.ExportedProgram) -> dict[fx.Node, Tensor]:
    """The tensors of the network by their placeholders, but for those that it changes."""
    graph = program.graph_module.graph
    names, changed = _constant_names(program), all_changed(graph)
    placeholders = graph.find_nodes(op="placeholder")
    return {
        node: _tensor(program, node)
        for node in placeholders
        if node.name in names and node not in changed
    }


def _values(
    constants: Mapping[fx.Node, Tensor], *nodes: fx.Node | None
) -> list[Tensor | None] | None:
    """The tensors of some placeholders, of which there may be none; None if one is computed."""
    if any(node is not None and node not in constants for node in nodes):
        return None
    return [None if node is None else constants[node] for node in nodes]


def _tensor(program: torch.export.ExportedProgram, node: fx.Node) -> Tensor:
    name, holder = _holder(program, node)
    return holder[name]


def _replace_tensor(program: torch.export.ExportedProgram, node: fx.Node, new: Tensor) -> None:
    """Give a placeholder another value; the tensor that it had stays as it is."""
    name, holder = _holder(program, node)
    holder[name] = new
    node.meta["val"] = node.meta["val"].new_empty(new.shape)


def change_constant(
    program: torch.export.ExportedProgram, node: fx.Node, change: Callable[[Tensor], Tensor]
) -> bool:
    """Change the tensor of a placeholder; False where it is an input of the network, or none."""
    if node.name not in _constant_names(program):
        return False
    _replace_tensor(program, node, change(_tensor(program, node)))
    return True


def _constant_names(program: torch.export.ExportedProgram) -> dict[str, str]:
    """The names of tensors by the names of their placeholders."""
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def _holder(program: torch.export.ExportedProgram, node: fx.Node) -> tuple[str, dict[str, Any]]:
    """The name of a placeholder's tensor, and where it is kept under that name."""
    name = _constant_names(program)[node.name]
    return name, program.state_dict if name in program.state_dict else program.constants


def _affine(values: list[Tensor | None], epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of (x - mean) / sqrt(variance + epsilon) * weight + bias, float64 (C,)."""
    weight, bias, mean, variance = (
        None if v is None else v.detach().double().cpu().numpy() for v in values
    )
    assert mean is not None
    assert variance is not None
    scale = 1.0 / np.sqrt(variance + epsilon)
    if weight is not None:
        scale = scale * weight
    return scale, (0.0 if bias is None else bias) - mean * scale


def _fold(kernel: SiteKernel, scale: np.ndarray, shift: np.ndarray) -> bool:
    """Fold x * scale + shift into `kernel`.

    Returns:
        False when channels that repeat one computed channel have different scales.
    """
    scaled: list[np.ndarray] = []
    for s, w in zip(kernel.measured.weights, kernel.weights, strict=True):
        box = scale[s.co.start : s.co.stop].reshape(-1, s.kept_co)
        if not np.allclose(box, box[0], rtol=1e-6, atol=0.0):
            return False
        scaled.append((w * box[0][:, None, None, None]).astype(w.dtype))
    kernel.weights = scaled
    old = 0.0 if kernel.bias is None else kernel.bias
    kernel.bias = (old * scale + shift).astype(np.float32)
    return True
