"""The command line: `loopgene inspect`, `transforms`, `run`, `runs`, `show`, `export`, `ui`."""

from __future__ import annotations

from engine.cli.app import app, main

__all__ = ["app", "main"]
