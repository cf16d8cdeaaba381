"""Variation keeps genomes legal and canonical, and is reproducible."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from genomes import operators
from genomes.gene import Gene
from genomes.genome import Genome, repair, replay
from genomes.nest import ConvShape, LoopNest
from genomes.operators import Space, by_phase
from genomes.presets import PRESETS
from genomes.sites import Site
from genomes.transformations import REGISTRY, Kind, apply

PAD = (1, 1, 1, 1)
SITES = (
    Site("stem", ConvShape(1, 3, 16, (8, 8), (3, 3), padding=PAD)),
    Site("a", ConvShape(1, 16, 16, (8, 8), (3, 3), padding=PAD)),
    Site("b", ConvShape(1, 16, 16, (8, 8), (3, 3), padding=PAD), calls=2),
    Site("down", ConvShape(1, 16, 32, (8, 8), (1, 1), stride=(2, 2))),
)


def schedules(nest: LoopNest) -> tuple[LoopNest, ...]:
    found = []
    for factor in (2, 4):
        new = nest
        for i, s in enumerate(nest.statements):
            if s.kept_co % factor == 0 and s.kept_co > factor:
                new = apply(new, Gene.of("split", i, loop="co", factor=factor))
        found.append(new)
    return tuple(found)


SPACE = Space(
    SITES,
    frozenset(n for n, t in REGISTRY.items() if t.kind is not Kind.MAPPING),
    tuple(PRESETS),
    schedules=schedules,
)
seeds = st.integers(0, 10**9)


def check(genome: Genome) -> None:
    for site in SITES:
        genes = genome.genes(site.name)
        replay(site.shape, genes)
        assert repair(site.shape, genes).genes == genes


@given(seeds)
def test_mutation_and_mating_stay_legal_and_canonical(seed: int) -> None:
    rng = random.Random(seed)
    first = operators.random_genome(SPACE, rng, 0.7)
    second = operators.random_genome(SPACE, rng, 0.7)
    for _ in range(4):
        first, second = operators.mate(SPACE, first, second, rng)
        first = operators.mutate(SPACE, first, rng, changes=2)
        second = operators.mutate(SPACE, second, rng)
        check(first)
        check(second)


NARROW = replace(SPACE, max_genes=2, max_schedule_genes=3)


@given(seeds)
def test_genes_of_a_site_stay_within_the_limits(seed: int) -> None:
    rng = random.Random(seed)
    parents = [operators.random_genome(NARROW, rng, 0.9) for _ in range(2)]
    for _ in range(6):
        parents = [operators.mutate(NARROW, g, rng, changes=6) for g in parents]
        parents = list(operators.mate(NARROW, *parents, rng))
        for site in SITES:
            for genome in parents:
                domain, schedule = by_phase(genome.genes(site.name))
                statements = len(replay(site.shape, domain).statements)
                assert len(domain) <= 2
                assert len(schedule) <= 3 * statements


def test_at_the_limits_nothing_is_inserted_and_crossover_trims() -> None:
    site, rng = SITES[1], random.Random(2)
    schedule = tuple(Gene.of("unroll", loop=loop) for loop in ("kw", "kh"))
    packed = (Gene.of("pack", operand="weight", lanes=4),)
    domain = tuple(Gene.of("bottleneck", loop=loop, factor=2) for loop in ("ci", "co"))
    full = Genome.of({"a": (*domain, *schedule, *packed)})
    for operator in (operators.insert, operators.insert_primitive):
        for _ in range(20):
            assert operator(NARROW, full, site, rng) == full.genes("a")
    split = Gene.of("split", loop="wo", factor=2)
    assert NARROW.repaired(site, (*domain, *schedule, *packed, split)) == full.genes("a")


def test_a_proposed_schedule_beyond_the_limit_is_not_taken() -> None:
    narrow = replace(SPACE, max_schedule_genes=0)
    assert operators.reschedule(narrow, Genome(), SITES[1], random.Random(0)) == ()
    assert operators.reschedule(SPACE, Genome(), SITES[1], random.Random(0)) != ()


@given(seeds)
def test_same_seed_same_children(seed: int) -> None:
    def child() -> Genome:
        rng = random.Random(seed)
        parent = operators.random_genome(SPACE, rng, 0.5)
        return operators.mutate(SPACE, parent, rng, changes=3)

    assert child() == child()


def test_global_randomness_is_untouched() -> None:
    random.seed(5)
    state = random.getstate()
    rng = random.Random(1)
    genome = operators.random_genome(SPACE, rng, 1.0)
    for _ in range(50):
        genome = operators.mutate(SPACE, genome, rng)
        genome, _ = operators.mate(SPACE, genome, Genome(), rng)
    assert random.getstate() == state


def test_site_wise_crossover_only_exchanges() -> None:
    rng = random.Random(3)
    first = operators.random_genome(SPACE, rng, 1.0)
    second = operators.random_genome(SPACE, rng, 1.0)
    for cross in (operators.one_point, operators.uniform):
        a, b = cross(SPACE, first, second, rng)
        for site in SITES:
            pair = {first.genes(site.name), second.genes(site.name)}
            assert {a.genes(site.name), b.genes(site.name)} == pair


def test_within_site_crossover_changes_lengths() -> None:
    rng = random.Random(0)
    long = Genome.of({s.name: operators._random_genes(SPACE, s, rng) for s in SITES})
    lengths = {len(operators.within_site(SPACE, long, Genome(), rng)[1]) for _ in range(60)}
    assert len(lengths) > 1


def test_move_goes_to_a_site_of_like_shape() -> None:
    genes = operators.legal_presets(SITES[1].shape, ["grouping"])[0]
    moved = operators.move(SPACE, Genome.of({"a": genes}), random.Random(0))
    assert moved == Genome.of({"b": genes})


def test_every_mutation_is_reached() -> None:
    rng = random.Random(7)
    genome = operators.random_genome(SPACE, rng, 1.0)
    changed = set()
    for name, (_, operator) in operators.MUTATIONS.items():
        for _ in range(40):
            site = rng.choice(SITES)
            if operator(SPACE, genome, site, rng) != genome.genes(site.name):
                changed.add(name)
            genome = operators.mutate(SPACE, genome, rng)
    assert changed == set(operators.MUTATIONS)


def test_a_schedule_with_an_illegal_gene_is_dropped_whole() -> None:
    split = Gene.of("split", loop="co", factor=8)
    inner = Gene.of("unroll", loop="co.1")
    half = Gene.of("bottleneck", loop="co", factor=2)
    assert SPACE.repaired(SITES[1], (split, inner)) == (split, inner)
    assert SPACE.repaired(SITES[1], (half, split, inner)) == (half,)
