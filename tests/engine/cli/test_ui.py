from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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

    def call(command: list[str], **options: object) -> int:
        called.append(command)
        return 3

    monkeypatch.setattr(subprocess, "call", call)
    result = cli("ui", "--home", "home", "--port", "5001")
    assert result.exit_code == 3
    assert f"MLflow shows {store} at http://127.0.0.1:5001" in result.stdout
    (command,) = called
    assert command[:4] == [sys.executable, "-m", "mlflow", "ui"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options["--backend-store-uri"] == f"sqlite:///{store}"
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "5001")
