from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from engine.cli.ui import serve
from engine.config import parse_config
from engine.runs import RunDir
from tests.engine.cli.conftest import Cli


def test_no_store_yet(cli: Cli, work: Path) -> None:
    result = cli("ui")
    assert result.exit_code == 1
    store = work / "loopgene-runs" / "mlflow.db"
    assert f"there is no MLflow store {store} yet; it is written by" in result.stderr
    assert "where that sets tracking.uri: loopgene ui RUN" in result.stderr


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The options of each server that is started; none is."""
    called: list[dict[str, str]] = []

    def serve(command: list[str], environment: dict[str, str]) -> int:
        assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert command[:4] == [sys.executable, "-m", "mlflow", "ui"]
        called.append(dict(zip(command[4::2], command[5::2], strict=True)))
        return 3

    monkeypatch.setattr("engine.cli.ui.serve", serve)
    return called


def tracked_run(work: Path, **tracking: object) -> RunDir:
    """A run in the folder `home` that tracks somewhere."""
    data = {**yaml.safe_load((work / "tiny.yaml").read_text()), "home": "home"}
    return RunDir.create(parse_config({**data, "tracking": {"mlflow": True, **tracking}}))


def test_serves_the_store_of_the_home_on_the_loopback_only(
    cli: Cli, work: Path, served: list[dict[str, str]]
) -> None:
    store = work / "home" / "mlflow.db"
    store.parent.mkdir()
    store.touch()
    result = cli("ui", "--home", "home", "--port", "5001")
    assert result.exit_code == 3
    assert f"MLflow shows {store} at http://127.0.0.1:5001" in result.stdout
    (options,) = served
    assert options["--backend-store-uri"] == f"sqlite:///{store}"
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "5001")
    assert cli("ui", tracked_run(work).name, "--home", "home").exit_code == 3
    assert served[1]["--backend-store-uri"] == f"sqlite:///{store}"


def test_serves_the_store_of_a_run(cli: Cli, work: Path, served: list[dict[str, str]]) -> None:
    run = tracked_run(work, uri="sqlite:///mine.db")
    missing = cli("ui", "latest", "--home", "home")
    assert missing.exit_code == 1
    assert f"there is no MLflow store {work / 'mine.db'} yet" in missing.stderr
    (work / "mine.db").touch()
    result = cli("ui", run.name, "--home", "home")
    assert f"MLflow shows {work / 'mine.db'} at http://127.0.0.1:5000" in result.stdout
    (options,) = served
    assert options["--backend-store-uri"] == "sqlite:///mine.db"
    assert options["--default-artifact-root"] == (work / "home" / "mlflow-artifacts").as_uri()
    assert options["--host"] == "127.0.0.1"


def test_no_password_is_shown(cli: Cli, work: Path, served: list[dict[str, str]]) -> None:
    run = tracked_run(work, uri="postgresql://me:secret@db/mlflow")
    result = cli("ui", run.name, "--home", "home")
    assert f"MLflow shows the store of {run.name} at " in result.stdout
    assert "secret" not in result.output
    assert served[0]["--backend-store-uri"] == "postgresql://me:secret@db/mlflow"


@pytest.mark.parametrize("uri", ["http://tracking:5000", "https://tracking.example"])
def test_a_remote_server_is_for_the_browser(
    cli: Cli, work: Path, served: list[dict[str, str]], uri: str
) -> None:
    result = cli("ui", tracked_run(work, uri=uri).name, "--home", "home")
    assert result.exit_code == 0
    line = f"the MLflow server has its own pages; open in the browser: {uri}\n"
    assert result.stdout == line
    assert served == []


def test_a_run_that_is_not_tracked(cli: Cli, work: Path) -> None:
    run = tracked_run(work, mlflow=False)
    result = cli("ui", run.name, "--home", "home")
    assert result.exit_code == 1
    assert result.stderr == (
        f"loopgene: error: run {run.name} is not in MLflow: its tracking.mlflow is false\n"
    )


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
