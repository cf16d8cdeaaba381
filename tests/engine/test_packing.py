from __future__ import annotations

import json
import random

import pytest

from engine.evaluation import Evaluation
from engine.packing import pack, unpack
from engine.strategies.conformance import judged, small_space
from genomes.errors import GenomeFormatError
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.operators import mate, random_genome
from genomes.presets import grouping

SPACE = small_space()


def population(seed: int) -> list[Evaluation]:
    rng = random.Random(seed)
    parents = [random_genome(SPACE, rng, 0.6) for _ in range(6)]
    children = [mate(SPACE, *rng.sample(parents, 2), rng)[0] for _ in range(20)]
    return judged(SPACE, "pareto", [Genome(), *parents, *children])


@pytest.mark.parametrize("seed", range(5))
def test_round_trip(seed):
    evaluations = population(seed)
    data = json.loads(json.dumps(pack(evaluations), allow_nan=False))
    assert unpack(data) == evaluations
    assert pack(unpack(data)) == data


def test_shared_gene_lists_are_written_once():
    evaluations = population(1)
    lists = {genes for e in evaluations for _, genes in e.genome.sites}
    assert len(pack(evaluations)["genes"]) == len(lists)
    assert len(lists) < sum(len(e.genome.sites) for e in evaluations)


def test_equal_lists_that_are_not_identical_are_the_same():
    first, second = (Genome.of({"a": list(grouping(2))}) for _ in range(2))
    assert first.genes("a") is not second.genes("a")
    apart = pack([Evaluation(first, "ok", (1.0,)), Evaluation(second, "ok", (1.0,))])
    assert apart == pack([Evaluation(first, "ok", (1.0,))] * 2)
    assert len(apart["genes"]) == 1


def test_nothing():
    assert unpack(pack([])) == []


def test_an_unknown_gene_is_refused():
    data = pack([Evaluation(Genome.of({"a": [Gene.of("group", over="co")]}), "ok", (1.0,))])
    data["genes"][0] = [{"op": "gruop", "statement": 0, "args": {}}]
    with pytest.raises(GenomeFormatError, match="gruop"):
        unpack(data)
