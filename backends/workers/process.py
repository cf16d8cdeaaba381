"""The owner's end of the nursery and of each worker: sockets, deadlines' clocks, last words."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from backends.workers.nursery import MESSAGE_BYTES, NurserySettings
from backends.workers.results import WorkerError, WorkerSpec

_ANSWER_TIMEOUT_S = 10.0
_TAIL_BYTES = 4096
_READS = 16
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from backends.workers.nursery import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class NurseryLostError(Exception):
    """The nursery has ended by itself."""


class Nursery:
    """The parent's end of the process that forks workers."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._exits: dict[int, int] = {}
        self._ready = False
        self._requests = 0
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = [json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env={**os.environ, **spec.environment},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        settings = NurserySettings(
            function=spec.function,
            stages=tuple(spec.limits_s),
            exclusive=spec.exclusive,
            initialise=spec.initialise,
            arguments=spec.arguments,
            memory_limit_bytes=spec.memory_limit_bytes,
            start_timeout_s=spec.start_timeout_s,
        )
        self._control.send(pickle.dumps(settings))

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self) -> Worker:
        """A new worker; waits for the initialisation the first time."""
        if not self._ready:
            self._wait_until_ready()
        self._requests += 1
        ours, theirs = socket.socketpair()
        log, their_log = os.pipe()
        worker = Worker(self, Connection(ours.detach()), log)
        try:
            with theirs, open(their_log, "wb"):
                request = pickle.dumps(("fork", self._requests))
                self._send(request, [theirs.fileno(), their_log])
            verb, content = self._receive(self._requests, _ANSWER_TIMEOUT_S)
            if verb == "refused":
                raise WorkerError(f"Cannot start a worker process: {content}.")
        except BaseException:
            worker.close()
            raise
        worker.pid = content
        return worker

    def end(self, pid: int) -> int | None:
        """Kill what is left of a worker; its exit code, None when it cannot be had."""
        deadline = time.monotonic() + _ANSWER_TIMEOUT_S
        try:
            self._send(pickle.dumps(("kill", pid)))
            while pid not in self._exits:
                self._note_exit(self._next_message(deadline - time.monotonic()))
        except (NurseryLostError, TimeoutError):
            return None
        return self._exits.pop(pid)

    def close(self) -> None:
        """End the nursery and with it every worker."""
        self._control.close()
        try:
            self._process.wait(_ANSWER_TIMEOUT_S if self._ready else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _wait_until_ready(self) -> None:
        try:
            verb, content = self._receive(0, self._spec.start_timeout_s)
        except NurseryLostError:
            raise WorkerError(
                f"The worker processes do not start: they end with code {self._process.wait()}"
                f"{_quoted(self._tail())}"
            ) from None
        except TimeoutError:
            raise WorkerError(
                f"The worker processes do not start within {self._spec.start_timeout_s:g} s"
                f"{_quoted(self._tail())}"
            ) from None
        if verb == "failed":
            headline, _, details = content.partition("\n")
            error = WorkerError(f"The worker processes do not start: {headline}")
            error.add_note(details)
            raise error
        self._ready = True

    def _send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._control, [data], descriptors)
        except OSError as error:
            raise NurseryLostError from error

    def _receive(self, request: int, timeout_s: float) -> tuple[str, Any]:
        """The answer to a request; those to requests that were given up are dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            message = self._next_message(deadline - time.monotonic())
            if not self._note_exit(message) and message[1] == request:
                return message[0], message[2]

    def _note_exit(self, message: tuple[Any, ...]) -> bool:
        if message[0] != "exited":
            return False
        self._exits[message[1]] = message[2]
        return True

    def _next_message(self, timeout_s: float) -> tuple[Any, ...]:
        self._control.settimeout(max(timeout_s, 1e-3))
        try:
            data = self._control.recv(MESSAGE_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            raise NurseryLostError from error
        if not data:
            raise NurseryLostError
        message: tuple[Any, ...] = pickle.loads(data)
        return message

    def _tail(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - _TAIL_BYTES))
        return self._output.read().decode(errors="replace")


def _quoted(output: str) -> str:
    lines = output.strip().splitlines()
    return f": {lines[-1]}" if lines else "."


class Worker:
    """One worker process and the job that it runs, if any.

    Attributes:
        channel: Carries payloads to the worker, stages and results back.
        log: Descriptor of what the worker writes to its standard output and error.
        silent: Whether nothing more will come from `log`.
        index: Position of the job in its batch, None when idle.
        stage: The stage that the job is in.
        waiting: Whether the job waits for its turn before it begins that stage.
        seconds: Time spent in each stage.
    """

    def __init__(self, nursery: Nursery, channel: Connection, log: int) -> None:
        self.pid = 0
        self.channel = channel
        self.jobs = 0
        self.index: int | None = None
        self.waiting = False
        self.stage = ""
        self.silent = False
        self.seconds: dict[str, float] = {}
        self._since = 0.0
        self.log = log
        self._nursery = nursery
        self._output = b""
        os.set_blocking(log, False)

    def begin(self, index: int, payload: Any, stage: str) -> None:
        self.jobs += 1
        self.index, self.stage, self.waiting = index, stage, False
        self.seconds, self._output = {}, b""
        self._since = time.monotonic()
        self.channel.send(payload)

    def enter(self, stage: str, now: float, exclusive: bool) -> None:
        self.clock(now)
        self.stage, self.waiting = stage, exclusive

    def grant(self, content: Any = None) -> None:
        self.clock(time.monotonic())
        self.waiting = False
        self.channel.send(content)

    def clock(self, now: float) -> Mapping[str, float]:
        """Account the time since the last event; the seconds in each stage so far."""
        name = "wait" if self.waiting else self.stage
        self.seconds[name] = self.seconds.get(name, 0.0) + max(0.0, now - self._since)
        self._since = now
        return self.seconds

    def deadline(self, limits_s: Mapping[str, float]) -> float:
        return float("inf") if self.waiting else self._since + limits_s[self.stage]

    def drain(self) -> str:
        """Read what the worker has written; the last lines of it."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):  # a worker may write faster than one can read
                data = os.read(self.log, MESSAGE_BYTES)
                self.silent = not data
                self._output = (self._output + data)[-_TAIL_BYTES:]
        return self._output.decode(errors="replace").strip()

    def end(self) -> int | None:
        """Kill what is left of the process; its exit code, None when it cannot be had."""
        return self._nursery.end(self.pid)

    def close(self) -> None:
        self.channel.close()
        os.close(self.log)
