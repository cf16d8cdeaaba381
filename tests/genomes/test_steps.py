"""What loops step over, against the elements that their iterations reach."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given

from genomes.gene import Gene
from genomes.nest import ConvShape, LoopNest
from genomes.schedule import Loop, Schedule
from genomes.steps import gap
from genomes.transformations import apply, sample_gene
from tests.strategies import generators

FRESH = LoopNest.fresh(ConvShape(2, 1, 4, (3, 4), (1, 1)))
EXTENTS = (2, 4, 3, 4)


def schedule_of(nest: LoopNest) -> Schedule:
    return nest.statements[0].scheduled(nest.shape.batch)


def after(*genes: Gene) -> Schedule:
    nest = FRESH
    for gene in genes:
        nest = apply(nest, gene)
    return schedule_of(nest)


def rearranged(points: np.ndarray, old: Schedule, new: Schedule) -> np.ndarray:
    """Elements by iteration, one axis for each loop, after the last gene of `new`."""
    names = [loop.name for loop in old.loops]
    if new.genes[-1].op == "interchange":
        return points.transpose([names.index(loop.name) for loop in new.loops])
    return points.reshape([loop.extent for loop in new.loops])


def is_box(elements: np.ndarray, flat: bool) -> bool:
    sizes = (2, 4, 12) if flat else EXTENTS
    at = np.unravel_index(elements.ravel(), sizes)
    return bool(np.prod([np.ptp(x) + 1 for x in at]) == elements.size)


@given(generators)
def test_loops_without_a_gap_reach_a_box(rng: random.Random) -> None:
    nest, points = FRESH, np.arange(np.prod(EXTENTS)).reshape(*EXTENTS, 1, 1, 1)
    fused = False
    for _ in range(rng.randint(1, 10)):
        found = sample_gene(nest, ("split", "fuse", "interchange"), rng)
        if found is None:  # by chance, where hardly a gene applies
            break
        points = rearranged(points, schedule_of(nest), schedule_of(found[1]))
        nest, fused = found[1], fused or found[0].op == "fuse"
    schedule = schedule_of(nest)
    at = rng.randrange(len(schedule.loops) + 1)
    steps = [step for loop in schedule.loops[at:] for step in loop.steps]
    outer = points.shape[:at]
    boxes = [is_box(points[index], schedule.flat) for index in np.ndindex(*outer)]
    if gap(steps) is None:
        assert all(boxes)
    elif not fused:
        assert not all(boxes)


def inner(schedule: Schedule, *names: str) -> tuple[Loop, ...]:
    return tuple(loop for loop in schedule.loops if loop.name in names)


def left_out(*loops: Loop) -> tuple[int, int, str] | None:
    step = gap([step for loop in loops for step in loop.steps])
    return step and (step.extent, step.stride, step.axis.name)


SPLIT = Gene.of("split", loop="wo", factor=2)


def test_a_fused_loop_is_whole_again_with_both_of_its_halves() -> None:
    cut = after(Gene.of("fuse", loops=("co", "ho")), Gene.of("split", loop="co+ho", factor=2))
    assert left_out(*inner(cut, "co+ho.1")) == (2, 1, "co x ho")
    assert left_out(*inner(cut, "co+ho.0", "co+ho.1")) is None


def test_halves_fused_again_are_one_step() -> None:
    again = after(SPLIT, Gene.of("fuse", loops=("wo.0", "wo.1")))
    (loop,) = inner(again, "wo.0+wo.1")
    assert loop.steps == schedule_of(FRESH).loops[3].steps


@pytest.mark.parametrize(
    ("genes", "flat"),
    [
        ((), False),
        ((Gene.of("fuse", loops=("ho", "wo")),), True),
        ((Gene.of("fuse", loops=("co", "ho")), Gene.of("fuse", loops=("co+ho", "wo"))), True),
        ((SPLIT, Gene.of("fuse", loops=("ho", "wo.0"))), False),
    ],
)
def test_rows_and_columns_are_one_dimension_when_fused_whole(genes, flat) -> None:
    assert after(*genes).flat == flat
