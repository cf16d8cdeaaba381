"""What is said of a device that is an emulator, wherever its times are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTE = "the device is an emulator: its times are no performance figures"


def is_emulated(device: Mapping[str, Any]) -> bool:
    """Whether the device of a recorded result was an emulator."""
    board = device["facts"].get("board")
    return isinstance(board, Mapping) and bool(board.get("emulated"))
