"""Labelled images for capacity metrics and training, from the sources that users have."""

from __future__ import annotations

from engine.data.base import DataError, ImageData, ImageSplit, InputShape, Normalisation
from engine.data.registry import AUTO, DataKind, data_kinds, load_data

__all__ = [
    "AUTO",
    "DataError",
    "DataKind",
    "ImageData",
    "ImageSplit",
    "InputShape",
    "Normalisation",
    "data_kinds",
    "load_data",
]
