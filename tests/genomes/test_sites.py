"""Site discovery in networks of every kind, and replacement in place."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from genomes.errors import ModelError
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.modules import SiteConv2d
from genomes.nest import ConvShape, LoopNest
from genomes.sites import find_sites, transform

GROUP = Gene.of("group", over="co", groups=2, layout="block")
SPLIT = Gene.of("split_domain", loop="co", parts=2)


class Twice(nn.Module):
    """One convolution called twice, one shared under two names, a residual, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding="same", bias=False)
        self.shared = nn.Conv2d(16, 8, 1)
        self.alias = self.shared
        self.unused = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        x = x + self.twice(torch.relu_(self.twice(x)))
        return self.alias(torch.cat([x, x], dim=1))


def reasons(model: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    return {other.name: other.reason for other in find_sites(model, shape).others}


def test_sites_with_calls_and_shapes() -> None:
    sites = find_sites(Twice(), (2, 3, 9, 9))
    assert [(s.name, s.calls) for s in sites.sites] == [("stem", 1), ("twice", 2), ("shared", 1)]
    assert sites.named()["twice"].shape.padding == (1, 1, 1, 1)
    assert sites.named()["stem"].shape.input_shape == (2, 3, 9, 9)
    assert [o.name for o in sites.others] == ["unused"]


def test_shared_module_is_replaced_under_all_names() -> None:
    model = Twice().eval()
    sites = find_sites(model, (1, 3, 8, 8))
    new = transform(model, sites, Genome.of({"shared": (SPLIT,), "twice": (SPLIT,)}))
    assert new.shared is new.alias
    assert isinstance(new.alias, SiteConv2d)
    assert isinstance(model.alias, nn.Conv2d)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(new(x), model(x))


def test_a_transformed_network_trains() -> None:
    model = Twice()
    sites = find_sites(model, (2, 3, 8, 8))
    new = transform(
        model,
        sites,
        Genome.of({"stem": (Gene.of("bottleneck", loop="ho", factor=2),), "twice": (GROUP,)}),
    )
    new.train()
    new(torch.randn(2, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None for n, p in new.named_parameters() if "unused" not in n)
    assert sum(p.numel() for p in new.twice.parameters()) == 8 * 4 * 9


def test_discovery_leaves_the_network_as_it_was() -> None:
    model = Twice().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    find_sites(model, (2, 3, 8, 8))
    assert model.training
    assert not model.stem._forward_pre_hooks
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_asymmetric_same_padding() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)))
    site = find_sites(model, (1, 3, 8, 8)).sites[0]
    assert site.shape.padding == (1, 2, 2, 2)
    assert site.shape.out_size == (8, 8)
    new = transform(model, find_sites(model, (1, 3, 8, 8)), Genome.of({"0": (SPLIT,)}))
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(new(x), model(x))


GEOMETRY = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


class Reads(nn.Module):
    """Its forward pass asks a convolution for its geometry."""

    def __init__(self, **changes: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, (3, 5), **{"padding": 2, "stride": (2, 1), **changes})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        scale = conv.kernel_size[0] * conv.kernel_size[1] * conv.in_channels // conv.groups
        rows, columns = conv.stride
        skip = x[:, :, ::rows, ::columns].mean(dim=(1, 2, 3), keepdim=True)
        return self.conv(x) / scale + skip.expand(-1, conv.out_channels, 1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"groups": 2, "dilation": (1, 2), "padding_mode": "reflect"},
        {"padding": "same", "stride": 1},
        {"padding": (0, 3)},
    ],
    ids=str,
)
def test_a_network_may_read_the_geometry_of_a_site(changes: dict[str, object]) -> None:
    model = Reads(**changes).eval()
    sites = find_sites(model, (1, 4, 9, 9))
    new = transform(model, sites, Genome.of({"conv": (SPLIT,)}))
    assert isinstance(new.conv, SiteConv2d)
    for name in GEOMETRY:
        assert getattr(new.conv, name) == getattr(model.conv, name)
        with pytest.raises(AttributeError):
            setattr(new.conv, name, 1)
    x = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(new(x), model(x))
    torch.testing.assert_close(torch.export.export(new, (x,)).module()(x), model(x))
    again = copy.deepcopy(new)
    assert again.conv.padding == model.conv.padding
    assert list(again.state_dict()) == ["conv.bias", "conv.weights.0", "conv.weights.1"]


def test_a_module_made_of_a_nest_alone_has_the_geometry_of_its_shape() -> None:
    shape = ConvShape(1, 4, 8, (9, 9), (3, 2), padding=(1, 1, 0, 1))
    assert SiteConv2d(LoopNest.fresh(shape)).padding == "same"
    even = replace(shape, padding=(1, 1, 0, 0))
    assert SiteConv2d(LoopNest.fresh(even)).padding == (1, 0)


def test_why_a_convolution_is_not_a_site() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv1d(3, 3, 1)
            self.up = nn.ConvTranspose2d(3, 3, 2)
            self.sizes = nn.Conv2d(3, 3, 1)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
            self.tied = nn.Conv2d(3, 3, 1)
            self.also = nn.Conv2d(3, 3, 1)
            self.also.weight = self.tied.weight
            self.flat = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.sizes(x)
            self.flat(x[0])
            x = self.also(self.tied(self.normed(x)))
            return self.sizes(self.up(x)) + self.one(x.flatten(2)).mean()

    found = reasons(Odd(), (1, 3, 4, 4))
    assert found["one"] == "Conv1d is not a plain torch.nn.Conv2d"
    assert found["up"] == "ConvTranspose2d is not a plain torch.nn.Conv2d"
    assert found["sizes"] == "it is called with 2 different input shapes"
    assert "not a plain" in found["normed"]
    assert found["tied"] == found["also"] == "it shares a parameter with another module"
    assert found["flat"] == "it is called without a batch dimension"


def test_other_types_are_left_alone() -> None:
    assert reasons(nn.Conv2d(3, 3, 1).double(), (1, 3, 4, 4)) == {
        "": "its weights are float64, not float32"
    }


def test_a_network_that_fails() -> None:
    with pytest.raises(ModelError, match=r"fails on an input of shape \(1, 4, 8, 8\)"):
        find_sites(Twice(), (1, 4, 8, 8))


def test_unknown_site() -> None:
    model = Twice()
    with pytest.raises(ModelError, match="transforms nowhere, which is no site"):
        transform(model, find_sites(model, (1, 3, 8, 8)), Genome.of({"nowhere": (GROUP,)}))
