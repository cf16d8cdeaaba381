"""CIFAR-10's official python archive, read without unpickling arbitrary objects.

Source: https://www.cs.toronto.edu/~kriz/cifar.html.  The batches are pickles of Python 2: a
dictionary with `data`, a NumPy array, and `labels`, a list.  A pickle may name any callable of
any module, so the reader here knows four names, those of a NumPy array, and puts plain records
in their place: not even NumPy runs on what the file says before it has been checked.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.data.arrays import ArraySplit
from engine.data.base import DataError, ImageData
from engine.data.cifar import CLASSES, NORMALISATION

FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCH = "test_batch"
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")
PIXELS = 3 * 32 * 32
BATCH_LIMIT_BYTES = 64 * 2**20
"""A batch of the archive has 31 MB."""
_ADVICE = "take the archive again from https://www.cs.toronto.edu/~kriz/cifar.html"


class _Dtype:
    """Stands for `numpy.dtype`: only its code is kept."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = _text(code)

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment mean nothing for the only dtype that is accepted."""


class _Array:
    """Stands for `numpy.ndarray`: its shape, dtype and bytes, not yet checked."""

    shape: Any = None
    dtype: Any = None
    fortran: Any = None
    data: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state


def _reconstruct(*_: Any) -> _Array:
    return _Array()


class _BatchUnpickler(pickle.Unpickler):
    KNOWN: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which was refused")
        return self.KNOWN[module, name]


def holds_batches(path: Path) -> bool:
    """Whether `path` looks like the archive, its folder, or the folder's parent."""
    if path.is_dir():
        return any((folder / TRAIN_BATCHES[0]).is_file() for folder in (path, path / FOLDER))
    return path.name.endswith(ARCHIVE_SUFFIXES)


def load_python(path: Path) -> ImageData:
    """CIFAR-10 from the official python archive.

    Args:
        path: cifar-10-python.tar.gz, the folder cifar-10-batches-py, or its parent.

    Raises:
        DataError: A batch is missing, damaged, or asks for more than a NumPy array.
    """
    files = _read_folder(path) if path.is_dir() else _read_archive(path)
    missing = [name for name in (*TRAIN_BATCHES, TEST_BATCH) if name not in files]
    if missing:
        raise DataError(f"{path}: {', '.join(missing)} not found; {_ADVICE}")
    batches = [_read_batch(f"{path}: {name}", files[name]) for name in TRAIN_BATCHES]
    pixels = torch.cat([batch[0] for batch in batches])
    labels = torch.cat([batch[1] for batch in batches])
    return ImageData(
        name=f"cifar10_python {path.name}",
        classes=CLASSES,
        train=ArraySplit(pixels, labels, NORMALISATION),
        test=ArraySplit(*_read_batch(f"{path}: {TEST_BATCH}", files[TEST_BATCH]), NORMALISATION),
    )


def _read_folder(path: Path) -> dict[str, bytes]:
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    files = {}
    for name in (*TRAIN_BATCHES, TEST_BATCH):
        file = folder / name
        try:
            if file.is_file():
                _check_size(f"{path}: {name}", file.stat().st_size)
                files[name] = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); {_ADVICE}") from error
    return files


def _read_archive(path: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name not in (*TRAIN_BATCHES, TEST_BATCH) or not member.isreg():
                    continue
                _check_size(f"{path}: {name}", member.size)
                stream = archive.extractfile(member)
                if stream is not None:
                    files[name] = stream.read()
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: not a readable tar archive ({error}); {_ADVICE}") from error
    return files


def _check_size(where: str, size_bytes: int) -> None:
    if size_bytes > BATCH_LIMIT_BYTES:
        raise DataError(f"{where} has {size_bytes} bytes, too many for a batch; {_ADVICE}")


def _read_batch(where: str, content: bytes) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, 32, 32) and int64 (N,) of one batch."""
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
    # A malformed pickle can raise nearly anything; nothing of it has run.
    except Exception as error:
        raise DataError(f"{where} is not a batch of CIFAR-10 ({error}); {_ADVICE}") from error
    entries = (
        {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    )
    if not {"data", "labels"} <= entries.keys():
        found = ", ".join(sorted(entries)) or type(batch).__name__
        raise DataError(f"{where} has no 'data' and 'labels' (found: {found}); {_ADVICE}")
    labels, array = entries["labels"], entries["data"]
    if not _are_labels(labels):
        raise DataError(f"{where}: its labels are not a list of 0 to 9; {_ADVICE}")
    if not _is_pixels(array, len(labels)):
        raise DataError(f"{where}: its data is not uint8 ({len(labels)}, {PIXELS}); {_ADVICE}")
    pixels = np.frombuffer(array.data, dtype=np.uint8).reshape(-1, 3, 32, 32).copy()
    return torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64)


def _are_labels(labels: object) -> bool:
    return (
        isinstance(labels, list)
        and len(labels) > 0
        and all(type(label) is int and 0 <= label < len(CLASSES) for label in labels)
    )


def _is_pixels(array: object, count: int) -> bool:
    return (
        isinstance(array, _Array)
        and isinstance(array.dtype, _Dtype)
        and array.dtype.code == "u1"
        and array.shape == (count, PIXELS)
        and not array.fortran
        and isinstance(array.data, bytes)
        and len(array.data) == count * PIXELS
    )


def _text(value: object) -> str:
    """A key or code of the pickle; never `str` of a value, whose text can be made endless."""
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value if isinstance(value, str) else type(value).__name__
