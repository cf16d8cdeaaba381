from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.capacity.precision import NarrowGradients, is_fast


def frozen(conv: nn.Module) -> nn.Module:
    return conv.requires_grad_(False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2, "groups": 4},
        {"padding": 2, "dilation": 2, "bias": False},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same"},
    ],
)
def test_only_the_gradient_is_narrow(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv = frozen(nn.Conv2d(8, 8, 3, **arguments))
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    expected = conv(x)
    seed = torch.randn_like(expected)
    (wide,) = torch.autograd.grad(expected, x, seed)
    with NarrowGradients({}):
        y = conv(x)
    (narrow,) = torch.autograd.grad(y, x, seed)
    assert torch.equal(y, expected)
    assert narrow.dtype is torch.float32
    error = (narrow - wide).norm() / wide.norm()
    assert error < 1e-2
    assert (error > 0) == (arguments["padding"] != "same")


def test_given_copies_of_weights_are_used() -> None:
    weight, other = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    x = torch.randn(1, 3, 5, 5, requires_grad=True)
    with NarrowGradients({id(weight): other.to(torch.bfloat16)}):
        y = functional.conv2d(x, weight, None, 1, 0, 1, 1)
    y.sum().backward()
    expected = torch.nn.grad.conv2d_input(x.shape, other, torch.ones_like(y))
    assert x.grad is not None
    assert (x.grad - expected).norm() / expected.norm() < 1e-2


def test_what_needs_other_gradients_is_left_alone() -> None:
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 8, 8)
    with NarrowGradients({}):
        trained = conv(x.requires_grad_())
        double = frozen(nn.Conv2d(3, 4, 3).double())(x.double())
        constant = frozen(nn.Conv2d(3, 4, 3))(x.detach())
        called = functional.conv2d(x, conv.weight.detach(), stride=2)
    trained.sum().backward()
    assert conv.weight.grad is not None
    assert double.dtype is torch.float64
    assert not constant.requires_grad
    assert called.requires_grad


def test_it_is_known_whether_the_cpu_has_it() -> None:
    assert is_fast() in (True, False)
