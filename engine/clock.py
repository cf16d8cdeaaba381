"""The wall clock of a search: what was spent, over all resumptions, and what is left."""

from __future__ import annotations

import time


class OutOfTimeError(Exception):
    """The wall-clock budget is spent."""


class Clock:
    """Seconds of one search.

    Args:
        started_s: `time.monotonic()` when this process began with it.
        limit_s: Budget, over all resumptions; None without one.
        kept: Share of the budget that is kept for the end of the search, until `release`.
    """

    def __init__(self, started_s: float, limit_s: float | None, kept: float = 0.0) -> None:
        self._limit_s = limit_s
        self._kept = kept
        self._before_s = 0.0
        self._started_s = started_s

    @property
    def elapsed_s(self) -> float:
        """Seconds spent, over all resumptions."""
        return self._before_s + time.monotonic() - self._started_s

    @property
    def out_of_time(self) -> bool:
        """Whether the budget is spent, but for what is kept."""
        return self._limit_s is not None and self.elapsed_s >= (1 - self._kept) * self._limit_s

    def resume(self, before_s: float) -> None:
        """Count the seconds that were spent before this process."""
        self._before_s = before_s

    def release(self) -> None:
        """Let what was kept be spent."""
        self._kept = 0.0

    def check(self) -> None:
        """Do nothing while there is time.

        Raises:
            OutOfTimeError: There is none left.
        """
        if self.out_of_time:
            raise OutOfTimeError
