"""Timing of kernels: alone and undisturbed, and what they lose in a network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from backends.timing.helpers import Helpers, helpers
from backends.timing.network import lost_s
from backends.timing.placement import apart
from backends.timing.steady import Probe, steady

__all__ = ["Helpers", "Probe", "apart", "helpers", "lost_s", "steady", "undisturbed"]


@contextlib.contextmanager
def undisturbed(target: Mapping[str, Any]) -> Iterator[Callable[[], float] | None]:
    """Keep this thread out of the way of what runs on `target`.

    Yields:
        `Probe.slowdown`, where the cores of this machine are what is timed; None on a GPU.
    """
    if target["kind"] == "cuda":
        yield None
        return
    with apart():
        yield helpers(target).probe.slowdown
