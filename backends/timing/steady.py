"""Timings that nothing disturbs.

What else runs on a machine, or on the cores that a virtual one shares with others, makes kernels
slower for milliseconds or for seconds, and never faster.  A fixed computation that is timed
before and after a kernel tells whether the machine runs at its full speed.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable

CALM = 1.05
"""The machine runs at its full speed when the probe takes at most so many times its least."""

MOST = 4
"""Timings are taken for each one that is kept, at most."""

SLIGHT, TWICE, ALIKE = 1.1, 2, 1.02
"""A machine may stay a little slow for a long time: at most that much.  Once so many timings are
taken for each one that is kept, those that are so alike are believed: more would say the same."""

HOPELESS_TIMINGS = 2
"""As many must say that a kernel is hopeless: one may have been disturbed."""

ONE_CORE = 1.5
"""A probe on all threads that takes so many times as long as one on one thread had not as many
cores: those of a virtual machine may share one for a while."""

FIRST_PATIENCE_S, PATIENCE_S, ALL_PATIENCE_S = 2.0, 0.5, 30.0
"""So long is waited for the machine to give all its cores: at first, each time, and in all."""

IMPATIENT = "LOOPGENE_IMPATIENT"
"""The environment variable under which a busy machine is not waited for."""

FORGET = 1.00005
"""The least time of the probe grows by so much with every probe: machines get warm."""

_FIRST_PROBES = 100
_PROBES = 3
_PAUSE_S = 0.02


class Probe:
    """A fixed computation that tells how fast the machine runs.

    What it took at least, and how long was waited, is known to all processes that are
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
        """How many times as long the computation takes as it took at least, lately.

        Waits, but not for ever, while that is so much that cores are missing.
        """
        waited_s = 0.0
        while (now := self._slowdown()) > ONE_CORE and waited_s < _patience(PATIENCE_S):
            if self._least_and_waited_s[1] >= ALL_PATIENCE_S:
                break
            time.sleep(_PAUSE_S)
            waited_s += _PAUSE_S
            self._least_and_waited_s[1] += _PAUSE_S
        return now

    def _slowdown(self) -> float:
        least_s = self._least_and_waited_s[0] or self._first_s()
        now_s = fastest_s(self._call, _PROBES)
        self._least_and_waited_s[0] = min(FORGET * least_s, now_s)
        return now_s / self._least_and_waited_s[0]

    def _first_s(self) -> float:
        until = time.monotonic() + _patience(FIRST_PATIENCE_S)
        alone_s = least_s = float("inf")
        while least_s > ONE_CORE * alone_s or least_s == float("inf"):
            alone_s = min(alone_s, fastest_s(self._alone, _PROBES))
            least_s = min(least_s, fastest_s(self._call, _FIRST_PROBES))
            if time.monotonic() > until:
                break
        return least_s


def _patience(seconds: float) -> float:
    return 0.0 if os.environ.get(IMPATIENT) else seconds


def fastest_s(call: Callable[[], object], count: int) -> float:
    """Seconds of the fastest of `count` calls."""
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
    most_s: float = float("inf"),
) -> tuple[float, ...]:
    """Timings of one kernel, the disturbed ones left out as far as that is possible.

    Args:
        timed: Gives one timing, in seconds per call.
        slowdown: How much slower than it can the machine runs, as `Probe.slowdown`.
        repeats: How many are wanted.
        hopeless_s: A kernel that takes longer while nothing disturbs it is not timed any longer.
        most_s: No timing begins later than that many seconds after the first.

    Returns:
        `repeats` timings that agree, or the fastest of many where the machine gave no rest; fewer
        where time ran out, and only one of a hopeless kernel.
    """
    taken: list[tuple[float, float]] = []
    before = slowdown()
    start = time.monotonic()
    while len(taken) < MOST * repeats and (not taken or time.monotonic() - start < most_s):
        seconds, after = timed(), slowdown()
        taken.append((max(before, after), seconds))
        before = after
        calm = [s for slow, s in taken if slow <= CALM]
        if hopeless_s is not None and len(calm) >= HOPELESS_TIMINGS and min(calm) > hopeless_s:
            return (min(calm),)
        kept = [s for s in calm if s <= CALM * min(calm)]
        if len(kept) >= repeats:
            return tuple(kept)
        least = min(s for _, s in taken)
        alike = sorted(s for slow, s in taken if slow <= SLIGHT and s <= ALIKE * least)
        if len(taken) >= TWICE * repeats and len(alike) >= max(TWICE, repeats):
            return tuple(alike[:repeats])
    return tuple(sorted(s for _, s in taken)[:repeats])
