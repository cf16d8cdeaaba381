"""The nursery: a process that imports the slow libraries once and forks workers from itself.

Importing TVM and PyTorch takes seconds; a fork of a process that has done so takes 20 ms, so
that a crashed or hung worker is replaced at once and without disturbing the measurement that
runs beside it.  Forking is safe because the nursery has one thread and never runs a job.

`backends.workers.process` starts this module in a fresh interpreter and talks to it over a socket.
When the other end of the socket goes away, for whatever reason, every worker is killed with
all its descendants, and the nursery ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

MESSAGE_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1
_PARENT_CHECK_MS = 1000

Stage = Callable[[str], Any]
"""Tells the pool that a job enters a stage; returns when it may, with what it was granted."""


@dataclass(frozen=True)
class NurserySettings:
    """What a nursery needs to know, sent as the first message.

    Attributes:
        function: Import path "package.module:function", called as `function(payload, stage)`.
        stages: Names that a job may pass to `stage`; it starts in the first.
        exclusive: Stages that a job enters only when the parent lets it.
        initialise: Import path of a function called once in the nursery, or None.
        arguments: Its arguments.
        memory_limit_bytes: Limit of a worker's private memory, or None.
        start_timeout_s: The nursery ends itself when it has not initialised by then.
    """

    function: str
    stages: tuple[str, ...]
    exclusive: frozenset[str]
    initialise: str | None
    arguments: tuple[Any, ...]
    memory_limit_bytes: int | None
    start_timeout_s: float


def resolve(path: str) -> Callable[..., Any]:
    """The function that an import path "package.module:function" names."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def main(descriptor: int, parent: int) -> None:
    """Serve fork requests on the socket `descriptor` until it closes or `parent` is gone."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    settings: NurserySettings = pickle.loads(control.recv(MESSAGE_BYTES))
    began = time.monotonic()
    signal.alarm(int(settings.start_timeout_s) + 1)
    try:
        if settings.initialise is not None:
            resolve(settings.initialise)(*settings.arguments)
        function = resolve(settings.function)
        _require_one_thread()
    except BaseException as error:  # noqa: BLE001 - whatever stops the start is reported
        last = traceback.format_exception_only(error)[-1].strip()
        _tell(control, "failed", 0, f"{last}\n{traceback.format_exc()}")
        return
    signal.alarm(0)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, pages shared with workers
    _tell(control, "ready", 0, time.monotonic() - began)
    _Nursery(control, settings, function).serve(parent)
    os._exit(0)  # there is nothing to finalise, and TVM and PyTorch take their time over it


def _tell(control: socket.socket, *message: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        control.send(pickle.dumps(message))


def _require_one_thread() -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"the initialisation left {threads} threads: forking is not safe")


class _Nursery:
    def __init__(
        self, control: socket.socket, settings: NurserySettings, function: Callable[..., Any]
    ) -> None:
        self._control = control
        self._settings = settings
        self._function = function
        self._workers: dict[int, int] = {}  # pidfd -> pid
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self, parent: int) -> None:
        # A forked relative of the parent may hold a copy of the socket: look at the parent too.
        try:
            while os.getppid() == parent:
                for descriptor, _ in self._poll.poll(_PARENT_CHECK_MS):
                    if descriptor != self._control.fileno():
                        self._reap(descriptor)
                    elif not self._answer():
                        return
        finally:
            for pid in self._workers.values():
                _kill_group(pid)

    def _answer(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 2)
        except ConnectionResetError:
            return False
        if not data:
            return False
        verb, number = pickle.loads(data)
        if verb == "fork":
            self._fork(number, *descriptors)
        elif number in self._workers.values():
            _kill_group(number)
        return True

    def _fork(self, request: int, channel: int, log: int) -> None:
        nursery = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _tell(self._control, "refused", request, error.strerror)
        else:
            if pid == 0:
                self._become_worker(nursery, channel, log)
            self._adopt(request, pid)
        finally:
            os.close(channel)
            os.close(log)

    def _adopt(self, request: int, pid: int) -> None:
        # Both sides set the group, so that neither sees the worker outside of it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        watch = os.pidfd_open(pid)
        self._workers[watch] = pid
        self._poll.register(watch, select.POLLIN)
        _tell(self._control, "forked", request, pid)

    def _reap(self, watch: int) -> None:
        pid = self._workers.pop(watch)
        self._poll.unregister(watch)
        os.close(watch)
        # Before the leader is reaped, when its number cannot belong to anybody else.
        _kill_group(pid)
        _, status = os.waitpid(pid, 0)
        _tell(self._control, "exited", pid, os.waitstatus_to_exitcode(status))

    def _become_worker(self, nursery: int, channel: int, log: int) -> NoReturn:
        code = 1
        try:
            os.setpgid(0, 0)
            _die_with(nursery)
            self._control.close()
            for watch in self._workers:
                os.close(watch)
            _become_victim(self._settings.memory_limit_bytes)
            for standard in (1, 2):
                os.dup2(log, standard)
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            os.close(log)
            os.set_inheritable(channel, False)
            _work(Connection(channel), self._settings, self._function)
            code = 0
        finally:
            # Never the nursery's exit handlers: the process is a copy.
            os._exit(code)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before the request
        os._exit(1)


def _become_victim(memory_limit_bytes: int | None) -> None:
    """Dump no core, and be what the kernel kills when memory runs out."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit_bytes, memory_limit_bytes))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _work(channel: Connection, settings: NurserySettings, function: Callable[..., Any]) -> None:
    """Run jobs one after the other until the parent closes the channel."""

    def stage(name: str) -> Any:
        if name not in settings.stages:
            raise ValueError(f"unknown stage {name!r}; known: {', '.join(settings.stages)}")
        channel.send(("stage", name, time.monotonic()))
        return channel.recv() if name in settings.exclusive else None

    while True:
        try:
            payload = channel.recv()
        except EOFError:
            return
        try:
            value = function(payload, stage)
            answer = pickle.dumps(("finished", value, time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - the isolation border
            text = str(error), traceback.format_exc()
            answer = pickle.dumps(("raised", (type(error).__name__, *text), time.monotonic()))
        channel.send_bytes(answer)
