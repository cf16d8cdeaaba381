"""Shared libraries of kernels, linked on this machine for another one."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.base import BackendError

_ALIASES = {"arm64": "aarch64", "amd64": "x86_64"}


@dataclass(frozen=True)
class Linker:
    """Makes a shared library of objects; the `fcompile` of TVM's `export_library`.

    Attributes:
        command: The linker of binutils.
    """

    command: str
    output_format = "so"
    """The ending of the library, where TVM looks for it."""

    def __call__(
        self, output: str, objects: Sequence[str], options: Sequence[str] | None = None, **_: Any
    ) -> None:
        # Objects that are mere data do not say that their stack holds no code.
        command = [self.command, "-shared", "-z", "noexecstack", "-o", output, *objects]
        command += options or ()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise BackendError(f"Cannot link {output}: {reason}")


def link_shared(target: Mapping[str, Any]) -> Linker:
    """The linker for a target of `board_target`.

    Raises:
        BackendError: It is not installed.
    """
    triple = target.get("host", target).get("mtriple")
    own = _ALIASES.get(platform.machine().lower(), platform.machine())
    architecture = own if triple is None else str(triple).split("-")[0]
    architecture = _ALIASES.get(architecture, architecture)
    name, package = "ld", "binutils"
    if architecture != own:
        name = f"{architecture}-linux-gnu-ld"
        package = f"binutils-{architecture.replace('_', '-')}-linux-gnu"
    command = shutil.which(name)
    if command is None:
        raise BackendError(
            f"Cannot link kernels for {architecture}: {name} is missing; install it:"
            f" apt-get install {package}"
        )
    return Linker(command)
