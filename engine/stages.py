"""Where the time of a search goes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping

STAGES = ("propose", "capacity", "build", "check", "measure", "wait", "track", "checkpoint")


class Stages:
    """Seconds by stage, since the last `take` and over all.

    Attributes:
        total: Over the whole search, resumptions included.
    """

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self._recent: Counter[str] = Counter()

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds inside for `stage`, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count seconds that somebody else has measured."""
        for stage, value in seconds.items():
            self.total[stage] += value  # type: ignore[assignment]
            self._recent[stage] += value  # type: ignore[assignment]

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last call."""
        recent, self._recent = self._recent, Counter()
        return {stage: float(recent[stage]) for stage in STAGES}
