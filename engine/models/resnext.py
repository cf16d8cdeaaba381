"""ResNeXt-29 for CIFAR.

Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017 (arXiv 1611.05431), section 5.3.
"""

from __future__ import annotations

from functools import partial

from engine.models.common import Stem
from engine.models.resnet import Bottleneck, ResNet


def resnext29_2x64d_cifar(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNeXt-29 with two groups of base width 64; three stages of three blocks."""
    return ResNet(
        partial(Bottleneck, groups=2, base_width=64),
        Bottleneck.expansion,
        (3, 3, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        stem=Stem.CIFAR,
        widths=(64, 128, 256),
    )
