from __future__ import annotations

import pickle

import pytest
import torch
from torch.nn import functional

from engine.data import DataError, ImageData, Normalisation
from engine.data.arrays import ArraySplit
from engine.data.base import fit, held_out, match_channels

PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (30, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(30) % 4
    return ImageData(
        "small",
        ("a", "b", "c", "d"),
        ArraySplit(pixels[:25], labels[:25], PLAIN),
        ArraySplit(pixels[25:], labels[25:], PLAIN),
    )


def test_minibatch_is_float32_nchw_with_int64_labels(data):
    x, y = data.minibatch(6, 0, (3, 8, 8))
    assert (x.shape, x.dtype) == ((6, 3, 8, 8), torch.float32)
    assert (y.shape, y.dtype) == ((6,), torch.int64)


def test_minibatch_pairs_images_with_their_labels_and_draws_each_once(data):
    x, y = data.minibatch(25, 3, (3, 8, 8))
    drawn = {(image.numpy().tobytes(), label.item()) for image, label in zip(x, y, strict=True)}
    everything = zip(data.train.pixels / 255, data.train.labels, strict=True)
    assert drawn == {(image.numpy().tobytes(), label.item()) for image, label in everything}


def test_minibatch_depends_on_its_seed_only(data):
    x, y = data.minibatch(6, 5, (3, 8, 8))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, labels = data.minibatch(6, 5, (3, 8, 8))
    assert torch.equal(x, again)
    assert torch.equal(y, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(x, data.minibatch(6, 6, (3, 8, 8))[0])


def test_minibatch_of_the_test_split(data):
    x, _ = data.minibatch(5, 0, (3, 8, 8), split="test")
    assert sorted(x.sum((1, 2, 3)).tolist()) == pytest.approx(
        sorted((data.test.pixels / 255).sum((1, 2, 3)).tolist())
    )


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 5, 7), (4, 16, 16), (3, 4, 4)])
def test_minibatch_fits_every_input_shape(data, shape):
    x, _ = data.minibatch(2, 0, shape)
    assert x.shape == (2, *shape)
    assert x.is_contiguous()
    assert x.isfinite().all()


@pytest.mark.parametrize("size", [0, -1, 26])
def test_impossible_size(data, size):
    with pytest.raises(DataError, match=rf"small: a minibatch of {size} was asked of 25 train"):
        data.minibatch(size, 0, (3, 8, 8))


def test_fewer_outputs_than_classes(data):
    with pytest.raises(DataError, match=r"has 4 classes and the network only 3 outputs; .*=4"):
        data.minibatch(2, 0, (3, 8, 8), num_classes=3)
    assert data.minibatch(2, 0, (3, 8, 8), num_classes=1000)[1].max() < 4


def test_data_pickles(data):
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.minibatch(4, 0, (3, 8, 8))[0], data.minibatch(4, 0, (3, 8, 8))[0])


def test_normalisation_comes_before_the_channels_are_matched():
    pixels = torch.full((2, 2, 4, 4), 255, dtype=torch.uint8)
    split = ArraySplit(pixels, torch.zeros(2), Normalisation((0.5, 0.0), (0.25, 0.5)))
    x, _ = split.batch(torch.tensor([0]), (3, 4, 4))
    assert x[0, :, 0, 0].tolist() == [2.0, 2.0, 2.0]
    split = ArraySplit(pixels, torch.zeros(2), Normalisation((0.5, 0.0), (0.25, 0.25)))
    x, _ = split.batch(torch.tensor([1]), (3, 4, 4))
    assert x[0, :, 0, 0].tolist() == [2.0, 4.0, 2.0]


def test_message_is_one_printable_line():
    assert str(DataError("a\nb\x1b[31m c\udcff")) == "a b [31m c "


def test_fit_keeps_an_equal_size():
    images = torch.rand(1, 3, 6, 4)
    assert fit(images, (6, 4)) is images


def test_fit_enlarges_bilinearly():
    images = torch.rand(2, 3, 8, 8)
    expected = functional.interpolate(images, size=(32, 32), mode="bilinear")
    assert torch.allclose(fit(images, (32, 32)), expected, atol=1e-6)


def test_fit_averages_when_it_shrinks():
    checks = (torch.arange(64).view(1, 1, 8, 8) + torch.arange(8).view(1, 1, 8, 1)) % 2
    assert fit(checks.float(), (2, 2)).flatten().tolist() == pytest.approx([0.5] * 4, abs=0.05)


@pytest.mark.parametrize(("height", "width"), [(4, 12), (12, 4)])
def test_fit_takes_the_central_crop(height, width):
    images = torch.zeros(1, 1, height, width)
    images[..., (height - 4) // 2 : (height + 4) // 2, (width - 4) // 2 : (width + 4) // 2] = 1
    assert fit(images, (8, 8)).min() == 1


def test_match_channels():
    images = torch.rand(2, 3, 4, 4)
    assert match_channels(images, 3) is images
    assert torch.allclose(match_channels(images, 1)[:, 0], images.mean(1))
    assert torch.equal(match_channels(images, 5)[:, 3:], images[:, :2])
    assert torch.equal(match_channels(images[:, :1], 3)[:, 2], images[:, 0])


def test_every_fifth_image_is_held_out():
    train, test = held_out(11)
    assert test.tolist() == [4, 9]
    assert train.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10]
