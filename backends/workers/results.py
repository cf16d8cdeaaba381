"""What can become of a job, as values, and how workers are made."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.base import BackendError


class WorkerError(BackendError):
    """Worker processes cannot be had at all: the initialisation fails, no memory to fork."""


@dataclass(frozen=True)
class Finished:
    """The job's function returned `value`.

    `stages_s` are the seconds in each stage; `wait` is the time before exclusive ones.
    """

    value: Any
    stages_s: Mapping[str, float]


@dataclass(frozen=True)
class Raised:
    """The job's function raised an exception of class `error` with `message` in `stage`."""

    error: str
    message: str
    traceback: str
    stage: str
    stages_s: Mapping[str, float]


@dataclass(frozen=True)
class TimedOut:
    """The job was killed after `limit_s` seconds in `stage`."""

    stage: str
    limit_s: float
    stages_s: Mapping[str, float]


@dataclass(frozen=True)
class Crashed:
    """The worker ended during the job.

    Attributes:
        reason: "SIGSEGV", "exit code 3".
        stage: The stage in which it ended.
        output: The last lines that the worker wrote to its standard output and error.
    """

    reason: str
    stage: str
    output: str
    stages_s: Mapping[str, float]

    @property
    def killed(self) -> bool:
        """Whether something else has probably ended it: the system, when memory was short."""
        return self.reason == signal.SIGKILL.name


@dataclass(frozen=True)
class Lost:
    """The worker was lost through no fault of the job, for instance with its nursery."""

    reason: str
    stages_s: Mapping[str, float]


JobResult = Finished | Raised | TimedOut | Crashed | Lost


@dataclass(frozen=True)
class WorkerSpec:
    """How workers are made.

    Attributes:
        function: Import path "package.module:function" of the job; called as
            `function(payload, stage)`, where `stage(name)` tells that a stage begins.
            Payload and result are pickled.
        limits_s: Seconds allowed in each stage; a job starts in the first.
        exclusive: Stages that run one at a time.
        alone: Whether nothing else runs beside an exclusive stage.
        initialise: Import path of a function that imports what jobs need; it must not
            leave threads behind.
        arguments: Arguments of `initialise`.
        environment: Environment variables, set before anything is imported.
        jobs_per_worker: A worker is replaced after so many jobs: compilers leak.
        repeats_killed: Whether a job is begun once more when something else has killed its worker.
        memory_limit_bytes: Limit of a worker's private memory.
        start_timeout_s: Limit of `initialise`.
    """

    function: str
    limits_s: Mapping[str, float]
    exclusive: frozenset[str] = frozenset()
    alone: bool = True
    initialise: str | None = None
    arguments: tuple[Any, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    jobs_per_worker: int = 200
    repeats_killed: bool = True
    memory_limit_bytes: int | None = None
    start_timeout_s: float = 120.0
