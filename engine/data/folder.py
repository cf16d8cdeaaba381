"""A folder of images, one sub-folder for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.data.base import (
    DataError,
    ImageData,
    ImageSplit,
    Normalisation,
    fit,
    held_out,
)

SUFFIXES = (".png", ".jpg", ".jpeg")
TEST_FOLDERS = ("test", "val")
NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of ImageNet, the convention for photographs."""
_LAYOUT = (
    "expected <folder>/train/<class>/*.png or *.jpg with <folder>/test or <folder>/val beside "
    "it, or <folder>/<class>/*"
)


class FileSplit(ImageSplit):
    """Image files of any size, decoded on request.

    Args:
        files: N paths.
        labels: Integers (N,).
    """

    def __init__(self, files: Sequence[Path], labels: Tensor) -> None:
        super().__init__(labels, NORMALISATION)
        self.files = tuple(files)

    def read(self, indices: Tensor, size: tuple[int, int]) -> Tensor:
        images = [fit(_decode(self.files[index]), size) for index in indices.tolist()]
        return torch.cat(images)


def holds_classes(path: Path) -> bool:
    """Whether `path` is a folder with images in sub-folders of it or of its `train`."""
    if not path.is_dir():
        return False
    root = path / "train" if (path / "train").is_dir() else path
    return any(_is_image(file) for folder in _folders(root) for file in folder.iterdir())


def load_folder(path: Path) -> ImageData:
    """Images in sub-folders by class; class names are sorted, files taken in sorted order.

    Args:
        path: Has `train/<class>/` and `test/<class>/` or `val/<class>/`; or `<class>/`
            directly.  Without test images, every fifth one of each class is a test image.

    Raises:
        DataError: There are no images, a class is empty, or a test class is unknown.
    """
    if not path.is_dir():
        raise DataError(f"{path}: not a folder; {_LAYOUT}")
    try:
        return _load(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error}); {_LAYOUT}") from error


def _load(path: Path) -> ImageData:
    name = f"image_folder {path.name}"
    has_train = (path / "train").is_dir()
    train = _files_by_class(path / "train" if has_train else path)
    classes = tuple(train)
    test_root = next((path / name for name in TEST_FOLDERS if (path / name).is_dir()), None)
    if not has_train or test_root is None:
        kept, tested = {}, {}
        for label, files in train.items():
            train_indices, test_indices = held_out(len(files))
            kept[label] = [files[index] for index in train_indices.tolist()]
            tested[label] = [files[index] for index in test_indices.tolist()]
        return ImageData(name, classes, _split(kept, classes), _split(tested, classes))
    test = _files_by_class(test_root)
    unknown = sorted(test.keys() - train.keys())
    if unknown:
        raise DataError(
            f"{test_root}: class {unknown[0]!r} is not in {path / 'train'}; both need the same "
            "sub-folders"
        )
    return ImageData(name, classes, _split(train, classes), _split(test, classes))


def _split(files: Mapping[str, list[Path]], classes: tuple[str, ...]) -> FileSplit:
    pairs = [(file, label) for label, name in enumerate(classes) for file in files.get(name, ())]
    labels = torch.tensor([label for _, label in pairs], dtype=torch.int64)
    return FileSplit([file for file, _ in pairs], labels)


def _files_by_class(root: Path) -> dict[str, list[Path]]:
    files = {
        folder.name: sorted(file for file in folder.iterdir() if _is_image(file))
        for folder in _folders(root)
    }
    if not files:
        raise DataError(f"{root}: has no class folders; {_LAYOUT}")
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        raise DataError(f"{root / empty[0]}: has no .png or .jpg images; add some or remove it")
    return files


def _folders(root: Path) -> list[Path]:
    return sorted(
        entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _decode(file: Path) -> Tensor:
    """float32 (1, 3, h, w) in [0, 1]."""
    try:
        with Image.open(file) as image:
            deep = image.mode.startswith(("I", "F"))
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable image ({error}); replace or remove it") from error
    if deep:
        # Pillow clips such pixels to white instead of scaling them.
        raise DataError(f"{file}: has more than 8 bits per channel; convert it to 8 bits")
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).to(torch.float32) / 255
