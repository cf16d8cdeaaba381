from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.base import BackendError
from backends.boards.emulator import build as module
from backends.boards.emulator.__main__ import main
from backends.boards.emulator.build import build, python_of


def test_a_folder_without_an_emulator_is_one_line(tmp_path, capsys):
    with pytest.raises(BackendError, match="make it: make arm-emulator"):
        python_of(tmp_path)
    assert main(["serve", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: There is no ARM emulator in")


def test_an_emulator_of_other_versions_counts_as_none(tmp_path, monkeypatch):
    (tmp_path / "built.json").write_text(module._recipe())
    assert python_of(tmp_path) == tmp_path / "python"
    monkeypatch.setattr(module, "requirements", lambda: ["apache-tvm==0.28.0"])
    with pytest.raises(BackendError, match="There is no ARM emulator"):
        python_of(tmp_path)


def test_packages_that_are_missing_are_named_to_whoever_is_not_root(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TOOLS", {"qemu-user": str(tmp_path / "qemu-aarch64")})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = []
    with pytest.raises(
        BackendError, match=r"install them as root: apt-get install --yes .*qemu-user"
    ):
        build(tmp_path / "emulator", said.append)
    assert said == []
    assert not (tmp_path / "emulator").exists()


def test_an_emulator_that_is_there_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TOOLS", {})
    (tmp_path / "built.json").write_text(module._recipe())
    said = []
    assert build(tmp_path, said.append) == Path(tmp_path / "python")
    assert said == [f"the ARM emulator is ready: {tmp_path / 'python'}"]


def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TOOLS", {})
    monkeypatch.setattr(
        module, "_SOURCE", "deb [trusted=yes] file:{keyring}/missing {release} main\n"
    )
    with pytest.raises(BackendError, match="apt-get"):
        build(tmp_path / "emulator", lambda _: None)
    assert list(tmp_path.iterdir()) == []
