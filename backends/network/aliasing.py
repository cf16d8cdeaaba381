"""What operators of an exported graph change in place, and which values share memory.

In the graph that `torch.export` gives, before decomposition, operators may still be in place: a
value that is read later than before, or of which an old version is kept, must not have changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

_ATEN = torch.ops.aten
_VIEWS = tuple(
    getattr(_ATEN, name)
    for name in (
        "atleast_1d",
        "atleast_2d",
        "atleast_3d",
        "broadcast_tensors",
        "einsum",
        "meshgrid",
        "sum_to_size",
        "type_as",
        "unsafe_chunk",
    )
)
"""Operators whose results may be views of what they are given; their schemas do not say so."""


def is_fresh(node: fx.Node) -> bool:
    """Whether the value shares no memory with those before it."""
    if node.op == "placeholder":
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target.overloadpacket in _VIEWS:
        return False
    return all(value.alias_info is None for value in node.target._schema.returns)


def is_unchanged(value: fx.Node, since: fx.Node, until: fx.Node) -> bool:
    """Whether no operator after `since` and before `until` may change `value` in place."""
    owners = _owners(value)
    node = since.next
    while node is not until:
        if any(owners & _owners(changed) for changed in _changed(node)):
            return False
        node = node.next
    return True


def all_changed(graph: fx.Graph) -> set[fx.Node]:
    """The fresh values in whose memory some operator of the graph may write."""
    written = (changed for node in graph.nodes for changed in _changed(node))
    return {owner for changed in written for owner in _owners(changed)}


def _owners(value: fx.Node) -> set[fx.Node]:
    """The fresh values of which one owns the memory of `value`."""
    owners, seen, left = set[fx.Node](), set[fx.Node](), [value]
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        shared = [] if is_fresh(node) else _shared(node)
        left += shared
        if not shared:
            owners.add(node)
    return owners


def _shared(node: fx.Node) -> list[fx.Node]:
    """Of what an operator is given, that whose memory its results may share."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.all_input_nodes
    if node.target.overloadpacket in _VIEWS:
        return node.all_input_nodes
    return [given for given, alias in _given(node) if alias is not None]


def is_free(value: fx.Node, user: fx.Node) -> bool:
    """Whether nobody notices when `user` leaves `value`, which it changes in place, as it was.

    So it is when others have read it, or make something new of it, before.
    """
    if not is_fresh(value) or value.op == "placeholder":
        return False
    order = {node: number for number, node in enumerate(value.graph.nodes)}
    others = [node for node in value.users if node is not user]
    return all(is_fresh(node) and order[node] < order[user] for node in others)


def _changed(node: fx.Node) -> Iterator[fx.Node]:
    """The values that an operator may change in place."""
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        # A part of the network, as in a block of `torch.autocast`: it may change what it reads.
        yield from node.all_input_nodes
    for given, alias in _given(node):
        if alias is not None and alias.is_write:
            yield given


def _given(node: fx.Node) -> Iterator[tuple[fx.Node, Any]]:
    """The values that an operator is given, with what its schema says of their memory."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for index, argument in enumerate(node.target._schema.arguments):
        given = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
        for value in given if isinstance(given, (list, tuple)) else (given,):
            if isinstance(value, fx.Node):
                yield value, argument.alias_info
