"""One layout for the activations of a whole network, so that nothing is converted in between.

Tensors that an operator reads and writes element by element, pools or concatenates share their
layout: NCHW[x]c with the widest x that divides the channels of all of them.  Convolutions take
any layout on either side.  What else a network computes is left in NCHW, and a tensor is
converted where it goes from one to the other.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from backends.network.capture import capture
from backends.network.fusion import CapturedNetwork, change_constant, is_site
from genomes.sites import Site, Sites

if TYPE_CHECKING:
    from torch import nn

_ATEN = torch.ops.aten
_ELEMENTWISE = frozenset(
    {
        _ATEN.add.Tensor,
        _ATEN.sub.Tensor,
        _ATEN.mul.Tensor,
        _ATEN.div.Tensor,
        _ATEN.clamp.default,
        _ATEN.relu.default,
        _ATEN.relu6.default,
        _ATEN.hardtanh.default,
        _ATEN.silu.default,
        _ATEN.sigmoid.default,
        _ATEN.tanh.default,
        _ATEN.gelu.default,
        _ATEN.hardswish.default,
        _ATEN.hardsigmoid.default,
        _ATEN.leaky_relu.default,
        _ATEN.elu.default,
    }
)
_TAKING_LAYOUTS = frozenset(
    {
        _ATEN.max_pool2d.default,
        _ATEN.avg_pool2d.default,
        _ATEN.adaptive_avg_pool2d.default,
    }
)
LANES = "lanes"
"""The key under which a node of the graph says how its result is stored, if not as NCHW."""

LEAST_LANES = 8
"""Shorter blocks are worse than NCHW, whose rows can be loaded as vectors."""


def pack(x: Tensor, lanes: int) -> Tensor:
    """(N, C, H, W) as (N, C / lanes, H, W, lanes)."""
    return x.unflatten(1, (-1, lanes)).movedim(2, -1)


def unpack(x: Tensor) -> Tensor:
    """(N, C / lanes, H, W, lanes) as (N, C, H, W); the inverse of `pack`."""
    return x.movedim(-1, 2).flatten(1, 2)


def with_layouts(model: nn.Module, sites: Sites, lanes: int) -> Sites:
    """`sites` with the layouts that `compile_network` gives to their inputs and outputs.

    Args:
        model: The network in which they are, original or transformed.
        sites: From `find_sites`.
        lanes: float32 lanes of a vector register.

    Raises:
        ModelError: `torch.export` cannot trace the network.
    """
    captured = capture(model, sites.input_shape)
    choose_layouts(captured, lanes)
    shapes = {kernel.name: kernel.measured.shape for kernel in captured.kernels}

    def laid_out(site: Site) -> Site:
        there = shapes[site.name]
        shape = replace(site.shape, input_lanes=there.input_lanes, output_lanes=there.output_lanes)
        return replace(site, shape=shape)

    return replace(sites, sites=tuple(map(laid_out, sites.sites)))


def choose_layouts(captured: CapturedNetwork, lanes: int) -> None:
    """Give every activation of a network its layout, and convert where layouts meet.

    The nests of `captured.kernels` get the layouts of their inputs and outputs, and `pack` and
    `unpack` are put into the graph.

    Args:
        captured: The network; changed in place.
        lanes: float32 lanes of a vector register; 0 leaves everything in NCHW.
    """
    graph = captured.program.graph_module.graph
    chosen = _Classes(graph).layouts(lanes)
    _set_kernels(captured, chosen)
    _convert(captured, chosen)
    _pack_constants(captured.program)


def _tied(node: fx.Node) -> list[fx.Node]:
    """The operands of an operator that have the layout of its result."""
    if is_site(node):
        residual: Any = node.args[1]
        return [] if residual is None else [residual]
    return _read_alike(node)


def _is_free(node: fx.Node) -> bool:
    """Whether a tensor may have any layout."""
    return is_site(node) or bool(_read_alike(node))


def _read_alike(node: fx.Node) -> list[fx.Node]:
    """The operands of an operator that works in any layout; none for other operators."""
    if node.op != "call_function" or not _is_image(node):
        return []
    first: Any = node.args[0]
    if node.target is _ATEN.cat.default:
        by_channels = node.args[1:] in ((1,), (-3,)) and all(map(_is_image, first))
        return list(first) if by_channels else []
    if node.target in _TAKING_LAYOUTS:
        return [first]
    if node.target in _ELEMENTWISE:
        tensors = [a for a in node.args if isinstance(a, fx.Node)]
        same = all(_is_image(a) and _channels(a) == _channels(node) for a in tensors)
        return tensors if same else []
    return []


def _is_image(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.ndim == 4


def _channels(node: fx.Node) -> int:
    return int(node.meta["val"].shape[1])


class _Classes:
    """Sets of tensors that share a layout.

    A tensor from an operator that knows NCHW only belongs to none: it is packed where it is read.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}
        self._graph = graph
        first_calls: dict[Any, fx.Node] = {}
        for node in graph.nodes:
            for operand in _tied(node):
                if _is_free(operand):
                    self._join(node, operand)
            if is_site(node):
                # One kernel computes all calls of a site.
                self._join(node, first_calls.setdefault(node.args[2], node))

    def layouts(self, lanes: int) -> dict[fx.Node, int]:
        """The lanes of every tensor that is not NCHW."""
        members: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in self._graph.nodes:
            if _is_free(node):
                members[self._find(node)].append(node)
        chosen = {}
        for nodes in members.values():
            if any(map(is_site, nodes)):
                images = {*nodes, *(operand for node in nodes for operand in _tied(node))}
                width = _widest(map(_channels, images), lanes)
                chosen.update(dict.fromkeys(nodes, width) if width else {})
        return chosen

    def _find(self, node: fx.Node) -> fx.Node:
        while (parent := self._parent.get(node, node)) is not node:
            node = parent
        return node

    def _join(self, a: fx.Node, b: fx.Node) -> None:
        self._parent[self._find(a)] = self._find(b)


def _widest(channels: Iterable[int], lanes: int) -> int:
    """The largest block that divides all of `channels`: a register, or a part of one."""
    counts, width = list(channels), max(lanes, LEAST_LANES) if lanes else 0
    while width >= LEAST_LANES:
        if not any(count % width for count in counts):
            return width
        width //= 2
    return 0


def _set_kernels(captured: CapturedNetwork, chosen: Mapping[fx.Node, int]) -> None:
    calls: dict[Any, list[Any]] = defaultdict(list)
    for node in captured.program.graph_module.graph.nodes:
        if is_site(node):
            calls[node.args[2]].append(node)
    for number, nodes in calls.items():
        kernel = captured.kernels[number]
        read = {chosen.get(node.args[0], 0) for node in nodes}
        shape = replace(
            kernel.measured.shape,
            input_lanes=read.pop() if len(read) == 1 else 0,
            output_lanes=chosen.get(nodes[0], 0),
        )
        kernel.measured = replace(kernel.measured, shape=shape)


def _convert(captured: CapturedNetwork, chosen: Mapping[fx.Node, int]) -> None:
    graph = captured.program.graph_module.graph
    converted: dict[tuple[fx.Node, int], fx.Node] = {}

    def stored(x: fx.Node, lanes: int) -> fx.Node:
        """`x` in the layout of so many lanes; it is NCHW on one side of every conversion."""
        if chosen.get(x, 0) == lanes:
            return x
        if (x, lanes) not in converted:
            with graph.inserting_after(x):
                call = (pack, (x, lanes)) if lanes else (unpack, (x,))
                converted[x, lanes] = graph.call_function(*call)
        return converted[x, lanes]

    for node in list(graph.nodes):
        lanes, tied = chosen.get(node, 0), _tied(node)
        if is_site(node):
            x, residual, number, *_ = node.args
            shape = captured.kernels[number].measured.shape
            node.update_arg(0, stored(x, shape.input_lanes))
            node.update_arg(1, residual and stored(residual, lanes))
        else:
            for operand in node.all_input_nodes:
                read = stored(operand, lanes if operand in tied else 0)
                node.replace_input_with(operand, read)
        if lanes:
            node.meta[LANES] = lanes


def _pack_constants(program: torch.export.ExportedProgram) -> None:
    """Pack constants that are read packed only; TVM would compile a function to fold each."""
    graph = program.graph_module.graph
    for node in graph.find_nodes(op="call_function", target=pack):
        holder, lanes = node.args
        if set(holder.users) == {node} and change_constant(
            program, holder, functools.partial(_packed, lanes=lanes)
        ):
            node.replace_all_uses_with(holder)
            graph.erase_node(node)


def _packed(x: Tensor, lanes: int) -> Tensor:
    return pack(x, lanes).contiguous()
