"""The crew of a pool: worker processes, the jobs they are at, and what becomes of them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from backends.workers.process import Nursery, NurseryLostError, Worker
from backends.workers.results import (
    Crashed,
    Finished,
    JobResult,
    Lost,
    Raised,
    TimedOut,
    WorkerError,
    WorkerSpec,
)


class Crew:
    """Workers by need, one job each; who begins or enters a stage when is for others to say.

    Args:
        spec: How workers are made.

    Attributes:
        started: Workers that were forked so far.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._nursery: Nursery | None = None
        self._workers: list[Worker] = []
        self.started = 0

    @property
    def active(self) -> list[Worker]:
        """The workers that have a job."""
        return [w for w in self._workers if w.index is not None]

    def start(self) -> None:
        """Begin to initialise, without waiting for the end of it."""
        if self._nursery is None:
            self._nursery = Nursery(self._spec)

    def begin(self, index: int, payload: Any) -> Worker:
        """Give a job to an idle worker or to a new one.

        Raises:
            WorkerError: Workers cannot be started.
        """
        first_stage = next(iter(self._spec.limits_s))
        while idle := [w for w in self._workers if w.index is None]:
            try:
                idle[0].begin(index, payload, first_stage)
                return idle[0]
            except ConnectionError:  # it has ended since its last job
                self.end(idle[0])
        worker = self._fork()
        worker.begin(index, payload, first_stage)
        return worker

    def listen(
        self, others: Sequence[Any] = (), timeout_s: float | None = None
    ) -> Iterator[tuple[int, JobResult]]:
        """Wait for something to happen; the jobs that have come to an end by it.

        Args:
            others: Sockets or descriptors that end the wait as well when they can be read.
            timeout_s: Nothing is waited for any longer.
        """
        active = self.active
        deadline = min((w.deadline(self._spec.limits_s) for w in active), default=float("inf"))
        left_s = max(0.0, deadline - time.monotonic()) if deadline < float("inf") else None
        timeouts_s = [t for t in (left_s, timeout_s) if t is not None]
        channels = [w.channel for w in active]
        logs = [w.log for w in active if not w.silent]
        ready = wait([*channels, *logs, *others], min(timeouts_s, default=None))
        for worker in active:
            index = worker.index
            assert index is not None
            result: JobResult | None = None
            if worker.log in ready:
                worker.drain()
            if worker.channel in ready:
                result = self._hear(worker)
            elif time.monotonic() >= worker.deadline(self._spec.limits_s):
                result = self._time_out(worker)
            if result is not None:
                yield index, result

    def end(self, worker: Worker) -> None:
        """Kill a worker, whatever it is at."""
        try:
            worker.end()
        finally:
            self._forget(worker)

    def close(self) -> None:
        """Kill all workers; may be called twice."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def _fork(self) -> Worker:
        self.start()
        assert self._nursery is not None
        try:
            worker = self._nursery.fork()
        except (NurseryLostError, TimeoutError):
            # Jobs of its workers, which die with it, will be found to be lost.
            self._nursery.close()
            self._nursery = Nursery(self._spec)
            worker = self._nursery.fork()
        except WorkerError:
            self.close()
            raise
        self._workers.append(worker)
        self.started += 1
        return worker

    def _hear(self, worker: Worker) -> JobResult | None:
        try:
            verb, content, now = worker.channel.recv()
        except (EOFError, OSError):  # it may have been in the middle of a message
            return self._bury(worker)
        if verb == "stage":
            worker.enter(content, now, content in self._spec.exclusive)
            return None
        stages_s = worker.clock(now)
        worker.index = None
        if worker.jobs >= self._spec.jobs_per_worker:
            self.end(worker)
        if verb == "finished":
            return Finished(content, stages_s)
        error, message, trace = content
        return Raised(error, message, trace, worker.stage, stages_s)

    def _time_out(self, worker: Worker) -> JobResult:
        stages_s = worker.clock(time.monotonic())
        self.end(worker)
        return TimedOut(worker.stage, self._spec.limits_s[worker.stage], stages_s)

    def _bury(self, worker: Worker) -> JobResult:
        """What became of a worker that has hung up."""
        stages_s = worker.clock(time.monotonic())
        code = worker.end()
        output = worker.drain()
        self._forget(worker)
        if code is None:
            return Lost("the process that starts the workers has ended", stages_s)
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Crashed(reason, worker.stage, output, stages_s)

    def _forget(self, worker: Worker) -> None:
        worker.index = None
        worker.close()
        self._workers.remove(worker)
