"""Networks that change values in place, which others read before or after."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from backends.network.capture import capture
from tests.backends.network.networks import SHAPE, check

ATEN = torch.ops.aten
Forward = Callable[["Network", Tensor], Tensor]


class Network(nn.Module):
    """Three convolutions that keep the channels, called as a function says."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.called = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.called(self, x)


def sum_is_read_under_its_old_name(net: Network, x: Tensor) -> Tensor:
    x = kept = net.a(x)
    x += net.b(x)
    return net.c(x) + kept


def sum_is_read_through_a_view(net: Network, x: Tensor) -> Tensor:
    x = net.a(x)
    view = x.view(x.shape)
    x += net.b(x)
    return net.c(x) * view


def sum_of_an_activation_in_place(net: Network, x: Tensor) -> Tensor:
    x = kept = net.a(x)
    y = torch.relu_(x)
    y += net.b(y)
    return net.c(y) * kept


def input_changes_before_the_sum(net: Network, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.b(x)
    x.mul_(2.0)
    return y + torch.sigmoid(x)


def input_changes_before_the_activation(net: Network, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.b(x)
    x.mul_(2.0)
    return torch.relu(y) * x


def input_changes_through_a_view(net: Network, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.b(x)
    x.view(x.shape).mul_(2.0)
    return torch.relu(y) * x


def input_changes_through_dropout(net: Network, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.b(x)
    nn.functional.dropout(x, 0.5, net.training).mul_(2.0)
    return torch.relu(y) * x


def input_changes_through_a_view_that_no_schema_tells(net: Network, x: Tensor) -> Tensor:
    x = net.a(x)
    y = net.b(x)
    torch.einsum("nchw->nhwc", x).mul_(2.0)
    return torch.relu(y) * x


def sum_is_read_through_a_list(net: Network, x: Tensor) -> Tensor:
    x = net.a(x)
    view, _ = torch.broadcast_tensors(x, x.new_zeros(2, 1, 1, 1))
    x += net.b(x)
    return net.c(x) * view[:1]


def sum_of_twice_the_same(net: Network, x: Tensor) -> Tensor:
    y = net.a(x)
    return net.b(y + y)


def concatenation_changes_through_a_view(net: Network, x: Tensor) -> Tensor:
    joined = torch.cat((net.a(x), net.b(x)), 1)
    joined[:, :3].mul_(2.0)
    return torch.cat((joined, net.c(x)), 1)


def concatenation_changes(net: Network, x: Tensor) -> Tensor:
    joined = torch.cat((net.a(x), net.b(x)), 1)
    torch.relu_(joined)
    return torch.cat((joined, net.c(x)), 1)


def part_of_a_concatenation_changes(net: Network, x: Tensor) -> Tensor:
    y = net.a(x)
    joined = torch.cat((y, net.b(x)), 1)
    y.mul_(2.0)
    return torch.cat((joined, net.c(y)), 1)


def concatenation_is_changed_later(net: Network, x: Tensor) -> Tensor:
    joined = torch.cat((net.a(x), net.b(x)), 1)
    both = torch.cat((joined, net.c(x)), 1)
    return torch.cat((both, joined.mul_(2.0)), 1)


@pytest.mark.parametrize(
    "forward",
    [
        sum_is_read_under_its_old_name,
        sum_is_read_through_a_view,
        sum_of_an_activation_in_place,
        input_changes_before_the_sum,
        input_changes_before_the_activation,
        input_changes_through_a_view,
        input_changes_through_dropout,
        input_changes_through_a_view_that_no_schema_tells,
        sum_is_read_through_a_list,
        sum_of_twice_the_same,
        concatenation_changes_through_a_view,
        concatenation_changes,
        part_of_a_concatenation_changes,
        concatenation_is_changed_later,
    ],
)
def test_what_changes_in_place_is_read_as_pytorch_reads_it(forward: Forward) -> None:
    check(Network(forward).eval())


def sum_in_place(net: Network, x: Tensor) -> Tensor:
    x = net.a(x)
    x += net.b(x)
    return net.c(x)


def activations_in_place(net: Network, x: Tensor) -> Tensor:
    y = torch.relu_(net.a(x))
    z = net.b(y)
    z += net.c(y)
    return torch.relu_(z)


def test_concatenations_of_activations_in_place_are_flattened() -> None:
    def forward(net: Network, x: Tensor) -> Tensor:
        inner = torch.cat((torch.relu_(net.a(x)), torch.relu_(net.b(x))), 1)
        return torch.cat((inner, torch.relu_(net.c(x))), 1)

    nodes = capture(Network(forward), SHAPE).program.graph.nodes
    assert [len(n.args[0]) for n in nodes if n.target is ATEN.cat.default] == [3]
    check(Network(forward).eval())


@pytest.mark.parametrize("forward", [sum_in_place, activations_in_place])
def test_what_nobody_notices_is_fused(forward: Forward) -> None:
    program = capture(Network(forward), SHAPE).program
    called = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert called == [torch.ops.loopgene.site.default] * 3
    check(Network(forward).eval())
