"""Whole networks on a board: exported libraries are sent there, run once, and timed in turns."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import BackendError, LibraryRun, NoDeviceError
from backends.rpc.gpus import device_of
from backends.rpc.tracker import Grant, Waiting
from backends.workers import Finished, Stage, WorkerPool, WorkerSpec
from backends.workers.outcomes import ONE_THREAD, failure_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUN_TIMEOUT_S = 120.0
"""For sending one library, running and timing it, and fetching the result."""

TURN_S = 0.02
"""A network runs for at least so long in each of its turns."""

_CONNECT = "connect"


@dataclass(frozen=True)
class LibraryJob:
    """Libraries for a board.

    Attributes:
        grant: The board; None only warms up.
        libraries: Their content, by name.
        x: (N, C, H, W), the networks' input.
        rounds: Timings of each.
        target: What they are compiled for, from `board_target`.
        threads: Threads that they run on; all that the board has if None.
    """

    grant: Grant | None
    libraries: Mapping[str, bytes] = field(default_factory=dict)
    x: NDArray[np.float32] | None = None
    rounds: int = 0
    target: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None

    @property
    def limit_s(self) -> float:
        """Seconds after which the board ends the session."""
        return RUN_TIMEOUT_S * max(1, len(self.libraries))


@dataclass(frozen=True)
class LibraryRunner:
    """Runs exported libraries on any board of a key; `library_target` of the backend has one.

    Attributes:
        address: The tracker's.
        key: The boards'.
        queue_timeout_s: A board has to be free within so long.
        target: What networks are compiled for, from `board_target`.
        threads: Threads that networks run on; all that the board has if None.
    """

    address: tuple[str, int]
    key: str
    queue_timeout_s: float
    target: Mapping[str, Any]
    threads: int | None = None

    def __call__(
        self, libraries: Mapping[str, Path], x: NDArray[np.float32], rounds: int = 0
    ) -> dict[str, LibraryRun]:
        """What the networks compute for `x`, and how long they take, all on one board.

        Raises:
            NoDeviceError: No board is free in time.
            BackendError: A library does not run there.
        """
        binaries = {name: path.read_bytes() for name, path in libraries.items()}
        limit_s = LibraryJob(None, binaries).limit_s
        spec = WorkerSpec(
            function="backends.rpc.libraries:run",
            limits_s={_CONNECT: RUN_TIMEOUT_S, "run": limit_s},
            environment={**ONE_THREAD, "TVM_NUM_THREADS": "1"},
            repeats_killed=False,  # a board is granted once
        )
        with (
            WorkerPool(spec) as pool,
            contextlib.closing(Waiting(self.address, self.key)) as queue,
        ):
            # A board waits a few seconds only for whom it was granted to.
            pool.run(LibraryJob(None))
            grant = self._granted(queue)
            result = pool.run(LibraryJob(grant, binaries, x, rounds, self.target, self.threads))
        if not isinstance(result, Finished):
            message, names = failure_of(result).message, ", ".join(libraries)
            verb = "does" if len(libraries) == 1 else "do"
            raise BackendError(f"{names} {verb} not run on {grant.device}: {message}")
        runs: dict[str, LibraryRun] = result.value
        return runs

    def _granted(self, queue: Waiting) -> Grant:
        deadline = time.monotonic() + self.queue_timeout_s
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                why = queue.trouble or f"none of the key {self.key!r} is free"
                raise NoDeviceError(f"no board within {self.queue_timeout_s:g} s: {why}")
            queue.want(1)
            select.select(queue.sockets, [], [], min(left_s, 1.0))
            for grant in queue.take():
                return grant


def run(job: LibraryJob, stage: Stage) -> dict[str, LibraryRun]:
    """What the networks do on the board."""
    from tvm import rpc

    if job.grant is None:
        return {}
    grant = job.grant
    session = rpc.connect(grant.host, grant.port, grant.matchkey, session_timeout=job.limit_s)
    try:
        stage("run")
        return _runs(job, session)
    finally:
        # The board is free at once, whatever still refers to something on it.
        with contextlib.suppress(Exception):
            session.get_function("CloseRPCConnection")()


def _runs(job: LibraryJob, session: Any) -> dict[str, LibraryRun]:
    import tvm
    from tvm import relax

    device = device_of(session, job.target)
    if job.threads is not None:
        session.get_function("runtime.config_threadpool")(1, job.threads)
    x = tvm.runtime.tensor(job.x, device)
    networks, outputs, counts = {}, {}, {}
    for number, (name, binary) in enumerate(job.libraries.items()):
        file = f"network-{number}.so"
        session.upload(bytearray(binary), file)
        networks[name] = network = relax.VirtualMachine(session.load_module(file), device)
        network.set_input("main", x)
        network.invoke_stateful("main")
        outputs[name] = network.get_outputs("main").numpy()
    times_s: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(job.rounds):
        for name, network in networks.items():
            if name not in counts:
                counts[name] = max(1, round(TURN_S / _timed_s(network, device, 1)))
            times_s[name].append(_timed_s(network, device, counts[name]))
    return {name: LibraryRun(outputs[name], tuple(times_s[name])) for name in networks}


def _timed_s(network: Any, device: Any, number: int) -> float:
    """Seconds of one of `number` calls, by the board's clock, after one that is not timed."""
    evaluator = network.time_evaluator("invoke_stateful", device, number=number, repeat=1)
    return float(evaluator("main").results[0])
