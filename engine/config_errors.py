"""What is said to somebody whose config is wrong."""

from __future__ import annotations

from pathlib import Path

from genomes.errors import LoopGeneError


class ConfigError(LoopGeneError):
    """An experiment's config cannot be read, or says something that is not allowed."""


def located(path: Path) -> str:
    """A path for a message: where it is looked for is said too, unless it says so itself."""
    return str(path) if path.is_absolute() else f"{path} in the current directory, {Path.cwd()}"
