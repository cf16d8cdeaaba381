"""The command line: `loopgene inspect`, `run`, `show` and the others of `engine.cli.app`."""

from __future__ import annotations

from engine.cli.app import app, main

__all__ = ["app", "main"]
