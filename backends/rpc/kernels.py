"""Kernels as shared libraries for boards, built in a worker of this machine or of another."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import Failed, FailureKind
from backends.boards import link_shared
from backends.builder import BuildJob
from backends.gpus import target_features
from backends.workers import gpu_runtime
from genomes.errors import LoopGeneError
from genomes.nest import LoopNest

if TYPE_CHECKING:
    from backends.workers import Stage


@dataclass(frozen=True)
class Library:
    """A kernel as a shared library for the board.

    Attributes:
        nest: What it computes, scheduled.
        binary: The file.
    """

    nest: LoopNest
    binary: bytes


def built(nest: LoopNest, target: Mapping[str, Any]) -> bytes:
    """The library of a scheduled nest.

    Args:
        nest: The nest.
        target: From `board_target`.

    Raises:
        LoweringError: TVM or nvcc refuses the schedule.
        BackendError: The linker is missing or fails, or the GPU's architecture is unknown.
    """
    link = link_shared(target)
    packing = {}
    if target["kind"] == "cuda":
        from backends.lowering.gpu import build_kernel as build_gpu_kernel
        from backends.lowering.gpu.libraries import pack_imports

        features = target_features(target)
        kernel = build_gpu_kernel(nest, features, target["host"])
        packing["fpack_imports"] = pack_imports(link.command, features.arch)
    else:
        from backends.lowering import build_kernel

        kernel = build_kernel(nest, dict(target))
    with tempfile.TemporaryDirectory(prefix="loopgene-rpc-") as folder:
        path = Path(folder) / "kernel.so"
        kernel.module.export_library(str(path), fcompile=link, **packing)
        return path.read_bytes()


@gpu_runtime.left_out()
def initialise(trial: BuildJob) -> None:
    """Import what `run` needs, once for all workers."""
    # Why nothing can be built is told by the first job that meets it.
    with contextlib.suppress(LoopGeneError):
        built(trial.nest, trial.target)


def run(job: BuildJob, stage: Stage) -> bytes | Failed:
    """The library of a kernel; for workers of a `backends.builder.Workshop`."""
    from backends.lowering import LoweringError

    try:
        return built(job.nest, job.target)
    except LoweringError as error:
        return Failed(FailureKind.BUILD_ERROR, str(error))
