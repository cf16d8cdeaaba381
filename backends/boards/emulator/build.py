"""A 64-bit ARM system in a folder: Debian's Python and TVM's wheels, run by QEMU in user mode."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from backends.base import BackendError
from backends.boards.requirements import requirements

VERSION = 1
"""Raised when a change here makes another system."""

RELEASE, PYTHON = "bookworm", "3.11"
_SOURCE = "deb [signed-by={keyring}] http://deb.debian.org/debian {release} main\n"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEBS = (
    f"libpython{PYTHON}-stdlib",
    f"python{PYTHON}-minimal",
    "libstdc++6",
    "libgcc-s1",
    "zlib1g",
)
_GLIBC_OF_WHEELS = ("2_28", "2_27", "2_26", "2_24", "2_17")

# What stands for each Debian package of this machine.
_TOOLS = {
    "qemu-user": "/usr/bin/qemu-aarch64",
    "binutils-aarch64-linux-gnu": "/usr/bin/aarch64-linux-gnu-ld",
    "debian-archive-keyring": str(_KEYRING),
}
# "-0" makes the wrapper Python's own `sys.executable`: what it starts is emulated too.
_WRAPPER = """\
#!/bin/sh
self="$(readlink -f "$0")"
here="$(dirname "$self")"
export PYTHONPATH="$here/site" PYTHONHOME=/usr
exec qemu-aarch64 -L "$here/root" -0 "$self" "$here/root/usr/bin/python{python}" "$@"
"""

_STAMP = "built.json"

Say = Callable[[str], None]


def python_of(folder: Path) -> Path:
    """The emulated Python of a system that `build` has made.

    Raises:
        BackendError: There is none, or one of other versions.
    """
    if not _is_built(folder):
        raise BackendError(f"There is no ARM emulator in {folder}; make it: make arm-emulator")
    return folder / "python"


def build(folder: Path, say: Say) -> Path:
    """Make the system in `folder` unless it is there; its emulated Python.

    Args:
        folder: Where; what is in it is replaced.
        say: Told what happens, a line each.

    Raises:
        BackendError: A package is missing and cannot be installed, or a download fails.
    """
    _install_tools(say)
    if not _is_built(folder):
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f"{folder.name}-"))
        try:
            _make(made, say)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    say(f"the ARM emulator is ready: {folder / 'python'}")
    return folder / "python"


def _is_built(folder: Path) -> bool:
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text() == _recipe()


def _recipe() -> str:
    facts = {"version": VERSION, "release": RELEASE, "debs": _DEBS, "site": requirements()}
    return json.dumps(facts)


def _install_tools(say: Say) -> None:
    missing = [package for package, file in _TOOLS.items() if not Path(file).exists()]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BackendError(
            f"The ARM emulator needs {', '.join(missing)}; install them as root:"
            f" {' '.join(command)}"
        )
    say(f"installing {', '.join(missing)}")
    _run(["apt-get", "update"])
    _run(command)


def _make(folder: Path, say: Say) -> None:
    say(f"fetching Python {PYTHON} for ARM from Debian {RELEASE}")
    _unpack_debs(folder / "root")
    say("fetching TVM's wheels for ARM")
    _install_wheels(folder / "site")
    wrapper = folder / "python"
    wrapper.write_text(_WRAPPER.format(python=PYTHON))
    wrapper.chmod(0o755)
    folder.chmod(0o755)
    machine = _output([str(wrapper), "-c", "import platform, tvm; print(platform.machine())"])
    if machine.strip() != "aarch64":
        raise BackendError(f"The emulated Python says that it runs on {machine.strip()!r}.")
    (folder / _STAMP).write_text(_recipe())


def _unpack_debs(root: Path) -> None:
    """Debian packages and all they depend on, as for a system that has none."""
    with tempfile.TemporaryDirectory(prefix="loopgene-apt-") as name:
        apt = Path(name)
        (apt / "cache/archives/partial").mkdir(parents=True)
        (apt / "state/lists/partial").mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources").write_text(_SOURCE.format(keyring=_KEYRING, release=RELEASE))
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "",
            "Debug::NoLocking": "1",
            "Dir::State": apt / "state",
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt / "cache",
            "Dir::Etc::SourceList": apt / "sources",
            "Dir::Etc::SourceParts": apt / "none",
        }
        options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        get = ["apt-get", *options]
        _run([*get, "update"])
        download = ["install", "--yes", "--download-only", "--no-install-recommends"]
        _run([*get, *download, *_DEBS])
        root.mkdir()
        for deb in sorted((apt / "cache/archives").glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(deb), str(root)])


def _install_wheels(site: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements()))
        file.flush()
        platforms = [f"manylinux_{glibc}_aarch64" for glibc in _GLIBC_OF_WHEELS]
        options = [
            p for name in (*platforms, "manylinux2014_aarch64") for p in ("--platform", name)
        ]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        version = ["--implementation", "cp", "--python-version", PYTHON]
        chosen = ["--only-binary=:all:", "--no-deps", *version, *options]
        _run([*pip, "--target", str(site), *chosen, "-r", file.name])


def _run(command: Sequence[str]) -> None:
    _output(command)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise BackendError(f"{' '.join(command[:2])} ends with {done.returncode}: {said[-1]}")
    return done.stdout
