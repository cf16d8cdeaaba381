"""Where the benchmarks keep what holds for one kind of machine only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path("experiments/recorded")


def recorded(target: Mapping[str, Any], name: str) -> Path:
    """A file of the folder of a target, which is named after its CPU and number of threads.

    Args:
        target: A TVM target, as a mapping.
        name: Of the file.
    """
    cpu = target.get("mcpu", target["kind"])
    return FOLDER / f"{cpu}-{target.get('num-cores', 1)}" / name
