"""`loopgene ui`: the MLflow user interface on the right store, for this machine only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.common import HOME, STORE, HomeOption, terminable

HOST = "127.0.0.1"
PAGE = "/#/experiments?workflowType=machine_learning"
"""MLflow opens on its pages for language models otherwise."""

JOBS_OFF = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""MLflow starts seven processes for jobs on language models otherwise."""


def ui(
    home: HomeOption = HOME,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
) -> None:
    """Browse the searches in MLflow: metrics by generation, plots, finalists."""
    from engine.runs import RunError
    from engine.tracking.mlflow_store import ENVIRONMENT

    store = (home / STORE).absolute()
    if not store.is_file():
        raise RunError(
            f"there is no MLflow store in {home} yet; it is written by: loopgene run CONFIG"
        )
    typer.echo(f"MLflow shows {store} at http://{HOST}:{port}{PAGE} (Ctrl-C ends it)")
    raise typer.Exit(serve(command(store, port), {**ENVIRONMENT, **JOBS_OFF, **os.environ}))


def serve(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a server until it ends or this process is told to; nothing of it is left behind.

    Returns:
        Its exit code; 0 if it was ended from here.
    """
    with terminable():
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            # The server has worker processes, which it does not always take with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def command(store: Path, port: int) -> list[str]:
    """The command that serves a store."""
    from engine.tracking.mlflow_store import sqlite_uri

    options = {
        "--backend-store-uri": sqlite_uri(store),
        # Without it, MLflow makes a folder for artifacts in the current one.
        "--default-artifact-root": (store.parent / "mlflow-artifacts").as_uri(),
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
    }
    given = [part for option in options.items() for part in option]
    return [sys.executable, "-m", "mlflow", "ui", *given]
