"""Ray workers that take one task at a time, and their replacement when they are lost.

Ray's own retries are not used: a worker that is being replaced would keep its task while others
have nothing to do, and a task that kills every worker would do so for ever.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from engine.executors.base import ExecutorError
from genomes.errors import LoopGeneError

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

LOSSES = 3
"""A task that has lost so many workers, or so many workers lost while they start, is an error."""


class Work(Protocol[T_contra, R_co]):
    """What every worker does; it travels there, and is prepared once."""

    def prepare(self) -> Callable[[T_contra], R_co]:
        """The function of one item.

        Raises:
            LoopGeneError: It cannot work in this process.
        """


class Worker:
    """One process of Ray."""

    def prepare(self, work: Work[Any, Any]) -> str:
        """What makes the work impossible here; "" if nothing does."""
        try:
            self._function = work.prepare()
        except LoopGeneError as error:
            return f"on {socket.gethostname()}: {error}"
        return ""

    def call(self, item: Any) -> Any:
        """The function of one item."""
        return self._function(item)


@dataclass
class _Task:
    """One item of a request; `losses` counts workers that were lost with it."""

    number: int
    item: Any
    losses: int = 0


class Crew(Generic[T, R]):
    """Workers of a Ray that this process is connected to.

    Args:
        work: What they do.
        count: How many they are.
        start_timeout_s: When none is ready for so long, there is none.
    """

    def __init__(self, work: Work[T, R], count: int, start_timeout_s: float) -> None:
        import ray

        self._ray = ray
        self._worker = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Worker)
        self._work = work
        self._start_timeout_s = start_timeout_s
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, _Task]] = {}
        self._waiting: deque[_Task] = deque()
        self._results: dict[int, R] = {}
        self._lost_starting = 0
        for _ in range(count):
            self._hire()

    def start(self) -> None:
        """Wait for all workers; those that are not ready in time join later.

        Raises:
            ExecutorError: None is ready in time, or the work is impossible for one.
        """
        until = time.monotonic() + self._start_timeout_s
        while self._starting and (left_s := until - time.monotonic()) > 0:
            self._wait(left_s)
        if not self._idle:
            raise self._nobody()

    def map(self, items: Sequence[T]) -> list[R]:
        """The function of every item, in the order of `items`; after an error, only `close`.

        Raises:
            ExecutorError: There are no workers, or an item loses every one that it is given to.
            Exception: What the function raises.
        """
        self._results.clear()
        self._waiting.extend(_Task(number, item) for number, item in enumerate(items))
        while len(self._results) < len(items):
            while self._waiting and self._idle:
                worker, task = self._idle.pop(0), self._waiting.popleft()
                self._busy[worker.call.remote(task.item)] = (worker, task)
            if not self._wait(self._start_timeout_s) and not self._busy:
                raise self._nobody()
        return [self._results[number] for number in range(len(items))]

    def close(self) -> None:
        """End all workers; the crew cannot be used any more."""
        for worker in (
            *self._starting.values(),
            *self._idle,
            *(w for w, _ in self._busy.values()),
        ):
            self._dismiss(worker)

    def _hire(self) -> None:
        worker = self._worker.remote()
        self._starting[worker.prepare.remote(self._work)] = worker

    def _dismiss(self, worker: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker)

    def _wait(self, timeout_s: float) -> bool:
        """Wait until something happens; False if nothing did in time."""
        references = [*self._starting, *self._busy]
        done, _ = self._ray.wait(references, num_returns=1, timeout=timeout_s)
        for reference in done:
            if reference in self._starting:
                self._welcome(reference)
            else:
                self._collect(reference)
        return bool(done)

    def _welcome(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            problem = self._get(reference)
        except self._ray.exceptions.RayError as error:
            self._dismiss(worker)
            self._lost_starting += 1
            if self._lost_starting == LOSSES:
                raise ExecutorError(
                    f"{LOSSES} workers were lost while they started, the last one by: "
                    f"{_first_line(error)}; see that LoopGene is installed "
                    "there and that there is enough memory for all"
                ) from error
            self._hire()
            return
        if problem:
            raise ExecutorError(f"a Ray worker cannot work {problem}")
        self._lost_starting = 0
        self._idle.append(worker)

    def _collect(self, reference: Any) -> None:
        worker, task = self._busy.pop(reference)
        try:
            self._results[task.number] = self._get(reference)
        except self._ray.exceptions.RayError as error:
            self._dismiss(worker)
            task.losses += 1
            if task.losses == LOSSES:
                raise ExecutorError(
                    f"{LOSSES} workers were lost with the same task, the last one by: "
                    f"{_first_line(error)}; see that there is enough memory for all, and go on "
                    "with --resume"
                ) from error
            logger.warning("a Ray worker was lost, its task is done again: %s", _first_line(error))
            self._waiting.appendleft(task)
            self._hire()
        else:
            self._idle.append(worker)

    def _get(self, reference: Any) -> Any:
        """The result of a task; what its function raised is raised here, as it was."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def _nobody(self) -> ExecutorError:
        return ExecutorError(
            f"no Ray worker was ready within {self._start_timeout_s:g} s; see with `ray status` "
            "that the cluster has a free CPU, or raise executor.start_timeout_s"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
