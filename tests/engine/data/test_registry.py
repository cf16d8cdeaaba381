from __future__ import annotations

import pytest
import torch

from engine.data import DataError, data_kinds, load_data
from tests.engine.data import sources


def message(*arguments):
    with pytest.raises(DataError) as caught:
        load_data(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_kinds():
    assert data_kinds() == (
        "auto",
        "digits",
        "cifar10_python",
        "cifar10_npz",
        "cifar10_npz_jpeg",
        "image_folder",
    )


@pytest.mark.parametrize("arguments", [(), ("auto",), ("digits",), ("digits", None)])
def test_digits_are_the_embedded_default(arguments):
    data = load_data(*arguments)
    assert data.name == "digits"
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.test)) == (1438, 359)


def test_digits_are_normalised_and_fit_a_cifar_network():
    data = load_data()
    x, y = data.train.batch(torch.arange(len(data.train)), (1, 8, 8))
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(1, abs=1e-4)
    assert y.unique().tolist() == list(range(10))
    images, labels = data.minibatch(16, 0, (3, 32, 32), num_classes=10)
    assert images.shape == (16, 3, 32, 32)
    assert torch.equal(images[:, 0], images[:, 2])
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "arrays"),
    [("cifar10_npz_jpeg", sources.jpeg_arrays), ("cifar10_npz", sources.pixel_arrays)],
)
def test_auto_tells_archives_by_their_arrays(tmp_path, name, arrays):
    path = sources.save_npz(tmp_path / "x.npz", arrays())
    assert load_data("auto", path).name == f"{name} x.npz"
    assert load_data("auto", str(tmp_path)).name == f"{name} x.npz"


def test_auto_prefers_the_most_faithful_form_of_one_data_set(tmp_path, caplog):
    sources.save_npz(tmp_path / "a.npz", sources.jpeg_arrays())
    sources.save_npz(tmp_path / "b.npz", sources.pixel_arrays())
    assert load_data("auto", tmp_path).name == "cifar10_npz b.npz"
    assert load_data("auto", tmp_path).name == "cifar10_npz b.npz"
    assert caplog.messages == [
        f"{tmp_path}: holds CIFAR-10 in several forms (cifar10_npz, cifar10_npz_jpeg); "
        "using cifar10_npz, the most faithful one; set data.kind to use another"
    ]
    assert load_data("cifar10_npz_jpeg", tmp_path).name == "cifar10_npz_jpeg a.npz"
    sources.write_files(tmp_path / "cifar-10-batches-py", sources.python_batches())
    assert load_data("auto", tmp_path).name.startswith("cifar10_python ")


def test_auto_refuses_to_choose_between_data_sets(tmp_path):
    sources.save_npz(tmp_path / "a.npz", sources.pixel_arrays())
    for name in ("cat", "dog"):
        sources.write_files(tmp_path / name, {"1.png": sources.png((8, 8), "red")})
    text = message("auto", tmp_path)
    assert text == (
        f"{tmp_path}: holds several kinds of data (cifar10_npz, image_folder); name the kind"
    )


def test_auto_refuses_to_choose_between_files_of_one_kind(tmp_path):
    for name in ("a.npz", "b.npz"):
        sources.save_npz(tmp_path / name, sources.pixel_arrays())
    assert "several files fit (a.npz, b.npz); give the path of one" in message("auto", tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "x.npz"])
def test_auto_with_something_else(tmp_path, name):
    path = tmp_path / name
    path.write_text("hello")
    if name == "x.npz":
        sources.save_npz(path, {"a": sources.labels(3)})
    text = message("auto", path)
    assert text.startswith(f"{path}: not a data set that LoopGene knows; known layouts are cifar")


@pytest.mark.parametrize("kind", [kind for kind in data_kinds() if kind != "digits"])
def test_missing_path(tmp_path, kind):
    path = tmp_path / "nothing"
    assert message(kind, path) == f"{path}: no such file or folder; check data.path"


@pytest.mark.parametrize("kind", [kind for kind in data_kinds() if kind not in ("auto", "digits")])
def test_path_is_needed(kind):
    assert message(kind).startswith(f"data kind '{kind}' needs a path: ")


def test_digits_take_no_path(tmp_path):
    assert "is embedded and takes no path; remove the path" in message("digits", tmp_path)


def test_unknown_kind_lists_the_known_and_the_nearest():
    text = message("cifar10")
    assert text == "unknown data kind 'cifar10'; did you mean 'cifar10_npz'?"
    assert message("pictures").endswith(f"known: {', '.join(sorted(data_kinds()))}")


def test_home_is_expanded_and_paths_may_be_relative(tmp_path, monkeypatch):
    sources.save_npz(tmp_path / "x.npz", sources.pixel_arrays())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_data("auto", "~/x.npz").train) == 20
    monkeypatch.chdir(tmp_path)
    assert len(load_data("auto", "x.npz").train) == 20
