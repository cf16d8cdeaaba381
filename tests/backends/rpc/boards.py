"""Boards that do not do what they should."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import time
from pathlib import Path

from backends.rpc import serve
from backends.rpc.loopback import HOST, free_ports
from backends.rpc.tracker import MAGIC


@contextlib.contextmanager
def mute_device(farm):
    """A device of the farm that accepts connections and never says anything; its port."""
    with (
        socket.create_server((HOST, 0)) as server,
        socket.create_connection((HOST, farm.port)) as tracker,
    ):
        port = server.getsockname()[1]
        tracker.sendall(struct.pack("<i", MAGIC))
        assert tracker.recv(4) == struct.pack("<i", MAGIC)
        for message in (
            [5, {"key": f"server:{farm.key}", "addr": [HOST, port]}],
            [3, farm.key, [port, f"{farm.key}:0.5"], None],
        ):
            data = json.dumps(message).encode()
            tracker.sendall(struct.pack("<i", len(data)) + data)
            time.sleep(0.05)
        yield port


def other_tvm(folder) -> Path:
    """The server's script, which tells another version of TVM."""
    script = Path(folder) / "serve.py"
    source = Path(serve.__file__).read_text()
    assert source.count("str(tvm.__version__)") == 1
    script.write_text(source.replace("str(tvm.__version__)", "'0.26.0'"))
    return script


@contextlib.contextmanager
def serving(farm, script):
    """One more server of the farm, which runs another script; its port."""
    (port,) = free_ports(1)
    server = farm.start_server(port, script)
    try:
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
