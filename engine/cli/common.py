"""What the commands share: the border for errors and the console.

Nothing slow is imported here or at the top of any command: `loopgene --help` answers at once.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from genomes.errors import LoopGeneError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

HOME = Path("loopgene-runs")
WIDE = 180
"""Columns of a table in a log file or a pipe, where there is no edge to fit."""

HomeOption = Annotated[
    Path, typer.Option(help="Folder of the run folders: `home` of the experiments.")
]


class ErrorBorder(TyperGroup):
    """Prints a `LoopGeneError` as one line on stderr and exits with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LoopGeneError as error:
            typer.echo(f"loopgene: error: {error}", err=True)
            raise typer.Exit(1) from error


def console() -> Console:
    """Standard output; tables get all the width they need where it is no terminal."""
    from rich.console import Console

    plain = not sys.stdout.isatty()
    return Console(width=WIDE if plain else None, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[Status]:
    """Say on a terminal what takes so long; nothing in a log file or a pipe."""
    from rich.console import Console

    with Console(stderr=True, markup=False).status(text) as status:
        yield status


def elsewhere(home: Path) -> str:
    """The option that a command needs to find `home`; empty if it is where commands look."""
    return "" if home.absolute() == HOME.absolute() else f" --home {shlex.quote(str(home))}"


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Treat a polite `kill` like Ctrl-C, so that what has begun is ended well."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
