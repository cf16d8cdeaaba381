"""Answers to names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_SHOWN = 20


def nearest(name: str, known: Collection[str]) -> str:
    """The nearest known name as a question, or the known ones when none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    some = sorted(known)[:_SHOWN]
    return f"known: {', '.join(some)}{', ...' if len(known) > _SHOWN else ''}"
