"""Variation: every operator is a program transformation of the network's genome.

All operators take a `Space` and an explicit `random.Random`, return new genomes that are legal
and canonical, and never touch global random state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from genomes.gene import Gene
from genomes.genome import Genome, repair, replay
from genomes.nest import ConvShape, LoopNest
from genomes.presets import legal_presets
from genomes.sites import Site
from genomes.transformations import REGISTRY, Phase, phase_of, sample_gene

SCHEDULE_GENES = 24
"""Schedule genes of one statement: the schedules that the CPU backend proposes have up to 17."""


@dataclass(frozen=True)
class Space:
    """What a search may do.

    Attributes:
        sites: The sites that may be transformed.
        transformations: Names of the transformations that may be used.
        presets: Names of the preset families that may be inserted as a whole.
        max_genes: Longest list of domain genes of a site.
        schedules: The schedules worth trying for an unscheduled nest, from the backend; None
            when schedules are no part of the search.
        max_schedule_genes: Longest list of schedule genes of a site, for each of its statements.
    """

    sites: tuple[Site, ...]
    transformations: frozenset[str]
    presets: tuple[str, ...] = ()
    max_genes: int = 8
    schedules: Callable[[LoopNest], Sequence[LoopNest]] | None = None
    max_schedule_genes: int = SCHEDULE_GENES
    _presets: dict[ConvShape, list[tuple[Gene, ...]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @cached_property
    def alike(self) -> dict[ConvShape, tuple[str, ...]]:
        """Names of the sites of each shape."""
        found: dict[ConvShape, list[str]] = {}
        for site in self.sites:
            found.setdefault(site.shape, []).append(site.name)
        return {shape: tuple(names) for shape, names in found.items()}

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        """The allowed transformations of domains, in name order."""
        return tuple(sorted(n for n in self.transformations if REGISTRY[n].phase is Phase.DOMAIN))

    @cached_property
    def schedule_names(self) -> tuple[str, ...]:
        """The allowed transformations of schedules, in name order."""
        return tuple(
            sorted(n for n in self.transformations if REGISTRY[n].phase is Phase.SCHEDULE)
        )

    def preset_members(self, shape: ConvShape) -> list[tuple[Gene, ...]]:
        """The preset gene lists that are legal for a shape."""
        if shape not in self._presets:
            usable = legal_presets(shape, self.presets)
            self._presets[shape] = [
                genes for genes in usable if all(g.op in self.transformations for g in genes)
            ]
        return self._presets[shape]

    def repaired(self, site: Site, genes: Sequence[Gene]) -> tuple[Gene, ...]:
        """The legal, canonical part of `genes` for `site`, no longer than the limits.

        A schedule of which a part became illegal is dropped as a whole: half of a schedule is
        slower than the backend's default.
        """
        domain, schedule = by_phase(genes)
        result = repair(site.shape, (*domain[: self.max_genes], *schedule))
        domain, schedule = by_phase(result.genes)
        if any(phase_of(gene) is Phase.SCHEDULE for gene, _ in result.dropped):
            return domain
        return (*domain, *schedule[: self.schedule_limit(site, domain)])

    def schedule_limit(self, site: Site, domain: tuple[Gene, ...]) -> int:
        """How many schedule genes a site may have after its legal domain genes."""
        return self.max_schedule_genes * len(replay(site.shape, domain).statements)


def by_phase(genes: Sequence[Gene]) -> tuple[tuple[Gene, ...], tuple[Gene, ...]]:
    """(domain genes, schedule genes), each in order."""
    return (
        tuple(g for g in genes if phase_of(g) is Phase.DOMAIN),
        tuple(g for g in genes if phase_of(g) is Phase.SCHEDULE),
    )


def random_genome(space: Space, rng: random.Random, share: float) -> Genome:
    """Transform each site with probability `share` by a preset or one to three random genes."""
    genes: dict[str, tuple[Gene, ...]] = {}
    for site in space.sites:
        if rng.random() < share:
            genes[site.name] = _random_genes(space, site, rng)
    return Genome.of(genes)


def _random_genes(space: Space, site: Site, rng: random.Random) -> tuple[Gene, ...]:
    members = space.preset_members(site.shape)
    if members and rng.random() < 0.5:
        return space.repaired(site, rng.choice(members))
    nest = replay(site.shape, ())
    genes: list[Gene] = []
    for _ in range(rng.randint(1, 3)):
        found = sample_gene(nest, space.domain_names, rng)
        if found is None:
            break
        genes.append(found[0])
        nest = found[1]
    return space.repaired(site, genes)


Operator = Callable[[Space, Genome, Site, random.Random], tuple[Gene, ...]]


def insert(space: Space, genome: Genome, site: Site, rng: random.Random) -> tuple[Gene, ...]:
    """Append a random legal domain gene to a site; its schedule starts anew."""
    genes = genome.genes(site.name)
    domain, _ = by_phase(genes)
    if len(domain) >= space.max_genes:
        return genes
    found = sample_gene(replay(site.shape, domain), space.domain_names, rng)
    return genes if found is None else space.repaired(site, (*domain, found[0]))


def insert_primitive(
    space: Space, genome: Genome, site: Site, rng: random.Random
) -> tuple[Gene, ...]:
    """Append a random legal schedule gene to a site that has a schedule."""
    genes = genome.genes(site.name)
    domain, schedule = by_phase(genes)
    if not schedule:
        return reschedule(space, genome, site, rng)
    if len(schedule) >= space.schedule_limit(site, domain):
        return genes
    found = sample_gene(replay(site.shape, genes), space.schedule_names, rng)
    return genes if found is None else space.repaired(site, (*genes, found[0]))


def reschedule(space: Space, genome: Genome, site: Site, rng: random.Random) -> tuple[Gene, ...]:
    """Give a site one of the schedules that the backend proposes for its nest."""
    genes = genome.genes(site.name)
    domain, _ = by_phase(genes)
    if space.schedules is None:
        return genes
    chosen = rng.choice(space.schedules(replay(site.shape, domain)))
    schedule = [g for s in chosen.statements for g in s.schedule_genes]
    if len(schedule) > space.schedule_limit(site, domain):
        return genes
    return space.repaired(site, (*domain, *schedule))


def insert_preset(
    space: Space, genome: Genome, site: Site, rng: random.Random
) -> tuple[Gene, ...]:
    """Replace a site's genes by a member of a preset family."""
    members = space.preset_members(site.shape)
    return space.repaired(site, rng.choice(members)) if members else genome.genes(site.name)


def delete(space: Space, genome: Genome, site: Site, rng: random.Random) -> tuple[Gene, ...]:
    """Remove one gene of a site; later genes that needed it fall to the repair."""
    genes = list(genome.genes(site.name))
    if genes:
        del genes[rng.randrange(len(genes))]
    return space.repaired(site, genes)


def clear(space: Space, genome: Genome, site: Site, rng: random.Random) -> tuple[Gene, ...]:
    """Restore the original convolution of a site."""
    return ()


def replace_argument(
    space: Space, genome: Genome, site: Site, rng: random.Random
) -> tuple[Gene, ...]:
    """Draw one argument of one gene anew."""
    genes = list(genome.genes(site.name))
    candidates = [i for i, gene in enumerate(genes) if gene.args]
    if not candidates:
        return tuple(genes)
    at = rng.choice(candidates)
    gene = genes[at]
    nest = replay(site.shape, tuple(genes[:at]))
    name = rng.choice([k for k, _ in gene.args])
    loops = nest.statements[gene.statement].scheduled(nest.shape.batch).loops
    value = REGISTRY[gene.op].arguments[name].sample(loops, rng)
    genes[at] = Gene.of(gene.op, gene.statement, **{**gene.arguments, name: value})
    return space.repaired(site, genes)


def swap(space: Space, genome: Genome, site: Site, rng: random.Random) -> tuple[Gene, ...]:
    """Exchange two genes of a site."""
    genes = list(genome.genes(site.name))
    if len(genes) >= 2:
        first, second = rng.sample(range(len(genes)), 2)
        genes[first], genes[second] = genes[second], genes[first]
    return space.repaired(site, genes)


MUTATIONS: dict[str, tuple[int, Operator]] = {
    "insert": (3, insert),
    "insert_preset": (3, insert_preset),
    "delete": (2, delete),
    "clear": (1, clear),
    "insert_primitive": (1, insert_primitive),
    "reschedule": (1, reschedule),
    "replace_argument": (2, replace_argument),
    "swap": (1, swap),
}
"""Operators on the genes of one site, with their relative frequency."""


def move(space: Space, genome: Genome, rng: random.Random) -> Genome:
    """Move the genes of a site to another site of like shape; the two exchange them."""
    groups = [names for names in space.alike.values() if len(names) > 1]
    groups = [names for names in groups if any(genome.genes(n) for n in names)]
    if not groups:
        return genome
    names = rng.choice(groups)
    source = rng.choice([n for n in names if genome.genes(n)])
    target = rng.choice([n for n in names if n != source])
    moved = {source: genome.genes(target), target: genome.genes(source)}
    return Genome.of({**genome.by_site, **moved})


def spread(space: Space, genome: Genome, rng: random.Random) -> Genome:
    """Copy the genes of a site to another site of like shape."""
    names = rng.choice(list(space.alike.values()))
    source, target = rng.choice(names), rng.choice(names)
    return genome.with_genes(target, genome.genes(source))


def mutate(space: Space, genome: Genome, rng: random.Random, changes: int = 1) -> Genome:
    """Apply `changes` random mutations.

    Returns:
        A legal, canonical genome; equal to `genome` if nothing applied.
    """
    names = list(MUTATIONS)
    weights = [MUTATIONS[name][0] for name in names]
    for _ in range(changes):
        kind = rng.random()
        if kind < 0.1:
            genome = move(space, genome, rng)
        elif kind < 0.25:
            genome = spread(space, genome, rng)
        else:
            site = rng.choice(space.sites)
            _, operator = MUTATIONS[rng.choices(names, weights)[0]]
            genome = genome.with_genes(site.name, operator(space, genome, site, rng))
    return genome


def mate(space: Space, first: Genome, second: Genome, rng: random.Random) -> tuple[Genome, Genome]:
    """Cross two genomes: one-point over the sites, site-wise uniform, or within one site."""
    return rng.choice((one_point, uniform, within_site))(space, first, second, rng)


def one_point(
    space: Space, first: Genome, second: Genome, rng: random.Random
) -> tuple[Genome, Genome]:
    """Exchange the genes of all sites behind a random one."""
    point = rng.randint(0, len(space.sites))
    return _exchange(first, second, [site.name for site in space.sites[point:]])


def uniform(
    space: Space, first: Genome, second: Genome, rng: random.Random
) -> tuple[Genome, Genome]:
    """Exchange the genes of each site with probability one half."""
    return _exchange(first, second, [s.name for s in space.sites if rng.random() < 0.5])


def within_site(
    space: Space, first: Genome, second: Genome, rng: random.Random
) -> tuple[Genome, Genome]:
    """One-point crossover of the genes of one site, at a point of its own in each parent.

    Lengths may change; what became illegal is dropped.
    """
    site = rng.choice(space.sites)
    a, b = first.genes(site.name), second.genes(site.name)
    i, j = rng.randint(0, len(a)), rng.randint(0, len(b))
    return (
        first.with_genes(site.name, space.repaired(site, (*a[:i], *b[j:]))),
        second.with_genes(site.name, space.repaired(site, (*b[:j], *a[i:]))),
    )


def _exchange(first: Genome, second: Genome, names: Sequence[str]) -> tuple[Genome, Genome]:
    a, b = dict(first.by_site), dict(second.by_site)
    for name in names:
        a[name], b[name] = second.genes(name), first.genes(name)
    return Genome.of(a), Genome.of(b)
