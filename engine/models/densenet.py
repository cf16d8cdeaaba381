"""Densely connected networks: DenseNet-161/169/201 for ImageNet, DenseNet-161 for CIFAR.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017
(arXiv 1608.06993), the BC form.  Modules are named as in torchvision, whose weights load.
ReLU is never in place: capacity metrics read the activations that it would overwrite.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.common import Stem, initialise


class DenseLayer(nn.Module):
    """1x1 to 4 x growth channels, then 3x3: (N, C_in, H, W) -> (N, growth, H, W)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        inner = 4 * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(inner)))


class DenseBlock(nn.Module):
    """Layers that each see all before them: (N, C, H, W) -> (N, C + layers x growth, H, W)."""

    def __init__(self, layers: int, in_channels: int, growth: int) -> None:
        super().__init__()
        for index in range(layers):
            layer = DenseLayer(in_channels + index * growth, growth)
            self.add_module(f"denselayer{index + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = torch.cat([x, layer(x)], dim=1)
        return x


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            pool=nn.AvgPool2d(2, stride=2),
        )
    )


class DenseNet(nn.Module):
    """Four dense blocks with transitions between: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        growth: Channels that each layer adds.
        depths: Number of layers of each block.
        num_classes: Length of the output.
        in_channels: Channels of the images.
        stem: How the network enters; it has 2 x growth channels.
    """

    def __init__(
        self,
        growth: int,
        depths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        stem: Stem,
    ) -> None:
        super().__init__()
        channels = 2 * growth
        if stem is Stem.IMAGENET:
            conv0 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            entry = OrderedDict(
                conv0=conv0,
                norm0=nn.BatchNorm2d(channels),
                relu0=nn.ReLU(),
                pool0=nn.MaxPool2d(3, stride=2, padding=1),
            )
        else:
            # The first dense layer begins with BatchNorm and ReLU: nothing follows conv0.
            conv0 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
            entry = OrderedDict(conv0=conv0)
        self.features = nn.Sequential(entry)
        for number, depth in enumerate(depths, start=1):
            self.features.add_module(f"denseblock{number}", DenseBlock(depth, channels, growth))
            channels += depth * growth
            if number < len(depths):
                half = channels // 2
                self.features.add_module(f"transition{number}", _transition(channels, half))
                channels = half
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self, mode="fan_in")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.features(x))
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def densenet161(num_classes: int = 1000, in_channels: int = 3) -> DenseNet:
    """DenseNet-161 for ImageNet: growth 48."""
    return _densenet(48, (6, 12, 36, 24), num_classes, in_channels, Stem.IMAGENET)


def densenet169(num_classes: int = 1000, in_channels: int = 3) -> DenseNet:
    """DenseNet-169 for ImageNet: growth 32."""
    return _densenet(32, (6, 12, 32, 32), num_classes, in_channels, Stem.IMAGENET)


def densenet201(num_classes: int = 1000, in_channels: int = 3) -> DenseNet:
    """DenseNet-201 for ImageNet: growth 32."""
    return _densenet(32, (6, 12, 48, 32), num_classes, in_channels, Stem.IMAGENET)


def densenet161_cifar(num_classes: int = 10, in_channels: int = 3) -> DenseNet:
    """DenseNet-161 with the CIFAR stem: growth 48."""
    return _densenet(48, (6, 12, 36, 24), num_classes, in_channels, Stem.CIFAR)


def _densenet(
    growth: int, depths: Sequence[int], num_classes: int, in_channels: int, stem: Stem
) -> DenseNet:
    return DenseNet(growth, depths, num_classes=num_classes, in_channels=in_channels, stem=stem)
