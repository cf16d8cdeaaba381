"""Small data sets in the real formats."""

from __future__ import annotations

import io
import struct
from itertools import takewhile
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(count: int, seed: int = 0) -> np.ndarray:
    """Smooth uint8 (count, 32, 32, 3), so that JPEG keeps them close."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, 32)[:, None, None] + np.zeros((1, 32, 3))
    return np.stack([ramp + rng.integers(0, 130, 3) for _ in range(count)]).astype(np.uint8)


def labels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 1).integers(0, 10, count).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=75, subsampling="4:2:0")
    return stream.getvalue()


def jpeg_arrays(train: int = 20, test: int = 6) -> dict[str, np.ndarray]:
    streams = {
        "train": [jpeg(image) for image in pixels(train)],
        "test": [jpeg(image) for image in pixels(test, seed=9)],
    }
    columns = zip(*streams["train"], *streams["test"], strict=False)
    header = bytes(
        column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)
    )
    arrays = {"header": np.frombuffer(header, np.uint8)}
    for split, images in streams.items():
        tails = [image[len(header) :] for image in images]
        sizes = [0, *(len(tail) for tail in tails)]
        arrays[f"{split}_data"] = np.frombuffer(b"".join(tails), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum(sizes).astype(np.uint32)
        arrays[f"{split}_labels"] = labels(len(images), seed=9 if split == "test" else 0)
    return arrays


def pixel_arrays(train: int = 20, test: int = 6) -> dict[str, np.ndarray]:
    return {
        "train_x": pixels(train),
        "train_y": labels(train),
        "train_index": np.arange(train, dtype=np.uint32),
        "test_x": pixels(test, seed=9),
        "test_y": labels(test, seed=9),
    }


def save_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)
    return path


def python2_batch(images: np.ndarray, targets: np.ndarray) -> bytes:
    """The bytes that cPickle of Python 2 writes for a batch, protocol 2.

    Args:
        images: uint8 (N, 32, 32, 3).
        targets: uint8 (N,).
    """
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1).tobytes()
    return b"".join(
        (
            b"\x80\x02}(",
            b"U\x0bbatch_labelU\x15training batch 1 of 5",
            b"U\x06labels](",
            b"".join(b"K" + bytes([target]) for target in targets),
            b"e",
            b"U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01J" + struct.pack("<i", len(images)) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<i", len(rows)) + rows + b"tb",
            b"U\tfilenames](U\x0bfirst_0.pnge",
            b"u.",
        )
    )


def python_batches(per_batch: int = 4) -> dict[str, bytes]:
    """The six batch files of the official archive, by name."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {
        name: python2_batch(pixels(per_batch, seed), labels(per_batch, seed))
        for seed, name in enumerate(names)
    }


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def png(size: tuple[int, int], colour: object, mode: str = "RGB") -> bytes:
    """An image of `size` (width, height) in one colour."""
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()
