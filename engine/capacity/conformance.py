"""What every capacity metric must do, as tests to inherit.

    from engine.capacity import create_metric
    from engine.capacity.conformance import CapacityConformance

    class TestMine(CapacityConformance):
        def create(self, model, sites, x, y):
            return create_metric("mine", model, sites, x, y)

Run by pytest.
"""

from __future__ import annotations

import abc
import copy
import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.capacity.base import CapacityMetric, Score
from genomes import presets
from genomes.errors import IllegalTransformation, ModelError
from genomes.gene import Gene
from genomes.genome import Genome, replay
from genomes.sites import Sites, find_sites
from genomes.transformations import REGISTRY, Phase, sample_gene

INPUT_SHAPE = (8, 3, 8, 8)
CLASSES = 5

GENOMES = (
    Genome.of({"first": presets.grouping(2)}),
    Genome.of({"first": presets.bottleneck(2), "last": presets.spatial_bottleneck(2)}),
    Genome.of({"twice": presets.seq1((1, 2))}),
    Genome.of({"twice": presets.depthwise(), "last": presets.input_bottleneck(2)}),
    Genome.of({"last": (Gene.of("bottleneck", loop="kh", factor=1),)}),
    Genome.of({name: presets.seq3(2) for name in ("first", "twice", "last")}),
)


class SmallNetwork(nn.Module):
    """Three sites, one of them called twice; BatchNorm, in-place ReLU, a residual, a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1, bias=False)
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(self.stem(x))))
        x = x + self.relu(self.twice(x))
        x = self.relu(self.twice(x))
        return self.head(functional.adaptive_avg_pool2d(self.last(x), 1).flatten(1))


class CapacityConformance(abc.ABC):
    """Inherit and implement `create`."""

    @abc.abstractmethod
    def create(self, model: nn.Module, sites: Sites, x: Tensor, y: Tensor) -> CapacityMetric:
        """The metric for a network."""

    @pytest.fixture
    def model(self) -> nn.Module:
        """A network with random weights; the global generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return SmallNetwork()

    @pytest.fixture
    def sites(self, model: nn.Module) -> Sites:
        return find_sites(model, (1, *INPUT_SHAPE[1:]))

    @pytest.fixture
    def metric(self, model: nn.Module, sites: Sites) -> CapacityMetric:
        return self.create(model, sites, *minibatch())

    def test_original_is_the_score_of_no_genes(self, metric: CapacityMetric) -> None:
        assert metric.score([Genome()]) == [Score(metric.original)]
        assert metric.original > 0

    def test_scores_are_finite_and_differ(self, metric: CapacityMetric) -> None:
        values = _values(metric, GENOMES)
        assert all(map(math.isfinite, values))
        assert len({metric.original, *values}) > 1

    def test_no_genomes_have_no_scores(self, metric: CapacityMetric) -> None:
        assert metric.score([]) == []

    def test_scores_depend_on_no_other_genome(self, metric: CapacityMetric) -> None:
        together = metric.score(GENOMES)
        assert [metric.score([genome])[0] for genome in GENOMES] == together
        assert metric.score(GENOMES[::-1]) == together[::-1]
        assert metric.score([*GENOMES, *GENOMES]) == together * 2

    def test_equal_metrics_agree(
        self, metric: CapacityMetric, model: nn.Module, sites: Sites
    ) -> None:
        again = self.create(copy.deepcopy(model), sites, *minibatch())
        assert again.identity == metric.identity
        assert again.original == metric.original
        assert again.score(GENOMES[::-1])[::-1] == metric.score(GENOMES)

    def test_equal_identities_of_two_minibatches_mean_equal_scores(
        self, metric: CapacityMetric, model: nn.Module, sites: Sites
    ) -> None:
        x, y = minibatch()
        for other in (
            self.create(model, sites, x.flip(-1) + 0.5, y),
            self.create(model, sites, x, y.roll(1)),
        ):
            if other.identity == metric.identity:
                assert other.score(GENOMES) == metric.score(GENOMES)

    def test_identity_follows_the_weights(
        self, metric: CapacityMetric, model: nn.Module, sites: Sites
    ) -> None:
        other = copy.deepcopy(model)
        with torch.no_grad():
            next(other.parameters()).mul_(1.5)
        assert self.create(other, sites, *minibatch()).identity != metric.identity

    def test_sites_add_up_to_the_score(self, metric: CapacityMetric, sites: Sites) -> None:
        for genome in (Genome(), *GENOMES):
            (score,) = metric.score([genome])
            found = metric.per_site(genome)
            assert set(found) == set(sites.named())
            closeness = 1e-6 if score.exact else 0.1
            assert math.fsum(found.values()) == pytest.approx(score.value, rel=closeness)

    def test_schedules_do_not_matter(self, metric: CapacityMetric, sites: Sites) -> None:
        scheduled = [_scheduled(genome, sites) for genome in GENOMES]
        assert all(s != g and s.neural == g for s, g in zip(scheduled, GENOMES, strict=True))
        assert metric.score(scheduled) == metric.score(GENOMES)
        assert metric.per_site(scheduled[0]) == metric.per_site(GENOMES[0])

    @pytest.mark.parametrize("training", [False, True])
    def test_nothing_outside_is_changed(
        self, model: nn.Module, sites: Sites, training: bool
    ) -> None:
        model.train(training)
        model.head.weight.requires_grad_(False)  # type: ignore[union-attr]
        before = copy.deepcopy(model)
        x, y = minibatch()
        generator = torch.get_rng_state()
        threads = torch.get_num_threads()
        metric = self.create(model, sites, x, y)
        metric.score(GENOMES)
        metric.per_site(GENOMES[0])
        assert torch.equal(torch.get_rng_state(), generator)
        assert torch.get_num_threads() == threads
        assert all(map(torch.equal, (x, y), minibatch()))
        assert repr(model) == repr(before)
        assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
        for old, new in zip(before.parameters(), model.parameters(), strict=True):
            assert torch.equal(old, new)
            assert new.grad is None
            assert old.requires_grad == new.requires_grad
        buffers = zip(before.buffers(), model.buffers(), strict=True)
        assert all(torch.equal(old, new) for old, new in buffers)

    def test_later_changes_of_the_network_change_no_score(
        self, metric: CapacityMetric, model: nn.Module
    ) -> None:
        before = metric.score(GENOMES)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert metric.score(GENOMES) == before

    def test_illegal_genes_and_unknown_sites_are_refused(self, metric: CapacityMetric) -> None:
        with pytest.raises(IllegalTransformation):
            metric.score([Genome.of({"first": presets.grouping(32)})])
        with pytest.raises(ModelError, match="nowhere"):
            metric.score([Genome.of({"nowhere": presets.grouping(2)})])


def minibatch() -> tuple[Tensor, Tensor]:
    """Random images and labels, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(INPUT_SHAPE, generator=generator)
    return x, torch.randint(CLASSES, (INPUT_SHAPE[0],), generator=generator)


def _values(metric: CapacityMetric, genomes: Sequence[Genome]) -> list[float]:
    return [score.value for score in metric.score(genomes)]


def _scheduled(genome: Genome, sites: Sites) -> Genome:
    """`genome` with a random schedule gene at every site that it transforms."""
    rng = random.Random(0)
    names = [name for name, t in REGISTRY.items() if t.phase is Phase.SCHEDULE]
    for name, genes in genome.sites:
        found = sample_gene(replay(sites.named()[name].shape, genes), names, rng, attempts=1000)
        assert found is not None
        genome = genome.with_genes(name, (*genes, found[0]))
    return genome
