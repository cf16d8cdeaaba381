from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from backends.base import BackendError
from backends.boards.kit import SERVICE, Kit, write_kit
from backends.rpc import serve

KIT = Kit("raspberry-pi-5", "10.0.0.7:9190", "pi5", service=True)


def test_a_kit_is_the_server_the_versions_and_two_commands(tmp_path):
    folder = tmp_path / "kit"
    files = write_kit(folder, KIT)
    assert [f.name for f in files] == [
        "README.md",
        "gpu_runtime.py",
        SERVICE,
        "requirements.txt",
        "serve.py",
    ]
    readme = (folder / "README.md").read_text()
    assert "\nvenv/bin/python serve.py --tracker 10.0.0.7:9190 --key pi5 " in readme
    assert 'tracker: "10.0.0.7:9190", key: pi5, target: raspberry-pi-5}' in readme
    assert "{" not in (folder / SERVICE).read_text()
    assert (folder / "serve.py").read_bytes() == Path(serve.__file__).read_bytes()


def test_a_kit_for_a_gpu_says_what_the_board_needs(tmp_path):
    write_kit(tmp_path / "kit", Kit("jetson-orin-nano/cuda", "10.0.0.7:9190", "orin"))
    readme = (tmp_path / "kit" / "README.md").read_text()
    assert "libcudart.so.13" in readme
    assert "target: jetson-orin-nano/cuda}" in readme


def test_the_versions_are_exact_and_those_of_this_machine(tmp_path):
    write_kit(tmp_path, KIT)
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    assert all(re.match(r"[\w-]+==[\w.]+(; python_version (<|>=) \"3\.11\")?$", x) for x in lines)
    for package in ("apache-tvm", "apache-tvm-ffi"):
        assert f"{package}=={version(package)}" in lines


def test_what_the_readme_says_to_type_is_what_the_script_takes(tmp_path):
    write_kit(tmp_path, KIT)
    (command,) = re.findall(
        r"^venv/bin/python (serve\.py .*)$", (tmp_path / "README.md").read_text(), re.M
    )
    options = serve.parse(command.split()[1:])
    assert (options.tracker, options.key, options.runtime_only) == (
        ("10.0.0.7", 9190),
        "pi5",
        True,
    )


def test_the_script_needs_nothing_but_itself(tmp_path):
    write_kit(tmp_path, KIT)
    command = [sys.executable, "-I", "serve.py", "--tracker", "nonsense", "--key", "k"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected HOST:PORT, got 'nonsense'" in done.stderr


def test_a_kit_for_an_unknown_board_or_in_a_wrong_place_is_one_line(tmp_path):
    with pytest.raises(BackendError, match="did you mean 'raspberry-pi-5'"):
        write_kit(tmp_path / "kit", Kit("rasberry-pi-5", "a:1", "k"))
    with pytest.raises(BackendError, match="The key 'a b' must be a word"):
        write_kit(tmp_path / "kit", Kit("raspberry-pi-5", "a:1", "a b"))
    assert not (tmp_path / "kit").exists()
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match=r"cannot be written to .*: File exists"):
        write_kit(tmp_path / "file", KIT)
