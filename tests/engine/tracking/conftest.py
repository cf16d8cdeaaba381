from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.tracking.mlflow_store import create_sqlite


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store; MLflow needs seconds to make one."""
    folder = tmp_path_factory.mktemp("template")
    create_sqlite(folder / "mlflow.db", (folder / "artifacts").as_uri())
    return folder / "mlflow.db"


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    """A home with a new store."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(template, home / "mlflow.db")
    return home


@pytest.fixture
def run_dir(home: Path) -> Path:
    """An empty run folder."""
    path = home / "small-20260102-030405-abcd"
    path.mkdir()
    return path
