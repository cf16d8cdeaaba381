"""Nests for the tests of backends."""

from __future__ import annotations

from dataclasses import replace

from genomes.gene import Gene
from genomes.nest import ConvShape, LoopNest


def shape(channels: int = 8, size: int = 6, **changes) -> ConvShape:
    base = ConvShape(1, channels, channels, (size, size), (3, 3), padding=(1, 1, 1, 1))
    return replace(base, **changes)


def fresh(channels: int = 8, size: int = 6, **changes) -> LoopNest:
    return LoopNest.fresh(shape(channels, size, **changes))


def scheduled(nest: LoopNest, *numbers: int) -> LoopNest:
    """`nest` with a schedule that differs for different numbers; for keys, not to be built."""
    genes = tuple(Gene.of("split", loop="co", factors=(number, 2)) for number in numbers)
    return LoopNest(
        nest.shape,
        tuple(
            s.with_schedule(replace(s.scheduled(nest.shape.batch), genes=genes))
            for s in nest.statements
        ),
    )
