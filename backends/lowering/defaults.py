"""Good schedules for the CPU, as genes.

Every schedule has the same form: a register tile, the reduction loops around it, and the loops
over tiles outside, of which the outer ones are fused and run in parallel:

    parallel n+co.0+ho.0:
        wo.0:
            acc = bias                                      decompose_reduction
            ci, kh:
                unroll kw, ho.1, wo.1:
                    vectorize co.1: acc += weight * input   pack(weight), pack(accumulator)
            output = acc                                    cache_write
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import TYPE_CHECKING

from backends.lowering.geometry import StatementForm, statement_forms
from backends.lowering.tiles import (
    PAD_SLOTS,
    PARALLEL_SLOTS,
    Tile,
    tile_slots,
    tiles,
)
from genomes.gene import Gene, Value
from genomes.nest import REDUCTION_LOOPS, LoopNest, Statement
from genomes.transformations import REGISTRY, Kind, Phase, apply

if TYPE_CHECKING:
    from backends.devices import CpuFeatures

CPU_TRANSFORMATIONS = frozenset(
    name for name, t in REGISTRY.items() if t.phase is Phase.DOMAIN or t.kind is Kind.PROGRAM
)
"""Names of the transformations that lower to a CPU kernel."""

CANDIDATES = 10
MOST_UNROLLED = 96
"""Multiply-adds in the body of the innermost reduction loop that stays a loop."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule in outline.

    Attributes:
        tile: What is computed in registers.
        fused: How many of the loops n, co, ho, wo over tiles are fused.
        pads_inside: Whether the input is padded inside the fused loop, else beforehand.
        parallel: Whether the fused loop is parallel.
    """

    tile: Tile
    fused: int
    pads_inside: bool
    parallel: bool


def default_schedule(nest: LoopNest, features: CpuFeatures) -> LoopNest:
    """`nest` with the best estimated schedule for every statement that has none."""
    if all(s.has_schedule for s in nest.statements):
        return nest
    fresh = _default(nest.unscheduled(), features)
    kept = [
        old if old.has_schedule else new
        for old, new in zip(nest.statements, fresh.statements, strict=True)
    ]
    return LoopNest(nest.shape, tuple(kept))


def schedule_candidates(nest: LoopNest, features: CpuFeatures) -> tuple[LoopNest, ...]:
    """Schedules worth measuring for the statements without one, the default first."""
    fresh = _candidates(nest.unscheduled(), features)
    merged = []
    for candidate in fresh:
        pairs = zip(nest.statements, candidate.statements, strict=True)
        statements = tuple(old if old.has_schedule else new for old, new in pairs)
        merged.append(LoopNest(nest.shape, statements))
    return tuple(dict.fromkeys(merged))
