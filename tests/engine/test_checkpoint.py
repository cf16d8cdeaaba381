from __future__ import annotations

import json

import pytest

from engine.checkpoint import VERSION, CheckpointError, load_checkpoint, save_checkpoint

STATE = {"generation": 3, "numbers": [1, 0.1, 1e-300, 2**80], "text": "ü", "none": None}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.json"
    save_checkpoint(path, "abc", STATE)
    return path


def test_what_was_saved_is_loaded(path):
    assert load_checkpoint(path, "abc") == STATE


def test_without_a_file_there_is_nothing(tmp_path):
    assert load_checkpoint(tmp_path / "checkpoint.json", "abc") is None


def test_saving_again_replaces_and_leaves_nothing_behind(path):
    save_checkpoint(path, "abc", {"generation": 4})
    assert load_checkpoint(path, "abc") == {"generation": 4}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_file_is_json_for_everybody(path):
    data = json.loads(path.read_text())
    assert data["format"] == "loopgene-checkpoint"
    assert data["version"] == VERSION
    assert data["state"] == STATE


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_cut_file_is_damaged_and_kept(path, share):
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        load_checkpoint(path, "abc")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["[]", "3", "{}", '{"format": "other"}', "[" * 100_000, "\ufeff", '"\udcff"']
)
def test_other_files_are_damaged(path, text):
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path, "abc")


def test_a_changed_digit_is_noticed(path):
    path.write_text(path.read_text().replace('"generation":3', '"generation":4'))
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(path, "abc")


def test_a_newer_version_is_refused(path):
    path.write_text(path.read_text().replace(f'"version":{VERSION}', f'"version":{VERSION + 1}'))
    with pytest.raises(
        CheckpointError, match=f"version {VERSION + 1} and this LoopGene reads {VERSION}"
    ):
        load_checkpoint(path, "abc")


def test_another_config_is_refused(path):
    with pytest.raises(CheckpointError, match=r"another experiment.*abc.*xyz"):
        load_checkpoint(path, "xyz")


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "gone" / "checkpoint.json", "abc", STATE)


def test_what_cannot_be_saved_leaves_the_old_one(path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(path, "abc", {"latency_s": float("nan")})
    assert load_checkpoint(path, "abc") == STATE
