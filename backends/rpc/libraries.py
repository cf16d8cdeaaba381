"""Whole networks on a board: an exported library is sent there and run once, to be checked."""

from __future__ import annotations

import contextlib
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backends.base import BackendError
from backends.rpc.tracker import Grant, Waiting
from backends.workers import Finished, Stage, WorkerPool, WorkerSpec
from backends.workers.outcomes import ONE_THREAD, failure_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUN_TIMEOUT_S = 120.0
"""For sending the library, running it and fetching the result."""


@dataclass(frozen=True)
class LibraryJob:
    """A library for a board.

    Attributes:
        grant: The board; None only warms up.
        library: Its content.
        x: (N, C, H, W), the network's input.
    """

    grant: Grant | None
    library: bytes = b""
    x: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class LibraryRunner:
    """Runs exported libraries on any board of a key; `library_target` of the backend has one.

    Attributes:
        address: The tracker's.
        key: The boards'.
        queue_timeout_s: A board has to be free within so long.
    """

    address: tuple[str, int]
    key: str
    queue_timeout_s: float

    def __call__(self, library: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's output for `x`.

        Raises:
            BackendError: No board is free in time, or the library does not run there.
        """
        spec = WorkerSpec(
            function="backends.rpc.libraries:run",
            limits_s={"run": RUN_TIMEOUT_S},
            environment={**ONE_THREAD, "TVM_NUM_THREADS": "1"},
        )
        with (
            WorkerPool(spec) as pool,
            contextlib.closing(Waiting(self.address, self.key)) as queue,
        ):
            # A board waits a few seconds only for whom it was granted to.
            pool.run(LibraryJob(None))
            grant = self._granted(queue)
            result = pool.run(LibraryJob(grant, library.read_bytes(), x))
        if not isinstance(result, Finished):
            message = failure_of(result).message
            raise BackendError(f"{library.name} does not run on {grant.device}: {message}")
        output: NDArray[np.float32] = result.value
        return output

    def _granted(self, queue: Waiting) -> Grant:
        deadline = time.monotonic() + self.queue_timeout_s
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                why = queue.trouble or f"none of the key {self.key!r} is free"
                raise BackendError(f"no board within {self.queue_timeout_s:g} s: {why}")
            queue.want(1)
            select.select(queue.sockets, [], [], min(left_s, 1.0))
            for grant in queue.take():
                return grant


def run(job: LibraryJob, stage: Stage) -> NDArray[np.float32] | None:
    """The network's output on the board."""
    import tvm
    from tvm import relax, rpc

    if job.grant is None:
        return None
    grant = job.grant
    session = rpc.connect(grant.host, grant.port, grant.matchkey, session_timeout=RUN_TIMEOUT_S)
    try:
        session.upload(bytearray(job.library), "network.so")
        device = session.cpu(0)
        network = relax.VirtualMachine(session.load_module("network.so"), device)
        network.set_input("main", tvm.runtime.tensor(job.x, device))
        network.invoke_stateful("main")
        output: NDArray[np.float32] = network.get_outputs("main").numpy()
        return output
    finally:
        # The board is free at once, whatever still refers to something on it.
        with contextlib.suppress(Exception):
            session.get_function("CloseRPCConnection")()
