from __future__ import annotations

import itertools
import json
import math

import pytest

from engine.archive import Archive
from engine.evaluation import CAPACITY, OK, Evaluation
from engine.strategies.conformance import small_space
from genomes.gene import Gene
from genomes.genome import Genome

SITES = ("a", "b", "c", "d")
FACTORS = (2, 4, 8)


def genome(number: int) -> Genome:
    """Genomes of different effects."""
    genes = {}
    for place, site in enumerate(SITES):
        digit = number // 4**place % 4
        if digit:
            genes[site] = [Gene.of("bottleneck", loop="co", factor=FACTORS[digit - 1])]
    return Genome.of(genes)


def evaluation(number: int, *fitness: float, status: str = OK) -> Evaluation:
    known = fitness[0] if status == OK else None
    return Evaluation(genome(number), status, fitness, known, 1.0)


def archive(mode: str = "constrained", size: int = 3, front: int = 4) -> Archive:
    return Archive(small_space(), mode, size, front)


def always(_: Evaluation) -> bool:
    return True


def test_the_fastest_are_kept_in_order():
    kept = archive()
    kept.update([evaluation(n, latency) for n, latency in enumerate((5.0, 3.0, 4.0))], always)
    kept.update([evaluation(3, 1.0), evaluation(4, 9.0)], always)
    assert [e.latency_s for e in kept.legal] == [1.0, 3.0, 4.0]
    assert kept.front == ()


def test_rejected_and_illegal_candidates_are_not_kept():
    kept = archive()
    kept.update([evaluation(1, 1.0, status=CAPACITY), evaluation(2, 2.0)], always)
    kept.update([evaluation(3, 1.0)], lambda e: False)
    assert [e.latency_s for e in kept.legal] == [2.0]


def test_candidates_with_the_same_effect_are_kept_once():
    rows, columns = (Gene.of("bottleneck", loop=n, factor=2) for n in ("ho", "wo"))
    twins = [Genome.of({"a": genes}) for genes in ([rows, columns], [columns, rows])]
    kept = archive()
    kept.update([Evaluation(g, OK, (1.0,), 1.0, 1.0) for g in twins], always)
    assert len(kept.legal) == 1


def test_whether_anything_is_better():
    kept = archive()
    assert kept.update([evaluation(0, 5.0)], always)
    assert not kept.update([evaluation(1, 6.0)], always)
    assert not kept.update([evaluation(2, 5.0)], always)
    assert kept.update([evaluation(3, 4.0)], always)


class TestPareto:
    def test_the_front_is_what_nothing_dominates(self):
        kept = archive("pareto")
        told = [(1.0, 0.5, 9.0), (2.0, 0.4, 9.0), (3.0, 0.5, 9.0), (9.0, 0.9, 1.0)]
        assert kept.update([evaluation(n, *f) for n, f in enumerate(told)], always)
        assert {e.fitness for e in kept.front} == {told[0], told[1], told[3]}
        assert not kept.update([evaluation(7, 9.0, 0.9, 9.0)], always)
        assert kept.update([evaluation(8, 0.5, 0.5, 9.0)], always)
        assert told[0] not in {e.fitness for e in kept.front}

    def test_the_front_is_bounded_and_keeps_its_ends(self):
        kept = archive("pareto", front=6)
        for start in range(0, 60, 10):
            new = range(start, start + 10)
            kept.update([evaluation(n, 60.0 - n, n / 60, 1.0) for n in new], always)
        assert len(kept.front) == 6
        assert kept.front[0].fitness == (1.0, 59 / 60, 1.0)
        assert kept.front[-1].fitness == (60.0, 0.0, 1.0)
        gaps = [b.fitness[0] - a.fitness[0] for a, b in itertools.pairwise(kept.front)]
        assert max(gaps) < 40

    def test_failures_are_not_on_the_front(self):
        kept = archive("pareto")
        kept.update([evaluation(1, 1.0, 0.0, 1.0, status="crashed")], always)
        assert kept.front == ()


@pytest.mark.parametrize("mode", ["constrained", "pareto"])
def test_a_restored_archive_goes_on_as_if_nothing_had_been(mode):
    def told(start: int) -> list[Evaluation]:
        # Many equal latencies, so that the order of equals matters.
        found = []
        for n in range(start, start + 20):
            latency_s, loss = math.floor(5 * math.sin(n) ** 2) + 1.0, math.cos(n) ** 2
            found.append(evaluation(n, *((latency_s, loss, 1.0)[: 3 if mode == "pareto" else 1])))
        return found

    whole = archive(mode)
    for start in range(0, 100, 20):
        copy = archive(mode)
        copy.restore(json.loads(json.dumps(whole.state())))
        assert copy.state() == whole.state()
        assert copy.update(told(start), always) == whole.update(told(start), always)
        assert (copy.legal, copy.front) == (whole.legal, whole.front)
