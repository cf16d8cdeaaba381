"""Genomes: round trips, canonical form, repair."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genomes.errors import GenomeFormatError, IllegalTransformation
from genomes.gene import Gene
from genomes.genome import Genome, canonical, repair, replay
from genomes.nest import ConvShape
from genomes.transformations import REGISTRY, Phase, phase_of, sample_gene

SHAPE = ConvShape(1, 16, 32, (8, 8), (3, 3), padding=(1, 1, 1, 1))
GROUP = Gene.of("group", over="co", groups=4, layout="block")
HALF = Gene.of("bottleneck", loop="co", factor=2)
CENTRE = Gene.of("bottleneck", loop="kh", factor=1)


def random_genes(seed: int, count: int) -> tuple[Gene, ...]:
    rng = random.Random(seed)
    nest = replay(SHAPE, ())
    genes = []
    for _ in range(count):
        found = sample_gene(nest, REGISTRY, rng)
        if found is not None:
            genes.append(found[0])
            nest = found[1]
    return tuple(genes)


genes_strategy = st.builds(random_genes, st.integers(0, 10**9), st.integers(0, 8))


@given(genes_strategy, genes_strategy)
def test_json_round_trip(first: tuple[Gene, ...], second: tuple[Gene, ...]) -> None:
    genome = Genome.of({"layer1.0.conv1": first, "stem": second})
    assert Genome.loads(genome.dumps()) == genome
    assert Genome.from_json(json.loads(json.dumps(genome.to_json()))).key == genome.key


@given(genes_strategy, st.integers(0, 10**9))
def test_repair_gives_legal_canonical_genes(genes: tuple[Gene, ...], seed: int) -> None:
    shuffled = list(genes)
    random.Random(seed).shuffle(shuffled)
    result = repair(SHAPE, tuple(shuffled))
    replay(SHAPE, result.genes)
    assert len(result.genes) + len(result.dropped) == len(genes)
    assert canonical(SHAPE, result.genes) == result.genes
    assert repair(SHAPE, result.genes) == type(result)(result.genes)


@settings(max_examples=50)
@given(genes_strategy)
def test_canonical_form_computes_the_same(genes: tuple[Gene, ...]) -> None:
    domain = tuple(g for g in genes if phase_of(g) is Phase.DOMAIN)
    assert replay(SHAPE, canonical(SHAPE, domain)) == replay(SHAPE, domain)


def test_commuting_genes_have_one_order() -> None:
    assert canonical(SHAPE, (GROUP, CENTRE)) == canonical(SHAPE, (CENTRE, GROUP))


def test_genes_that_do_not_commute_keep_their_order() -> None:
    assert canonical(SHAPE, (GROUP, HALF)) != canonical(SHAPE, (HALF, GROUP))


def test_repair_says_what_it_dropped() -> None:
    result = repair(SHAPE, (Gene.of("bottleneck", loop="co", factor=3), GROUP))
    assert result.genes == (GROUP,)
    assert result.dropped[0][1] == "3 does not divide the 32 output channels"


def test_domain_genes_come_before_schedule_genes() -> None:
    split = Gene.of("split", loop="co", factor=4)
    assert repair(SHAPE, (split, GROUP)).genes == (GROUP, split)
    assert Genome.of({"a": (GROUP, split)}).neural == Genome.of({"a": (GROUP,)})


def test_replay_names_the_illegal_gene() -> None:
    with pytest.raises(IllegalTransformation, match=r"bottleneck\(factor=3, loop=co\): 3 does"):
        replay(SHAPE, (Gene.of("bottleneck", loop="co", factor=3),))


def test_text_form() -> None:
    genome = Genome.of({"b": (Gene.of("split_domain", loop="co", parts=(4, 28)),), "a": (GROUP,)})
    assert str(genome) == (
        "a: group(groups=4, layout=block, over=co); b: split_domain(loop=co, parts=(4,28))"
    )
    assert str(Genome()) == "(untransformed)"


HEAD = {"format": "loopgene-genome", "version": 1}
BAD = {
    "no json": ("{", "no valid JSON"),
    "a list": ("[]", "this is no genome"),
    "another format": ('{"format": "x"}', "this is no genome"),
    "newer": (json.dumps({**HEAD, "version": 2}), "version 2 cannot be read"),
    "no sites": (json.dumps(HEAD), 'needs "sites"'),
    "sites is a list": (json.dumps({**HEAD, "sites": []}), 'needs "sites"'),
    "a gene is a word": (json.dumps({**HEAD, "sites": {"a": ["x"]}}), "site a, gene 0: a gene"),
    "unknown op": (
        json.dumps({**HEAD, "sites": {"a": [{"op": "groop"}]}}),
        "site a, gene 0: unknown transformation 'groop'; did you mean 'group'",
    ),
    "unknown key": (
        json.dumps({**HEAD, "sites": {"a": [{"op": "group", "x": 1}]}}),
        "unknown key x",
    ),
    "float argument": (
        json.dumps({**HEAD, "sites": {"a": [{"op": "group", "args": {"groups": 2.5}}]}}),
        "2.5 is no argument value",
    ),
    "mixed argument": (
        json.dumps({**HEAD, "sites": {"a": [{"op": "group", "args": {"groups": [1, "a"]}}]}}),
        "mixes words and numbers",
    ),
    "statement": (
        json.dumps({**HEAD, "sites": {"a": [{"op": "group", "statement": "0"}]}}),
        "statement must be an integer",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(GenomeFormatError, match=message):
        Genome.loads(text)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_transformation_is_documented(name: str) -> None:
    entry = REGISTRY[name]
    assert "->" in entry.doc.split("rewrite:")[1]
    assert entry.summary.endswith(".")
    assert entry.primitive
