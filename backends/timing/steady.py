"""Timings that nothing disturbs.

What else runs on a machine, or on the cores that a virtual one shares with others, makes kernels
slower for milliseconds or for seconds, and never faster.  A fixed computation that is timed
before and after a kernel tells whether the machine runs at its full speed.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable

CALM = 1.05
"""The machine runs at its full speed when the probe takes at most so many times its least."""

MOST = 4
"""Timings are taken for each one that is kept, at most."""

HOPELESS_TIMINGS = 2
"""As many must say that a kernel is hopeless: one may have been disturbed."""

ONE_CORE = 1.5
"""A probe on all threads that takes so many times as long as one on one thread had not as many
cores: those of a virtual machine may share one for a while."""

FIRST_PATIENCE_S, PATIENCE_S = 2.0, 30.0
"""So long is waited for the machine to give all its cores: at first, and in all afterwards."""

_FIRST_PROBES = 100
_PROBES = 3
_PAUSE_S = 0.02


class Probe:
    """A fixed computation that tells how fast the machine runs.

    What it ever took at least, and how long was waited, is known to all processes that are
    forked from the one that made it.

    Args:
        call: Runs the computation on all threads, each some ten microseconds of it.
        alone: Runs it on one thread.
    """

    def __init__(self, call: Callable[[], object], alone: Callable[[], object]) -> None:
        self._call = call
        self._alone = alone
        shared = memoryview(mmap.mmap(-1, 2 * struct.calcsize("d")))
        self._least_and_waited_s = shared.cast("d")

    def slowdown(self) -> float:
        """How many times as long the computation takes as it ever took at least.

        Waits, but not for ever, while that is so much that cores are missing.
        """
        while (now := self._slowdown()) > ONE_CORE and self._least_and_waited_s[1] < PATIENCE_S:
            time.sleep(_PAUSE_S)
            self._least_and_waited_s[1] += _PAUSE_S
        return now

    def _slowdown(self) -> float:
        least_s = self._least_and_waited_s[0] or self._first_s()
        now_s = _least_s(self._call, _PROBES)
        self._least_and_waited_s[0] = min(least_s, now_s)
        return now_s / self._least_and_waited_s[0]

    def _first_s(self) -> float:
        until = time.monotonic() + FIRST_PATIENCE_S
        alone_s = least_s = float("inf")
        while least_s > ONE_CORE * alone_s or least_s == float("inf"):
            alone_s = min(alone_s, _least_s(self._alone, _PROBES))
            least_s = min(least_s, _least_s(self._call, _FIRST_PROBES))
            if time.monotonic() > until:
                break
        return least_s


def _least_s(call: Callable[[], object], count: int) -> float:
    times_s = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - start)
    return min(times_s)


def steady(
    timed: Callable[[], float],
    slowdown: Callable[[], float],
    repeats: int,
    hopeless_s: float | None = None,
) -> tuple[float, ...]:
    """Timings of one kernel, the disturbed ones left out as far as that is possible.

    Args:
        timed: Gives one timing, in seconds per call.
        slowdown: How much slower than it can the machine runs, as `Probe.slowdown`.
        repeats: How many are wanted.
        hopeless_s: A kernel that never takes less is not timed any longer.

    Returns:
        `repeats` timings that agree, or the fastest of many where the machine gave no rest; only
        one of a hopeless kernel.
    """
    taken: list[tuple[float, float]] = []
    before = slowdown()
    while len(taken) < MOST * repeats:
        seconds, after = timed(), slowdown()
        taken.append((max(before, after), seconds))
        before = after
        least_s = min(s for _, s in taken)
        if hopeless_s is not None and least_s > hopeless_s and len(taken) >= HOPELESS_TIMINGS:
            return (least_s,)
        calm = [s for slow, s in taken if slow <= CALM]
        kept = [s for s in calm if s <= CALM * min(calm)]
        if len(kept) >= repeats:
            return tuple(kept)
    return tuple(sorted(s for _, s in taken)[:repeats])
