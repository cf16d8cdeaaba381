"""Fixed rules of a GPU kernel for what genes do not describe."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from tvm import s_tir

FETCH_AXES = ("threadIdx.z", "threadIdx.y", "threadIdx.x")
"""How the elements of a fetch are dealt out: neighbours go to neighbouring threads."""

ROOT_THREADS = 128
MOST_UNROLLED = 64


def fetch_together(sch: s_tir.Schedule, stage: Any, axes: int, threads: Mapping[str, int]) -> None:
    """Deal the elements that `stage` fetches out to the threads of the block.

    Args:
        sch: The schedule.
        stage: The block of the fetch, at its loop.
        axes: Dimensions of the operand: so many loops belong to the fetch.
        threads: Extents of the thread axes that are bound.
    """
    fused = sch.fuse(*sch.get_loops(stage)[-axes:])
    bound = [axis for axis in FETCH_AXES if axis in threads]
    if bound:
        _, *parts = sch.split(fused, [None, *(threads[axis] for axis in bound)])
        for loop, axis in zip(parts, bound, strict=True):
            sch.bind(loop, axis)


def unroll_write_back(sch: s_tir.Schedule, write: Any, axes: int) -> None:
    """Write a thread's part of the output without loops: its accumulator stays in registers."""
    loops = sch.get_loops(write)[-axes:]
    if prod(int(sch.get(loop).extent) for loop in loops) <= MOST_UNROLLED:
        for loop in loops:
            sch.unroll(loop)


def bind_root_write(sch: s_tir.Schedule, write: Any) -> None:
    """Write the output in a kernel of its own, after that of the convolution."""
    fused = sch.fuse(*sch.get_loops(write))
    threads = min(ROOT_THREADS, int(sch.get(fused).extent))
    blocks, thread = sch.split(fused, [None, threads])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
