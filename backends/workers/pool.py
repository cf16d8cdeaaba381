"""The pool: hands jobs to workers, enforces deadlines, keeps exclusive stages alone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
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


class WorkerPool:
    """Up to `size` worker processes; one batch of jobs at a time.

    Args:
        spec: How workers are made.
        size: Number of jobs that run side by side.
        ahead: Jobs beyond these that may be ready for an exclusive stage.  Until so many are, no
            processor has to wait for the slowest of the jobs beside it.
    """

    def __init__(self, spec: WorkerSpec, size: int = 1, ahead: int = 0) -> None:
        self._spec = spec
        self._size = size
        self._ahead = ahead
        self._nursery: Nursery | None = None
        self._workers: list[Worker] = []
        self._busy = threading.Lock()
        self.started = 0

    def start(self) -> None:
        """Begin to initialise, without waiting for the end of it."""
        if self._nursery is None:
            self._nursery = Nursery(self._spec)

    def run(self, payload: Any) -> JobResult:
        """The result of one job."""
        return next(self.imap([payload]))

    def imap(self, payloads: Iterable[Any]) -> Iterator[JobResult]:
        """The results of the jobs in order, each as soon as it and those before it are there.

        No exclusive stage is under way while the caller works on a result.

        Raises:
            WorkerError: Workers cannot be started, or another batch is under way.
        """
        if not self._busy.acquire(blocking=False):
            raise WorkerError("The worker pool is busy with another batch; finish that one first.")
        try:
            yield from self._imap(enumerate(payloads))
        finally:
            for worker in [w for w in self._workers if w.index is not None]:
                self._end(worker)
            self._busy.release()

    def close(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _imap(self, jobs: Iterator[tuple[int, Any]]) -> Iterator[JobResult]:
        results: dict[int, JobResult] = {}
        position = 0
        draining = False
        while True:
            while position in results:
                yield results.pop(position)
                position += 1
            # Once all is ready, every exclusive stage comes before the next job.
            draining = draining and any(w.stage in self._spec.exclusive for w in self._active())
            if not draining:
                self._hand_out(jobs)
            active = self._active()
            if not active:
                return
            if all(w.waiting for w in active):
                draining = True
                min(active, key=_index).grant()
            results.update(self._listen(active))

    def _active(self) -> list[Worker]:
        return [w for w in self._workers if w.index is not None]

    def _hand_out(self, jobs: Iterator[tuple[int, Any]]) -> None:
        first_stage = next(iter(self._spec.limits_s))
        active = self._active()
        running = sum(not w.waiting for w in active)
        room = self._size + self._ahead - len(active)
        for _ in range(min(room, self._size - running)):
            job = next(jobs, None)
            if job is None:
                return
            while idle := [w for w in self._workers if w.index is None]:
                try:
                    idle[0].begin(*job, first_stage)
                    break
                except ConnectionError:  # it has ended since its last job
                    self._end(idle[0])
            else:
                self._fork().begin(*job, first_stage)

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

    def _listen(self, active: list[Worker]) -> Iterator[tuple[int, JobResult]]:
        """Wait for something to happen; the jobs that have come to an end by it."""
        deadline = min(w.deadline(self._spec.limits_s) for w in active)
        channels = [w.channel for w in active]
        timeout_s = max(0.0, deadline - time.monotonic()) if deadline < float("inf") else None
        ready = wait([*channels, *(w.log for w in active if not w.silent)], timeout_s)
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

    def _hear(self, worker: Worker) -> JobResult | None:
        try:
            verb, content, now = worker.channel.recv()
        except (EOFError, ConnectionError):
            return self._bury(worker)
        if verb == "stage":
            worker.enter(content, now, content in self._spec.exclusive)
            return None
        stages_s = worker.clock(now)
        worker.index = None
        if worker.jobs >= self._spec.jobs_per_worker:
            self._end(worker)
        if verb == "finished":
            return Finished(content, stages_s)
        error, message, trace = content
        return Raised(error, message, trace, worker.stage, stages_s)

    def _time_out(self, worker: Worker) -> JobResult:
        stages_s = worker.clock(time.monotonic())
        self._end(worker)
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

    def _end(self, worker: Worker) -> None:
        try:
            worker.end()
        finally:
            self._forget(worker)

    def _forget(self, worker: Worker) -> None:
        worker.index = None
        worker.close()
        self._workers.remove(worker)


def _index(worker: Worker) -> int:
    assert worker.index is not None
    return worker.index
