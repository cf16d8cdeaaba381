"""Kernels of boards that are built elsewhere than where the search runs.

A backend that compiles for another machine says in a `Workshop` how kernels are built.  Whoever
can start processes on other machines sets the workshop up there and gives the backend a `Builder`.
"""

from __future__ import annotations

import abc
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from backends.base import BackendError, Failed
from backends.cuda_job import KERNEL_VERSION as GPU_KERNEL_VERSION
from backends.gpus import nvcc_version
from backends.kernel_job import KERNEL_VERSION
from backends.workers import (
    Crashed,
    Finished,
    JobResult,
    Lost,
    Raised,
    TimedOut,
    WorkerPool,
    WorkerSpec,
)
from backends.workers.outcomes import failure_of
from genomes.nest import LoopNest

_COMPILERS = ("apache-tvm", "apache-tvm-ffi")


@dataclass(frozen=True)
class BuildJob:
    """One kernel to build.

    Attributes:
        nest: Scheduled.
        target: For `tvm.target.Target`.
    """

    nest: LoopNest
    target: Mapping[str, Any]


def toolchain(target: Mapping[str, Any]) -> dict[str, str]:
    """What decides, beside its job, what becomes of a kernel that this process builds.

    Args:
        target: What it is built for, as `tvm.target.Target` takes it.
    """
    if target["kind"] == "cuda":
        found = {"LoopGene's kernels": str(GPU_KERNEL_VERSION), "nvcc": nvcc_version()}
    else:
        found = {"LoopGene's kernels": str(KERNEL_VERSION)}
    for package in _COMPILERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


@dataclass(frozen=True)
class Workshop:
    """How another process builds kernels as the search's own would; plain data that travels.

    Attributes:
        spec: Its workers turn a `BuildJob` into the bytes of a library, or into `Failed`.
        trial: A kernel that can be built.
        toolchain: That of the search's process.
    """

    spec: WorkerSpec
    trial: BuildJob
    toolchain: Mapping[str, str]

    def open(self) -> WorkerPool:
        """One worker of this machine, which has built the trial; close it in the end.

        Raises:
            BackendError: Kernels cannot be built here, or would become other ones.
        """
        here = toolchain(self.trial.target)
        differences = [
            f"{name} is {here.get(name, 'missing')} and not {wanted}"
            for name, wanted in self.toolchain.items()
            if here.get(name) != wanted
        ]
        if differences:
            raise BackendError(
                "kernels are built otherwise here than where the search runs: "
                f"{', '.join(differences)}; install the same versions"
            )
        pool = WorkerPool(self.spec)
        try:
            self._try(pool)
        except BaseException:
            pool.close()
            raise
        return pool

    def _try(self, pool: WorkerPool) -> None:
        match pool.run(self.trial):
            case Finished(Failed(message=message)) | Raised(message=message):
                why = message
            case Finished():
                return
            case TimedOut() | Crashed() | Lost() as result:
                why = failure_of(result).message
        raise BackendError(f"kernels cannot be built here: {why}")


class Builder(abc.ABC):
    """Builds kernels elsewhere, several side by side; nothing here waits for one.

    A build that a lost machine has begun is repeated by the builder.
    """

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many kernels are built side by side."""

    @property
    @abc.abstractmethod
    def sockets(self) -> Sequence[socket.socket]:
        """What to wait for; `take` when one can be read."""

    @abc.abstractmethod
    def begin(self, index: int, job: BuildJob) -> None:
        """Have a kernel built; no other one with the same `index` is under way."""

    @abc.abstractmethod
    def take(self) -> list[tuple[int, JobResult]]:
        """The builds that have come to an end since, in any order, by their indices.

        Each is what a worker of the workshop has given.  A build that is `Lost` may be begun
        again.

        Raises:
            LoopGeneError: There is nobody to build anything.
        """

    @abc.abstractmethod
    def drop(self) -> None:
        """Forget all builds that were begun; `take` gives none of them any more."""
