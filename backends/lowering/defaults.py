"""Good schedules for the CPU, as genes.

Every schedule has the same form: a register tile, the reduction loops around it, and the loops
over tiles outside, of which the outer ones are fused and run in parallel:

    parallel n+co.0+ho.0:                                       round_up, if no tile is good
        for wo.0:
            acc = bias                                          decompose_reduction
            for ci, kh:
                unroll kw, ho.1, wo.1:
                    if the input is no padding:                 compute_inline
                        vectorize co.1: acc += weight * input   pack weight, pack accumulator
            output = acc                                        cache_write

Where tiles of channels share what they read of the input, the loops over pixels are outside, and
the input's tile may be copied for all channels (`prefetch`).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.lowering.choosing import WIDEST, completed, written
from backends.lowering.geometry import StatementForm, statement_forms
from backends.lowering.plans import Pads, Plan, ranked_plans
from backends.lowering.tiles import MOST_UNROLLED, Tile
from genomes.gene import Gene, Value
from genomes.nest import REDUCTION_LOOPS, LoopNest
from genomes.schedule import Loop
from genomes.transformations import REGISTRY, Kind, Phase, apply

if TYPE_CHECKING:
    from backends.devices import CpuFeatures

CPU_TRANSFORMATIONS = frozenset(
    name for name, t in REGISTRY.items() if t.phase is Phase.DOMAIN or t.kind is Kind.PROGRAM
)
"""Names of the transformations that lower to a CPU kernel."""

COLUMNS_OUTSIDE = ("ci", "kw", "kh")
"""The reduction where the taps of a column share their loads, with one condition on the columns.
With a stride, those of a row share them."""
CANDIDATES = 10
PLANS_PER_TILE = 2
MOST_LOST = 1 / 3
"""Channels are not rounded up by more of them."""


def default_schedule(nest: LoopNest, features: CpuFeatures) -> LoopNest:
    """`nest` with the schedule of the best estimate for every statement that has none."""
    if all(s.has_schedule for s in nest.statements):
        return nest
    return completed(nest, _ranked(nest.unscheduled(), features, 1)[0])


def schedule_candidates(nest: LoopNest, features: CpuFeatures) -> tuple[LoopNest, ...]:
    """Schedules worth measuring for the statements that have none, the default first."""
    ranked = _ranked(nest.unscheduled(), features, CANDIDATES)
    return tuple(dict.fromkeys(completed(nest, candidate) for candidate in ranked))


def schedule_space(nest: LoopNest, features: CpuFeatures) -> tuple[LoopNest, ...]:
    """All schedules that the estimate knows, best first, for the statements that have none."""
    choices = [plans[:WIDEST] for plans in _plans(nest.unscheduled(), features)]
    ranked = written(nest.unscheduled(), choices, _write)
    return tuple(dict.fromkeys(completed(nest, candidate) for candidate in ranked))


@functools.lru_cache(maxsize=4096)
def _ranked(nest: LoopNest, features: CpuFeatures, count: int) -> tuple[LoopNest, ...]:
    """Up to `count` schedules of an unscheduled nest, best estimate first."""
    choices = [_diverse(plans, count) for plans in _plans(nest, features)]
    return written(nest, choices, _write)


def _plans(nest: LoopNest, features: CpuFeatures) -> list[list[Plan]]:
    """The plans of every statement of an unscheduled nest, best estimate first."""
    forms = statement_forms(nest)
    sharers = Counter(form.copy for form in forms)
    return [
        ranked_plans([form, *_rounded(nest, form, features)], features, sharers[form.copy])
        for form in forms
    ]


def _rounded(nest: LoopNest, form: StatementForm, features: CpuFeatures) -> list[StatementForm]:
    """A statement with its channels rounded up, if they fill no vectors as they are."""
    lanes, kept = features.lanes, form.kept_channels
    fills = kept < lanes or kept % max(1, lanes // 2) == 0
    if fills or -kept % lanes > MOST_LOST * kept:
        return []
    more = apply(nest, Gene.of("round_up", form.index, factor=lanes))
    return [statement_forms(more)[form.index]]


def _diverse(plans: Sequence[Plan], count: int) -> list[Plan]:
    """The first plans, few for each tile and at least a third of each sort if there are any."""
    chosen: list[Plan] = []
    uses: dict[Tile | bool, int] = {}
    most = {True: count - count // 3, False: count - count // 3}
    for plan in plans:
        sort = plan.tile.by_channel
        if uses.get(plan.tile, 0) < PLANS_PER_TILE and uses.get(sort, 0) < most[sort]:
            chosen.append(plan)
            uses[plan.tile] = uses.get(plan.tile, 0) + 1
            uses[sort] = uses.get(sort, 0) + 1
    return chosen[:count]


def _write(nest: LoopNest, index: int, plan: Plan) -> LoopNest:
    return _Writer(nest, index).write(plan)


class _Writer:
    """Writes a plan as genes of one statement."""

    def __init__(self, nest: LoopNest, index: int) -> None:
        self._nest = nest
        self._index = index

    def write(self, plan: Plan) -> LoopNest:
        """The nest with the plan's genes applied."""
        tile, form = plan.tile, statement_forms(self._nest)[self._index]
        outer, inner = self._tiled(plan)
        reduction = REDUCTION_LOOPS
        if plan.pads is Pads.AT_TAPS and form.taps_share_columns:
            reduction = COLUMNS_OUTSIDE
        loops = [*outer, *reduction, *inner]
        if loops != list(self._loops()):
            self._do("interchange", order=tuple(loops))
        fused = outer[: plan.fused]
        if len(fused) > 1:
            self._do("fuse", loops=tuple(fused))
        outer = ["+".join(fused), *outer[plan.fused :]]
        self._do("cache_write", loop=outer[-1])
        if plan.pads is Pads.AT_TILES:
            if tile.reads_copy(form):
                self._do("compute_at", loop=outer[0])
            else:
                self._do("prefetch", operand="input", loop=outer[0])
        elif plan.pads is Pads.AT_TAPS:
            self._do("compute_at", loop="kw")
        elif plan.pads is Pads.INLINE:
            self._do("compute_inline")
        if tile.channels > 1:
            lanes = tile.width if tile.by_channel else tile.channels
            self._do("pack", operand="weight", lanes=lanes)
        if tile.by_channel:
            self._do("pack", operand="accumulator", lanes=tile.width)
        if plan.parallel:
            self._do("parallel", loop=outer[0])
        if tile.width > 1:
            self._do("vectorize", loop=inner[-1])
        self._unroll(inner, reduction)
        self._do("decompose_reduction", loop=REDUCTION_LOOPS[0])
        return self._nest

    def _tiled(self, plan: Plan) -> tuple[list[str], list[str]]:
        """Split the spatial loops; (loops over tiles, loops of a tile), outermost first."""
        tile = plan.tile
        if plan.rounded:
            self._do("round_up", factor=plan.rounded)
        channels, channel = self._split("co", tile.channels)
        if tile.flat:
            self._do("fuse", loops=("ho", "wo"))
            rows, row = list[str](), list[str]()
            columns, column = self._split("ho+wo", tile.columns)
        else:
            rows, row = self._split("ho", tile.rows)
            columns, column = self._split("wo", tile.columns)
        pixels = [*rows, *columns]
        outer = ["n", *pixels, *channels] if plan.pixels_first else ["n", *channels, *pixels]
        if tile.by_channel:
            registers, lane = self._split(channel[0], tile.width) if channel else ([], [])
            return outer, [*row, *column, *registers, *lane]
        vectors, vector = self._split(column[0], tile.width) if column else ([], [])
        if tile.channels > tile.rows * (tile.columns // tile.width):
            # The operand with fewer registers is kept in them; LLVM does not reorder the loads.
            return outer, [*channel, *row, *vectors, *vector]
        return outer, [*row, *channel, *vectors, *vector]

    def _split(self, loop: str, factor: int) -> tuple[list[str], list[str]]:
        """The loop over parts of `factor` iterations and the loop inside, where there are any."""
        extent = self._loops()[loop].extent
        if factor == extent:
            return [], [loop]
        if factor == 1:
            return [loop], []
        self._do("split", loop=loop, factor=factor)
        return [f"{loop}.0"], [f"{loop}.1"]

    def _unroll(self, inner: Sequence[str], reduction: Sequence[str]) -> None:
        """Unroll the tile and reduction loops around it, from the inside: no loop is copied."""
        loops = self._loops()
        copies = 1
        for loop in reversed(inner):
            if loops[loop].extent > 1 and not loops[loop].mark:
                self._do("unroll", loop=loop)
                copies *= loops[loop].extent
        for loop in reversed(reduction):
            copies *= loops[loop].extent
            if copies > MOST_UNROLLED:
                return
            if loops[loop].extent > 1 and loop != "ci":
                self._do("unroll", loop=loop)

    def _loops(self) -> dict[str, Loop]:
        statement = self._nest.statements[self._index]
        return {loop.name: loop for loop in statement.scheduled(self._nest.shape.batch).loops}

    def _do(self, op: str, **args: Value) -> None:
        self._nest = apply(self._nest, Gene.of(op, self._index, **args))
