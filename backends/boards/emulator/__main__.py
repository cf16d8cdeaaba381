"""Commands for the ARM emulator: make it, and lend it like a board.

python -m backends.boards.emulator build
python -m backends.boards.emulator serve [--port 9190] [--key emulated]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from backends.boards.emulator.build import build, python_of
from genomes.errors import LoopGeneError

FOLDER = Path(".arm-emulator")
_LOOK_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m backends.boards.emulator")
    parser.add_argument("command", choices=("build", "serve"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"default: {FOLDER}")
    parser.add_argument("--port", type=int, default=9190, help="the tracker's (default: 9190)")
    parser.add_argument("--key", default="emulated", help="the board's (default: emulated)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            build(options.folder, _say)
        else:
            serve(options.folder, options.port, options.key)
    except LoopGeneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        _say("ended")
    return 0


def serve(folder: Path, port: int, key: str) -> NoReturn:
    """A tracker and a supervised emulated server on the loopback, until a signal.

    Args:
        folder: Of the emulator.
        port: The tracker's.
        key: The board's.

    Raises:
        BackendError: There is no emulator, or the server does not start.
        KeyboardInterrupt: The signal has come; nothing is left.
    """
    from backends.rpc.loopback import Farm

    # A job in the background of a script ignores Ctrl-C unless it says otherwise.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    python = python_of(folder)
    _say("starting a tracker and an emulated board; this takes about ten seconds")
    with Farm(1, key, python=str(python), port=port) as farm:
        _say(f"the board {key!r} is free; look at it: loopgene devices --tracker {farm.tracker}")
        while True:
            time.sleep(_LOOK_S)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
