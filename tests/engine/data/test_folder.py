from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import DataError, load_data
from engine.data.folder import NORMALISATION
from tests.engine.data import sources

RED, BLUE = (255, 0, 0), (0, 0, 255)


def message(path, kind="image_folder"):
    with pytest.raises(DataError) as caught:
        load_data(kind, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def split_files(test="test"):
    return {
        "train/cat/2.png": sources.png((40, 20), RED),
        "train/cat/1.PNG": sources.png((20, 40), RED),
        "train/dog/1.jpg": sources.jpeg(np.full((30, 50, 3), BLUE, np.uint8)),
        "train/dog/2.jpeg": sources.jpeg(np.full((9, 9, 3), BLUE, np.uint8)),
        f"{test}/dog/3.png": sources.png((8, 8), BLUE),
        "train/cat/notes.txt": b"not an image",
        "train/cat/._1.png": b"left by a Mac",
        "train/.cache/x.png": b"hidden",
    }


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("kind", ["image_folder", "auto"])
def test_train_and_test_folders(tmp_path, test, kind):
    data = load_data(kind, sources.write_files(tmp_path, split_files(test)))
    assert data.classes == ("cat", "dog")
    assert [file.name for file in data.train.files] == ["1.PNG", "2.png", "1.jpg", "2.jpeg"]
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [1]
    assert data.test.labels.dtype == torch.int64


def test_images_of_many_sizes_become_one_batch(tmp_path):
    data = load_data("auto", sources.write_files(tmp_path, split_files()))
    x, y = data.minibatch(4, 0, (3, 16, 16), num_classes=2)
    assert x.shape == (4, 3, 16, 16)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (NORMALISATION.mean, NORMALISATION.std))
    colours = (x * std + mean).mean((2, 3))
    expected = torch.tensor([RED, BLUE])[y] / 255
    assert torch.allclose(colours, expected, atol=0.02)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_without_a_test_folder_every_fifth_image_of_a_class_is_held_out(tmp_path, prefix):
    files = {
        f"{prefix}{name}/{index}.png": sources.png((4, 4), RED)
        for name, count in (("a", 6), ("b", 3))
        for index in range(count)
    }
    data = load_data("auto", sources.write_files(tmp_path, files))
    assert [f"{file.parent.name}{file.stem}" for file in data.test.files] == ["a4"]
    assert data.train.labels.tolist() == [0] * 5 + [1] * 3


def test_too_few_images_to_hold_any_out(tmp_path):
    data = load_data("auto", sources.write_files(tmp_path, {"a/1.png": sources.png((4, 4), RED)}))
    assert len(data.test) == 0
    with pytest.raises(DataError, match="a minibatch of 1 was asked of 0 test images"):
        data.minibatch(1, 0, (3, 8, 8), split="test")


@pytest.mark.parametrize(("mode", "colour"), [("L", 255), ("1", 1), ("RGBA", (255, 255, 255, 9))])
def test_other_modes_become_rgb(tmp_path, mode, colour):
    files = {"a/1.png": sources.png((4, 4), colour, mode)}
    data = load_data("auto", sources.write_files(tmp_path, files))
    assert data.train.read(torch.tensor([0]), (4, 4)).unique().tolist() == [1.0]


def test_16_bit_image(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "a" / "1.png")
    data = load_data("auto", tmp_path)
    with pytest.raises(DataError, match=r"1\.png: has more than 8 bits per channel; convert"):
        data.minibatch(1, 0, (3, 4, 4))


@pytest.mark.parametrize("name", ["2.png", "2.jpg"])
@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
def test_corrupt_image_is_named_when_it_is_read(tmp_path, name, damage):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(noise).save(tmp_path / "a" / name)
    content = (tmp_path / "a" / name).read_bytes()
    damaged = {"text": b"hello", "empty": b"", "cut": content[: len(content) // 2]}[damage]
    sources.write_files(tmp_path, {f"a/{name}": damaged, "a/1.png": sources.png((4, 4), RED)})
    data = load_data("auto", tmp_path)
    assert data.train.read(torch.tensor([0]), (4, 4)).shape == (1, 3, 4, 4)
    with pytest.raises(DataError, match=rf"{name}: not a readable image .*; replace or remove it"):
        data.minibatch(2, 0, (3, 4, 4))


def test_file_that_vanished(tmp_path):
    data = load_data("auto", sources.write_files(tmp_path, {"a/1.png": sources.png((4, 4), RED)}))
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(DataError, match="not a readable image"):
        data.minibatch(1, 0, (3, 4, 4))


def test_empty_folder(tmp_path):
    assert "has no class folders; expected <folder>/train/<class>" in message(tmp_path)
    assert "not a data set that LoopGene knows" in message(tmp_path, "auto")


def test_empty_class(tmp_path):
    sources.write_files(tmp_path, {"a/1.png": sources.png((4, 4), RED), "b/readme.md": b""})
    assert "/b: has no .png or .jpg images; add some or remove it" in message(tmp_path)


def test_unknown_test_class(tmp_path):
    files = split_files() | {"test/bird/1.png": sources.png((4, 4), RED)}
    text = message(sources.write_files(tmp_path, files))
    assert "class 'bird' is not in" in text


def test_a_file_is_not_a_folder(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(sources.png((4, 4), RED))
    assert "not a folder; expected" in message(file)
