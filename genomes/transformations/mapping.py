"""Mapping transformations: loops bound to the threads and memories of a GPU."""

from __future__ import annotations

from math import prod

from genomes.errors import require
from genomes.nest import LoopNest
from genomes.schedule import BOUND, Schedule
from genomes.transformations.arguments import LoopName, OneOf
from genomes.transformations.program import (
    check_anchors,
    marked,
    placed,
    position,
    rescheduled,
)
from genomes.transformations.registry import Kind, Phase, transformation

THREAD_AXES = (
    *(f"blockIdx.{d}" for d in "xyz"),
    *(f"threadIdx.{d}" for d in "xyz"),
    *(f"vthread.{d}" for d in "xyz"),
)
MAX_THREADS = 1024


@transformation(
    kind=Kind.MAPPING,
    phase=Phase.SCHEDULE,
    primitive="Schedule.bind",
    also_called=("gpu_blocks / gpu_threads (Halide)", "virtual thread"),
    loop=LoopName(),
    axis=OneOf(THREAD_AXES),
)
def bind(nest: LoopNest, index: int, loop: str, axis: str) -> LoopNest:
    """Run the iterations of a loop on the blocks, threads or virtual threads of a GPU.

    rewrite:
        for i in N:         i = blockIdx.x
            S(i)        ->  S(i)
    """

    def edit(schedule: Schedule) -> Schedule:
        at = position(schedule, loop)
        require(not schedule.loops[at].reduction, f"{loop} is a reduction loop")
        taken = [x.name for x in schedule.loops if x.bound == axis]
        require(not taken, f"{axis} is bound to {', '.join(taken)} already")
        new = marked(schedule, loop, f"{BOUND}{axis}")
        threads = prod(x.extent for x in new.loops if x.bound.startswith("threadIdx"))
        require(threads <= MAX_THREADS, f"{threads} threads in a block; at most {MAX_THREADS}")
        check_anchors(new)
        return new

    return rescheduled(nest, index, edit, "bind", loop=loop, axis=axis)


@transformation(
    kind=Kind.MAPPING,
    phase=Phase.SCHEDULE,
    primitive="Schedule.cache_read to shared memory, cooperative fetch",
    also_called=("shared-memory tiling",),
    operand=OneOf(("input", "weight")),
    loop=LoopName(),
)
def shared_read(nest: LoopNest, index: int, operand: str, loop: str) -> LoopNest:
    """Fetch what one iteration of `loop` needs of an operand into shared memory, cooperatively.

    rewrite:
        for k in K:             for k in K:
            S(I[...])       ->      shared L = I[the part], by all threads of the block
                                    S(L[...])
    """
    role = f"shared:{operand}"

    def edit(schedule: Schedule) -> Schedule:
        blocks = any(x.bound.startswith("blockIdx") for x in schedule.loops)
        require(blocks, "no loop is bound to a block: bind comes before shared_read")
        return placed(schedule, role, loop)

    return rescheduled(nest, index, edit, "shared_read", operand=operand, loop=loop)
