"""A default CPU schedule for everything in a network that is no site."""

from __future__ import annotations

from math import gcd, prod
from typing import Any

from backends.network.parts import by_parts, find_cuts, greatest_divisor

SCHEDULED = "tirx.is_scheduled"
PARALLEL_FROM = 1 << 15
"""Elements from which several threads pay for one elementwise or pooling stage."""

ACCUMULATORS = 8
"""Vectors that one loop accumulates in registers, at most."""

UNROLLED = 8
"""Steps of a reduction that are written out, at most."""


def schedule_rest(mod: Any, lanes: int) -> Any:
    """Schedule every PrimFunc of `mod` that has no schedule yet.

    Injective stages are inlined into their consumers; each remaining stage is vectorized along
    its innermost loop and, when large, its outer loops run in parallel.  A concatenation, with
    what is fused to it, has a loop of its own for every part.

    Args:
        mod: An IRModule with Relax functions and PrimFuncs.
        lanes: float32 lanes of a vector register.
    """
    from tvm import tirx

    for variable, function in list(mod.functions_items()):
        if not isinstance(function, tirx.PrimFunc):
            continue
        if function.attrs and SCHEDULED in function.attrs:
            continue
        mod[variable] = _scheduled(function, lanes)
    return mod


def _scheduled(function: Any, lanes: int) -> Any:
    from tvm import s_tir
    from tvm.s_tir.dlight.analysis import normalize_prim_func

    sch = s_tir.Schedule(function)
    blocks = normalize_prim_func(sch)
    if blocks is None:
        return function
    for info in blocks[:-1]:
        if info.is_injective():
            try:
                sch.compute_inline(info.block_rv)
            except s_tir.ScheduleError:
                continue
    blocks = normalize_prim_func(sch) or []
    if len(blocks) == 1:
        stage = sch.get(blocks[0].block_rv)
        cuts = find_cuts(stage)
        if cuts is not None:
            body = by_parts(stage, cuts, lanes, PARALLEL_FROM)
            return sch.mod["main"].with_body(body).with_attr(SCHEDULED, 1)
    for info in blocks:
        _schedule_stage(sch, info, lanes)
    return sch.mod["main"].with_attr(SCHEDULED, 1)


def _schedule_stage(sch: Any, info: Any, lanes: int) -> None:
    kinds = info.dom_kind()
    loops = sch.get_loops(info.block_rv)
    spatial = len(kinds) - len(kinds.lstrip("S"))
    extents = [int(sch.get(loop).extent) for loop in loops]
    work = prod(extents)
    if spatial == len(loops):
        fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
        if work % lanes == 0 and work > lanes:
            outer, inner = sch.split(fused, [None, lanes])
            sch.vectorize(inner)
        else:
            outer = fused
        if work >= PARALLEL_FROM:
            sch.parallel(outer)
        return
    if spatial == 0:
        return
    parallel = work >= PARALLEL_FROM
    if kinds == "S" * spatial + "R" and _reads_columns(sch.get(info.block_rv), spatial - 1):
        vector = gcd(extents[spatial - 1], lanes)
        if vector > 2:
            _column_reduction(sch, info, vector, parallel)
            return
    if spatial > 1:
        sch.fuse(*loops[:spatial])
    if extents[-1] % lanes == 0 and extents[-1] > lanes:
        _vectorized_reduction(sch, info, lanes, parallel)
        return
    outer, first, *_ = sch.get_loops(info.block_rv)
    # A reduction that is decomposed can no longer be marked.
    if parallel:
        sch.parallel(outer)
    sch.decompose_reduction(info.block_rv, first)


def _reads_columns(stage: Any, index: int) -> bool:
    """Whether neighbours along a spatial axis are neighbours in what is read most."""
    largest = max(stage.reads, key=lambda read: prod(int(e) for e in read.source.shape))
    return bool(largest.region[-1].min.same_as(stage.iter_vars[index].var))


def _column_reduction(sch: Any, info: Any, vector: int, parallel: bool) -> None:
    """Reduce some vectors of neighbouring columns at a time, as a dense layer does."""
    *outer, column, row = sch.get_loops(info.block_rv)
    vectors = int(sch.get(column).extent) // vector
    kept = greatest_divisor(vectors, ACCUMULATORS)
    unrolled = greatest_divisor(int(sch.get(row).extent), UNROLLED)
    tile, one, lane = sch.split(column, [None, kept, vector])
    steps, step = sch.split(row, [None, unrolled])
    sch.reorder(*outer, tile, steps, one, step, lane)
    all_tiles = sch.fuse(*outer, tile)
    if parallel:
        sch.parallel(all_tiles)
    sch.unroll(step)
    sch.vectorize(lane)
    sch.decompose_reduction(info.block_rv, steps)


def _vectorized_reduction(sch: Any, info: Any, lanes: int, parallel: bool) -> None:
    """Accumulate `lanes` partial results of the innermost reduction loop, then add them up."""
    loop = sch.get_loops(info.block_rv)[-1]
    _, inner = sch.split(loop, [None, lanes])
    partial = sch.rfactor(inner, 0)
    loops = sch.get_loops(partial)
    sch.compute_at(partial, sch.get_loops(info.block_rv)[0])
    loops = sch.get_loops(partial)
    kinds = [int(sch.get(x).extent) for x in loops]
    vector = next(x for x, extent in zip(loops[1:], kinds[1:], strict=True) if extent == lanes)
    rest = [x for x in loops[1:] if x is not vector]
    sch.reorder(*rest, vector)
    sch.vectorize(vector)
    if parallel:
        sch.parallel(loops[0])
    if rest:
        sch.decompose_reduction(partial, rest[0])
