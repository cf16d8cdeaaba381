from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.cli.ui import serve
from tests.engine.cli.conftest import Cli


def test_no_store_yet(cli: Cli, work: Path) -> None:
    result = cli("ui")
    assert result.exit_code == 1
    assert "there is no MLflow store in loopgene-runs yet" in result.stderr


def test_serves_the_store_on_the_loopback_only(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = work / "home" / "mlflow.db"
    store.parent.mkdir()
    store.touch()
    called: list[list[str]] = []

    def serve(command: list[str], environment: dict[str, str]) -> int:
        assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
        called.append(command)
        return 3

    monkeypatch.setattr("engine.cli.ui.serve", serve)
    result = cli("ui", "--home", "home", "--port", "5001")
    assert result.exit_code == 3
    assert f"MLflow shows {store} at http://127.0.0.1:5001" in result.stdout
    (command,) = called
    assert command[:4] == [sys.executable, "-m", "mlflow", "ui"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options["--backend-store-uri"] == f"sqlite:///{store}"
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "5001")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_of_the_server_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    """A server with a worker of its own, and a signal to this process alone."""
    server = (
        "import os, pathlib, signal, subprocess, sys, time\n"
        "worker = subprocess.Popen(['sleep', '60'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(worker.pid))\n"
        f"os.kill(int(sys.argv[2]), {int(number)})\n"
        "time.sleep(60)\n"
    )
    note = tmp_path / "worker"
    command = [sys.executable, "-c", server, str(note), str(os.getpid())]
    assert serve(command, dict(os.environ)) == 0
    worker = int(note.read_text())
    deadline = time.monotonic() + 10
    while alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_exit_code_of_the_server() -> None:
    assert serve([sys.executable, "-c", "raise SystemExit(4)"], dict(os.environ)) == 4
