"""What TVM raises for a remote call, in one line."""

from __future__ import annotations


def last_line(error: Exception, limit: int = 400) -> str:
    """The last line of an error, where TVM puts what the other side has raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[-1] if lines else type(error).__name__
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
