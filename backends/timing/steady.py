"""Timings that nothing disturbs, at the usual pace of the machine.

What else runs on a machine, or on the cores that a virtual one shares with others, makes kernels
slower for milliseconds or for seconds, and never faster.  Probes before and after a kernel tell
whether the machine runs at its full speed, and the pace of its clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from backends.timing.probe import CALM, Look

MOST = 4
"""Timings are taken for each one that is kept, at most."""

SLIGHT, TWICE, ALIKE = 1.1, 2, 1.02
"""A machine may stay a little slow for a long time: at most that much.  Once so many timings are
taken for each one that is kept, those that are so alike are believed: more would say the same."""

HOPELESS_TIMINGS = 2
"""As many must say that a kernel is hopeless: one may have been disturbed."""


class Timings(NamedTuple):
    """Timings of one kernel.

    Attributes:
        times_s: In seconds per call, at the usual pace.
        calm: Whether they say how fast the kernel is, and not how busy the machine.
        hopeless: Whether the kernel was given up.
    """

    times_s: tuple[float, ...]
    calm: bool
    hopeless: bool = False


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
    for one in _paced(timed, look, MOST * repeats, most_s):
        taken.append(one)
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


def steady_difference(
    timed: Callable[[], float],
    look: Callable[[], Look],
    repeats: int,
    most_s: float = float("inf"),
) -> tuple[float, bool]:
    """The median difference of two timings: chance makes one too small as easily as too large.

    Args:
        timed: Gives one difference, in seconds.
        look: Tells how fast the machine runs, as `Probe.look`.
        repeats: The median is that of so many, of those that were disturbed least.
        most_s: As for `steady`.

    Returns:
        Seconds, and whether nothing disturbed them.
    """
    taken: list[tuple[float, float]] = []
    for one in _paced(timed, look, MOST * repeats, most_s):
        taken.append(one)
        calm, slight = (sum(slow <= most for slow, _ in taken) for most in (CALM, SLIGHT))
        if calm >= repeats or (len(taken) >= TWICE * repeats and slight >= repeats):
            break
    chosen = sorted(taken, key=lambda one: one[0])[:repeats]
    return statistics.median(s for _, s in chosen), chosen[-1][0] <= SLIGHT


def _paced(
    timed: Callable[[], float], look: Callable[[], Look], most: int, most_s: float
) -> Iterator[tuple[float, float]]:
    """(how slow the machine was, seconds) of each timing, one at least.

    Seconds are divided by the pace of the machine meanwhile, as that of a clock varies, unless
    the machine was so busy that the probe tells nothing of it.
    """
    before, spent_s = look(), 0.0
    for number in range(most):
        if number and spent_s >= most_s:
            return
        start = time.monotonic()
        seconds = timed()
        spent_s += time.monotonic() - start
        after = look()
        slow = max(before.last, after.first)
        yield slow, seconds / ((before.pace + after.pace) / 2 if slow <= SLIGHT else 1.0)
        before = after
