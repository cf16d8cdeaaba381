"""TVM's tracker, asked without ever waiting longer than one wants to.

TVM's own client blocks: while no device is free, while the tracker is away, and for ever where
something accepts connections and does not answer.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAGIC = 0x2F271
_SUCCESS, _REQUEST, _SUMMARY = 0, 4, 6

CONNECT_TIMEOUT_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Between attempts to reach a tracker that is away."""

_CHUNK_BYTES = 1 << 16
_MOST_BYTES = 1 << 20
_PRIORITY = 1


class TrackerError(Exception):
    """The tracker cannot be reached, or what answers is none; one line."""


@dataclass(frozen=True)
class Grant:
    """A device that is ours for one session.

    Attributes:
        host, port: Where its server listens.
        matchkey: Tells the server that the tracker has sent us.
    """

    host: str
    port: int
    matchkey: str

    @property
    def device(self) -> str:
        """The device's name in messages."""
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "host:port".

    Raises:
        ValueError: It is no such text.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port like 192.168.1.10:9190, got {text!r}")
    return host, int(port)


def summary(address: tuple[str, int], timeout_s: float = CONNECT_TIMEOUT_S) -> dict[str, Any]:
    """What the tracker knows: `server_info` of the devices, `queue_info` by key.

    Raises:
        TrackerError: It does not answer in time, or not as a tracker does.
    """
    deadline = time.monotonic() + timeout_s
    with _connected(address, timeout_s) as connection:
        messages = _Messages(address)
        connection.sendall(_framed([_SUMMARY]))
        while True:
            connection.settimeout(max(1e-3, deadline - time.monotonic()))
            try:
                answers = messages.read(connection)
            except TimeoutError:
                raise TrackerError(f"{_name(address)} does not answer") from None
            for code, *content in answers:
                if code != _SUCCESS:
                    raise TrackerError(f"{_name(address)} refuses to tell its devices")
                found: dict[str, Any] = content[0]
                return found


class Waiting:
    """Requests for devices of one key, over one connection that is made anew when it is lost.

    Args:
        address: The tracker's.
        key: Of the devices.
        clock: Tells the time in seconds.

    Attributes:
        outstanding: Requests that were sent and not answered.
        trouble: Why the tracker cannot be asked at the moment; "" when it can.
    """

    def __init__(
        self, address: tuple[str, int], key: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.outstanding = 0
        self.trouble = ""
        self._address = address
        self._key = key
        self._clock = clock
        self._connection: socket.socket | None = None
        self._messages = _Messages(address)
        self._pause_s = FIRST_PAUSE_S
        self._next_attempt = 0.0

    @property
    def sockets(self) -> list[socket.socket]:
        """What to wait for; `take` when it can be read."""
        return [] if self._connection is None else [self._connection]

    def want(self, count: int) -> None:
        """See that `count` requests are outstanding, if the tracker can be asked."""
        missing = count - self.outstanding
        if missing <= 0 or not self._connect():
            return
        assert self._connection is not None
        request = [_REQUEST, self._key, "", _PRIORITY]
        try:
            self._connection.sendall(missing * _framed(request))
        except OSError as error:
            self._lose(f"{_name(self._address)} was lost: {_words(error)}")
        else:
            self.outstanding += missing

    def take(self) -> list[Grant]:
        """The devices that were granted since; does not wait."""
        if self._connection is None:
            return []
        try:
            answers = self._messages.read(self._connection)
        except (BlockingIOError, InterruptedError):
            return []
        except TrackerError as error:
            self._lose(str(error))
            return []
        self.outstanding -= len(answers)
        return [Grant(*content[0]) for code, *content in answers if code == _SUCCESS]

    def close(self) -> None:
        """Withdraw what is outstanding."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.outstanding = 0

    def _connect(self) -> bool:
        if self._connection is not None:
            return True
        if self._clock() < self._next_attempt:
            return False
        try:
            self._connection = _connected(self._address, CONNECT_TIMEOUT_S)
        except TrackerError as error:
            self._lose(str(error))
            return False
        self._connection.setblocking(False)
        self._messages = _Messages(self._address)
        self.trouble = ""
        self._pause_s = FIRST_PAUSE_S
        return True

    def _lose(self, why: str) -> None:
        self.close()
        self.trouble = why
        self._next_attempt = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


class _Messages:
    """Splits what comes from a tracker into its JSON messages."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._data = b""

    def read(self, connection: socket.socket) -> list[Any]:
        """The messages that are complete after one read.

        Raises:
            TrackerError: The connection has ended, or this is no tracker.
        """
        try:
            data = connection.recv(_CHUNK_BYTES)
        except (BlockingIOError, InterruptedError, TimeoutError):
            raise
        except OSError as error:
            raise TrackerError(f"{_name(self._address)} was lost: {_words(error)}") from error
        if not data:
            raise TrackerError(f"{_name(self._address)} has closed the connection")
        self._data += data
        messages = []
        while len(self._data) >= 4:
            (size,) = struct.unpack("<i", self._data[:4])
            if not 0 < size <= _MOST_BYTES:
                raise TrackerError(f"{_name(self._address)} does not talk like a tracker")
            if len(self._data) < 4 + size:
                break
            try:
                messages.append(json.loads(self._data[4 : 4 + size]))
            except ValueError as error:
                reason = f"{_name(self._address)} does not talk like a tracker"
                raise TrackerError(reason) from error
            self._data = self._data[4 + size :]
        return messages


def _connected(address: tuple[str, int], timeout_s: float) -> socket.socket:
    """A connection on which both sides have said that they are what they are."""
    try:
        connection = socket.create_connection(address, timeout_s)
    except OSError as error:
        raise TrackerError(f"{_name(address)} cannot be reached: {_words(error)}") from error
    try:
        connection.sendall(struct.pack("<i", MAGIC))
        greeting = connection.recv(4, socket.MSG_WAITALL)
    except OSError as error:
        connection.close()
        raise TrackerError(f"{_name(address)} does not answer: {_words(error)}") from error
    if greeting != struct.pack("<i", MAGIC):
        connection.close()
        raise TrackerError(f"{_name(address)} is no tracker")
    return connection


def _framed(message: Any) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack("<i", len(data)) + data


def _name(address: tuple[str, int]) -> str:
    return f"the tracker {address[0]}:{address[1]}"


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
