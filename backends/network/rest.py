"""A default CPU schedule for everything in a network that is no site."""

from __future__ import annotations

from typing import Any

SCHEDULED = "tirx.is_scheduled"
PARALLEL_FROM = 1 << 15
"""Elements from which several threads pay for one elementwise or pooling stage."""


def schedule_rest(mod: Any, lanes: int) -> Any:
    """Schedule every PrimFunc of `mod` that has no schedule yet.

    Injective stages are inlined into their consumers; each remaining stage is vectorized along
    its innermost loop and, when large, its outer loops run in parallel.

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
    for info in blocks:
        _schedule_stage(sch, info, lanes)
    return sch.mod["main"].with_attr(SCHEDULED, 1)


def _schedule_stage(sch: Any, info: Any, lanes: int) -> None:
    kinds = info.dom_kind()
    loops = sch.get_loops(info.block_rv)
    spatial = len(kinds) - len(kinds.lstrip("S"))
    extents = [int(sch.get(loop).extent) for loop in loops]
    work = 1
    for extent in extents:
        work *= extent
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
    if spatial > 1:
        sch.fuse(*loops[:spatial])
    parallel = work >= PARALLEL_FROM
    if extents[-1] % lanes == 0 and extents[-1] > lanes:
        _vectorized_reduction(sch, info, lanes, parallel)
        return
    outer, first, *_ = sch.get_loops(info.block_rv)
    # A reduction that is decomposed can no longer be marked.
    if parallel:
        sch.parallel(outer)
    sch.decompose_reduction(info.block_rv, first)


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
