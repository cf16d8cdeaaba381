from __future__ import annotations

import random
from math import log2

import pytest

from backends.tuning.ranking import FEWEST_SAMPLES, Ranking, Sample


def samples(workload: str, scale: float, count: int) -> list[Sample]:
    """Latencies that grow with the second feature, of which the estimate, the first, is half."""
    rng = random.Random(workload)
    xs = [rng.random() for _ in range(count)]
    return [Sample(workload, row(x), scale * (1 + 3 * x)) for x in xs]


def row(x: float) -> tuple[float, float]:
    return (log2(1 + 3 * x) / 2, x)


def test_with_few_samples_the_estimate_decides() -> None:
    ranking = Ranking(samples("a", 1.0, FEWEST_SAMPLES - 1), "a")
    assert not ranking.learned
    slowness = ranking.slowness([row(0.0), row(1.0)])
    assert slowness[1] / slowness[0] == pytest.approx(2.0)


def test_samples_correct_the_estimate() -> None:
    ranking = Ranking(samples("a", 1e-3, 60), "a")
    assert ranking.learned
    slowness = ranking.slowness([row(0.02), row(0.5), row(0.98)])
    assert slowness == sorted(slowness)
    assert slowness[2] / slowness[0] > 3
    assert slowness[0] == pytest.approx(1.0, rel=0.2), "as slow as the best sample"


def test_workloads_of_any_size_teach_each_other() -> None:
    others = samples("b", 1e-3, 40) + samples("c", 1e-6, 40)
    slowness = Ranking(others, "a").slowness([row(0.02), row(0.98)])
    assert slowness[1] / slowness[0] > 2.6


def test_the_own_workload_counts_more() -> None:
    others = [Sample("b", (0.0, x / 40), 1 + x / 40) for x in range(40)]
    own = [Sample("a", (0.0, x / 40), 2 - x / 40) for x in range(40)]
    both = [*others, *own]
    for workload, sign in (("a", 1), ("b", -1)):
        slowness = Ranking(both, workload).slowness([(0.0, 0.0), (0.0, 1.0)])
        assert sign * slowness[0] > sign * slowness[1]


def test_equal_samples_give_equal_rankings() -> None:
    rows = [row(0.1), row(0.7)]
    first, second = (Ranking(samples("a", 1.0, 30), "a").slowness(rows) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("count", [0, 40])
def test_nothing_to_rank_is_no_error(count) -> None:
    assert Ranking(samples("a", 1.0, count), "a").slowness([]) == []
