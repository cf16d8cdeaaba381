"""Worker processes for code that may crash, hang, or eat the machine.

A `WorkerPool` runs jobs in forked processes, each the leader of its own process group.  What
happens to a job is a value: `Finished`, `Raised`, `TimedOut`, `Crashed` or `Lost`; it costs
that job only.  A job whose worker was killed from outside is begun once more.  A job tells the
pool which stage it is in; each stage has a deadline of its own, enforced from here by killing the
worker's process group.  Some stages can be declared exclusive: such a stage runs while no other
job of the pool does anything, so that kernels are built side by side and timed alone.

Nothing survives the pool: workers die with the process that owns it, even by SIGKILL.
"""

from __future__ import annotations

from backends.workers.nursery import Stage
from backends.workers.pool import WorkerPool
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

__all__ = [
    "WorkerPool",
    "WorkerSpec",
    "Stage",
    "JobResult",
    "Finished",
    "Raised",
    "TimedOut",
    "Crashed",
    "Lost",
    "WorkerError",
]
