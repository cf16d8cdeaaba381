"""The networks that come with LoopGene, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from engine.models import densenet, mobilenet, resnet, resnext, wide_resnet
from genomes.errors import ModelError
from genomes.suggest import nearest

CIFAR_SHAPE = (3, 32, 32)
IMAGENET_SHAPE = (3, 224, 224)


class ModelFactory(Protocol):
    """Builds a network with random weights, drawn from the global generator of torch."""

    def __call__(self, num_classes: int = ..., in_channels: int = ...) -> nn.Module: ...


@dataclass(frozen=True)
class ModelEntry:
    """One network of the registry.

    Attributes:
        name: Its name in experiments.
        factory: Builds it; the defaults are `num_classes` and the channels of `input_shape`.
        input_shape: (C, H, W) of the images for which it was designed.
        num_classes: Length of its output by default.
        description: One line: the architecture and its source.
    """

    name: str
    factory: ModelFactory
    input_shape: tuple[int, int, int]
    num_classes: int
    description: str


def _cifar(factory: ModelFactory, name: str, description: str) -> ModelEntry:
    return ModelEntry(name, factory, CIFAR_SHAPE, 10, description)


def _imagenet(factory: ModelFactory, name: str, description: str) -> ModelEntry:
    return ModelEntry(name, factory, IMAGENET_SHAPE, 1000, description)


_RESNET = "He et al. 2016, arXiv 1512.03385"
_DENSENET = "Huang et al. 2017, arXiv 1608.06993"

MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        _cifar(
            resnet.resnet18_cifar, "resnet18_cifar", f"ResNet-18, 3x3 stem, no pooling; {_RESNET}"
        ),
        _cifar(
            resnet.resnet34_cifar, "resnet34_cifar", f"ResNet-34, 3x3 stem, no pooling; {_RESNET}"
        ),
        _cifar(
            resnet.resnet20_cifar,
            "resnet20_cifar",
            f"ResNet-20, widths 16-32-64, option A shortcuts; {_RESNET}",
        ),
        _cifar(
            resnext.resnext29_2x64d_cifar,
            "resnext29_2x64d_cifar",
            "ResNeXt-29, 2 groups of base width 64, 3x3 stem; Xie et al. 2017, arXiv 1611.05431",
        ),
        _cifar(
            wide_resnet.wrn_40_2_cifar,
            "wrn_40_2_cifar",
            "Wide ResNet of depth 40, widening 2; Zagoruyko and Komodakis 2016, arXiv 1605.07146",
        ),
        _cifar(
            densenet.densenet161_cifar,
            "densenet161_cifar",
            f"DenseNet-161, growth 48, 3x3 stem, no pooling; {_DENSENET}",
        ),
        _imagenet(resnet.resnet18, "resnet18", f"ResNet-18; {_RESNET}"),
        _imagenet(resnet.resnet34, "resnet34", f"ResNet-34; {_RESNET}"),
        _imagenet(
            resnet.resnet50, "resnet50", f"ResNet-50, stride in the 3x3 convolution; {_RESNET}"
        ),
        _imagenet(densenet.densenet161, "densenet161", f"DenseNet-161, growth 48; {_DENSENET}"),
        _imagenet(densenet.densenet169, "densenet169", f"DenseNet-169, growth 32; {_DENSENET}"),
        _imagenet(densenet.densenet201, "densenet201", f"DenseNet-201, growth 32; {_DENSENET}"),
        _imagenet(
            mobilenet.mobilenet_v2,
            "mobilenet_v2",
            "MobileNetV2, width 1.0; Sandler et al. 2018, arXiv 1801.04381",
        ),
    )
}


def get_model(name: str) -> ModelEntry:
    """The entry called `name`.

    Raises:
        ModelError: There is none; the message names the nearest one, or all.
    """
    if name not in MODELS:
        raise ModelError(
            f"unknown model {name!r}; {nearest(name, MODELS)} "
            "(a network of your own is given as module:factory or path/to/file.py:factory)"
        )
    return MODELS[name]
