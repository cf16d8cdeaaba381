"""The pool: hands jobs to workers, enforces deadlines, keeps exclusive stages apart."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from backends.workers.crew import Crew
from backends.workers.process import Worker
from backends.workers.results import Crashed, JobResult, WorkerError, WorkerSpec


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
        self._crew = Crew(spec)
        self._busy = threading.Lock()

    @property
    def started(self) -> int:
        """Workers that were forked so far."""
        return self._crew.started

    def start(self) -> None:
        """Begin to initialise, without waiting for the end of it."""
        self._crew.start()

    def run(self, payload: Any) -> JobResult:
        """The result of one job."""
        return next(self.imap([payload]))

    def imap(self, payloads: Iterable[Any]) -> Iterator[JobResult]:
        """The results of the jobs in order, each as soon as it and those before it are there.

        A job whose worker something else has killed is begun once more; its seconds are those of
        the second try.

        No exclusive stage is under way while the caller works on a result, where they run alone.

        Raises:
            WorkerError: Workers cannot be started, or another batch is under way.
        """
        if not self._busy.acquire(blocking=False):
            raise WorkerError("The worker pool is busy with another batch; finish that one first.")
        try:
            yield from self._imap(enumerate(payloads))
        finally:
            for worker in self._crew.active:
                self._crew.end(worker)
            self._busy.release()

    def close(self) -> None:
        """Kill all workers."""
        self._crew.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _imap(self, jobs: Iterator[tuple[int, Any]]) -> Iterator[JobResult]:
        results: dict[int, JobResult] = {}
        payloads: dict[int, Any] = {}
        again: deque[tuple[int, Any]] = deque()
        repeated: set[int] = set()
        position = 0
        draining = False
        while True:
            while position in results:
                yield results.pop(position)
                position += 1
            # Once all is ready, every exclusive stage comes before the next job.
            draining = draining and any(map(self._is_exclusive, self._crew.active))
            while not draining and self._has_room():
                job = again.popleft() if again else next(jobs, None)
                if job is None:
                    break
                self._crew.begin(*job)
                payloads[job[0]] = job[1]
            active = self._crew.active
            if not active:
                return
            if self._may_grant(active):
                draining = self._spec.alone
                with contextlib.suppress(ConnectionError):  # one that has ended is found below
                    min((w for w in active if w.waiting), key=_index).grant()
            for index, result in self._crew.listen():
                payload = payloads.pop(index)
                if self._was_killed(result) and index not in repeated:
                    repeated.add(index)
                    again.append((index, payload))
                else:
                    results[index] = result

    def _was_killed(self, result: JobResult) -> bool:
        return self._spec.repeats_killed and isinstance(result, Crashed) and result.killed

    def _is_exclusive(self, worker: Worker) -> bool:
        return worker.stage in self._spec.exclusive

    def _may_grant(self, active: Sequence[Worker]) -> bool:
        """Whether one of the waiting workers may enter its exclusive stage."""
        if self._spec.alone:
            return all(w.waiting for w in active)
        running = any(self._is_exclusive(w) and not w.waiting for w in active)
        return not running and any(w.waiting for w in active)

    def _has_room(self) -> bool:
        """Whether another job may be begun."""
        active = self._crew.active
        running = sum(not w.waiting for w in active)
        return running < self._size and len(active) < self._size + self._ahead


def _index(worker: Worker) -> int:
    assert worker.index is not None
    return worker.index
