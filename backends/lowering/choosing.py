"""From ranked plans to scheduled nests: the same for every kind of device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from genomes.nest import LoopNest

P = TypeVar("P")

WIDEST = 96
"""Schedules of a nest that a tuner may choose from."""


def completed(nest: LoopNest, scheduled: LoopNest) -> LoopNest:
    """`nest` with the schedules of `scheduled` where it has none."""
    pairs = zip(nest.statements, scheduled.statements, strict=True)
    return LoopNest(nest.shape, tuple(old if old.has_schedule else new for old, new in pairs))


def written(
    nest: LoopNest,
    choices: Sequence[Sequence[P]],
    write: Callable[[LoopNest, int, P], LoopNest],
) -> tuple[LoopNest, ...]:
    """`nest` with the first plan of every statement, with the second one of every statement...

    Args:
        nest: Unscheduled.
        choices: Plans of every statement, at least one each; the last one stands for those that
            a statement lacks.
        write: The nest with a plan's genes applied to the statement of that index.
    """
    schedules = []
    for rank in range(max(len(plans) for plans in choices)):
        scheduled = nest
        for index, plans in enumerate(choices):
            scheduled = write(scheduled, index, plans[min(rank, len(plans) - 1)])
        schedules.append(scheduled)
    return tuple(schedules)
