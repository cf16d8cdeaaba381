"""What backends that time kernels in worker processes have in common."""

from __future__ import annotations

import abc
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from backends.base import Backend, BackendError, Measured, Outcome
from backends.kernel_job import KernelJob
from backends.workers import Finished, JobResult, WorkerPool
from backends.workers.outcomes import failure_of, plain
from genomes.nest import ConvShape, LoopNest

_log = logging.getLogger(__name__)

REFERENCE = LoopNest.fresh(ConvShape(1, 64, 64, (16, 16), (3, 3), padding=(1, 1, 1, 1)))
"""The kernel that is timed again and again, so that drift of the machine shows."""

_HOPELESS = 1.05
"""A kernel that takes so many times as long as the fastest of its workload is not timed on."""


class MeasuringBackend(Backend):
    """A backend whose kernels are built side by side and timed one by one, by workers.

    Args:
        pool: Its workers turn a `KernelJob` into an outcome.
        drift_every: The reference kernel is timed before the first and after every so many
            kernels.
    """

    def __init__(self, pool: WorkerPool, drift_every: int) -> None:
        self.drift: Sequence[tuple[int, float]] = ()
        self._pool = pool
        self._drift_every = drift_every
        self._jobs = 0
        self._fastest: dict[str, Measured] = {}

    @abc.abstractmethod
    def _job(self, nest: LoopNest) -> KernelJob:
        """The job of a scheduled nest, which is never given up."""

    def measure_iter(self, nests: Sequence[LoopNest]) -> Iterator[Outcome]:
        reference = self.default_schedule(REFERENCE)
        queue: list[LoopNest] = []
        for nest in nests:
            if self._jobs % self._drift_every == 0:
                queue.append(reference)
            self._jobs += 1
            ready = all(s.has_schedule for s in nest.statements)
            queue.append(nest if ready else self.default_schedule(nest))
        # Each job is made when a worker is free for it, with what is known by then.
        results = self._pool.imap(
            self._job(nest) if nest is reference else self._limited(nest) for nest in queue
        )
        done = self._jobs - len(nests)
        for nest, result in zip(queue, results, strict=True):
            outcome = outcome_of(result)
            if nest is reference:
                self._note_drift(done, outcome)
            else:
                done += 1
                self._note_fastest(nest, outcome)
                yield outcome

    def close(self) -> None:
        self._pool.close()

    def _limited(self, nest: LoopNest) -> KernelJob:
        job, fastest = self._job(nest), self._fastest.get(nest.structure_key)
        if fastest is None:
            return job
        return replace(job, hopeless_s=_HOPELESS * fastest.median_s, lost=fastest.lost)

    def _note_fastest(self, nest: LoopNest, outcome: Outcome) -> None:
        if isinstance(outcome, Measured):
            fastest = self._fastest.setdefault(nest.structure_key, outcome)
            if outcome.median_s < fastest.median_s:
                self._fastest[nest.structure_key] = outcome

    def _note_drift(self, done: int, outcome: Outcome) -> None:
        if isinstance(outcome, Measured):
            self.drift = (*self.drift, (done, outcome.median_s))
        elif done == 0:
            raise BackendError(f"The reference kernel cannot be measured: {outcome.message}")
        else:
            _log.warning("The reference kernel could not be timed: %s", outcome.message)


def outcome_of(result: JobResult) -> Outcome:
    """What a worker's result says of the candidate."""
    if isinstance(result, Finished):
        outcome: Outcome = result.value
        return replace(outcome, stages_s=plain(result.stages_s))
    return failure_of(result)
