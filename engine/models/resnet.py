"""Residual networks: ResNet-18/34/50 for ImageNet and for CIFAR, and ResNet-20.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016
(arXiv 1512.03385).  Modules are named as in torchvision, whose weights load.
ReLU is never in place: capacity metrics read the activations that it would overwrite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from engine.models.common import Stem, initialise

WIDTHS = (64, 128, 256, 512)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The learned shortcut (option B): a 1x1 convolution and BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class PaddedShortcut(nn.Module):
    """The shortcut without parameters (option A): subsample, then pad with zero channels.

    (N, C_in, H, W) -> (N, C_out, H / stride, W / stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        missing = out_channels - in_channels
        self.pad_channels = (missing // 2, missing - missing // 2)

    def forward(self, x: Tensor) -> Tensor:
        sampled = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(sampled, (0, 0, 0, 0, *self.pad_channels))


Shortcut = Callable[[int, int, int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: (N, C_in, H, W) -> (N, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped, strided), 1x1: (N, C_in, H, W) -> (N, 4 width, H / stride, W / stride).

    The 3x3 convolution has `width * base_width / 64` channels in each of its `groups`
    (Xie et al., arXiv 1611.05431); with one group of base width 64 it is the block of ResNet.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        downsample: nn.Module | None,
        *,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        inner = width * base_width // 64 * groups
        outer = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + shortcut)


Block = Callable[[int, int, int, nn.Module | None], nn.Module]


class ResNet(nn.Module):
    """Stages of residual blocks: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        block: Builds a block from (in_channels, width, stride, downsample).
        expansion: Output channels of a block over its width.
        depths: Number of blocks of each stage; every stage but the first halves H and W.
        widths: Width of each stage.
        num_classes: Length of the output.
        in_channels: Channels of the images.
        stem: How the network enters.
        stem_width: Channels after the stem.
        shortcut: Builds the shortcut of a block that changes the shape.
    """

    def __init__(
        self,
        block: Block,
        expansion: int,
        depths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        stem: Stem,
        widths: Sequence[int] = WIDTHS,
        stem_width: int = 64,
        shortcut: Shortcut = projection,
    ) -> None:
        super().__init__()
        if stem is Stem.IMAGENET:
            self.conv1 = nn.Conv2d(in_channels, stem_width, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.relu = nn.ReLU()
        self.maxpool = (
            nn.MaxPool2d(3, stride=2, padding=1) if stem is Stem.IMAGENET else nn.Identity()
        )
        self.stages = len(depths)
        channels = stem_width
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                out_channels = width * expansion
                changes = stride != 1 or channels != out_channels
                downsample = shortcut(channels, out_channels, stride) if changes else None
                blocks.append(block(channels, width, stride, downsample))
                channels = out_channels
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def _basic(
    depths: Sequence[int], num_classes: int, in_channels: int, stem: Stem = Stem.IMAGENET
) -> ResNet:
    return ResNet(
        BasicBlock, 1, depths, num_classes=num_classes, in_channels=in_channels, stem=stem
    )


def resnet18(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-18 for ImageNet."""
    return _basic((2, 2, 2, 2), num_classes, in_channels)


def resnet34(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-34 for ImageNet."""
    return _basic((3, 4, 6, 3), num_classes, in_channels)


def resnet50(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-50 for ImageNet, with the stride in the 3x3 convolution (as torchvision)."""
    return ResNet(
        Bottleneck,
        4,
        (3, 4, 6, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        stem=Stem.IMAGENET,
    )


def resnet18_cifar(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-18 with the CIFAR stem, widths 64-128-256-512."""
    return _basic((2, 2, 2, 2), num_classes, in_channels, Stem.CIFAR)


def resnet34_cifar(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-34 with the CIFAR stem, widths 64-128-256-512."""
    return _basic((3, 4, 6, 3), num_classes, in_channels, Stem.CIFAR)


def resnet20_cifar(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-20 of the paper's section 4.2: widths 16-32-64, shortcuts without parameters."""
    return ResNet(
        BasicBlock,
        1,
        (3, 3, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        stem=Stem.CIFAR,
        widths=(16, 32, 64),
        stem_width=16,
        shortcut=PaddedShortcut,
    )
