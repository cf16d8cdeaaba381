"""A farm on this machine: a tracker and supervised servers on the loopback, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backends.base import BackendError
from backends.rpc import serve, tracker

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 5.0
_POLL_S = 0.05
_TRACKER = (
    "import sys; from tvm.rpc.tracker import PopenTrackerServerState as Tracker; "
    "Tracker(sys.argv[1], int(sys.argv[2]), int(sys.argv[2]) + 1, silent=True).thread.join()"
)


class Farm:
    """`count` servers under one key, each restarted by its supervisor when it dies.

    Args:
        count: Servers.
        key: Their key.
        environment: Environment variables of the servers.
        python: The interpreter of the servers, an emulated one for instance.
        port: The tracker's; a free one when not given.

    Attributes:
        key: As given.
        port: The tracker's.
        ports: The servers'.

    Raises:
        BackendError: They do not start.
    """

    def __init__(
        self,
        count: int,
        key: str = "loopback",
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
        port: int | None = None,
    ) -> None:
        self.key = key
        self._python = python
        self.port = port or free_ports(1)[0]
        self.ports: list[int] = []
        self._environment = {**os.environ, "TVM_NUM_THREADS": "1", **(environment or {})}
        self._logs = tempfile.TemporaryDirectory(prefix="loopgene-farm-")
        self._tracker: subprocess.Popen[bytes] | None = None
        self.servers: list[subprocess.Popen[bytes]] = []
        try:
            self.start_tracker()
            self.add(count)
        except BaseException:
            self.close()
            raise

    @property
    def tracker(self) -> str:
        """The tracker's "host:port"."""
        return f"{HOST}:{self.port}"

    def add(self, count: int) -> None:
        """Start so many servers more, and wait until they are free; nobody uses the others."""
        ports = free_ports(count)
        self.ports += ports
        self.servers += [self.start_server(port) for port in ports]
        self.wait_for(len(self.ports))

    def start_tracker(self) -> None:
        """Start the tracker, also after `stop_tracker`."""
        command = [sys.executable, "-c", _TRACKER, HOST, str(self.port)]
        self._tracker = self._start(command, "tracker")

    def stop_tracker(self) -> None:
        """Kill the tracker."""
        if self._tracker is not None:
            _kill(self._tracker)
            self._tracker = None

    def start_server(self, port: int, script: Path | None = None) -> subprocess.Popen[bytes]:
        """A supervised server on a port, by another script than ours if one is given.

        `close` ends those in `servers`.
        """
        command = [self._python, str(script or serve.__file__), "--tracker", self.tracker]
        command += ["--key", self.key, "--host", HOST, "--port", str(port), "--runtime-only"]
        return self._start(command, f"server-{port}")

    def end_server(self, number: int) -> None:
        """End a server for good, as its user does."""
        server = self.servers.pop(number)
        del self.ports[number]
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_END_TIMEOUT_S)
        _kill(server)

    def wait_for(self, count: int, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until `count` devices are free.

        Raises:
            BackendError: They are not.
        """
        deadline = time.monotonic() + timeout_s
        while self.free() < count:
            if time.monotonic() > deadline:
                raise BackendError(
                    f"Only {self.free()} of {count} servers are free after {timeout_s:g} s:"
                    f" {self.log().strip().splitlines()[-1:]}"
                )
            time.sleep(_POLL_S)

    def free(self) -> int:
        """How many devices the tracker could grant."""
        try:
            queues = tracker.summary((HOST, self.port))["queue_info"]
        except tracker.TrackerError:
            return 0
        return int(queues.get(self.key, {}).get("free", 0))

    def reachable(self) -> bool:
        """Whether the tracker answers."""
        try:
            tracker.summary((HOST, self.port))
        except tracker.TrackerError:
            return False
        return True

    def listener(self, number: int) -> int:
        """The process number of a server's listener, which its supervisor replaces."""
        import psutil

        children = psutil.Process(self.servers[number].pid).children()
        if not children:
            raise BackendError(f"Server {number} is not running.")
        return int(children[0].pid)

    def sessions(self, number: int) -> list[int]:
        """The process numbers of a server's sessions."""
        import psutil

        return [int(child.pid) for child in psutil.Process(self.listener(number)).children()]

    def log(self) -> str:
        """What tracker and servers have said."""
        files = sorted(Path(self._logs.name).iterdir())
        return "".join(f"{f.name}: {line}\n" for f in files for line in f.read_text().splitlines())

    def close(self) -> None:
        """End everything; may be called twice."""
        while self.servers:
            self.end_server(0)
        self.stop_tracker()
        self._logs.cleanup()

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (Path(self._logs.name) / name).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )


def _kill(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]
