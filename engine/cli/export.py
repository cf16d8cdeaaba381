"""`loopgene export`: the faster network as files to use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.common import HOME, HomeOption, console


def export(
    run: Annotated[
        str, typer.Argument(help="A run: its name, a beginning of it, or `latest`.", metavar="RUN")
    ] = "latest",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write to; by default in the run folder."),
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Write the found network for use: PyTorch, ONNX, compiled TVM library, genome."""
    from engine.runs import find_run

    run_dir = find_run(home, run)
    run_dir.result()
    from engine.export import export_run

    with console().status(f"exporting {run_dir.name}"):
        exported = export_run(run_dir, output)
    typer.echo(str(exported))
