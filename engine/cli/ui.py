"""`loopgene ui`: the MLflow user interface on the right store, for this machine only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.common import HOME, HomeOption, terminable

if TYPE_CHECKING:
    from engine.runs import RunDir

HOST = "127.0.0.1"
LOOK_S = 0.5
"""A signal is seen within so long."""

PAGE = "/#/experiments?workflowType=machine_learning"
"""MLflow opens on its pages for language models otherwise."""

JOBS_OFF = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""MLflow starts seven processes for jobs on language models otherwise."""


def ui(
    run: Annotated[
        str | None,
        typer.Argument(
            help="A run: its name, a beginning of it, or `latest`; shows the store of its "
            "`tracking.uri`. Without it, the store of the home.",
            metavar="RUN",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = HOME,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
) -> None:
    """Browse the searches in MLflow: metrics by generation, plots, finalists."""
    from engine.runs import RunError, find_run
    from engine.tracking.mlflow_store import ENVIRONMENT, default_uri, sqlite_file

    if run is None:
        uri = default_uri(home)
    else:
        found = find_run(home, run)
        home, uri = found.path.parent, _uri_of(found)
    if uri.startswith(("http://", "https://")):
        typer.echo(f"the MLflow server has its own pages; open in the browser: {uri}")
        return
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        raise RunError(
            f"there is no MLflow store {file} yet; it is written by: loopgene run CONFIG"
            + ("; where that sets tracking.uri: loopgene ui RUN" if run is None else "")
        )
    store = file or f"the store of {run}"
    typer.echo(f"MLflow shows {store} at http://{HOST}:{port}{PAGE} (Ctrl-C ends it)")
    raise typer.Exit(serve(command(uri, home, port), {**ENVIRONMENT, **JOBS_OFF, **os.environ}))


def _uri_of(run: RunDir) -> str:
    """The tracking URI of a run.

    Raises:
        RunError: It is not tracked.
    """
    from engine.runs import RunError
    from engine.tracking.mlflow_store import default_uri

    tracking = run.config().tracking
    if not tracking.mlflow:
        raise RunError(f"run {run.name} is not in MLflow: its tracking.mlflow is false")
    return tracking.uri or default_uri(run.path.parent)


def serve(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a server until it ends or this process is told to; nothing of it is left behind.

    Returns:
        Its exit code; 0 if it was ended from here.
    """
    with terminable():
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return _code(process)
        except KeyboardInterrupt:
            return 0
        finally:
            # The server has worker processes, which it does not always take with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _code(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process, at its end."""
    while True:
        # A signal that comes just before a wait, or to another thread, does not end it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK_S)


def command(uri: str, home: Path, port: int) -> list[str]:
    """The command that serves a store to this machine only.

    Args:
        uri: Of the store.
        home: Folder of the run folders that it tracks.
        port: Where.
    """
    options = {
        "--backend-store-uri": uri,
        # Without it, MLflow makes a folder for artifacts in the current one.
        "--default-artifact-root": (home.absolute() / "mlflow-artifacts").as_uri(),
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
    }
    given = [part for option in options.items() for part in option]
    return [sys.executable, "-m", "mlflow", "ui", *given]
