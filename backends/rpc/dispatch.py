"""Jobs and devices: builds side by side, one job per device, results in the order of the jobs.

A kernel that is built elsewhere comes back as a library, and waits in a worker for a device like
one that the worker has built.

A device that is new or has failed runs the reference kernel first.  A session that goes wrong
before the candidate's code runs is the device's fault, and the candidate is tried again; a
candidate whose code ends two sessions has done so itself.  A build that something else has killed
is begun once more.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backends.base import BackendError, Failed, FailureKind, Outcome
from backends.builder import Builder, BuildJob
from backends.rpc.devices import DeviceBook, Standing
from backends.rpc.session import BUILD, GRANTED, Answer, Ending, RpcJob, Ticket
from backends.rpc.tracker import Grant, Waiting
from backends.workers.crew import Crew
from backends.workers.outcomes import failure_of, plain
from backends.workers.process import Worker
from backends.workers.results import (
    Crashed,
    Finished,
    JobResult,
    Lost,
    Raised,
    TimedOut,
    WorkerSpec,
)

_log = logging.getLogger(__name__)

STRIKES = 2
"""A candidate whose code ends so many sessions is to blame."""

_TICK_S = 0.5
_SAY_AFTER_S, _SAY_EVERY_S = 5.0, 60.0


@dataclass
class _Task:
    """A job, and what it has been through."""

    index: int
    job: RpcJob
    strikes: int = 0
    ended: list[str] = field(default_factory=list)
    """The devices whose sessions it has ended."""
    lost: str = ""
    """Why it has to be run again."""
    device: str = ""
    """The one that it runs on."""
    since: float = 0.0
    """When it began to wait for a device."""
    built_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage of a build elsewhere."""
    killed: bool = False
    """Whether its build has been ended by something else."""


class Dispatcher:
    """Runs jobs on the devices of one key.

    Args:
        spec: How workers are made; see `backends.rpc.session`.
        waiting: Asks the tracker for devices.
        book: What is known of the devices.
        builders: Kernels that are built side by side.
        queue_timeout_s: A job that has waited for a device for so long is given up; None never.

    Attributes:
        facts: What the devices tell of themselves; None until one was asked.
        builder: Builds the kernels; None where the workers do it themselves.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        waiting: Waiting,
        book: DeviceBook,
        builders: int,
        queue_timeout_s: float | None,
    ) -> None:
        self.facts: Mapping[str, Any] | None = None
        self.builder: Builder | None = None
        self._crew = Crew(spec)
        self._waiting = waiting
        self._book = book
        self._builders = builders
        self._queue_timeout_s = queue_timeout_s
        self._tasks: dict[int, _Task] = {}
        self._elsewhere: set[int] = set()
        self._again: deque[_Task] = deque()
        self._results: dict[int, Outcome] = {}
        self._quiet_since: float | None = None
        self._said: float | None = None

    def start(self) -> None:
        """Begin to start the process from which workers are forked."""
        self._crew.start()

    def imap(self, jobs: Iterable[RpcJob], while_waiting: Callable[[], None]) -> Iterator[Outcome]:
        """The outcomes of jobs, in their order.

        Args:
            jobs: Taken when there is a free builder.
            while_waiting: Called again and again while no device runs anything; what it raises
                ends the batch.

        Raises:
            WorkerError: Workers cannot be started.
            LoopGeneError: The builder has nobody to build anything.
        """
        if self._tasks or self._again:
            raise BackendError("The devices are busy with another batch; finish that one first.")
        fresh = (_Task(index, job) for index, job in enumerate(jobs))
        position = 0
        try:
            while True:
                while position in self._results:
                    yield self._results.pop(position)
                    position += 1
                self._hand_out(fresh)
                if not self._tasks:
                    return
                self._turn(while_waiting)
        finally:
            for worker in self._crew.active:
                self._crew.end(worker)
            self._waiting.close()
            if self.builder is not None:
                self.builder.drop()
            self._elsewhere.clear()
            self._tasks.clear()
            self._again.clear()
            self._results.clear()
            self._quiet_since = None

    def close(self) -> None:
        """End all workers; may be called twice."""
        self._waiting.close()
        self._crew.close()

    def _hand_out(self, fresh: Iterator[_Task]) -> None:
        """Begin as many builds as there is room for, those to be repeated first."""
        active = self._crew.active
        builders = self._builders if self.builder is None else self.builder.size
        building = len(self._elsewhere) + sum(w.stage == BUILD for w in active)
        # Every device that becomes free should find a kernel that is built.
        ahead = max(2 * builders, self._book.ready)
        room = ahead - building - sum(w.waiting for w in active)
        for _ in range(min(room, builders - building)):
            task = self._again.popleft() if self._again else next(fresh, None)
            if task is None:
                return
            self._begin(task)

    def _begin(self, task: _Task) -> None:
        """Have the kernel built, or get it ready for a device if that is done."""
        task.device = ""
        self._tasks[task.index] = task
        nest = task.job.nest
        if self.builder is None or nest is None or task.job.binary is not None:
            self._crew.begin(task.index, task.job)
        else:
            self._elsewhere.add(task.index)
            self.builder.begin(task.index, BuildJob(nest, task.job.target))

    def _turn(self, while_waiting: Callable[[], None]) -> None:
        """Wait for something to happen, and do what it asks for."""
        ready = self._ready()
        self._waiting.want(len(ready))
        idle = not any(task.device for task in self._tasks.values())
        timeout_s = _TICK_S if ready or self._elsewhere else None
        sockets = self._waiting.sockets
        if self.builder is not None and self._elsewhere:
            sockets += self.builder.sockets
        for index, result in self._crew.listen(sockets, timeout_s):
            self._settle(self._tasks.pop(index), result)
        self._collect()
        for grant in self._waiting.take():
            self._allot(grant)
        if idle and ready:
            self._say_that_it_waits()
        else:
            self._quiet_since = self._said = None
        if idle and (ready or self._elsewhere):
            while_waiting()
        self._give_up()

    def _collect(self) -> None:
        """Take what the builder has built."""
        if self.builder is None or not self._elsewhere:
            return
        for index, result in self.builder.take():
            self._elsewhere.discard(index)
            self._settle(self._tasks.pop(index), result)

    def _task(self, worker: Worker) -> _Task:
        return self._tasks[_index(worker)]

    def _ready(self) -> list[Worker]:
        """Workers with a built kernel that wait for a device, in the order of their jobs."""
        return sorted((w for w in self._crew.active if w.waiting), key=_index)

    def _allot(self, grant: Grant) -> None:
        standing = self._book.standing(grant.device)
        ready = self._ready()
        if standing is Standing.ASIDE or not ready:
            return  # its server offers itself again when nobody comes
        worker = next((w for w in ready if grant.device not in self._task(w).ended), ready[0])
        task = self._task(worker)
        prove = standing is Standing.UNPROVEN or task.job.nest is None
        with contextlib.suppress(ConnectionError):  # a worker that has ended is found later
            worker.grant(Ticket(grant, prove, self.facts))
            task.device, task.since = grant.device, 0.0

    def _settle(self, task: _Task, result: JobResult) -> None:
        """Take the result of a worker: an outcome, or one more attempt."""
        stages_s = _stages_s(result.stages_s, task.built_s)
        match result:
            case Finished(bytes() as binary):
                task.job, task.built_s = replace(task.job, binary=binary), stages_s
                self._begin(task)
            case Finished(Answer() as answer):
                self._hear(task, answer, stages_s)
            case Finished(outcome):
                self._results[task.index] = replace(outcome, stages_s=stages_s)
            case Lost(reason):
                self._repeat(task, reason)
            case Crashed(stage=stage) if stage == BUILD and result.killed and not task.killed:
                task.killed = True
                self._again.append(task)
            case Crashed(stage=stage) | TimedOut(stage=stage) | Raised(stage=stage):
                failed = replace(failure_of(result), stages_s=stages_s)
                if stage == BUILD:
                    self._results[task.index] = failed
                elif not task.device:
                    self._repeat(task, failed.message)
                else:
                    message = failed.message
                    if isinstance(result, TimedOut):
                        message = f"it did not answer within {result.limit_s:g} s"
                    running = stage not in GRANTED
                    self._trouble(task, FailureKind.CRASHED, message, running, stages_s)

    def _hear(self, task: _Task, answer: Answer, stages_s: Mapping[str, float]) -> None:
        if answer.facts is not None and answer.ending is not Ending.UNFIT:
            self.facts = answer.facts
        if answer.ending is None:
            self._book.proved(task.device)
            outcome = answer.outcome or Failed(FailureKind.DEVICE_LOST, "nothing was run")
            self._results[task.index] = replace(outcome, stages_s=stages_s)
            return
        kind = FailureKind.CRASHED
        if answer.ending is Ending.EXPIRED:
            kind = FailureKind.RUN_TIMEOUT
        self._trouble(task, kind, answer.message, answer.running, stages_s)

    def _trouble(
        self,
        task: _Task,
        kind: FailureKind,
        message: str,
        running: bool,
        stages_s: Mapping[str, float],
    ) -> None:
        """A session has gone wrong; `running` says whether the candidate's code ran."""
        self._book.failed(task.device, message)
        if running:
            task.strikes += 1
            task.ended.append(task.device)
        if task.strikes < STRIKES:
            self._repeat(task, f"{task.device}: {message}")
            return
        for device in {*task.ended}:
            self._book.forgive(device)
        where = " and ".join(dict.fromkeys(task.ended))
        self._results[task.index] = Failed(kind, f"{message}, {STRIKES} times ({where})", stages_s)

    def _repeat(self, task: _Task, why: str) -> None:
        task.lost = why
        self._again.append(task)

    def _give_up(self) -> None:
        """End the jobs that have waited too long for a device."""
        now = time.monotonic()
        for worker in self._ready():
            task = self._task(worker)
            task.since = task.since or now
            if self._queue_timeout_s is None or now - task.since < self._queue_timeout_s:
                continue
            self._crew.end(worker)
            del self._tasks[task.index]
            kind = FailureKind.DEVICE_LOST if task.lost else FailureKind.QUEUE_TIMEOUT
            reason = task.lost or self._waiting.trouble or self._book.troubles or "all are busy"
            message = f"no device within {self._queue_timeout_s:g} s: {reason}"
            self._results[task.index] = Failed(kind, message)

    def _say_that_it_waits(self) -> None:
        now = time.monotonic()
        self._quiet_since = self._quiet_since or now
        if now - self._quiet_since < _SAY_AFTER_S:
            return
        if self._said is None or now - self._said >= _SAY_EVERY_S:
            self._said = now
            _log.warning("Waiting for a device: %s.", self.why_waiting)

    @property
    def why_waiting(self) -> str:
        """Why no device can be had, as far as it is known."""
        return self._waiting.trouble or self._book.troubles or "the tracker has none that is free"


def _index(worker: Worker) -> int:
    assert worker.index is not None
    return worker.index


def _stages_s(stages_s: Mapping[str, float], built_s: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage; what it takes to get ready on a device is waiting, too."""
    seconds = dict(stages_s)
    connect_s = seconds.pop("connect", 0.0)
    seconds["wait"] = seconds.get("wait", 0.0) + connect_s
    for stage, built in built_s.items():
        seconds[stage] = seconds.get(stage, 0.0) + built
    return plain(seconds)
