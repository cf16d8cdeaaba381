"""How a run stands: what its state.json says, and whether its process is alive."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from genomes.errors import LoopGeneError

SAME_PROCESS_S = 60.0
"""Start times of a process as read at two moments differ by less, even if the clock was set."""


class RunError(LoopGeneError):
    """A run folder cannot be found, read, or used now."""


class State(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    """All generations are done."""
    STOPPED = "stopped"
    """A budget or the patience ended it."""
    FAILED = "failed"
    """An error ended it."""
    INTERRUPTED = "interrupted"
    """Its process was interrupted or died."""


@dataclass(frozen=True)
class RunState:
    """What `state.json` says.

    Attributes:
        state: As written; see `displayed`.
        pid, pid_started_s, host: The process that ran it last; its start as seconds since 1970.
        started, updated: ISO 8601 with time zone.
        generation: The last complete one; None before the initial population is evaluated.
        evaluations: Candidates evaluated so far.
        original_s: Latency of the untransformed network, in seconds, as the search estimates it.
        best_s: Latency of the best legal candidate so far, in seconds.
        mlflow_run_id: Its run in MLflow, if it is tracked.
        message: Why it failed; "" otherwise.
    """

    state: State
    pid: int
    pid_started_s: float
    host: str
    started: str
    updated: str
    generation: int | None = None
    evaluations: int = 0
    original_s: float | None = None
    best_s: float | None = None
    mlflow_run_id: str | None = None
    message: str = ""

    @property
    def displayed(self) -> State:
        """The state as it is now: `running` by a process that is dead is `interrupted`."""
        if self.state is State.RUNNING and not self.alive:
            return State.INTERRUPTED
        return self.state

    @property
    def alive(self) -> bool:
        """Whether the process exists; on another host it is taken to."""
        if self.host != socket.gethostname():
            return True
        started_s = _process_started_s(self.pid)
        return started_s is not None and abs(started_s - self.pid_started_s) < SAME_PROCESS_S

    @classmethod
    def from_json(cls, data: Any) -> RunState:
        """Inverse of `dataclasses.asdict`.

        Raises:
            ValueError: A field is missing or of another type.
        """
        if not isinstance(data, dict):
            raise ValueError("it holds no object")
        types: dict[str, Any] = {
            "pid": int,
            "pid_started_s": int | float,
            "generation": int | None,
            "evaluations": int,
            "original_s": int | float | None,
            "best_s": int | float | None,
            "mlflow_run_id": str | None,
        }
        known = {f.name for f in fields(cls)}
        for name in known:
            if name not in data:
                raise ValueError(f"it lacks {name!r}")
            if not isinstance(data[name], types.get(name, str)):
                raise ValueError(f"{name} is {data[name]!r}")
        given = {k: v for k, v in data.items() if k in known}
        return cls(**{**given, "state": State(data["state"])})


def now() -> str:
    """The time as states give it."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def this_process() -> tuple[int, float, str]:
    """(pid, pid_started_s, host) of this process, as states give them."""
    pid = os.getpid()
    return pid, _process_started_s(pid) or 0.0, socket.gethostname()


def _process_started_s(pid: int) -> float | None:
    """When a process started, in seconds since 1970; None if there is no such process."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None
