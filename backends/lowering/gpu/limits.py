"""The limits of a GPU that the genes of a schedule can break, told without TVM."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from genomes.nest import LoopNest
from genomes.schedule import Schedule

if TYPE_CHECKING:
    from backends.gpus import GpuFeatures

MAX_THREADS_Z = 64
MAX_BLOCKS_YZ = 65535
FLOAT_BYTES = 4


def broken_limit(nest: LoopNest, gpu: GpuFeatures) -> str | None:
    """What a scheduled nest asks for and `gpu` does not have, as a sentence, or None.

    What only the lowered kernel tells, shared and local memory, is checked when it is built.
    """
    for index, statement in enumerate(nest.statements):
        for broken in _broken(statement.scheduled(nest.shape.batch), gpu):
            return f"statement {index} has {broken} on {gpu.arch}"
    return None


def _broken(schedule: Schedule, gpu: GpuFeatures) -> Iterator[str]:
    extents = {x.bound: x.extent for x in schedule.loops if x.bound}
    threads = prod(n for axis, n in extents.items() if axis.startswith("threadIdx"))
    if threads > gpu.max_threads:
        yield f"{threads} threads in a block, at most {gpu.max_threads}"
    deep = extents.get("threadIdx.z", 1)
    if deep > MAX_THREADS_Z:
        yield f"{deep} threads along threadIdx.z, at most {MAX_THREADS_Z}"
    for axis in ("blockIdx.y", "blockIdx.z"):
        if extents.get(axis, 1) > MAX_BLOCKS_YZ:
            yield f"{extents[axis]} blocks along {axis}, at most {MAX_BLOCKS_YZ}"
    virtual = prod(n for axis, n in extents.items() if axis.startswith("vthread"))
    if virtual > gpu.max_vthreads:
        yield f"{virtual} virtual threads in a thread, at most {gpu.max_vthreads}"
    for loop in schedule.loops:
        if loop.mark == "vectorize" and FLOAT_BYTES * loop.extent > gpu.max_vector_bytes:
            yield (
                f"vectors of {loop.extent} elements along {loop.name}, "
                f"at most {gpu.max_vector_bytes // FLOAT_BYTES}"
            )
