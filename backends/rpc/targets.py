"""What kernels for a board are compiled for, and how they are linked."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.base import BackendError
from backends.devices import cpu_target, host


def board_target(spec: str | Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """The validated target that `spec` names: "native", or a mapping with mcpu, mattr, mtriple.

    Raises:
        BackendError: A name is unknown.
    """
    if isinstance(spec, str):
        if spec != "native":
            raise BackendError(f"Unknown target {spec!r}; known: native.")
        spec = {}
    cores = threads or spec.get("num-cores") or host().cores
    return cpu_target(int(cores), spec.get("mcpu"), spec.get("mattr", ()), spec.get("mtriple"))


def link_shared(target: Mapping[str, Any]) -> Callable[..., None]:
    """The linker of a target, for TVM's `export_library`."""
    triple = target.get("mtriple")
    command = "ld" if triple is None else f"{str(triple).split('-')[0]}-linux-gnu-ld"
    if shutil.which(command) is None:
        raise BackendError(f"The linker {command} is missing; install it with binutils.")

    def link(output: str, objects: Sequence[str], options: Any = None, **_more: Any) -> None:
        subprocess.run([command, "-shared", "-o", output, *objects], check=True)

    link.output_format = "so"  # type: ignore[attr-defined]
    return link
