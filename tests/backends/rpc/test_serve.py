from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.rpc import serve
from backends.rpc.loopback import HOST

GOOD = ["--tracker", "10.0.0.1:9190", "--key", "board"]


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, serve.__file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def says(server, text):
    """Read what the server says until it says `text`; it must, before it ends."""
    for line in server.stdout:
        if text in line:
            return
    raise AssertionError(f"it never says: {text}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "board"], "required: --tracker"),
        (["--tracker", "10.0.0.1", "--key", "board"], "expected HOST:PORT, got '10.0.0.1'"),
        ([*GOOD, "--port", "70000"], "--port 70000: must be between 1 and 65535"),
        ([*GOOD[:-1], "my board"], "--key 'my board': must be a word without ':'"),
        ([*GOOD[:-1], "board:1"], "--key 'board:1': must be a word without ':'"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        serve.parse(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_it_needs_nothing_of_this_project():
    source = Path(serve.__file__).read_text()
    for package in ("backends", "genomes", "engine"):
        assert f"import {package}" not in source
        assert f"from {package}" not in source


def test_without_tvm_it_says_so_and_ends(tmp_path):
    (tmp_path / "tvm.py").write_text("raise ImportError('libtvm_runtime.so: no such file')")
    server = start(*GOOD, PYTHONPATH=str(tmp_path), TMPDIR=str(tmp_path))
    said, _ = server.communicate(timeout=20)
    assert server.returncode == 1
    assert "TVM cannot be imported: libtvm_runtime.so: no such file; install" in said
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("loopgene")] == []


def test_a_port_that_is_taken_is_tried_again_until_it_is_free():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        server = start(*GOOD, "--host", HOST, "--port", str(port), "--runtime-only")
        try:
            says(server, f"cannot listen on {HOST}: cannot bind to any port in")
            says(server, "the server has ended (no port to listen on); again in 0.5 s")
            taken.close()
            says(server, f"listening on {HOST}:{port} as board, tracker 10.0.0.1:9190, TVM 0.27.")
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=10)
    assert server.returncode == 0


def test_a_signal_that_is_ignored_is_left_alone():
    """`nohup python serve.py &` outlives the terminal."""
    command = ["nohup", sys.executable, serve.__file__, *GOOD, "--host", HOST]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        says(server, "starting the server")
        server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert server.poll() is None
    finally:
        server.send_signal(signal.SIGTERM)
        said, _ = server.communicate(timeout=10)
    assert server.returncode == 0
    assert said.splitlines()[-1].endswith("serve: ended by SIGTERM")
