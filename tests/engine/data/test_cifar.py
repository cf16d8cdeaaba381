from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import DataError, load_data
from engine.data.cifar import CLASSES, NORMALISATION
from tests.engine.data import sources

SHAPE = (3, 32, 32)
LOADERS = {"cifar10_npz_jpeg": sources.jpeg_arrays, "cifar10_npz": sources.pixel_arrays}


def in_unit_range(x):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (NORMALISATION.mean, NORMALISATION.std))
    return x * std + mean


def message(kind, path):
    with pytest.raises(DataError) as caught:
        load_data(kind, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", LOADERS)
def test_images_and_labels(tmp_path, kind):
    path = sources.save_npz(tmp_path / "c.npz", LOADERS[kind]())
    data = load_data(kind, path)
    assert data.classes == CLASSES
    assert data.name == f"{kind} c.npz"
    for split, count, seed in ((data.train, 20, 0), (data.test, 6, 9)):
        x, y = split.batch(torch.arange(count), SHAPE)
        expected = torch.from_numpy(sources.pixels(count, seed)).permute(0, 3, 1, 2) / 255
        # JPEG is lossy: a few grey levels on these smooth images.
        tolerance = 0.03 if kind == "cifar10_npz_jpeg" else 1e-6
        assert (in_unit_range(x) - expected).abs().max() < tolerance
        assert y.tolist() == sources.labels(count, seed).tolist()


@pytest.mark.parametrize("kind", LOADERS)
def test_minibatch_is_enlarged_for_imagenet_networks(tmp_path, kind):
    data = load_data(kind, sources.save_npz(tmp_path / "c.npz", LOADERS[kind]()))
    x, y = data.minibatch(3, 0, (3, 64, 64), num_classes=1000)
    assert x.shape == (3, 3, 64, 64)
    assert y.shape == (3,)


def test_minibatch_decodes_only_its_images(tmp_path, monkeypatch):
    data = load_data("auto", sources.save_npz(tmp_path / "c.npz", sources.jpeg_arrays(60)))
    opened = []
    real = Image.open
    monkeypatch.setattr(
        Image, "open", lambda *args, **kwargs: opened.append(1) or real(*args, **kwargs)
    )
    data.minibatch(8, 0, SHAPE)
    assert len(opened) == 8


@pytest.mark.parametrize("kind", LOADERS)
def test_folder_with_one_such_file(tmp_path, kind):
    for other, arrays in LOADERS.items():
        sources.save_npz(tmp_path / f"{other}.npz", arrays())
    assert load_data(kind, tmp_path).name == f"{kind} {kind}.npz"


def test_folder_with_two_such_files(tmp_path):
    sources.save_npz(tmp_path / "a.npz", sources.pixel_arrays())
    sources.save_npz(tmp_path / "b.npz", sources.pixel_arrays())
    assert "several files fit (a.npz, b.npz)" in message("cifar10_npz", tmp_path)


def test_folder_with_no_such_file(tmp_path):
    assert "no .npz file here has the arrays test_x" in message("cifar10_npz", tmp_path)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_file(tmp_path, kind, keep):
    path = sources.save_npz(tmp_path / "c.npz", LOADERS[kind]())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    for chosen in (kind, "auto"):
        assert "cannot be read as a NumPy archive" in message(chosen, path)


@pytest.mark.parametrize("kind", LOADERS)
def test_flipped_bytes(tmp_path, kind):
    path = sources.save_npz(tmp_path / "c.npz", LOADERS[kind]())
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)
    assert "cannot be read as a NumPy archive (BadZipFile" in message(kind, path)


@pytest.mark.parametrize("header", [b"}", b"(", b"'", b"False", b"(20, 32"])
def test_damaged_array_header(tmp_path, header):
    path = sources.save_npz(tmp_path / "c.npz", sources.pixel_arrays())
    path.write_bytes(path.read_bytes().replace(header, b"[" * len(header)))
    assert "cannot be read as a NumPy archive" in message("cifar10_npz", path)


def test_wrong_keys(tmp_path):
    path = sources.save_npz(tmp_path / "c.npz", sources.pixel_arrays())
    text = message("cifar10_npz_jpeg", path)
    assert "has the arrays test_x, test_y, train_index, train_x, train_y, expected header" in text
    assert "kind 'auto'" in text


def test_pickled_objects_are_refused(tmp_path):
    arrays = sources.pixel_arrays()
    arrays["train_x"] = np.array([object()])
    path = tmp_path / "c.npz"
    np.savez(path, **arrays, allow_pickle=True)
    assert "Object arrays cannot be loaded" in message("cifar10_npz", path)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("train_x", lambda x: x[:-1]),
        ("train_x", lambda x: x.astype(np.float32)),
        ("test_x", lambda x: x[:, :16]),
        ("train_y", lambda y: y[:, None]),
        ("train_y", lambda y: y + 10),
        ("train_y", lambda y: y.astype(np.int64) - 10),
        ("test_y", lambda y: y.astype(np.float64)),
        ("test_y", lambda y: y[:0]),
    ],
)
def test_wrong_pixel_arrays(tmp_path, key, change):
    arrays = sources.pixel_arrays()
    arrays[key] = change(arrays[key])
    path = sources.save_npz(tmp_path / "c.npz", arrays)
    assert f"array '{key}' is not" in message("cifar10_npz", path)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("header", lambda a: a.astype(np.int16)),
        ("train_data", lambda a: a[None]),
        ("train_offsets", lambda a: a[:-1]),
        ("train_offsets", lambda a: a + 1),
        ("train_offsets", lambda a: a[::-1]),
        ("train_offsets", lambda a: a.astype(np.float32)),
        ("test_offsets", lambda a: a * 2),
        ("test_labels", lambda a: a + 10),
    ],
)
def test_wrong_jpeg_arrays(tmp_path, key, change):
    arrays = sources.jpeg_arrays()
    arrays[key] = change(arrays[key])
    path = sources.save_npz(tmp_path / "c.npz", arrays)
    assert f"array '{key}' is not" in message("cifar10_npz_jpeg", path)


def test_corrupt_jpeg_is_named_and_spares_the_others(tmp_path):
    arrays = sources.jpeg_arrays()
    start, stop = arrays["train_offsets"][7:9]
    data = arrays["train_data"].copy()
    data[start:stop] = 0
    arrays["train_data"] = data
    split = load_data("auto", sources.save_npz(tmp_path / "c.npz", arrays)).train
    assert split.batch(torch.tensor([6, 8]), SHAPE)[0].shape == (2, *SHAPE)
    with pytest.raises(DataError, match=r"c\.npz: image 7 is not a readable JPEG"):
        split.batch(torch.tensor([6, 7]), SHAPE)


def test_jpeg_of_another_size(tmp_path):
    stream = np.frombuffer(sources.jpeg(np.zeros((16, 16, 3), np.uint8)), np.uint8)
    arrays = sources.jpeg_arrays()
    arrays["header"] = stream[:20]
    arrays["train_data"] = stream[20:]
    arrays["train_offsets"] = np.array([0, len(stream) - 20])
    arrays["train_labels"] = arrays["train_labels"][:1]
    data = load_data("cifar10_npz_jpeg", sources.save_npz(tmp_path / "c.npz", arrays))
    with pytest.raises(DataError, match=r"image 0 has shape \(16, 16, 3\), not \(32, 32, 3\)"):
        data.minibatch(1, 0, SHAPE)
