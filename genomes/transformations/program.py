"""Program transformations: the loops of one statement, reordered and mapped to a CPU core.

They keep the set of iterations.  The rules here are structural (loops exist, factors divide,
marks are final); TVM's schedule checks the dependences once more when the kernel is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from genomes.errors import IllegalTransformation, require
from genomes.gene import Gene
from genomes.nest import LoopNest
from genomes.schedule import Loop, Schedule
from genomes.steps import fuse_steps, gap, split_steps
from genomes.transformations.arguments import Count, LoopName, LoopNames
from genomes.transformations.registry import Kind, Phase, transformation

MAX_UNROLLED = 512
MAX_VECTOR = 64
MAX_COPIED_NESTS = 16
"""LLVM takes 0.1 s for every copy of a loop nest: 52 copies take 7 s."""


def position(schedule: Schedule, name: str) -> int:
    """Where the loop `name` stands, counted from the outermost."""
    for at, loop in enumerate(schedule.loops):
        if loop.name == name:
            return at
    names = ", ".join(loop.name for loop in schedule.loops)
    require(False, f"there is no loop {name}; the loops are {names}")
    raise AssertionError


def _free(schedule: Schedule, name: str) -> Loop:
    """The loop `name`, which must be neither marked nor the place of another stage."""
    loop = schedule.loops[position(schedule, name)]
    require(not loop.mark, f"loop {name} is already marked {loop.mark}")
    for role, anchor in schedule.anchors:
        require(anchor != name, f"loop {name} holds the stage {role}")
    return loop


def rescheduled(
    nest: LoopNest, index: int, edit: Callable[[Schedule], Schedule], op: str, **args: object
) -> LoopNest:
    """Apply `edit` to a statement's schedule and record the gene that did it."""
    statement = nest.statements[index]
    old = statement.scheduled(nest.shape.batch)
    gene = Gene.of(op, index, **args)  # type: ignore[arg-type]
    new = replace(edit(old), genes=(*old.genes, gene))
    return nest.replaced(index, statement.with_schedule(new))


def _with_loops(schedule: Schedule, loops: Sequence[Loop]) -> Schedule:
    return replace(schedule, loops=tuple(loops))


def _split(schedule: Schedule, name: str, factor: int) -> Schedule:
    loop = _free(schedule, name)
    require(factor < loop.extent, f"{factor} is not below the extent {loop.extent} of {name}")
    require(loop.extent % factor == 0, f"{factor} does not divide the extent {loop.extent}")
    at = position(schedule, name)
    outside, inside = split_steps(loop.steps, factor)
    outer = replace(loop, name=f"{name}.0", extent=loop.extent // factor, steps=outside)
    inner = replace(loop, name=f"{name}.1", extent=factor, steps=inside)
    return _with_loops(schedule, [*schedule.loops[:at], outer, inner, *schedule.loops[at + 1 :]])


def _reorder(schedule: Schedule, order: Sequence[str]) -> Schedule:
    chosen = [_free(schedule, name) for name in order]
    places = sorted(position(schedule, name) for name in order)
    loops = list(schedule.loops)
    for place, loop in zip(places, chosen, strict=True):
        loops[place] = loop
    require(tuple(loops) != schedule.loops, "the loops are in this order already")
    new = _with_loops(schedule, loops)
    _check_copies(new)
    _check_bound(new)
    check_anchors(new)
    return new


def marked(schedule: Schedule, name: str, mark: str) -> Schedule:
    """The schedule with the loop `name`, which has no mark yet, marked."""
    at = position(schedule, name)
    loops = list(schedule.loops)
    require(not loops[at].mark, f"loop {name} is already marked {loops[at].mark}")
    loops[at] = replace(loops[at], mark=mark)
    new = _with_loops(schedule, loops)
    _check_bound(new)
    return new


def check_anchors(schedule: Schedule) -> None:
    """The rules of all stages placed at loops, for the present loops and their marks."""
    for role, anchor in schedule.anchors:
        _check_anchor(schedule, role, anchor)


def _check_bound(schedule: Schedule) -> None:
    """The rule of loops bound to a GPU: they are what is outside, but for plain loops."""
    for at, loop in enumerate(schedule.loops):
        if loop.bound:
            around = schedule.loops[:at]
            inside = [x.name for x in around if x.reduction or (x.mark and not x.bound)]
            require(
                not inside,
                f"loop {loop.name} inside the reduction or marked loop {', '.join(inside)} "
                f"cannot be bound to {loop.bound}",
            )


def _check_copies(schedule: Schedule) -> None:
    """The rule of loops inside unrolled ones: the innermost is compiled copy by copy."""
    kept = [i for i, x in enumerate(schedule.loops) if not x.mark and x.extent > 1]
    unrolled = [x for x in schedule.loops[: kept[-1] if kept else 0] if x.mark == "unroll"]
    copies = prod(x.extent for x in unrolled)
    if copies > MAX_COPIED_NESTS:
        names = ", ".join(x.name for x in unrolled)
        raise IllegalTransformation(
            f"loop {schedule.loops[kept[-1]].name} inside the unrolled {names} is copied "
            f"{copies} times, at most {MAX_COPIED_NESTS}; unroll or vectorize it first"
        )


def _check_anchor(schedule: Schedule, role: str, name: str) -> None:
    """The rules of a stage placed at a loop, for the present order of the loops."""
    at = position(schedule, name)
    loop = schedule.loops[at]
    holds = loop.mark in ("", "parallel") or loop.bound
    require(bool(holds), f"loop {name} is {loop.mark}d and holds no stage")
    around = schedule.loops[:at] if role == "decompose" else schedule.loops[: at + 1]
    if role in ("decompose", "cache_write"):
        outer = [x.name for x in around if x.reduction]
        require(not outer, f"the reduction loop {', '.join(outer)} surrounds the {role} at {name}")
    if role == "cache_write":
        inner = schedule.loops[at + 1 :]
        require(any(x.reduction for x in inner), f"no reduction loop is inside {name}")
        # The tile is copied to the output as the box around it, with what is not computed yet.
        left_out = gap([step for x in inner if not x.reduction for step in x.steps])
        if left_out is not None:
            raise IllegalTransformation(
                f"inside {name} the loops take {left_out.extent} steps of {left_out.stride} along "
                f"{left_out.axis.name} ({left_out.axis.extent}), no box of the output; move the "
                "inner half of a split loop inside, or write back further out"
            )
    inside = [x.name for x in schedule.loops[:at] if x.mark in ("vectorize", "unroll")]
    require(not inside, f"loop {name} is inside the marked loop {', '.join(inside)}")
    # A thread sees its own copy of a stage; one in shared memory is seen by its whole block.
    shared = role.startswith("shared")
    bound = [x for x in schedule.loops[len(around) :] if x.bound]
    torn = [x.name for x in bound if not shared or x.bound.startswith("blockIdx")]
    require(not torn, f"the {role} at {name} is outside the bound loop {', '.join(torn)}")
    _check_fetches(schedule, role.partition(":")[2])


def _check_fetches(schedule: Schedule, operand: str) -> None:
    """The rule of an operand that is fetched twice: from shared memory into a thread's own."""
    shared, own = (schedule.anchor(f"{role}:{operand}") for role in ("shared", "prefetch"))
    if shared is not None and own is not None:
        require(
            position(schedule, shared) < position(schedule, own),
            f"the {operand} is prefetched at {own}, not inside the loop {shared} at which it is "
            "fetched into shared memory",
        )


def placed(schedule: Schedule, role: str, loop: str) -> Schedule:
    """The schedule with the stage `role` at a loop."""
    require(schedule.anchor(role) is None, f"the statement has a {role} stage already")
    new = replace(schedule, anchors=tuple(sorted((*schedule.anchors, (role, loop)))))
    _check_anchor(new, role, loop)
    return new


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.split",
    also_called=("strip-mining", "divide_loop (Exo)", "split (Halide)"),
    loop=LoopName(),
    factor=Count((2, 4, 8, 16, 32)),
)
def split(nest: LoopNest, index: int, loop: str, factor: int) -> LoopNest:
    """Split a loop into an outer loop and an inner one of `factor` iterations.

    rewrite:
        for i in N:         for i.0 in N/factor:
            S           ->      for i.1 in factor:
                                    S
    """
    return rescheduled(
        nest, index, lambda s: _split(s, loop, factor), "split", loop=loop, factor=factor
    )


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.split twice, Schedule.reorder",
    also_called=("blocking",),
    loops=LoopNames(adjacent=True),
    rows=Count((2, 4, 8, 16)),
    columns=Count((2, 4, 8, 16)),
)
def tile(nest: LoopNest, index: int, loops: tuple[str, ...], rows: int, columns: int) -> LoopNest:
    """Tile two neighbouring loops: split both and move the inner halves inside.

    rewrite:
        for i in N:             for i.0 in N/rows:
            for j in M:     ->      for j.0 in M/columns:
                S                       for i.1 in rows:
                                            for j.1 in columns:
                                                S
    """
    require(len(loops) == 2, f"tile takes two loops, got {len(loops)}")

    def edit(schedule: Schedule) -> Schedule:
        first, second = (position(schedule, name) for name in loops)
        require(second == first + 1, f"{loops[0]} and {loops[1]} are not neighbours")
        schedule = _split(_split(schedule, loops[0], rows), loops[1], columns)
        order = [f"{name}.{half}" for half in (0, 1) for name in loops]
        return _reorder(schedule, order)

    return rescheduled(nest, index, edit, "tile", loops=loops, rows=rows, columns=columns)


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.reorder",
    also_called=("reorder (Halide, TVM)", "loop permutation"),
    order=LoopNames(),
)
def interchange(nest: LoopNest, index: int, order: tuple[str, ...]) -> LoopNest:
    """Put the named loops into the given order; they take each other's places.

    rewrite:
        for i in N:             for j in M:
            for j in M:     ->      for i in N:
                S                       S
    """
    return rescheduled(nest, index, lambda s: _reorder(s, order), "interchange", order=order)


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.fuse",
    also_called=("collapse", "mult_loops (Exo)"),
    loops=LoopNames(adjacent=True),
)
def fuse(nest: LoopNest, index: int, loops: tuple[str, ...]) -> LoopNest:
    """Fuse neighbouring loops of the same sort into one.

    rewrite:
        for i in N:             for i+j in N*M:
            for j in M:     ->      S
                S
    """

    def edit(schedule: Schedule) -> Schedule:
        chosen = [_free(schedule, name) for name in loops]
        first = position(schedule, loops[0])
        window = [loop.name for loop in schedule.loops[first : first + len(loops)]]
        require(window == list(loops), f"{', '.join(loops)} are not neighbours in this order")
        require(
            len({loop.reduction for loop in chosen}) == 1,
            "a reduction loop cannot be fused with a spatial one",
        )
        extent = prod(loop.extent for loop in chosen)
        steps = fuse_steps(step for loop in chosen for step in loop.steps)
        fused = Loop("+".join(loops), extent, chosen[0].reduction, steps=steps)
        rest = schedule.loops[first + len(loops) :]
        return _with_loops(schedule, [*schedule.loops[:first], fused, *rest])

    return rescheduled(nest, index, edit, "fuse", loops=loops)


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.unroll",
    also_called=("unroll (paper, Halide, Exo)",),
    loop=LoopName(),
)
def unroll(nest: LoopNest, index: int, loop: str) -> LoopNest:
    """Replicate the body for every iteration of a loop.

    rewrite:
        for i in 2:         S[0]
            S[i]        ->  S[1]
    """

    def edit(schedule: Schedule) -> Schedule:
        new = marked(schedule, loop, "unroll")
        copies = prod(x.extent for x in new.loops if x.mark == "unroll")
        require(copies <= MAX_UNROLLED, f"{copies} unrolled copies; at most {MAX_UNROLLED}")
        _check_copies(new)
        return new

    return rescheduled(nest, index, edit, "unroll", loop=loop)


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.vectorize",
    also_called=("SIMD",),
    loop=LoopName(),
)
def vectorize(nest: LoopNest, index: int, loop: str) -> LoopNest:
    """Execute the innermost loop with vector instructions.

    rewrite:
        for i in 16:
            S[i]        ->  S[0:16]
    """

    def edit(schedule: Schedule) -> Schedule:
        innermost = schedule.loops[-1]
        position(schedule, loop)
        require(innermost.name == loop, f"{loop} is not the innermost loop ({innermost.name} is)")
        require(not innermost.reduction, f"{loop} is a reduction loop")
        require(
            2 <= innermost.extent <= MAX_VECTOR,
            f"{loop} has {innermost.extent} iterations; vectors hold 2 to {MAX_VECTOR}",
        )
        for role, anchor in schedule.anchors:
            require(anchor != loop, f"loop {loop} holds the stage {role}")
        return marked(schedule, loop, "vectorize")

    return rescheduled(nest, index, edit, "vectorize", loop=loop)


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.SCHEDULE,
    primitive="Schedule.parallel",
    also_called=("OpenMP parallel for", "multi-threading"),
    loop=LoopName(),
)
def parallel(nest: LoopNest, index: int, loop: str) -> LoopNest:
    """Distribute the outermost loop over the threads of the CPU.

    rewrite:
        for i in N:         parallel for i in N:
            S           ->      S
    """

    def edit(schedule: Schedule) -> Schedule:
        at = position(schedule, loop)
        require(at == 0, f"{loop} is not the outermost loop ({schedule.loops[0].name} is)")
        require(not schedule.loops[0].reduction, f"{loop} is a reduction loop")
        return marked(schedule, loop, "parallel")

    return rescheduled(nest, index, edit, "parallel", loop=loop)
