"""Timings that nothing disturbs.

What else runs on a machine, or on the cores that a virtual one shares with others, makes kernels
slower for milliseconds or for seconds, and never faster.  Fixed computations that are timed
before and after a kernel tell whether the machine runs at its full speed.
"""

from __future__ import annotations

import math
import mmap
import os
import statistics
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

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

FAR = 1.7
"""Threads that take so many times as long to exchange data have no cache in common any more:
the cores of a virtual machine may be moved apart for seconds.  Arithmetic is as fast as before,
and kernels that wait for each other's data take up to twice as long."""

USUAL = 0.5
"""An exchange takes about so many times as long as arithmetic on one thread where cores have a
cache in common (0.46 on Zen 5; up to 1.4 where they have none).  That is taken for usual at first,
unless waiting does not help."""

FIRST_PATIENCE_S, PATIENCE_S, REFILL = 5.0, 8.0, 0.25
"""So long is waited for the machine to give all its cores at first, which takes two or three
seconds where a host has to move a virtual one, and so long for them, close together, at first and
later in all; of every second that passes so much comes back."""

IMPATIENT = "LOOPGENE_IMPATIENT"
"""The environment variable under which a busy machine is not waited for."""

FORGET = 1.00005
"""The least time of the probe grows by so much with every probe: machines get warm."""

NEARER, FORGET_NEAR = 0.9, 1.0005
"""The same for exchanges, whose time varies: one of them lowers the least by so much at most."""

_FIRST_PROBES = 100
_PROBES = 3
_EXCHANGES = 5
_PAUSE_S = 0.02
_LEAST, _NEAR, _LEFT, _SINCE = range(4)


class Look(NamedTuple):
    """How many times as long a fixed computation takes as it took at least, lately.

    Attributes:
        first: At once, which tells of what has just run.
        last: When the machine has been waited for, which tells of what runs next.
    """

    first: float
    last: float


class Timings(NamedTuple):
    """Timings of one kernel.

    Attributes:
        times_s: In seconds per call.
        calm: Whether they say how fast the kernel is, and not how busy the machine.
        hopeless: Whether the kernel was given up.
    """

    times_s: tuple[float, ...]
    calm: bool
    hopeless: bool = False


class Probe:
    """Fixed computations that tell how fast the machine runs.

    What they took at least, and how long was waited, is known to all processes that are
    forked from the one that made it.

    Args:
        call: Runs a computation on all threads, each some ten microseconds of it.
        alone: Runs it on one thread.
        exchange: Lets every thread read what another one wrote the last time; None with one.
    """

    def __init__(
        self,
        call: Callable[[], object],
        alone: Callable[[], object],
        exchange: Callable[[], object] | None = None,
    ) -> None:
        self._call = call
        self._alone = alone
        self._exchange = exchange
        shared = memoryview(mmap.mmap(-1, 4 * struct.calcsize("d")))
        self._shared = shared.cast("d")

    def look(self) -> Look:
        """Whether the machine runs at its full speed.

        Waits, but not for ever, while it is so slow that cores are missing or far apart.
        """
        self._shared[_LEAST] *= FORGET
        self._shared[_NEAR] *= FORGET_NEAR
        first = last = self._now()
        while last > ONE_CORE and self._may_wait():
            time.sleep(_PAUSE_S)
            last = self._now()
        return Look(first, last)

    def _now(self) -> float:
        slow = self._slow()
        if self._exchange is None or slow > ONE_CORE:
            return slow
        exchange_s = statistics.median(times_s(self._exchange, _EXCHANGES))
        slow = max(slow, self._slow())
        # Virtual cores that share one exchange data faster than any two cores: nothing is learnt
        # from them.
        return slow if slow > ONE_CORE else max(slow, self._distance(exchange_s))

    def _slow(self) -> float:
        """How many times as long arithmetic takes as it took at least."""
        least_s = self._shared[_LEAST] or self._first_s()
        now_s = fastest_s(self._call, _PROBES)
        self._shared[_LEAST] = min(least_s, now_s)
        return now_s / self._shared[_LEAST]

    def _distance(self, now_s: float) -> float:
        """How many times as long an exchange takes as usual; 1 for what may be chance."""
        near_s = self._shared[_NEAR]
        self._shared[_NEAR] = min(near_s, max(now_s, NEARER * near_s))
        return now_s / near_s if now_s > FAR * near_s else 1.0

    def _may_wait(self) -> bool:
        """Whether there is patience for one more pause, which is taken off."""
        now_s = time.monotonic()
        since_s = self._shared[_SINCE]
        back_s = REFILL * (now_s - since_s) if since_s else PATIENCE_S
        left_s = min(patient_s(PATIENCE_S), self._shared[_LEFT] + back_s)
        may_wait = left_s >= _PAUSE_S
        self._shared[_LEFT] = left_s - _PAUSE_S if may_wait else left_s
        self._shared[_SINCE] = now_s
        return may_wait

    def _first_s(self) -> float:
        until = time.monotonic() + patient_s(FIRST_PATIENCE_S)
        alone_s = least_s = float("inf")
        while least_s > ONE_CORE * alone_s or least_s == float("inf"):
            alone_s = min(alone_s, fastest_s(self._alone, _PROBES))
            least_s = min(least_s, fastest_s(self._call, _FIRST_PROBES))
            if time.monotonic() > until:
                break
        self._shared[_NEAR] = self._first_near_s(USUAL * alone_s)
        return least_s

    def _first_near_s(self, usual_s: float) -> float:
        """What an exchange takes: as usual, or what it takes here however long one waits."""
        if self._exchange is None:
            return usual_s
        until = time.monotonic() + patient_s(PATIENCE_S)
        while (seen_s := fastest_s(self._exchange, _EXCHANGES)) > FAR * usual_s:
            if time.monotonic() > until:
                return seen_s
            time.sleep(_PAUSE_S)
        return usual_s


def most_waited_s(busy_s: float) -> float:
    """Whole seconds that may be waited for the machine while a kernel is timed for `busy_s`."""
    first_s = FIRST_PATIENCE_S + PATIENCE_S
    waited_s = first_s + (PATIENCE_S + REFILL * busy_s) / (1 - REFILL)
    return math.ceil(patient_s(waited_s))


def is_impatient() -> bool:
    """Whether a busy machine is not waited for."""
    return bool(os.environ.get(IMPATIENT))


def patient_s(seconds: float) -> float:
    """`seconds`, or none where a busy machine is not waited for."""
    return 0.0 if is_impatient() else seconds


def fastest_s(call: Callable[[], object], count: int) -> float:
    """Seconds of the fastest of `count` calls."""
    return min(times_s(call, count))


def times_s(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    taken_s = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        taken_s.append(time.perf_counter() - start)
    return taken_s


def steady(
    timed: Callable[[], float],
    look: Callable[[], Look],
    repeats: int,
    hopeless_s: float | None = None,
    most_s: float = float("inf"),
) -> Timings:
    """Timings of one kernel, the disturbed ones left out as far as that is possible.

    Args:
        timed: Gives one timing, in seconds per call.
        look: Tells how fast the machine runs, as `Probe.look`.
        repeats: How many are wanted.
        hopeless_s: A kernel that takes longer while nothing disturbs it is not timed any longer.
        most_s: No timing begins after so many seconds of timing; waiting does not count.

    Returns:
        `repeats` timings that agree, or the fastest of many where the machine gave no rest; fewer
        where time ran out, and only one of a hopeless kernel.
    """
    taken: list[tuple[float, float]] = []
    before, spent_s = look().last, 0.0
    while len(taken) < MOST * repeats and (not taken or spent_s < most_s):
        start = time.monotonic()
        seconds = timed()
        spent_s += time.monotonic() - start
        after = look()
        taken.append((max(before, after.first), seconds))
        before = after.last
        calm = [s for slow, s in taken if slow <= CALM]
        if hopeless_s is not None and len(calm) >= HOPELESS_TIMINGS and min(calm) > hopeless_s:
            return Timings((min(calm),), calm=True, hopeless=True)
        kept = [s for s in calm if s <= CALM * min(calm)]
        if len(kept) >= repeats:
            return Timings(tuple(kept), calm=True)
        least = min(s for _, s in taken)
        alike = sorted(s for slow, s in taken if slow <= SLIGHT and s <= ALIKE * least)
        if len(taken) >= TWICE * repeats and len(alike) >= max(TWICE, repeats):
            return Timings(tuple(alike[:repeats]), calm=True)
    chosen = sorted(taken, key=lambda one: one[1])[:repeats]
    return Timings(tuple(s for _, s in chosen), all(slow <= SLIGHT for slow, _ in chosen))
