"""Good schedules for a GPU, as genes.

Every schedule has the same form: a block computes a box of the output, a thread some channels of
some pixels of it, and the operands pass through shared memory, a few input channels at a time:

    blockIdx.x n+co.0+ho.0+wo.0:
        vthread ho.1.0, wo.1.0, threadIdx co.1.0, ho.1.1, wo.1.1:
            acc = bias                                          decompose_reduction
            for ci.0:
                shared input, weight                            shared_read
                for ci.1:
                    unroll kh, kw, co.1.1: acc += weight * input
            output = acc                                        cache_write
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.lowering.choosing import WIDEST, completed, written
from backends.lowering.geometry import statement_forms
from backends.lowering.gpu.plans import GpuPlan, ranked_plans
from genomes.gene import Gene, Value
from genomes.nest import REDUCTION_LOOPS, LoopNest
from genomes.schedule import Loop
from genomes.transformations import REGISTRY, Kind, Phase, apply

if TYPE_CHECKING:
    from backends.gpus import GpuFeatures

_CPU_ONLY = frozenset({"parallel", "compute_at", "compute_inline", "round_up"})

GPU_TRANSFORMATIONS = frozenset(
    name
    for name, t in REGISTRY.items()
    if t.phase is Phase.DOMAIN or (t.kind is not Kind.NEURAL and name not in _CPU_ONLY)
)
"""Names of the transformations that lower to a GPU kernel."""

CANDIDATES = 10
PLANS_PER_BLOCK = 2

MOST_UNROLLED = 256


def default_schedule(nest: LoopNest, gpu: GpuFeatures) -> LoopNest:
    """`nest` with the schedule of the best estimate for every statement that has none."""
    if all(s.has_schedule for s in nest.statements):
        return nest
    return completed(nest, _ranked(nest.unscheduled(), gpu, 1)[0])


def schedule_candidates(nest: LoopNest, gpu: GpuFeatures) -> tuple[LoopNest, ...]:
    """Schedules worth measuring for the statements that have none, the default first."""
    ranked = _ranked(nest.unscheduled(), gpu, CANDIDATES)
    return tuple(dict.fromkeys(completed(nest, candidate) for candidate in ranked))


def schedule_space(nest: LoopNest, gpu: GpuFeatures) -> tuple[LoopNest, ...]:
    """All schedules that the estimate knows, best first, for the statements that have none."""
    forms = statement_forms(nest.unscheduled(), padded_as_read=True)
    choices = [ranked_plans(form, gpu)[:WIDEST] for form in forms]
    ranked = written(nest.unscheduled(), choices, _write)
    return tuple(dict.fromkeys(completed(nest, candidate) for candidate in ranked))


@functools.lru_cache(maxsize=4096)
def _ranked(nest: LoopNest, gpu: GpuFeatures, count: int) -> tuple[LoopNest, ...]:
    """Up to `count` schedules of an unscheduled nest, best estimate first."""
    forms = statement_forms(nest, padded_as_read=True)
    choices = [_diverse(ranked_plans(form, gpu), count) for form in forms]
    return written(nest, choices, _write)


def _diverse(plans: Sequence[GpuPlan], count: int) -> list[GpuPlan]:
    """The first plans, few for each shape of a block."""
    chosen: list[GpuPlan] = []
    uses: dict[tuple[int, ...], int] = {}
    for plan in plans:
        block = (plan.channels_of_block, plan.rows_of_block, plan.columns_of_block)
        if uses.get(block, 0) < PLANS_PER_BLOCK:
            chosen.append(plan)
            uses[block] = uses.get(block, 0) + 1
            if len(chosen) == count:
                break
    return chosen


def _write(nest: LoopNest, index: int, plan: GpuPlan) -> LoopNest:
    return _Writer(nest, index).write(plan)


class _Writer:
    """Writes a plan as genes of one statement."""

    def __init__(self, nest: LoopNest, index: int) -> None:
        self._nest = nest
        self._index = index

    def write(self, plan: GpuPlan) -> LoopNest:
        """The nest with the plan's genes applied."""
        channels, channel = self._split("co", plan.channels_of_block)
        rows, row = self._split("ho", plan.rows_of_block)
        columns, column = self._split("wo", plan.columns_of_block)
        channel, registers = self._halves(channel, plan.channels_each)
        virtual_rows, row = self._halves(row, plan.rows)
        virtual_columns, column = self._halves(column, plan.columns)
        inputs, input_ = self._split("ci", plan.inputs) if plan.inputs else (["ci"], [])
        blocks = ["n", *channels, *rows, *columns]
        axes = {
            "vthread.y": virtual_rows,
            "vthread.x": virtual_columns,
            "threadIdx.z": channel,
            "threadIdx.y": row,
            "threadIdx.x": column,
        }
        bound = [loop for loops in axes.values() for loop in loops]
        inner = [*input_, *REDUCTION_LOOPS[1:], *registers]
        order = [*blocks, *bound, *inputs, *inner]
        if order != list(self._loops()):
            self._do("interchange", order=tuple(order))
        if len(blocks) > 1:
            self._do("fuse", loops=tuple(blocks))
        self._do("bind", loop="+".join(blocks), axis="blockIdx.x")
        for axis, loops in axes.items():
            for loop in loops:
                self._do("bind", loop=loop, axis=axis)
        self._do("cache_write", loop=["+".join(blocks), *bound][-1])
        for operand in ("input", "weight") if plan.inputs else ():
            self._do("shared_read", operand=operand, loop=inputs[0])
        self._unroll(inner)
        self._do("decompose_reduction", loop=inputs[0])
        return self._nest

    def _split(self, loop: str, factor: int) -> tuple[list[str], list[str]]:
        """The loop over parts of `factor` iterations and the loop inside, where there are any."""
        extent = self._loops()[loop].extent
        if factor == extent:
            return [], [loop]
        if factor == 1:
            return [loop], []
        self._do("split", loop=loop, factor=factor)
        return [f"{loop}.0"], [f"{loop}.1"]

    def _halves(self, loops: list[str], factor: int) -> tuple[list[str], list[str]]:
        """The same for a loop that need not be there."""
        return self._split(loops[0], factor) if loops else ([], [])

    def _unroll(self, inner: Sequence[str]) -> None:
        """Unroll the innermost loops, from the inside, as far as the code stays short."""
        loops = self._loops()
        copies = 1
        for loop in reversed(inner):
            copies *= loops[loop].extent
            if copies > MOST_UNROLLED:
                return
            if loops[loop].extent > 1:
                self._do("unroll", loop=loop)

    def _loops(self) -> dict[str, Loop]:
        statement = self._nest.statements[self._index]
        return {loop.name: loop for loop in statement.scheduled(self._nest.shape.batch).loops}

    def _do(self, op: str, **args: Value) -> None:
        self._nest = apply(self._nest, Gene.of(op, self._index, **args))
