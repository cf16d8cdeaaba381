"""CIFAR-10 (Krizhevsky 2009) in NumPy archives: JPEG streams, or the original pixels."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.data.arrays import ArraySplit
from engine.data.base import DataError, ImageData, ImageSplit, Normalisation, fit

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
IMAGE_SHAPE = (32, 32, 3)
NORMALISATION = Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""Of the 50,000 training images."""

JPEG_KEYS = frozenset(
    {"header"}
    | {f"{split}_{part}" for split in ("train", "test") for part in ("data", "offsets", "labels")}
)
PIXEL_KEYS = frozenset({"train_x", "train_y", "test_x", "test_y"})

# What NumPy and zipfile raise on a damaged or hostile archive.  RuntimeError: encrypted members;
# SyntaxError and TokenError: array headers, which NumPy parses as Python literals.
_NPZ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class JpegSplit(ImageSplit):
    """CIFAR images as JPEG streams that share their first bytes; decoded on request.

    Args:
        path: Of the archive, for messages.
        header: The shared bytes.
        data: uint8 (total,), the rest of all streams.
        offsets: int64 (N + 1,); image i is `header` + `data[offsets[i]:offsets[i + 1]]`.
        labels: Integers (N,).
    """

    def __init__(
        self, path: Path, header: bytes, data: np.ndarray, offsets: np.ndarray, labels: Tensor
    ) -> None:
        super().__init__(labels, NORMALISATION)
        self.path = path
        self.header = header
        self.data = data
        self.offsets = offsets

    def read(self, indices: Tensor, size: tuple[int, int]) -> Tensor:
        pixels = np.stack([self._decode(index) for index in indices.tolist()])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return fit(images.to(torch.float32) / 255, size)

    def _decode(self, index: int) -> np.ndarray:
        stream = self.header + self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(stream), formats=["JPEG"]) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{self.path}: image {index} is not a readable JPEG ({error}); "
                "the file is damaged, copy it again"
            ) from error
        if pixels.shape != IMAGE_SHAPE:
            raise DataError(
                f"{self.path}: image {index} has shape {pixels.shape}, not {IMAGE_SHAPE}; "
                "this is not CIFAR-10"
            )
        return pixels


def npz_keys(path: Path) -> frozenset[str]:
    """Names of the arrays of an archive, without reading them.

    Raises:
        DataError: It is not a readable archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except _NPZ_ERRORS as error:
        raise _damaged(path, error) from error


def archives_with(path: Path, keys: frozenset[str]) -> list[Path]:
    """`path`, or the .npz files in the folder `path`, that have the arrays `keys`.

    Raises:
        DataError: An archive is not readable.
    """
    candidates = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    return [file for file in candidates if keys <= npz_keys(file)]


def load_jpeg_npz(path: Path) -> ImageData:
    """CIFAR-10 as JPEG streams in an archive with the arrays `JPEG_KEYS`.

    Args:
        path: The .npz file, or a folder with one such file.

    Raises:
        DataError: It is missing, damaged or something else.
    """
    path = _one_archive(path, JPEG_KEYS)
    arrays = _read(path, JPEG_KEYS)
    for key in ("header", "train_data", "test_data"):
        _require(arrays[key].dtype == np.uint8 and arrays[key].ndim == 1, path, key, "uint8 (n,)")
    header = arrays["header"].tobytes()

    def split(name: str) -> JpegSplit:
        data, offsets = arrays[f"{name}_data"], arrays[f"{name}_offsets"]
        labels = _labels(path, f"{name}_labels", arrays[f"{name}_labels"])
        key = f"{name}_offsets"
        _require(offsets.dtype.kind in "iu" and offsets.ndim == 1, path, key, "integers (n + 1,)")
        # Unsigned offsets would wrap around in the differences.
        offsets = offsets.astype(np.int64)
        ordered = len(offsets) == len(labels) + 1 and bool((np.diff(offsets) > 0).all())
        whole = ordered and offsets[0] == 0 and offsets[-1] == len(data)
        _require(whole, path, key, f"increasing from 0 to the {len(data)} bytes of {name}_data")
        return JpegSplit(path, header, data, offsets, labels)

    return ImageData(f"cifar10_npz_jpeg {path.name}", CLASSES, split("train"), split("test"))


def load_pixel_npz(path: Path) -> ImageData:
    """CIFAR-10 pixels in an archive with the arrays `PIXEL_KEYS`, uint8 (N, 32, 32, 3) and (N,).

    Args:
        path: The .npz file, or a folder with one such file.

    Raises:
        DataError: It is missing, damaged or something else.
    """
    path = _one_archive(path, PIXEL_KEYS)
    arrays = _read(path, PIXEL_KEYS)

    def split(name: str) -> ArraySplit:
        pixels = arrays[f"{name}_x"]
        labels = _labels(path, f"{name}_y", arrays[f"{name}_y"])
        fits = pixels.dtype == np.uint8 and pixels.shape == (len(labels), *IMAGE_SHAPE)
        _require(fits, path, f"{name}_x", f"uint8 ({len(labels)}, 32, 32, 3)")
        return ArraySplit(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels, NORMALISATION)

    return ImageData(f"cifar10_npz {path.name}", CLASSES, split("train"), split("test"))


def _one_archive(path: Path, keys: frozenset[str]) -> Path:
    found = archives_with(path, keys)
    if len(found) == 1:
        return found[0]
    expected = ", ".join(sorted(keys))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"{path}: several files fit ({names}); give the path of one of them")
    if path.is_dir():
        raise DataError(f"{path}: no .npz file here has the arrays {expected}; give its path")
    raise DataError(
        f"{path}: has the arrays {', '.join(sorted(npz_keys(path))) or '(none)'}, expected "
        f"{expected}; choose another file, or kind 'auto' to find what this one is"
    )


def _read(path: Path, keys: frozenset[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys}
    except _NPZ_ERRORS as error:
        raise _damaged(path, error) from error


def _labels(path: Path, key: str, labels: np.ndarray) -> Tensor:
    whole = labels.dtype.kind in "iu" and labels.ndim == 1 and len(labels) > 0
    in_range = whole and labels.min() >= 0 and labels.max() < len(CLASSES)
    _require(bool(in_range), path, key, f"integers (n,) from 0 to {len(CLASSES) - 1}, n > 0")
    return torch.from_numpy(labels.astype(np.int64))


def _require(condition: bool, path: Path, key: str, expected: str) -> None:
    if not condition:
        raise DataError(
            f"{path}: array {key!r} is not {expected}; the file is damaged or not CIFAR-10, "
            "copy it again"
        )


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"{path}: cannot be read as a NumPy archive ({type(error).__name__}: "
        f"{error}); the file is damaged or of another format, "
        "copy it again"
    )
