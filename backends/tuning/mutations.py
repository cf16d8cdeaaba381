"""Neighbours of a schedule: its genes with one decision taken differently.

Every function takes the genes of one statement and what is needed to choose; none of them knows
whether the result is legal: replaying the genes tells.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from backends.lowering.geometry import statement_forms
from genomes.errors import IllegalTransformation
from genomes.gene import Gene, Value
from genomes.nest import REDUCTION_LOOPS, LoopNest
from genomes.schedule import Loop
from genomes.transformations import apply

WIDEST_STEP = 4
"""A factor becomes at most so many times as large or small."""
MOST_UNROLLED_TRIPS = 16
REDUCTION_FACTORS = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class _Subject:
    """The genes of statement `index`, its loops before the first and after the last of them.

    Channels that the genes round up are so many from the beginning.
    """

    index: int
    genes: tuple[Gene, ...]
    fresh: tuple[Loop, ...]
    loops: tuple[Loop, ...]

    def having(self, *ops: str) -> list[int]:
        return [at for at, gene in enumerate(self.genes) if gene.op in ops]

    def changed(self, at: int, **arguments: Value) -> tuple[Gene, ...]:
        gene = self.genes[at]
        new = Gene.of(gene.op, gene.statement, **{**gene.arguments, **arguments})
        return (*self.genes[:at], new, *self.genes[at + 1 :])

    def without(self, at: int) -> tuple[Gene, ...]:
        return (*self.genes[:at], *self.genes[at + 1 :])

    def before(self, op: str, *new: Gene) -> tuple[Gene, ...]:
        """The genes with `new` before the first one called `op`, or at the end."""
        at = next(iter(self.having(op)), len(self.genes))
        return (*self.genes[:at], *new, *self.genes[at:])


Mutation = Callable[[_Subject, random.Random], tuple[Gene, ...] | None]


def neighbour(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    """`nest` with one random change to the schedule of one statement; None if it is not legal.

    Args:
        nest: Scheduled.
        rng: Chooses the statement and the change.
    """
    index = rng.randrange(len(nest.statements))
    statement = nest.statements[index]
    batch = nest.shape.batch
    subject = _Subject(
        index,
        tuple(replace(gene, statement=index) for gene in statement.schedule_genes),
        statement_forms(nest)[index].fresh_loops,
        statement.scheduled(batch).loops,
    )
    names = list(MUTATIONS)
    chosen = rng.choices(names, [MUTATIONS[name][0] for name in names])[0]
    genes = MUTATIONS[chosen][1](subject, rng)
    if genes is None or genes == subject.genes:
        return None
    try:
        return rewritten(nest, index, genes)
    except IllegalTransformation:
        return None


def rewritten(nest: LoopNest, index: int, genes: Sequence[Gene]) -> LoopNest:
    """`nest` with the schedule of statement `index` replaced by what `genes` make.

    Raises:
        IllegalTransformation: A gene does not apply.
    """
    statements = list(nest.statements)
    statements[index] = statements[index].with_schedule(None)
    return _replayed(LoopNest(nest.shape, tuple(statements)), tuple(genes))


@functools.lru_cache(maxsize=4096)
def _replayed(nest: LoopNest, genes: tuple[Gene, ...]) -> LoopNest:
    """`nest` after genes; neighbours have their first genes in common, which are applied once."""
    return apply(_replayed(nest, genes[:-1]), genes[-1]) if genes else nest


def _resize(subject: _Subject, rng: random.Random) -> tuple[Gene, ...] | None:
    """Split by another factor; packed layouts follow the channels of a tile."""
    splits = subject.having("split")
    if not splits:
        return None
    at = rng.choice(splits)
    loop, old = str(subject.genes[at].arguments["loop"]), _number(subject.genes[at], "factor")
    extent = _extent(subject, loop)
    near = [
        d
        for d in range(2, extent)
        if extent % d == 0 and d != old and old <= WIDEST_STEP * d and d <= WIDEST_STEP * old
    ]
    if not near:
        return None
    factor = rng.choice(near)
    genes = list(subject.changed(at, factor=factor))
    for i, gene in enumerate(genes):
        if gene.op == "pack" and loop == "co" and gene.arguments["lanes"] == old:
            genes[i] = Gene.of("pack", gene.statement, **{**gene.arguments, "lanes": factor})
    return tuple(genes)


def _extent(subject: _Subject, name: str) -> int:
    """Trip count of a loop that the genes split: of a fresh one, or of several fused."""
    extents = {loop.name: loop.extent for loop in subject.fresh}
    if name in extents:
        return extents[name]
    # Otherwise the halves tell, as far as they are still there.
    halves = [loop.extent for loop in subject.loops if loop.name in (f"{name}.0", f"{name}.1")]
    return halves[0] * halves[1] if len(halves) == 2 else 0


def _refuse(subject: _Subject, rng: random.Random) -> tuple[Gene, ...] | None:
    """Fuse one loop more or less, outermost first; what stood at the loop follows."""
    fusions = subject.having("fuse")
    if not fusions:
        return None
    at = fusions[-1]
    old = _names(subject.genes[at], "loops")
    name = "+".join(old)
    position = next((i for i, loop in enumerate(subject.loops) if loop.name == name), None)
    if position is None:
        return None
    rest = subject.loops[position + 1 :]
    longer = bool(rest) and not rest[0].reduction and not rest[0].mark
    if len(old) == 2 and not longer:
        return None
    if longer and (len(old) == 2 or rng.random() < 0.5):
        new = (*old, rest[0].name)
        moved = {name: "+".join(new), rest[0].name: "+".join(new)}
        kept = moved
    else:
        new = old[:-1]
        moved = {name: "+".join(new)}
        kept = {name: old[-1]}
    genes = list(subject.changed(at, loops=new))
    for i, gene in enumerate(genes[at + 1 :], at + 1):
        loop = gene.arguments.get("loop")
        names = kept if gene.op == "cache_write" else moved
        if loop in names:
            genes[i] = Gene.of(gene.op, gene.statement, **{**gene.arguments, "loop": names[loop]})
    return tuple(genes)


def _pad_elsewhere(subject: _Subject, rng: random.Random) -> tuple[Gene, ...] | None:
    """Pad beforehand, inside one of the loops over tiles, or where it is read."""
    here = subject.having("compute_at", "compute_inline")
    old = subject.genes[here[0]] if here else None
    inside = [Gene.of("compute_at", subject.index, loop=loop) for loop in _outer(subject)]
    inline = Gene.of("compute_inline", subject.index)
    # Each of the three ways is as likely, however many loops there are.
    ways = [way for way in (None, inline, rng.choice(inside) if inside else None) if way != old]
    if not ways:
        return None
    new = rng.choice(ways)
    rest = replace(subject, genes=subject.without(here[0])) if here else subject
    return rest.genes if new is None else rest.before("parallel", new)


def _toggle_parallel(subject: _Subject, rng: random.Random) -> tuple[Gene, ...] | None:
    here = subject.having("parallel")
    if here:
        return subject.without(here[0])
    outermost = Gene.of("parallel", subject.index, loop=subject.loops[0].name)
    return subject.before("decompose_reduction", outermost)


def _toggle_unroll(subject: _Subject, rng: random.Random) -> tuple[Gene, ...] | None:
    """Unroll a loop that is not, or leave one rolled."""
    here = subject.having("unroll")
    rolled = [
        loop.name
        for loop in subject.loops
        if not loop.mark and 1 < loop.extent <= MOST_UNROLLED_TRIPS
    ]
    if here and (not rolled or rng.random() < 0.4):
        return subject.without(rng.choice(here))
    if not rolled:
        return None
    unrolled = Gene.of("unroll", subject.index, loop=rng.choice(rolled))
    return subject.before("decompose_reduction", unrolled)


def _reorder(subject: _Subject, rng: random.Random) -> tuple[Gene, ...] | None:
    """Exchange two neighbours in the order of the loops; the initialisation stays outside."""
    orders = subject.having("interchange")
    if not orders:
        return None
    at = orders[-1]
    order = list(_names(subject.genes[at], "order"))
    first = rng.randrange(len(order) - 1)
    order[first], order[first + 1] = order[first + 1], order[first]
    genes = list(subject.changed(at, order=tuple(order)))
    reductions = [name for name in order if name.split(".")[0] in REDUCTION_LOOPS]
    for i, gene in enumerate(genes):
        if gene.op == "decompose_reduction" and gene.arguments["loop"] in reductions:
            genes[i] = Gene.of(gene.op, gene.statement, loop=reductions[0])
    return tuple(genes)


def _toggle_prefetch(subject: _Subject, rng: random.Random) -> tuple[Gene, ...] | None:
    """Copy an operand inside a loop, or no longer."""
    here = subject.having("prefetch")
    if here:
        return subject.without(rng.choice(here))
    loops = _outer(subject)
    if not loops:
        return None
    operand = rng.choice(("input", "weight"))
    fetch = Gene.of("prefetch", subject.index, operand=operand, loop=rng.choice(loops))
    return subject.before("parallel", fetch)


def _split_reduction(subject: _Subject, rng: random.Random) -> tuple[Gene, ...] | None:
    """Split the reduction over input channels, the inner part innermost of the reductions."""
    extents = {loop.name: loop.extent for loop in subject.loops}
    factors = [f for f in REDUCTION_FACTORS if f < extents.get("ci", 0)]
    orders = subject.having("interchange")
    if not factors or not orders:
        return None
    names = _names(subject.genes[orders[-1]], "order")
    order = ["ci.0" if name == "ci" else name for name in names]
    if "ci.0" not in order:
        return None
    last = max(i for i, name in enumerate(order) if name.split(".")[0] in REDUCTION_LOOPS)
    order.insert(rng.randint(order.index("ci.0"), last) + 1, "ci.1")
    genes = list(subject.changed(orders[-1], order=tuple(order)))
    for i, gene in enumerate(genes):
        if gene.arguments.get("loop") == "ci":
            genes[i] = Gene.of(gene.op, gene.statement, **{**gene.arguments, "loop": "ci.0"})
    return (Gene.of("split", subject.index, loop="ci", factor=rng.choice(factors)), *genes)


def _outer(subject: _Subject) -> list[str]:
    """The loops over tiles: those around the outermost reduction."""
    first = next((i for i, loop in enumerate(subject.loops) if loop.reduction), 0)
    return [loop.name for loop in subject.loops[:first]]


def _number(gene: Gene, name: str) -> int:
    value = gene.arguments[name]
    assert isinstance(value, int)
    return value


def _names(gene: Gene, name: str) -> tuple[str, ...]:
    value = gene.arguments[name]
    assert isinstance(value, tuple)
    return tuple(str(part) for part in value)


MUTATIONS: dict[str, tuple[int, Mutation]] = {
    "resize": (6, _resize),
    "refuse": (3, _refuse),
    "pad_elsewhere": (2, _pad_elsewhere),
    "toggle_parallel": (1, _toggle_parallel),
    "toggle_unroll": (3, _toggle_unroll),
    "reorder": (2, _reorder),
    "toggle_prefetch": (1, _toggle_prefetch),
    "split_reduction": (1, _split_reduction),
}
"""What can be taken differently, with relative frequencies."""
