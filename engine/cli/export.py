"""`loopgene export`: the faster network as files to use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.common import HOME, HomeOption, waiting


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

    with waiting(f"exporting {run_dir.name}"):
        exported = export_run(run_dir, output)
    typer.echo(f"exported to {exported.folder}")
    for name in exported.files:
        deviation = exported.deviations.get(name)
        checked = "" if deviation is None else f"  (differs from PyTorch by {deviation:.0e})"
        typer.echo(f"  {name}{checked}")
    for note in exported.notes:
        typer.echo(f"note: {note}")
