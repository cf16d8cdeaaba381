"""How fast the machine runs: what else runs on it makes it slower, never faster.

Fixed computations take longer while others keep the machine busy, while a virtual machine has not
all of its cores, and at a lower pace of the clock.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import statistics
import time
from collections.abc import Callable
from typing import ClassVar, NamedTuple

CALM = 1.05
"""The machine runs at its full speed when the probe takes at most so many times its least."""

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

FIRST_PATIENCE_S = 5.0
"""So long is waited at first for the machine to give all its cores, which takes two or three
seconds where a host has to move a virtual one."""

PATIENCE, PATIENCE_S = "LOOPGENE_PATIENCE", 60.0
"""The environment variable that says how long is waited at first for cores to have the cache in
common that they should have, and what it is otherwise: they may be apart for most of a minute."""

LATER, REFILL = 0.5, 1 / 120
"""The part of it that is waited for cores, close together, later in all; with every second that
passes so much of it comes back: half a second of `PATIENCE_S`."""

IMPATIENT = "LOOPGENE_IMPATIENT"
"""The environment variable under which a busy machine is not waited for."""

SHARED = "LOOPGENE_PROBE"
"""The environment variable that names a file of `SHARED_BYTES` in which the probes of several
processes keep what they know."""

FORGET = 1.00005
"""The least time of the probe grows by so much with every probe: machines get warm."""

NEARER, FORGET_NEAR = 0.9, 1.00002
"""The same for exchanges, whose time varies: one of them lowers the least by so much at most, and
cores that are far apart become usual after minutes."""

MEMORY = 20_000
"""Probes that tell what is usual: the clock's speed varies by 2 % within seconds, and what it is
at a moment is told only by comparison with a long time."""

_FIRST_PROBES = 100
_PROBES = 3
_EXCHANGES = 5
_PAUSE_S = 0.02


class Look(NamedTuple):
    """How many times as long fixed computations take as they took at least, lately.

    Attributes:
        first: At once, which tells of what has just run.
        last: When the machine has been waited for, which tells of what runs next.
        pace: At `last`, how many times as long arithmetic takes as it usually does.
    """

    first: float
    last: float
    pace: float = 1.0


class _Known(ctypes.Structure):
    """What the probes of several processes know: seconds, and how many the mean is of."""

    _fields_: ClassVar = [
        (name, ctypes.c_double)
        for name in ("least_s", "near_s", "mean_s", "mean_of", "patience_s", "since_s")
    ]
    least_s: float
    near_s: float
    mean_s: float
    mean_of: float
    patience_s: float
    since_s: float


SHARED_BYTES = ctypes.sizeof(_Known)


class Probe:
    """Fixed computations that tell how fast the machine runs.

    What they took at least and usually, and how long was waited, is known to all processes that
    are forked from the one that made it, and to those for which `SHARED` names the same file.

    Args:
        call: Runs a computation on all threads, each some ten microseconds of it.
        alone: Runs it on one thread.
        exchange: Lets every thread read what another one wrote the last time; None with one.
        together: Whether the cores should have a cache in common.
    """

    def __init__(
        self,
        call: Callable[[], object],
        alone: Callable[[], object],
        exchange: Callable[[], object] | None = None,
        together: bool = True,
    ) -> None:
        self._call = call
        self._alone = alone
        self._exchange = exchange
        self._together = together
        self._known = _Known.from_buffer(_memory())

    def look(self) -> Look:
        """Whether the machine runs at its full speed.

        Waits, but not for ever, while it is so slow that cores are missing or far apart.
        """
        known = self._known
        known.least_s *= FORGET
        known.near_s *= FORGET_NEAR
        first, pace = last, _ = self._now()
        while last > ONE_CORE and self._may_wait():
            start = time.monotonic()
            time.sleep(_PAUSE_S)
            last, pace = self._now()
            known.patience_s -= time.monotonic() - start
        return Look(first, last, pace)

    def _now(self) -> tuple[float, float]:
        """How many times as long computations take as at least, and as usually."""
        slow, seconds = self._slow()
        if self._exchange is not None and slow <= ONE_CORE:
            exchange_s = statistics.median(times_s(self._exchange, _EXCHANGES))
            again, seconds_again = self._slow()
            slow, seconds = max(slow, again), (seconds + seconds_again) / 2
            # Virtual cores that share one exchange data faster than any two cores: nothing is
            # learnt from them.
            if slow <= ONE_CORE:
                slow = max(slow, self._distance(exchange_s))
        return slow, self._pace(slow, seconds)

    def _slow(self) -> tuple[float, float]:
        """How many times as long arithmetic takes as it took at least, and its seconds."""
        known = self._known
        least_s = known.least_s or self._first_s()
        now_s = fastest_s(self._call, _PROBES)
        known.least_s = min(least_s, now_s)
        return now_s / known.least_s, now_s

    def _pace(self, slow: float, now_s: float) -> float:
        """How many times as long arithmetic takes as usually, which is learnt in passing."""
        known = self._known
        mean_s, count = known.mean_s or now_s, known.mean_of
        if slow <= CALM:
            count = min(count + 1, MEMORY)
            mean_s += (now_s - mean_s) / count
            known.mean_s, known.mean_of = mean_s, count
        return now_s / mean_s

    def _distance(self, now_s: float) -> float:
        """How many times as long an exchange takes as usual; 1 for what may be chance."""
        near_s = self._known.near_s
        self._known.near_s = min(near_s, max(now_s, NEARER * near_s))
        return now_s / near_s if now_s > FAR * near_s else 1.0

    def _may_wait(self) -> bool:
        """Whether there is patience for one more pause."""
        known, now_s = self._known, time.monotonic()
        whole_s = _patience_s()
        back_s = REFILL * whole_s * (now_s - known.since_s) if known.since_s else whole_s
        known.patience_s = min(LATER * whole_s, known.patience_s + back_s)
        known.since_s = now_s
        return known.patience_s >= _PAUSE_S

    def _first_s(self) -> float:
        until = time.monotonic() + patient_s(FIRST_PATIENCE_S)
        alone_s = least_s = float("inf")
        while least_s > ONE_CORE * alone_s or least_s == float("inf"):
            alone_s = min(alone_s, fastest_s(self._alone, _PROBES))
            least_s = min(least_s, fastest_s(self._call, _FIRST_PROBES))
            if time.monotonic() > until:
                break
        self._known.near_s = self._first_near_s(USUAL * alone_s)
        return least_s

    def _first_near_s(self, usual_s: float) -> float:
        """What an exchange takes: as usual, or what it takes here however long one waits."""
        if self._exchange is None:
            return usual_s
        until = time.monotonic() + (_patience_s() if self._together else 0.0)
        while (seen_s := fastest_s(self._exchange, _EXCHANGES)) > FAR * usual_s:
            if time.monotonic() > until:
                return seen_s
            time.sleep(_PAUSE_S)
        return usual_s


def _memory() -> mmap.mmap:
    path = os.environ.get(SHARED, "")
    if not os.path.exists(path):
        return mmap.mmap(-1, SHARED_BYTES)
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), SHARED_BYTES)


def most_waited_s(busy_s: float, patience_s: float = PATIENCE_S) -> float:
    """Whole seconds that may be waited for the machine while a kernel is timed for `busy_s`.

    Args:
        busy_s: Seconds.
        patience_s: What `PATIENCE` says to the process that times it; `PATIENCE_S` at most.
    """
    first_s, refill = FIRST_PATIENCE_S + patience_s, REFILL * patience_s
    waited_s = first_s + (LATER * patience_s + refill * busy_s) / (1 - refill)
    return math.ceil(patient_s(waited_s))


def _patience_s() -> float:
    return patient_s(min(float(os.environ.get(PATIENCE, PATIENCE_S)), PATIENCE_S))


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
