"""Each preset equals its hand-written PyTorch form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from genomes import presets
from genomes.gene import Gene
from genomes.genome import replay
from genomes.modules import SiteConv2d
from genomes.nest import ConvShape

SHAPE = ConvShape(2, 32, 32, (8, 8), (3, 3), padding=(1, 1, 1, 1))
X = torch.randn(SHAPE.input_shape, generator=torch.Generator().manual_seed(1))


def module(genes: tuple[Gene, ...]) -> SiteConv2d:
    torch.manual_seed(0)
    return SiteConv2d(replay(SHAPE, genes))


def conv(weight: torch.Tensor, x: torch.Tensor = X, groups: int = 1, stride: int = 1):
    return functional.conv2d(x, weight, padding=1, groups=groups, stride=stride)


@pytest.mark.parametrize("groups", [2, 4, 8, 16, 32])
def test_grouping(groups: int) -> None:
    m = module(presets.grouping(groups))
    torch.testing.assert_close(m(X), conv(m.weights[0], groups=groups))


def test_depthwise() -> None:
    m = module(presets.depthwise())
    by_hand = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
    by_hand.weight = m.weights[0]
    torch.testing.assert_close(m(X), by_hand(X))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bottleneck(factor: int) -> None:
    m = module(presets.bottleneck(factor))
    assert m.weights[0].shape == (32 // factor, 32, 3, 3)
    torch.testing.assert_close(m(X), conv(m.weights[0]).repeat(1, factor, 1, 1))


def test_input_bottleneck() -> None:
    m = module(presets.input_bottleneck(2))
    torch.testing.assert_close(m(X), conv(m.weights[0], X[:, :16]))


@pytest.mark.parametrize("factor", [2, 4])
def test_spatial_bottleneck(factor: int) -> None:
    m = module(presets.spatial_bottleneck(factor))
    small = conv(m.weights[0], stride=factor)
    by_hand = functional.interpolate(small, scale_factor=factor, mode="nearest")
    torch.testing.assert_close(m(X), by_hand)


@pytest.mark.parametrize("groups", [(2, 4), (1, 2, 4, 8), (8,), (1, 1, 2, 2, 4, 4, 4, 2)])
def test_seq1(groups: tuple[int, ...]) -> None:
    m = module(presets.seq1(groups))
    parts = [conv(w, groups=g) for w, g in zip(m.weights, groups, strict=True)]
    torch.testing.assert_close(m(X), torch.cat(parts, dim=1))


@pytest.mark.parametrize(("peel", "groups"), [(1, 1), (2, 3), (4, 4), (8, 2), (16, 4)])
def test_seq2(peel: int, groups: int) -> None:
    m = module(presets.seq2(SHAPE, peel, groups))
    rest = conv(m.weights[1], X[:, peel:], groups=groups)
    torch.testing.assert_close(m(X), torch.cat([conv(m.weights[0]), rest], dim=1))


@pytest.mark.parametrize("slices", [2, 4, 8])
def test_seq3(slices: int) -> None:
    m = module(presets.seq3(slices))
    assert len(m.weights) == slices
    padded = functional.pad(X, (1, 1, 1, 1))
    rows = 8 // slices
    parts = [
        functional.conv2d(padded[:, :, i * rows : i * rows + rows + 2], w)
        for i, w in enumerate(m.weights)
    ]
    torch.testing.assert_close(m(X), torch.cat(parts, dim=2))


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_every_family_has_legal_members(name: str) -> None:
    members = presets.legal_presets(SHAPE, [name])
    assert len(members) >= 1
    assert len(set(members)) == len(members)
