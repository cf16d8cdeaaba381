"""Boards on which kernels run that are compiled here: targets, linkers, an emulator."""

from __future__ import annotations

from backends.boards.linking import Linker, link_shared
from backends.boards.presets import PRESETS, Board
from backends.boards.targets import board_target

__all__ = ["Board", "PRESETS", "board_target", "Linker", "link_shared"]
