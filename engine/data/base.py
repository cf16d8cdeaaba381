"""What a data set is: two splits of labelled images that fit any network's input.

Images are read when they are asked for, so that a minibatch costs what a minibatch costs.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from genomes.errors import LoopGeneError

InputShape = tuple[int, int, int]
"""(C, H, W) of one image, as a network takes it."""

HOLD_OUT = 5
"""Where a source has no test split, every fifth image (in a fixed order) is a test image."""


class DataError(LoopGeneError):
    """A data set given by the user cannot be found, read or used with the network.

    The message is one printable line, though it may quote paths, keys and other libraries.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(char if char.isprintable() else " " for char in message))


@dataclass(frozen=True)
class Normalisation:
    """Per-channel statistics of the pixels in [0, 1].

    Attributes:
        mean: One mean for each channel of the source.
        std: One standard deviation for each channel of the source.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] with zero mean and unit variance by channel."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return (images - mean) / std


class ImageSplit(abc.ABC):
    """The training or the test images of a data set.

    Attributes:
        labels: int64 (N,), indices into the classes of the data set.
        normalisation: Applied to every batch.
    """

    def __init__(self, labels: Tensor, normalisation: Normalisation) -> None:
        self.labels = labels.to(torch.int64)
        self.normalisation = normalisation

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def read(self, indices: Tensor, size: tuple[int, int]) -> Tensor:
        """Pixels of some images, no others being decoded.

        Args:
            indices: int64 (n,).
            size: (H, W) of the result; see `fit`.

        Returns:
            float32 (n, C, H, W) in [0, 1], with the channels of the source.

        Raises:
            DataError: An image cannot be decoded.
        """

    def batch(self, indices: Tensor, input_shape: InputShape) -> tuple[Tensor, Tensor]:
        """Some images as a network takes them, and their labels.

        Args:
            indices: int64 (n,).
            input_shape: (C, H, W); sizes are fitted by `fit`, channels by `match_channels`.

        Returns:
            Normalised float32 (n, C, H, W) and int64 (n,).

        Raises:
            DataError: An image cannot be decoded.
        """
        channels, height, width = input_shape
        images = self.normalisation.apply(self.read(indices, (height, width)))
        return match_channels(images, channels).contiguous(), self.labels[indices]


@dataclass(frozen=True)
class ImageData:
    """A data set for classification.

    Attributes:
        name: For people and for records: the kind, and the file or folder.
        classes: Names of the classes; labels are their indices.
        train: Training images.
        test: Test images; may be empty where the source has few.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSplit
    test: ImageSplit

    def minibatch(
        self,
        size: int,
        seed: int,
        input_shape: InputShape,
        *,
        num_classes: int | None = None,
        split: Literal["train", "test"] = "train",
    ) -> tuple[Tensor, Tensor]:
        """Images drawn without replacement; equal arguments give equal tensors.

        The global generators are neither read nor advanced.

        Args:
            size: Number of images.
            seed: Of the draw.
            input_shape: (C, H, W) of the network.
            num_classes: Length of the network's output, to check that the labels fit.
            split: Which images to draw from.

        Returns:
            Normalised float32 (size, C, H, W) and int64 labels (size,).

        Raises:
            DataError: There are fewer images than `size`, fewer outputs than classes, or an
                image cannot be decoded.
        """
        source = self.train if split == "train" else self.test
        if not 1 <= size <= len(source):
            raise DataError(
                f"{self.name}: a minibatch of {size} was asked of {len(source)} {split} images; "
                f"choose a size from 1 to {len(source)} or give a larger data set"
            )
        if num_classes is not None and num_classes < len(self.classes):
            raise DataError(
                f"{self.name}: it has {len(self.classes)} classes and the network only "
                f"{num_classes} outputs; build the network with num_classes={len(self.classes)}"
            )
        generator = torch.Generator().manual_seed(seed)
        indices = torch.randperm(len(source), generator=generator)[:size]
        return source.batch(indices, input_shape)


def fit(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images of another size: the central crop of its aspect ratio, then bilinear, antialiased.

    Args:
        images: float32 (N, C, h, w).
        size: (H, W).

    Returns:
        float32 (N, C, H, W); `images` itself where the size is the same.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    crop_h = max(1, min(height, round(width * size[0] / size[1])))
    crop_w = max(1, min(width, round(height * size[1] / size[0])))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    cropped = images[..., top : top + crop_h, left : left + crop_w]
    return functional.interpolate(
        cropped, size=size, mode="bilinear", align_corners=False, antialias=True
    )


def match_channels(images: Tensor, channels: int) -> Tensor:
    """Images (N, c, H, W) with another number of channels.

    One channel is the mean of all; more channels repeat the present ones in turn.
    """
    if channels == images.shape[1]:
        return images
    if channels == 1:
        return images.mean(dim=1, keepdim=True)
    return images[:, torch.arange(channels) % images.shape[1]]


def held_out(count: int) -> tuple[Tensor, Tensor]:
    """Training and test indices (int64) of `count` images without splits; see `HOLD_OUT`."""
    indices = torch.arange(count)
    is_test = indices % HOLD_OUT == HOLD_OUT - 1
    return indices[~is_test], indices[is_test]
