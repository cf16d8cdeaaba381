"""The embedded data set: scikit-learn's copy of the UCI handwritten digits."""

from __future__ import annotations

import torch

from engine.data.arrays import ArraySplit
from engine.data.base import ImageData, Normalisation, held_out

WHITE = 16


def load_digits() -> ImageData:
    """1,797 grey images of 8x8 pixels in ten classes; every fifth one is a test image.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target)
    train, test = held_out(len(labels))
    scaled = pixels[train].to(torch.float32) / WHITE
    normalisation = Normalisation((scaled.mean().item(),), (scaled.std().item(),))
    return ImageData(
        name="digits",
        classes=tuple(str(name) for name in bunch.target_names),
        train=ArraySplit(pixels[train], labels[train], normalisation, WHITE),
        test=ArraySplit(pixels[test], labels[test], normalisation, WHITE),
    )
