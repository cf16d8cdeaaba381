"""Functions that are timed in turns, so that drift of the machine meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil

from backends.timing import Look, is_impatient, steady

ROUND_S = 0.02
"""Each network runs for at least so long in every round."""
SETTLE_S = 0.25
"""Each network runs for so long outside the clock before each of its turns: as long as it takes
until its threads have found their cores again."""

TURN_S = 0.1
"""Each kernel runs for so long in each of its turns: until its threads have found their cores."""
CALLS_S = 0.0005
"""As many calls as take so long are timed together."""

LOOK_S, LONGEST_REST_S = 0.01, 1.0
"""How long `rest` looks at the threads each time, and how long it waits for them at most."""
IDLE = 0.2
"""Threads that use less than this part of a core are at rest."""


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    settle_s: float = SETTLE_S,
    look: Callable[[], Look] | None = None,
    rested: bool = False,
) -> dict[str, list[float]]:
    """Time functions in turns.

    Args:
        runs: Functions by name.
        rounds: Turns of each.
        settle_s: Each runs for so long outside the clock before each of its turns.
        look: Tells how fast the machine runs, as `Probe.look`; a turn in which it was disturbed is
            repeated, and seconds are those of the machine's usual pace. It must not leave threads
            behind that disturb the functions.
        rested: Whether all threads `rest` before each turn; those that share the threads of one
            pool need no rest.

    Returns:
        For each function, seconds per call, one entry for each round.
    """
    counts: dict[str, int] = {}
    for name, run in runs.items():
        if rested:
            rest()
        run()
        start = time.perf_counter()
        run()
        once = max(time.perf_counter() - start, 1e-7)
        counts[name] = max(1, round(ROUND_S / once))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            if rested:
                rest()
            # The scheduler has to find out which threads belong on which core; until then a call
            # takes twice as long.
            settled = time.perf_counter() + settle_s
            run()
            while time.perf_counter() < settled:
                run()
            times[name].append(_calm_s(run, counts[name], look))
    return times


def least_s(
    runs: Mapping[str, Mapping[str, Callable[[], object]]], rounds: int
) -> dict[str, dict[str, float]]:
    """Least seconds per call of every way to compute every workload.

    A round has one turn of everything: what disturbs the machine for seconds meets one turn of a
    workload, not all of them.

    Args:
        runs: Functions by workload and by name; those of one workload are timed in turns.
        rounds: Turns of each.
    """
    least = {workload: dict.fromkeys(ways, float("inf")) for workload, ways in runs.items()}
    for _ in range(rounds):
        for workload, ways in runs.items():
            for name, run in ways.items():
                least[workload][name] = min(least[workload][name], _turn_s(run))
    return least


def rest() -> None:
    """Wait until the threads of this process sleep, for a second at most.

    Those of a pool spin when their work is done, TVM's for 0.15 s; what is timed meanwhile may
    have one core less.
    """
    ends = time.perf_counter() + LONGEST_REST_S
    used_s = LOOK_S
    while used_s > IDLE * LOOK_S and time.perf_counter() < ends:
        before_s = time.process_time()
        time.sleep(LOOK_S)
        used_s = time.process_time() - before_s


def quiet(times: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The quieter half of the turns: those in which all functions together were fast.

    Caches and memory that others use, too, make everything slower for some turns.

    Args:
        times: From `interleaved`.
    """
    if not times:
        return {}
    relative = [[s / statistics.median(values) for s in values] for values in times.values()]
    noise = [sum(turn) for turn in zip(*relative, strict=True)]
    kept = sorted(range(len(noise)), key=lambda turn: noise[turn])[: ceil(len(noise) / 2)]
    return {name: [values[turn] for turn in sorted(kept)] for name, values in times.items()}


def _calm_s(run: Callable[[], object], count: int, look: Callable[[], Look] | None) -> float:
    """Seconds of one of `count` calls, by an undisturbed attempt or the fastest of some.

    The first one counts where a busy machine is not waited for.
    """

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - start) / count

    return timed() if look is None or is_impatient() else steady(timed, look, 1).times_s[0]


def _turn_s(run: Callable[[], object]) -> float:
    """Least seconds per call of one turn."""
    rest()
    run()
    start = now = time.perf_counter()
    calls, least = 1, float("inf")
    while now - start < TURN_S:
        for _ in range(calls):
            run()
        before, now = now, time.perf_counter()
        least = min(least, (now - before) / calls)
        calls = max(1, round(CALLS_S / least))
    return least
