"""Ray workers that take one task at a time, and their replacement when they are lost.

Ray's own retries are not used: a worker that is being replaced would keep its task while others
have nothing to do, and a task that kills every worker would do so for ever.
"""

from __future__ import annotations

import contextlib
import itertools
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

_RINGS = 4096
"""Bytes that are read from the bell at once."""


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
    """One item; `losses` counts workers that were lost with it."""

    number: int
    item: Any
    losses: int = 0
    wanted: bool = True
    """Whether somebody waits for the result."""


class Crew(Generic[T, R]):
    """Workers of a Ray that this process is connected to.

    Args:
        work: What they do.
        count: How many they are.
        start_timeout_s: When none is ready for so long, there is none.

    Attributes:
        count: As given.
        bell: A socket that can be read when `take` may have something to give.
    """

    def __init__(self, work: Work[T, R], count: int, start_timeout_s: float) -> None:
        import ray

        self._ray = ray
        self._worker = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Worker)
        self._work = work
        self._start_timeout_s = start_timeout_s
        self.count = count
        self.bell, self._rope = socket.socketpair()
        self.bell.setblocking(False)
        self._rope.setblocking(False)
        self._numbers = itertools.count()
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, _Task]] = {}
        self._waiting: deque[_Task] = deque()
        self._results: dict[int, R] = {}
        self._lost_starting = 0
        self._somebody_at = time.monotonic()
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
        numbers = [self.begin(item) for item in items]
        while any(number not in self._results for number in numbers):
            self._turn(self._start_timeout_s)
        return [self._results.pop(number) for number in numbers]

    def begin(self, item: T) -> int:
        """Have the function of an item computed; the number of its result."""
        task = _Task(next(self._numbers), item)
        self._waiting.append(task)
        self._hand_out()
        return task.number

    def take(self) -> dict[int, R]:
        """The results that are there, by their numbers; does not wait.

        Raises:
            ExecutorError: There are no workers, or an item loses every one that it is given to.
            Exception: What the function raises.
        """
        with contextlib.suppress(BlockingIOError):
            while self.bell.recv(_RINGS):
                pass
        self._turn(0.0)
        results, self._results = self._results, {}
        return results

    def drop(self) -> None:
        """Forget what was begun; workers that are at it finish it for nobody."""
        self._waiting.clear()
        self._results.clear()
        for _, task in self._busy.values():
            task.wanted = False

    def close(self) -> None:
        """End all workers; the crew cannot be used any more."""
        for worker in (
            *self._starting.values(),
            *self._idle,
            *(w for w, _ in self._busy.values()),
        ):
            self._dismiss(worker)
        self.bell.close()
        self._rope.close()

    def _turn(self, timeout_s: float) -> None:
        """Wait until something happens, and see to all that has."""
        while self._wait(timeout_s):
            self._hand_out()
            timeout_s = 0.0

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            worker, task = self._idle.pop(0), self._waiting.popleft()
            reference = worker.call.remote(task.item)
            self._busy[reference] = (worker, task)
            self._listen(reference)

    def _hire(self) -> None:
        worker = self._worker.remote()
        reference = worker.prepare.remote(self._work)
        self._starting[reference] = worker
        self._listen(reference)

    def _listen(self, reference: Any) -> None:
        reference.future().add_done_callback(lambda _: self._ring())

    def _ring(self) -> None:
        """Called by a thread of Ray; a bell that is full or closed need not ring."""
        with contextlib.suppress(OSError):
            self._rope.send(b"!")

    def _dismiss(self, worker: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker)

    def _wait(self, timeout_s: float) -> bool:
        """Wait until something happens; False if nothing did in time."""
        if self._idle or self._busy:
            self._somebody_at = time.monotonic()
        references = [*self._starting, *self._busy]
        if not references:
            return False
        done, _ = self._ray.wait(references, num_returns=1, timeout=timeout_s)
        for reference in done:
            if reference in self._starting:
                self._welcome(reference)
            else:
                self._collect(reference)
        nobody_s = time.monotonic() - self._somebody_at
        if not self._idle and not self._busy and nobody_s >= self._start_timeout_s:
            raise self._nobody()
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
            result = self._get(reference)
        except self._ray.exceptions.RayError as error:
            self._dismiss(worker)
            if task.wanted:
                self._repeat(task, _first_line(error))
            self._hire()
            return
        except Exception:
            # The function has raised it: that is the item's, and the worker is free again.
            self._idle.append(worker)
            if task.wanted:
                raise
            return
        self._idle.append(worker)
        if task.wanted:
            self._results[task.number] = result

    def _repeat(self, task: _Task, why: str) -> None:
        task.losses += 1
        if task.losses == LOSSES:
            raise ExecutorError(
                f"{LOSSES} workers were lost with the same task, the last one by: {why}; see that "
                "there is enough memory for all, and go on with --resume"
            )
        logger.warning("a Ray worker was lost, its task is done again: %s", why)
        self._waiting.appendleft(task)

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
