"""What the networks share: initialisation and the choice of a stem."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from torch import nn


class Stem(StrEnum):
    """How a network enters: by image size, as the papers do."""

    CIFAR = "cifar"
    """A 3x3 convolution at stride 1 and no pooling, for images of about 32x32."""
    IMAGENET = "imagenet"
    """A 7x7 convolution at stride 2 and a 3x3 max-pool at stride 2."""


def initialise(network: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Initialise `network` in place: He normal convolutions, BatchNorm as the identity.

    Linear layers keep the default of PyTorch.  Source: He et al., ICCV 2015
    (arXiv 1502.01852).

    Args:
        network: Its parameters may lie on the meta device.
        mode: `fan_in` or `fan_out`, as in `torch.nn.init.kaiming_normal_`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
