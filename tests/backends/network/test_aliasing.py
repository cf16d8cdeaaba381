"""Networks that change values in place, which others read before or after."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from backends.network import compile_network
from backends.network.capture import capture
from genomes.errors import ModelError
from tests.backends.network.networks import SHAPE, TARGET, batch_norm, check, unscheduled

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


def input_changes_in_a_part_of_the_network(net: Network, x: Tensor) -> Tensor:
    x = x + 1.0
    y = net.a(x)
    with torch.autocast("cpu", enabled=False):
        x.mul_(2.0)
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
        input_changes_in_a_part_of_the_network,
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


def test_what_changes_other_memory_does_not_prevent_fusing() -> None:
    def forward(net: Network, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(net.a(x), inplace=True)
        y = net.b(x)
        z = nn.functional.hardswish(net.c(x), inplace=True)
        return torch.relu(y) * z

    targets = [n.target for n in capture(Network(forward), SHAPE).program.graph.nodes]
    assert ATEN.relu.default not in targets
    check(Network(forward).eval())


def statistics_of_the_batch(net: Network, x: Tensor) -> Tensor:
    y = net.a(x)
    mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3))
    return net.b(nn.functional.batch_norm(y, mean, variance))


def statistics_are_computed(net: Network, x: Tensor) -> Tensor:
    mean = net.a.bias * 0.5
    return net.b(nn.functional.batch_norm(net.a(x), mean, torch.exp(mean)))


def statistics_change(net: Network, x: Tensor) -> Tensor:
    variance = net.c.weight.flatten()[:3].square()
    variance += 0.5
    return net.b(nn.functional.batch_norm(net.a(x), net.c.bias, variance, net.b.bias))


class SameStatistics(nn.Module):
    """A BatchNorm that no convolution precedes, whose mean is its variance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.register_buffer("both", torch.tensor([2.0, 3.0, 4.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.batch_norm(x, self.both, self.both))


def test_a_mean_that_is_the_variance_is_not_folded() -> None:
    check(SameStatistics().eval())


@pytest.mark.parametrize(
    "forward", [statistics_of_the_batch, statistics_are_computed, statistics_change]
)
def test_statistics_that_are_computed_are_not_folded(forward: Forward) -> None:
    check(Network(forward).eval())


class Counting(nn.Module):
    """A BatchNorm whose mean is another one in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), batch_norm(3)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.running_mean.add_(1.0)
        return self.norm(self.conv(x))


class Weighing(nn.Module):
    """A network whose parameter is another one in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 3, 3), nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale.add_(1.0)
        return self.conv(x) * self.scale


class Remembering(nn.Module):
    """A network with a tensor of its own that is neither a buffer nor a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 3, 3), torch.ones(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1.0)
        return self.conv(x) * self.seen


@pytest.mark.parametrize(
    ("network", "name"),
    [(Counting(), "norm.running_mean"), (Weighing(), "scale"), (Remembering(), "seen")],
)
def test_a_network_that_changes_its_own_tensors_is_refused_in_one_line(network, name) -> None:
    with pytest.raises(ModelError) as refused:
        compile_network(network.eval(), SHAPE, TARGET, unscheduled)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("forward", [sum_in_place, activations_in_place])
def test_what_nobody_notices_is_fused(forward: Forward) -> None:
    program = capture(Network(forward), SHAPE).program
    called = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert called == [torch.ops.loopgene.site.default] * 3
    check(Network(forward).eval())
