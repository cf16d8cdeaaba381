"""What holds for the command of every benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


def fails_in_one_line(
    main: Callable[[list[str]], int],
    options: Sequence[str],
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> str:
    """The one line that a command says of bad input; `damaged.json` in `folder` is damaged."""
    (folder / "damaged.json").write_text('{"a": [1')
    assert main(list(options)) == 1
    said = capfd.readouterr().out.strip()
    assert "\n" not in said
    return said
