"""`loopgene devices` and `loopgene board-kit`: boards on which kernels are measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.common import console, waiting
from engine.numbers import time_text

if TYPE_CHECKING:
    from rich.table import Table

    from backends.rpc.inventory import Found, Key
    from backends.rpc.ping import Pong

TrackerOption = Annotated[
    str, typer.Option(help="Address of the TVM tracker, like 192.168.1.10:9190.")
]


def devices(
    tracker: TrackerOption,
    target: Annotated[
        str | None,
        typer.Option(
            help="Compile the kernel that is tried for this preset or TVM tag; by default for "
            "what each board says of itself.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the boards of a tracker: free or busy, TVM's version, distance, a kernel tried.

    Ends with 1 when there is no board, or one that cannot be used.
    """
    from backends.rpc.inventory import keys, look

    address = _address(tracker)
    found = keys(address)
    import tvm

    out = console()
    out.print(f"tracker {tracker}; TVM {tvm.__version__} on this machine")
    if not any(key.boards for key in found):
        out.print(
            "no board is registered; start one there: "
            f"python serve.py --tracker {tracker} --key KEY (see loopgene board-kit)",
            soft_wrap=True,
        )
        raise typer.Exit(1)
    with waiting("asking the boards that are free"):
        looked = look(address, found, target)
    out.print(_keys_table(found))
    out.print(_boards_table(found, looked))
    troubles = [each for boards in looked.values() for each in boards if each.trouble]
    for each in troubles:
        out.print(f"{each.board}: {each.trouble}", soft_wrap=True)
    if troubles:
        raise typer.Exit(1)


def _address(tracker: str) -> tuple[str, int]:
    from backends.base import BackendError
    from backends.rpc.tracker import parse_address

    try:
        return parse_address(tracker)
    except ValueError as error:
        raise BackendError(f"--tracker: {error}") from None


def _table(columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1))
    for name in columns:
        number = name in ("boards", "free", "busy", "waiting", "round trip")
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def _keys_table(found: Sequence[Key]) -> Table:
    table = _table(("key", "boards", "free", "busy", "waiting"))
    for key in found:
        count = len(key.boards)
        numbers = (count, key.free, max(0, count - key.free), key.waiting)
        table.add_row(key.name, *map(str, numbers))
    return table


def _boards_table(found: Sequence[Key], looked: dict[str, list[Found]]) -> Table:
    table = _table(("board", "key", "state", "architecture", "TVM", "round trip", "kernel"))
    for key in found:
        answers = {each.board: each for each in looked[key.name]}
        for board in sorted({*key.boards, *answers}):
            table.add_row(board, key.name, *_row(answers.get(board)))
    return table


def _row(found: Found | None) -> tuple[str, ...]:
    if found is None:
        return ("busy", "", "", "", "")
    pong = found.pong
    if pong is None:
        return ("silent", "", "", "", "")
    version = str(pong.facts.get("tvm", "?"))
    if pong.facts.get("emulated"):
        # Its times are no performance figures.
        kernel, round_trip = "right", "-"
    else:
        kernel = f"right, {time_text(pong.kernel_s)} with transfers"
        round_trip = time_text(pong.round_trip_s)
    if found.trouble:
        kernel = "see below"
    return ("free", _architecture(pong), version, round_trip, kernel)


def _architecture(pong: Pong) -> str:
    facts = pong.facts
    if not facts:
        return "unknown"
    cores = f"{facts['cores']} cores" if facts.get("cores", 1) != 1 else "1 core"
    emulated = ["emulated"] if facts.get("emulated") else []
    return ", ".join([str(facts["machine"]), cores, str(facts["model"]), *emulated])


def board_kit(
    folder: Annotated[
        Path, typer.Argument(help="Folder to write; copy it to the board.", metavar="DIR")
    ],
    target: Annotated[
        str, typer.Option(help="What the board is: a preset or one of TVM's target tags.")
    ] = "aarch64",
    tracker: Annotated[
        str | None,
        typer.Option(
            help="Address of the TVM tracker, as the board reaches it; by default this machine.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Name of the boards that are alike; by default the target's."),
    ] = None,
    service: Annotated[bool, typer.Option(help="Write a systemd unit too.")] = False,
) -> None:
    """Write what a board needs to be measured on, with the two commands to type there."""
    from backends.boards.kit import TRACKER_PORT, Kit, own_address, write_kit

    tracker = tracker or f"{own_address()}:{TRACKER_PORT}"
    _address(tracker)
    files = write_kit(folder, Kit(target, tracker, key or target.replace("/", "-"), service))
    for file in files:
        typer.echo(f"wrote {file}")
    typer.echo(f"copy {folder} to the board; what to type there is in {folder / 'README.md'}")
