"""Splits whose pixels lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.data.base import ImageSplit, Normalisation, fit


class ArraySplit(ImageSplit):
    """Images of one size in one array.

    Args:
        pixels: uint8 (N, C, h, w).
        labels: Integers (N,).
        normalisation: Of the pixels in [0, 1].
        white: The value of `pixels` that is 1.0.
    """

    def __init__(
        self, pixels: Tensor, labels: Tensor, normalisation: Normalisation, white: int = 255
    ) -> None:
        super().__init__(labels, normalisation)
        self.pixels = pixels
        self.white = white

    def read(self, indices: Tensor, size: tuple[int, int]) -> Tensor:
        return fit(self.pixels[indices].to(torch.float32) / self.white, size)
