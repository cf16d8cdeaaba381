from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.table import TableBackend
from backends.tuning import mutations
from backends.tuning.mutations import MUTATIONS, neighbour, rewritten
from engine.bench.workloads import workloads
from genomes.gene import Gene
from genomes.nest import ConvShape, LoopNest
from genomes.transformations import apply
from tests.backends.samples import fresh

NESTS = {w.name: w.nest for w in workloads()}


def proposals(name: str) -> tuple[LoopNest, ...]:
    return TableBackend().schedule_candidates(NESTS[name])


def genes_of(nest: LoopNest) -> list[Gene]:
    return [gene for s in nest.statements for gene in s.schedule_genes]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(NESTS)), st.integers(0, 2**32), st.integers(1, 4))
def test_neighbours_are_other_schedules_of_the_same_nest(name, seed, changes) -> None:
    rng = random.Random(seed)
    nest = rng.choice(proposals(name))
    for _ in range(changes):
        nest = neighbour(nest, rng) or nest
    assert nest.structure_key == NESTS[name].structure_key
    replayed = nest.unscheduled()
    for index, s in enumerate(nest.statements):
        for gene in s.schedule_genes:
            replayed = apply(replayed, replace(gene, statement=index))
    assert replayed == nest


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NESTS)), st.integers(0, 2**32))
def test_a_seed_decides_the_neighbour_and_it_differs(name, seed) -> None:
    nest = proposals(name)[0]
    child = neighbour(nest, random.Random(seed))
    assert child == neighbour(nest, random.Random(seed))
    assert child is None or child.key != nest.key


@pytest.mark.parametrize(
    ("mutation", "workload"),
    [
        ("resize", "128->128 3x3 16x16"),
        ("refuse", "128->128 3x3 16x16"),
        ("pad_elsewhere", "144->144 3x3 56x56 depthwise"),
        ("toggle_parallel", "128->128 3x3 16x16"),
        ("toggle_unroll", "64->64 3x3 32x32"),
        ("reorder", "64->64 3x3 32x32"),
        ("toggle_prefetch", "64->64 3x3 32x32"),
        ("split_reduction", "384->64 1x1 14x14"),
    ],
)
def test_every_mutation_finds_legal_neighbours(monkeypatch, mutation, workload) -> None:
    monkeypatch.setattr(mutations, "MUTATIONS", {mutation: MUTATIONS[mutation]})
    rng = random.Random(0)
    nests = proposals(workload)
    children = [neighbour(rng.choice(nests), rng) for _ in range(40)]
    assert len({child.key for child in children if child is not None}) >= 4


def test_every_mutation_is_tried() -> None:
    assert all(weight > 0 for weight, _ in MUTATIONS.values())


def test_packed_layouts_follow_the_channels_of_a_tile(monkeypatch) -> None:
    monkeypatch.setattr(mutations, "MUTATIONS", {"resize": MUTATIONS["resize"]})
    rng = random.Random(1)
    changed = 0
    for nest in proposals("256->256 3x3 8x8"):
        for _ in range(10):
            child = neighbour(nest, rng)
            if child is None:
                continue
            (s,) = child.statements
            schedule = s.scheduled(1)
            inner = {loop.name: loop.extent for loop in schedule.loops}.get("co.1")
            if inner is not None and schedule.packs:
                assert {lanes for _, lanes in schedule.packs} == {inner}
                changed += child.statements[0].schedule_genes != nest.statements[0].schedule_genes
    assert changed > 10


def test_channels_that_are_rounded_up_are_tiled_otherwise(monkeypatch) -> None:
    monkeypatch.setattr(mutations, "MUTATIONS", {"resize": MUTATIONS["resize"]})
    rng = random.Random(1)
    nests = TableBackend().schedule_candidates(
        LoopNest.fresh(ConvShape(1, 64, 126, (8, 8), (3, 3), padding=(1, 1, 1, 1)))
    )
    factors = set()
    for nest in nests:
        if "round_up" not in [gene.op for gene in genes_of(nest)]:
            continue
        children = [c for c in (neighbour(nest, rng) for _ in range(30)) if c is not None]
        splits = [g for child in children for g in genes_of(child) if g.op == "split"]
        factors |= {g.arguments["factor"] for g in splits if g.arguments["loop"] == "co"}
    assert factors >= {8, 16, 32, 64}


def test_one_statement_changes_at_a_time() -> None:
    nest = proposals("128->128 3x3 16x16: seq1 1,2,4,8")[0]
    rng = random.Random(2)
    children = [c for c in (neighbour(nest, rng) for _ in range(60)) if c is not None]
    for child in children:
        pairs = zip(nest.statements, child.statements, strict=True)
        assert sum(old.schedule_genes != new.schedule_genes for old, new in pairs) == 1
    touched = {
        i
        for child in children
        for i, s in enumerate(child.statements)
        if s.schedule_genes != nest.statements[i].schedule_genes
    }
    assert touched == {0, 1, 2, 3}


def test_a_nest_with_few_genes_has_few_neighbours() -> None:
    rng = random.Random(3)
    bare = fresh()
    bare_children = [c for c in (neighbour(bare, rng) for _ in range(50)) if c is not None]
    assert {gene.op for c in bare_children for gene in genes_of(c)} <= {
        "unroll",
        "compute_at",
        "compute_inline",
        "parallel",
        "prefetch",
    }
    small = rewritten(bare, 0, [Gene.of("unroll", loop="kw")])
    children = [neighbour(small, rng) for _ in range(50)]
    assert any(children)
