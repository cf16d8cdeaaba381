from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from engine.data import DataError, load_data
from engine.data.cifar import CLASSES
from engine.data.cifar_python import FOLDER
from tests.engine.data import sources

KIND = "cifar10_python"


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def message(path, kind=KIND):
    with pytest.raises(DataError) as caught:
        load_data(kind, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def with_batch(tmp_path, content):
    return sources.write_files(tmp_path, sources.python_batches() | {"data_batch_2": content})


def test_the_sources_are_what_numpy_wrote():
    batch = pickle.loads(sources.python_batches()["data_batch_3"], encoding="bytes")
    expected = sources.pixels(4, seed=2).transpose(0, 3, 1, 2).reshape(4, 3072)
    assert np.array_equal(batch[b"data"], expected)
    assert batch[b"labels"] == sources.labels(4, seed=2).tolist()


def check(data):
    x, y = data.train.batch(torch.arange(20), (3, 32, 32))
    expected = np.concatenate([sources.pixels(4, seed) for seed in range(5)])
    normalised = data.train.normalisation.apply(
        torch.from_numpy(expected).permute(0, 3, 1, 2).float() / 255
    )
    assert torch.allclose(x, normalised, atol=1e-6)
    assert y.tolist() == np.concatenate([sources.labels(4, seed) for seed in range(5)]).tolist()
    assert data.test.labels.tolist() == sources.labels(4, seed=5).tolist()
    assert data.classes == CLASSES


@pytest.mark.parametrize("kind", [KIND, "auto"])
def test_folder_and_its_parent(tmp_path, kind):
    folder = sources.write_files(tmp_path / FOLDER, sources.python_batches())
    check(load_data(kind, folder))
    check(load_data(kind, tmp_path))


@pytest.mark.parametrize("kind", [KIND, "auto"])
@pytest.mark.parametrize(
    ("name", "mode"), [("c.tar.gz", "w:gz"), ("c.tgz", "w:gz"), ("c.tar", "w")]
)
def test_archive(tmp_path, kind, name, mode):
    check(load_data(kind, tar(tmp_path / name, sources.python_batches(), mode)))


def test_batches_pickled_anew_by_python_3(tmp_path):
    batch = {
        "data": sources.pixels(4).transpose(0, 3, 1, 2).reshape(4, 3072).copy(),
        "labels": sources.labels(4).tolist(),
    }
    content = pickle.dumps(batch, protocol=4)
    files = sources.python_batches() | {"data_batch_1": content}
    check(load_data(KIND, sources.write_files(tmp_path, files)))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", ["data", "labels", "filenames"])
def test_malicious_batch_is_refused_and_does_not_run(tmp_path, protocol, place):
    marker = tmp_path / "ran"
    batch = {"data": None, "labels": [], place: Call(os.system, f"touch {marker}")}
    path = with_batch(tmp_path / "c", pickle.dumps(batch, protocol=protocol))
    text = message(path)
    assert "data_batch_2 is not a batch of CIFAR-10" in text
    assert "system, which was refused" in text
    assert not marker.exists()


@pytest.mark.parametrize(
    "call",
    [
        Call(eval, "1"),
        Call(getattr, "", "upper"),
        Call(np.fromfile, "/etc/hostname"),
        Call(np.zeros, (3,)),
        Call(bytearray, 10),
    ],
)
def test_no_other_callable_is_known(tmp_path, call):
    path = with_batch(tmp_path, pickle.dumps({"data": call}))
    assert "which was refused" in message(path)


def test_object_array_is_refused(tmp_path):
    array = np.array([1, None, "x"], dtype=object)
    path = with_batch(tmp_path, pickle.dumps({"data": array, "labels": [1, 2, 3]}, protocol=4))
    assert "its data is not uint8 (3, 3072)" in message(path)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([1, 2], "has no 'data' and 'labels' (found: list)"),
        ({"data": 1, "fine_labels": [1]}, "(found: data, fine_labels)"),
        ({"data": 1, "labels": "0123"}, "labels are not a list of 0 to 9"),
        ({"data": 1, "labels": []}, "labels are not a list of 0 to 9"),
        ({"data": 1, "labels": [3, 10]}, "labels are not a list of 0 to 9"),
        ({"data": 1, "labels": [3, True]}, "labels are not a list of 0 to 9"),
        ({"data": 1, "labels": [3, 4]}, "data is not uint8 (2, 3072)"),
        ({"data": np.zeros((2, 3072), np.int8), "labels": [3, 4]}, "is not uint8 (2, 3072)"),
        ({"data": np.zeros((2, 3073), np.uint8), "labels": [3, 4]}, "is not uint8 (2, 3072)"),
        ({"data": np.zeros((3, 3072), np.uint8), "labels": [3, 4]}, "is not uint8 (2, 3072)"),
        (
            {"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), "labels": [3, 4]},
            "is not uint8 (2, 3072)",
        ),
    ],
)
def test_wrong_content(tmp_path, batch, reason):
    assert reason in message(with_batch(tmp_path, pickle.dumps(batch, protocol=4)))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02}(", b"not a pickle", b"\x80\x63.", b"(lp0\n0."]
)
def test_malformed_pickle(tmp_path, content):
    assert "data_batch_2 is not a batch of CIFAR-10" in message(with_batch(tmp_path, content))


@pytest.mark.parametrize("cut", [100, 3000, 12000])
def test_truncated_batch(tmp_path, cut):
    content = sources.python_batches()["data_batch_2"][:cut]
    assert "data_batch_2 is not a batch of CIFAR-10" in message(with_batch(tmp_path, content))


def test_missing_batches(tmp_path):
    files = sources.python_batches()
    del files["data_batch_4"], files["test_batch"]
    for path in (
        sources.write_files(tmp_path / "folder", files),
        tar(tmp_path / "c.tar.gz", files),
    ):
        assert "data_batch_4, test_batch not found; take the archive again" in message(path)


def test_oversized_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.data.cifar_python.BATCH_LIMIT_BYTES", 1000)
    files = sources.python_batches()
    for path in (
        sources.write_files(tmp_path / "folder", files),
        tar(tmp_path / "c.tar.gz", files),
    ):
        assert "bytes, too many for a batch" in message(path)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("kind", [KIND, "auto"])
def test_truncated_archive(tmp_path, keep, kind):
    path = tar(tmp_path / "c.tar.gz", sources.python_batches())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "c.tar.gz: not a readable tar archive" in message(path, kind)


def test_links_in_the_archive_are_not_followed(tmp_path):
    files = sources.python_batches()
    secret = sources.write_files(tmp_path, {"secret": files.pop("test_batch")}) / "secret"
    path = tar(tmp_path / "c.tar", files, "w")
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(f"{FOLDER}/test_batch")
        member.type = tarfile.SYMTYPE
        member.linkname = str(secret)
        archive.addfile(member)
    assert "test_batch not found" in message(path)
