"""The command `loopgene` and its subcommands."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from engine.cli import boards, export, inspecting, running, showing, transforming, ui
from engine.cli.common import ErrorBorder

app = typer.Typer(
    name="loopgene",
    cls=ErrorBorder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Make a convolutional network faster on your device: search over compiler "
        "transformations and network surgery at once, with every latency measured.\n\n"
        "A first session: `loopgene run experiments/quickstart.yaml`, then `loopgene show`. "
        "For a network of your own: `loopgene inspect net.py:make --input-shape 1,3,32,32`."
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"loopgene {version('loopgene')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """What stands before a subcommand."""


app.command("inspect")(inspecting.inspect)
app.command("transforms")(transforming.transforms)
app.command("run", cls=running.RunCommand)(running.run)
app.command("runs")(showing.runs)
app.command("show")(showing.show)
app.command("export")(export.export)
app.command("ui")(ui.ui)
app.command("devices")(boards.devices)
app.command("board-kit")(boards.board_kit)


def main() -> None:
    """Entry point of the command `loopgene`."""
    if not sys.warnoptions:
        # What libraries tell each other's developers is of no use to somebody who searches.
        warnings.simplefilter("ignore", FutureWarning)
    app(prog_name="loopgene")
