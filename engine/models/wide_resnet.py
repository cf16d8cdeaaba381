"""Wide residual network for CIFAR: WRN-40-2.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv 1605.07146).
torchvision has only the ImageNet form; modules are named after its ResNet.
"""

from __future__ import annotations

from torch import Tensor, nn

from engine.models.common import initialise


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each 3x3 convolution: (N, C_in, H, W) -> (N, C_out, H/s, W/s).

    A block that changes the shape has a 1x1 shortcut behind the first activation.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.downsample = (
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        out = self.conv1(active)
        return self.conv2(self.relu(self.bn2(out))) + shortcut


class WideResNet(nn.Module):
    """Three stages of pre-activation blocks: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        depth: Number of layers, 6 k + 4 for k blocks in a stage.
        widen_factor: Multiplies the widths 16-32-64.
        num_classes: Length of the output.
        in_channels: Channels of the images.
    """

    def __init__(
        self, depth: int, widen_factor: int, *, num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        narrow, middle, wide = (width * widen_factor for width in (16, 32, 64))
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, narrow, blocks, stride=1)
        self.layer2 = _stage(narrow, middle, blocks, stride=2)
        self.layer3 = _stage(middle, wide, blocks, stride=2)
        self.bn = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.avgpool(self.relu(self.bn(x)))
        return self.fc(x.flatten(1))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride)
    rest = (PreActivationBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def wrn_40_2_cifar(num_classes: int = 10, in_channels: int = 3) -> WideResNet:
    """WRN-40-2: 40 layers, widths 32-64-128, no dropout."""
    return WideResNet(40, 2, num_classes=num_classes, in_channels=in_channels)
