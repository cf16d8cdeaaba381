"""The Ray executor: capacities and kernels for boards by Ray workers, here or of a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from backends.builder import Workshop
from engine.executors.base import Executor, ExecutorError, ExecutorOptions, Spread
from engine.executors.crew import Crew
from engine.executors.errands import CrewBuilder, Errands
from engine.executors.scoring import Scoring

_OBJECT_STORE_BYTES = 128 << 20
"""Of a local Ray: genomes, scores and kernels are small."""

_REACH_TIMEOUT_S = 10.0
"""Of a connection to the head of a cluster."""

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise it explains on stderr what it will do otherwise in future.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Of a local Ray, where the user has not set it: it reports to nobody and says nothing."""


class RayOptions(ExecutorOptions):
    """Options of the Ray executor."""

    workers: int | None = Field(
        default=None,
        ge=1,
        description="Processes that compute capacities and, where kernels are measured on boards, "
        "build them; null: the CPUs that are free, of this machine or of the cluster.",
    )
    address: str | None = Field(
        default=None,
        min_length=1,
        description="Address of a cluster, as `ray.init` takes it; null starts Ray on this "
        "machine, and ends it with the search.",
    )
    start_timeout_s: float = Field(
        default=300.0, gt=0, description="When no worker is ready for so long, the search ends."
    )


class RayExecutor(Executor):
    """Every worker builds network, images and metric once and then scores genomes one by one.

    Where the backend has a workshop, it builds kernels as well, one by one: a search does one
    after the other.  A worker that is lost is replaced, and its task given to the next one that is
    free.
    """

    name = "ray"
    Options: ClassVar[type[ExecutorOptions]] = RayOptions

    def __init__(self, options: RayOptions) -> None:
        super().__init__(options)
        self._settings = options
        self._closing = contextlib.ExitStack()

    @classmethod
    def require(cls) -> None:
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ExecutorError(
                "the executor 'ray' needs the package ray; install it with: "
                "pip install 'loopgene[ray]'"
            ) from error

    def spread(self, scoring: Scoring | None, workshop: Workshop | None) -> Spread:
        if scoring is None and workshop is None:
            return Spread()
        self._connect()
        errands = Errands(scoring, workshop)
        crew: Crew[Any, Any] = Crew(errands, self._count(), self._settings.start_timeout_s)
        self._closing.callback(crew.close)
        crew.start()
        return Spread(crew.map if scoring else None, CrewBuilder(crew) if workshop else None)

    def close(self) -> None:
        self._closing.close()

    def _connect(self) -> None:
        """Join the cluster or start a Ray; one that this process has already is used as it is."""
        import ray

        if ray.is_initialized():
            return
        address = self._settings.address
        options = self._local() if address is None else {"address": address}
        self._closing.callback(ray.shutdown, wait_for_processes=True)
        try:
            if address is not None:
                _reach(address)
            with _same_handlers():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            where = "on this machine" if address is None else f"at {address}"
            raise ExecutorError(f"Ray cannot be used {where}: {first}") from error

    def _local(self) -> dict[str, Any]:
        """What starts a Ray of its own, in a folder that is removed at the end."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Its sockets lie there: a path of more than 107 bytes cannot be one's.
        folder = tempfile.mkdtemp(prefix="loopgene-ray-", dir="/tmp")
        self._closing.callback(shutil.rmtree, folder, ignore_errors=True)
        return {
            "address": "local",
            "num_cpus": self._settings.workers or _cpus(),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": folder,
        }

    def _count(self) -> int:
        import ray

        # Just after the start nobody has told yet what is free.
        known = ray.available_resources() or ray.cluster_resources()
        return self._settings.workers or max(1, int(known.get("CPU", 0)))


def _reach(address: str) -> None:
    """Do nothing where somebody listens at "host:port"; Ray itself would try for minutes.

    Raises:
        OSError: Nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _REACH_TIMEOUT_S).close()


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _same_handlers() -> Iterator[None]:
    """What SIGTERM did before, it does after: Ray would let it end the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)
