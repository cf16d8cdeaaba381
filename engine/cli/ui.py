"""`loopgene ui`: the MLflow user interface on the right store, for this machine only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.common import HOME, HomeOption

HOST = "127.0.0.1"


def ui(
    home: HomeOption = HOME,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
) -> None:
    """Browse the searches in MLflow: metrics by generation, plots, finalists."""
    from engine.runs import RunError
    from engine.tracking.mlflow_store import ENVIRONMENT

    store = (home / "mlflow.db").absolute()
    if not store.is_file():
        raise RunError(
            f"there is no MLflow store in {home} yet; it is written by: loopgene run CONFIG"
        )
    typer.echo(f"MLflow shows {store} at http://{HOST}:{port} (Ctrl-C ends it)")
    raise typer.Exit(subprocess.call(command(store, port), env={**ENVIRONMENT, **os.environ}))


def command(store: Path, port: int) -> list[str]:
    """The command that serves a store."""
    from engine.tracking.mlflow_store import sqlite_uri

    options = {
        "--backend-store-uri": sqlite_uri(store),
        # Without it, MLflow makes a folder for artifacts in the current one.
        "--default-artifact-root": (store.parent / "mlflow-artifacts").as_uri(),
        "--host": HOST,
        "--port": str(port),
    }
    given = [part for option in options.items() for part in option]
    return [sys.executable, "-m", "mlflow", "ui", *given]
