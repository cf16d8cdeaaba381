"""The fastest of many turns, far apart in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from engine.network import PAUSE_S

TURN_S = 0.1
"""Each kernel runs for so long in each of its turns: until its threads have found their cores."""
CALLS_S = 0.0005
"""As many calls as take so long are timed together."""


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


def _turn_s(run: Callable[[], object]) -> float:
    """Least seconds per call of one turn."""
    # The threads of the turn before stop spinning.
    time.sleep(PAUSE_S)
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
