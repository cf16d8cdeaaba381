"""Program transformations: stages placed at a loop of one statement, and packed layouts.

They keep the set of iterations, as those of `program` do; `round_up` adds some whose results are
lost.
"""

from __future__ import annotations

from dataclasses import replace

from genomes.errors import require
from genomes.nest import LoopNest
from genomes.schedule import Loop, Schedule
from genomes.transformations.arguments import Count, LoopName, OneOf
from genomes.transformations.program import placed, rescheduled
from genomes.transformations.registry import Kind, Phase, transformation


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.cache_write, Schedule.reverse_compute_at",
    also_called=("register blocking", "accumulator", "write-back at a loop"),
    loop=LoopName(),
)
def cache_write(nest: LoopNest, index: int, loop: str) -> LoopNest:
    """Accumulate into a local buffer that is written back inside `loop`.

    rewrite:
        for i in N:                     for i in N:
            for j in M:                     for j in M:
                for k in K:         ->          for k in K:
                    O[i, j] += ...                  A[j] += ...
                                            for j in M:
                                                O[i, j] = A[j]
    """
    return rescheduled(
        nest, index, lambda s: placed(s, "cache_write", loop), "cache_write", loop=loop
    )


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.cache_read, Schedule.compute_at",
    also_called=("prefetch (paper)", "cache_read (TVM)", "stage_mem (Exo)"),
    operand=OneOf(("input", "weight")),
    loop=LoopName(),
)
def prefetch(nest: LoopNest, index: int, operand: str, loop: str) -> LoopNest:
    """Copy the part of an operand that one iteration of `loop` needs into a local buffer.

    rewrite:
        for i in N:             for i in N:
            S(I[...])       ->      L = I[the part that is needed]
                                    S(L[...])
    """
    role = f"prefetch:{operand}"
    return rescheduled(
        nest, index, lambda s: placed(s, role, loop), "prefetch", operand=operand, loop=loop
    )


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.compute_at of the stage that copies the input",
    also_called=("compute_at (Halide, TVM)", "fuse_at (Exo)"),
    loop=LoopName(),
)
def compute_at(nest: LoopNest, index: int, loop: str) -> LoopNest:
    """Compute the copy of the input inside `loop`, instead of all of it beforehand.

    It is padded, or in another layout: vectors of columns read one whose columns are dealt out by
    the stride, or whose channels are taken apart.  A schedule that reads no copy is not changed.

    rewrite:
        for y, x:                       for i in N:
            P[y, x] = pad(I)                for y, x that iteration i needs:
        for i in N:                 ->          P[y, x] = pad(I)
            S(P[...])                       S(P[...])
    """
    shape, step = nest.shape, nest.shape.stride[1] * nest.statements[index].repeat_wo
    copied = any(shape.padding) or step > 1 or shape.input_lanes > 0
    require(copied, "the convolution reads its input as it is: nothing is computed before it")

    def edit(schedule: Schedule) -> Schedule:
        require(not schedule.pads_inline, "the padding is computed where it is read")
        return placed(schedule, "pad", loop)

    return rescheduled(nest, index, edit, "compute_at", loop=loop)


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.compute_inline of the padding stage",
    also_called=("inline (Exo)", "compute_inline (TVM)"),
)
def compute_inline(nest: LoopNest, index: int) -> LoopNest:
    """Compute the padding where it is read: nothing is copied, taps on zeros can be left out.

    rewrite:
        for y, x:                       for i in N:
            P[y, x] = pad(I)        ->      S(pad(I))
        for i in N:
            S(P[...])
    """
    padded = any(nest.shape.padding)
    require(padded, "the convolution has no padding: nothing is computed before it")

    def edit(schedule: Schedule) -> Schedule:
        there = schedule.anchor("pad")
        require(there is None, f"the padding is computed at loop {there}")
        require(not schedule.pads_inline, "the padding is computed where it is read already")
        return replace(schedule, pads_inline=True)

    return rescheduled(nest, index, edit, "compute_inline")


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="zeros in the weight argument, a condition around the write-back",
    also_called=("RoundUp (Halide)", "pad_einsum (TVM)", "padding to the vector width"),
    factor=Count((4, 8, 16, 32)),
)
def round_up(nest: LoopNest, index: int, factor: int) -> LoopNest:
    """Compute a multiple of `factor` output channels of each group; those that are more are lost.

    Comes before anything else is done to `co`. Less than half of what is computed may be lost.

    rewrite:
        for co in C:                for co in ceil(C / factor) * factor:
            for ci in C_in:             for ci in C_in:
                O[co] += ...    ->          A[co] += ...
                                    for co in C:
                                        O[co] = A[co]
    """
    s = nest.statements[index]

    def edit(schedule: Schedule) -> Schedule:
        require(not schedule.rounded, "the channels are rounded up already")
        whole = Loop.fresh("co", s.kept_co, reduction=False)
        require(whole in schedule.loops, "the loop co is divided or marked already")
        require("co" not in dict(schedule.anchors).values(), "loop co holds a stage")
        require(not schedule.packs, "an operand is packed already")
        new = replace(schedule, rounded=factor)
        channels = new.computed(s.kept_co, s.groups)
        kept, lost = s.kept_co // s.groups, (channels - s.kept_co) // s.groups
        require(lost > 0, f"the {kept} channels of a group are a multiple of {factor} already")
        require(
            lost < kept, f"of {kept + lost} channels {lost} would be lost, half of them or more"
        )
        rounded = Loop.fresh("co", channels, reduction=False)
        return replace(new, loops=tuple(rounded if x == whole else x for x in new.loops))

    return rescheduled(nest, index, edit, "round_up", factor=factor)


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="packed weight argument; Schedule.transform_layout of the accumulator",
    also_called=("OIHW[i]o", "NCHW[x]c", "layout transformation"),
    operand=OneOf(("weight", "accumulator")),
    lanes=Count((4, 8, 16, 32)),
)
def pack(nest: LoopNest, index: int, operand: str, lanes: int) -> LoopNest:
    """Store an operand with `lanes` neighbouring output channels innermost.

    weight: packed once, outside the kernel. accumulator: needs `cache_write`.

    rewrite:
        W[co, ci, kh, kw]   ->  W[co / lanes, ci, kh, kw, co % lanes]
    """
    s = nest.statements[index]

    def edit(schedule: Schedule) -> Schedule:
        channels = schedule.computed(s.kept_co, s.groups)
        require(channels % lanes == 0, f"{lanes} lanes do not divide {channels} output channels")
        require(not schedule.lanes(operand), f"the {operand} is packed already")
        if operand == "accumulator":
            there = schedule.anchor("cache_write") is not None
            require(there, "there is no accumulator: cache_write comes first")
        return replace(schedule, packs=tuple(sorted((*schedule.packs, (operand, lanes)))))

    return rescheduled(nest, index, edit, "pack", operand=operand, lanes=lanes)


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.decompose_reduction",
    also_called=("fission of the initialisation",),
    loop=LoopName(),
)
def decompose_reduction(nest: LoopNest, index: int, loop: str) -> LoopNest:
    """Initialise the output in a nest of its own, just before `loop`.

    rewrite:
        for k in K:                     O = 0
            if k == 0: O = 0        ->  for k in K:
            O += ...                        O += ...
    """
    return rescheduled(
        nest, index, lambda s: placed(s, "decompose", loop), "decompose_reduction", loop=loop
    )
