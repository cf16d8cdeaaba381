"""Activations in blocks of channels: chosen for the whole network, and computed alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from backends.network.capture import capture
from backends.network.layouts import choose_layouts, pack, unpack, with_layouts
from genomes.genome import Genome
from genomes.sites import find_sites, transform
from tests.backends.network.networks import GENES, SHAPE, Block, batch_norm, check


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


class Dense(nn.Module):
    """A dense block with its transition: what stands before a convolution is no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.norms = nn.ModuleList(batch_norm(c) for c in (16, 24, 32))
        self.grow = nn.ModuleList(conv(c, 8) for c in (16, 24))
        self.last = conv(32, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        for norm, grow in zip(self.norms, self.grow, strict=False):
            y = torch.cat([y, grow(torch.relu(norm(y)))], 1)
        y = self.last(torch.relu(self.norms[2](y)))
        return functional.max_pool2d(functional.avg_pool2d(y, 2), 3, stride=1, padding=1)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = conv(3, 16), conv(16, 16, groups=16)
        self.squeeze, self.excite, self.project = conv(16, 8, 1), conv(8, 16, 1), conv(16, 24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.hardswish(self.depthwise(self.expand(x)))
        scale = functional.adaptive_avg_pool2d(y, 1)
        scale = torch.sigmoid(self.excite(functional.silu(self.squeeze(scale))))
        return functional.adaptive_avg_pool2d(self.project(y * scale), 1).flatten(1)


class Upsampled(nn.Module):
    """Something that knows NCHW only stands between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.same = conv(3, 16, stride=2), conv(16, 16)
        self.skip = conv(3, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = functional.interpolate(self.down(x), scale_factor=2, mode="nearest")
        return self.same(low + self.skip(x)).flip(2)


class Shared(nn.Module):
    """One convolution reads an image that is packed and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = conv(3, 8), conv(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.twice(y.flip(3)) + self.twice(y)


class Positions(nn.Module):
    """One constant is read packed and as it is, another one packed only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same = conv(3, 8), conv(8, 8)
        self.both, self.packed = (nn.Parameter(torch.randn(1, 8, 8, 8)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.same(torch.relu(self.stem(x) + self.both) * self.packed)
        return torch.cat([y.flip(3), self.both.flip(3)], 2)


@pytest.mark.parametrize("model", [Block, Dense, SqueezeExcite, Upsampled, Shared, Positions])
@pytest.mark.parametrize("blocks", [0, 8, 16])
def test_every_layout_computes_the_same(model: type[nn.Module], blocks: int) -> None:
    torch.manual_seed(0)
    check(model().eval(), blocks=blocks)


def test_transformed_networks_compute_the_same() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    check(transform(model, find_sites(model, SHAPE), Genome.of(GENES)), lanes=8)


def conversions(model: nn.Module, lanes: int) -> list[str]:
    captured = capture(model, SHAPE)
    choose_layouts(captured, lanes)
    converted = [n for n in captured.program.graph.nodes if n.target in (pack, unpack)]
    return [n.target.__name__ for n in converted]


def layouts(model: nn.Module, lanes: int) -> dict[str, tuple[int, int]]:
    sites = with_layouts(model, find_sites(model, SHAPE), lanes).sites
    return {site.name: (site.shape.input_lanes, site.shape.output_lanes) for site in sites}


@pytest.mark.parametrize("model", [Block, Dense, SqueezeExcite])
def test_nothing_is_converted_between_convolutions(model: type[nn.Module]) -> None:
    assert conversions(model(), 8) == ["unpack"]  # what leaves the network, or its pooling
    assert conversions(model(), 0) == []


def test_what_knows_nchw_only_is_converted_around() -> None:
    assert conversions(Upsampled(), 16) == ["unpack", "pack", "unpack"]


def test_blocks_divide_the_channels_of_all_that_share_a_layout() -> None:
    assert layouts(SqueezeExcite(), 16) == {
        "expand": (0, 16),
        "depthwise": (16, 16),
        "squeeze": (16, 8),
        "excite": (8, 16),
        "project": (16, 8),
    }
    # The summands and parts of a concatenation: 16, 24 and 32 channels.
    assert set(layouts(Dense(), 16).values()) == {(0, 8), (8, 8), (8, 16)}


def test_registers_of_four_lanes_are_filled_twice() -> None:
    assert layouts(Shared(), 4) == {"stem": (0, 8), "twice": (0, 8)}


def test_channels_that_no_block_divides_stay_in_nchw() -> None:
    model = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 12))
    assert layouts(model, 16) == {"0": (0, 0), "2": (0, 0)}


def test_a_transformed_network_has_the_layouts_of_the_original() -> None:
    model = Block().eval()
    sites = find_sites(model, SHAPE)
    captured = capture(transform(model, sites, Genome.of(GENES)), SHAPE)
    choose_layouts(captured, 8)
    shapes = {k.name: k.measured.shape for k in captured.kernels}
    expected = {site.name: site.shape for site in with_layouts(model, sites, 8).sites}
    assert shapes == expected


def test_conversions_in_the_graph_compute_what_they_stand_for() -> None:
    x = torch.arange(2 * 6 * 4 * 5).reshape(2, 6, 4, 5)
    packed = pack(x, 3)
    assert packed.shape == (2, 2, 4, 5, 3)
    assert packed[1, 1, 2, 3, 0] == x[1, 3, 2, 3]
    assert torch.equal(unpack(packed), x)
