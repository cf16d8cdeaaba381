from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from itertools import pairwise

import pytest

from backends.rpc.loopback import HOST
from backends.rpc.tracker import MAGIC, TrackerError, Waiting, parse_address, summary
from tests.backends.rpc.samples import until


@contextlib.contextmanager
def listening(answer: bytes | None = None):
    """The port of something that accepts connections, and sends `answer` if there is one."""
    with socket.create_server((HOST, 0)) as server:
        if answer is not None:
            threading.Thread(target=answering, args=(server, answer), daemon=True).start()
        yield server.getsockname()[1]


def answering(server, answer):
    with contextlib.suppress(OSError):
        connection, _ = server.accept()
        connection.sendall(answer)
        while connection.recv(1 << 10):
            pass


def free_port() -> int:
    with listening() as port:
        return port


def test_addresses():
    assert parse_address("board.local:9190") == ("board.local", 9190)
    for wrong in ("board.local", ":9190", "board:port", "board:0", "board:70000"):
        with pytest.raises(ValueError, match="expected host:port"):
            parse_address(wrong)


def test_the_tracker_tells_its_devices(farm):
    farm.wait_for(2)
    found = summary((HOST, farm.port))
    addresses = {tuple(info["addr"]) for info in found["server_info"]}
    assert addresses == {(HOST, port) for port in farm.ports}
    assert found["queue_info"][farm.key]["free"] == 2


def test_who_is_no_tracker_is_named_and_never_waited_for():
    began = time.monotonic()
    with pytest.raises(TrackerError, match=r"the tracker 127.0.0.1:\d+ cannot be reached: Conn"):
        summary((HOST, free_port()))
    with listening() as port, pytest.raises(TrackerError, match="does not answer"):
        summary((HOST, port), timeout_s=0.3)
    greeting = struct.pack("<i", MAGIC)
    for answer, complaint in (
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no tracker"),
        (greeting + struct.pack("<i", 1 << 30), "does not talk like a tracker"),
        (greeting, "does not answer"),
    ):
        with listening(answer) as port, pytest.raises(TrackerError, match=complaint):
            summary((HOST, port), timeout_s=0.3)
    assert time.monotonic() - began < 3


def test_requests_are_withdrawn_when_they_are_not_wanted_any_more(farm):
    waiting = Waiting((HOST, farm.port), "nobody")
    waiting.want(2)
    assert waiting.outstanding == 2
    assert until(lambda: pending(farm, "nobody") == 2)
    assert waiting.take() == []
    waiting.close()
    assert waiting.outstanding == 0


def test_a_tracker_that_is_away_is_asked_again_with_growing_pauses():
    now = 0.0
    waiting = Waiting((HOST, free_port()), "any", clock=lambda: now)
    attempts = []
    for _ in range(200):
        waiting.trouble = ""
        waiting.want(1)
        if waiting.trouble:
            attempts.append(now)
        now += 0.5
    pauses = [b - a for a, b in pairwise(attempts)]
    assert pauses[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert set(pauses[5:]) == {8.0}
    assert waiting.outstanding == 0


def pending(farm, key) -> int:
    return summary((HOST, farm.port))["queue_info"].get(key, {}).get("pending", 0)
