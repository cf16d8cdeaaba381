from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.capacity import CapacityError, create_metric
from engine.capacity.fisher import FisherOptions, FisherPotential
from engine.capacity.precision import is_fast
from engine.models import get_model
from genomes import presets
from genomes.genome import Genome
from genomes.operators import Space, random_genome
from genomes.presets import PRESETS
from genomes.sites import Sites, find_sites, transform
from genomes.transformations import REGISTRY, Phase

DOMAIN_NAMES = frozenset(name for name, t in REGISTRY.items() if t.phase is Phase.DOMAIN)


def plain(model: nn.Module, names: list[str], x: Tensor, y: Tensor) -> dict[str, float]:
    """The definition, word for word, with a gradient for every weight."""
    model = copy.deepcopy(model).train()
    outputs: list[tuple[str, Tensor]] = []
    for name in names:

        def keep(_: nn.Module, __: object, out: Tensor, name: str = name) -> None:
            out.retain_grad()
            outputs.append((name, out))

        model.get_submodule(name).register_forward_hook(keep)
    functional.cross_entropy(model(x), y).backward()
    found = dict.fromkeys(names, 0.0)
    for name, out in outputs:
        assert out.grad is not None
        per_image = (out * out.grad).sum(dim=(2, 3))
        found[name] += (per_image**2).sum().item() / (2 * x.shape[0])
    return found


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def minibatch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, 16, 16, generator=generator)
    return x, torch.randint(10, (8,), generator=generator)


def random_genomes(sites: Sites, count: int, seed: int = 0) -> list[Genome]:
    space = Space(sites.sites, DOMAIN_NAMES, tuple(PRESETS))
    rng = random.Random(seed)
    return [random_genome(space, rng, rng.uniform(0.1, 0.9)) for _ in range(count)]


def metric_of(model: nn.Module, x: Tensor, y: Tensor, **options: object) -> FisherPotential:
    sites = find_sites(model, (1, *x.shape[1:]))
    metric = create_metric("fisher", model, sites, x, y, **options)
    assert isinstance(metric, FisherPotential)
    return metric


def sequential(inplace: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(8, 16, 3, stride=2, padding="valid", bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def resnet20() -> nn.Module:
    return get_model("resnet20_cifar").factory()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.alias = self.conv
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        x = torch.relu(self.alias(x))
        return self.head(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("make", [lambda: sequential(False), resnet20, Twice])
def test_equals_the_definition(make: Callable[[], nn.Module]) -> None:
    model = seeded(make)
    x, y = minibatch()
    sites = find_sites(model, (1, *x.shape[1:]))
    names = list(sites.named())
    metric = metric_of(model, x, y, exact=True)
    for genome in (Genome(), *random_genomes(sites, 12)):
        expected = plain(transform(model, sites, genome), names, x, y)
        assert metric.per_site(genome) == pytest.approx(expected, rel=2e-3, abs=1e-12)
        (score,) = metric.score([genome])
        assert score.exact
        assert score.value == pytest.approx(sum(expected.values()), rel=2e-3)


def test_equals_a_hand_computation() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        conv.weight.fill_(2.0)
        model[3].weight.copy_(torch.tensor([[1.0], [-1.0]]))  # type: ignore[union-attr, operator]
    x = torch.tensor([[[[1.0, 3.0]]], [[[0.0, -1.0]]]])
    y = torch.tensor([0, 1])
    expected = 0.0
    for pixels, label in (((1.0, 3.0), 0), ((0.0, -1.0), 1)):
        mean = sum(pixels)  # of the two activations 2 * pixel
        probability = 1 / (1 + math.exp(-2 * mean))  # of class 0: its logit is mean, -mean
        slope = 2 * (probability - (1 - label))  # of the image's loss along mean
        gradient = slope / 2 / 2  # over the two pixels of the mean and the two images
        expected += sum(2 * pixel * gradient for pixel in pixels) ** 2
    expected /= 2 * 2
    assert metric_of(model, x, y).original == pytest.approx(expected, rel=1e-5)


def test_layers_that_work_in_place_change_nothing() -> None:
    x, y = minibatch()
    separate, inplace = (metric_of(seeded(lambda i=i: sequential(i)), x, y) for i in (False, True))
    genomes = [Genome(), *random_genomes(find_sites(sequential(True), (1, 3, 16, 16)), 5)]
    assert [inplace.per_site(g) for g in genomes] == [separate.per_site(g) for g in genomes]
    assert inplace.score(genomes) == separate.score(genomes)


@pytest.mark.parametrize("training", [False, True])
def test_batch_statistics_are_used_whatever_the_mode(training: bool) -> None:
    model = seeded(resnet20)
    x, y = minibatch()
    metric = metric_of(model.train(training), x, y)
    assert metric.original == metric_of(seeded(resnet20), x, y).original


def test_what_computes_the_same_has_the_original_score() -> None:
    model = seeded(resnet20)
    x, y = minibatch()
    metric = metric_of(model, x, y)
    same = Genome.of({"layer1.0.conv1": presets.seq3(4), "layer3.0.conv1": presets.seq3(2)})
    (score,) = metric.score([same])
    assert score.value == metric.original
    assert score.exact


def test_verdicts_are_those_of_the_definition() -> None:
    model = seeded(resnet20)
    x, y = minibatch()
    sites = find_sites(model, (1, *x.shape[1:]))
    names = list(sites.named())
    genomes = random_genomes(sites, 24, seed=5)
    original = sum(plain(model, names, x, y).values())
    expected = [
        sum(plain(transform(model, sites, g), names, x, y).values()) / original for g in genomes
    ]
    metric = metric_of(model, x, y)
    scores = metric.score(genomes)
    assert [s.value / metric.original for s in scores] == pytest.approx(expected, rel=1e-2)
    # Another order of float32 additions already moves a score by 0.1 %.
    clear = [i for i, ratio in enumerate(expected) if abs(ratio - 1) > 2e-3]
    assert len(clear) > 20
    assert all((scores[i].value >= metric.original) == (expected[i] >= 1) for i in clear)


def test_what_is_near_the_threshold_is_exact() -> None:
    model = seeded(resnet20)
    x, y = minibatch()
    sites = find_sites(model, (1, *x.shape[1:]))
    (genome,) = random_genomes(sites, 1, seed=3)
    loose = metric_of(model, x, y)
    (estimate,) = loose.score([genome])
    exact = math.fsum(loose.per_site(genome).values())
    assert estimate.exact is not is_fast()
    assert estimate.value == pytest.approx(exact, rel=1e-2)
    assert estimate.value < loose.original
    near = metric_of(model, x, y, tolerance=1 - exact / loose.original)
    assert near.score([genome])[0].exact
    assert near.score([genome])[0].value == exact


def drafted_minibatch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, 16, 16, generator=generator)
    return x, torch.randint(10, (32,), generator=generator)


def test_drafts_decide_what_is_far_from_the_threshold() -> None:
    model = seeded(resnet20)
    x, y = drafted_minibatch()
    sites = find_sites(model, (1, *x.shape[1:]))
    every = Genome.of({name: presets.spatial_bottleneck(4) for name in sites.named()})
    genomes = [every, *random_genomes(sites, 20, seed=5)]
    metric, exact = metric_of(model, x, y), metric_of(model, x, y, exact=True)
    scores, expected = metric.score(genomes), exact.score(genomes)
    assert all(score.exact for score in expected)
    assert not scores[0].exact
    assert scores[0].value != pytest.approx(expected[0].value, rel=1e-3)
    legal = [score.value >= metric.original for score in scores]
    assert legal == [score.value >= metric.original for score in expected]
    assert metric_of(model, x, y, threads=3).score(genomes[::-1])[::-1] == scores


def test_a_network_that_needs_float32_has_no_drafts() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            if x.dtype is not torch.float32:
                raise TypeError("float32 only")
            return self.head(x.relu().mean(dim=(2, 3)))

    model = seeded(Strict)
    x, y = drafted_minibatch()
    genomes = random_genomes(find_sites(model, (1, *x.shape[1:])), 6)
    exact = metric_of(model, x, y, exact=True).score(genomes)
    for score, other in zip(metric_of(model, x, y).score(genomes), exact, strict=True):
        assert score.value == pytest.approx(other.value, rel=0.02 if is_fast() else 0.5)


def test_scores_do_not_depend_on_the_number_of_threads() -> None:
    model = seeded(resnet20)
    x, y = minibatch()
    one, three = (metric_of(model, x, y, threads=n) for n in (1, 3))
    genomes = random_genomes(find_sites(model, (1, *x.shape[1:])), 8)
    assert one.identity == three.identity
    assert one.score(genomes) == three.score(genomes)


def test_random_layers_are_seeded() -> None:
    model = seeded(
        lambda: nn.Sequential(*list(sequential(True))[:-1], nn.Dropout(), nn.Linear(16, 10))
    )
    x, y = minibatch()
    genomes = random_genomes(find_sites(model, (1, *x.shape[1:])), 4)
    metric = metric_of(model, x, y, threads=4)
    assert metric.score(genomes) == metric_of(model, x, y).score(genomes[::-1])[::-1]
    assert metric.original != metric_of(model, x, y, seed=1).original


def test_identity_is_of_everything_a_score_depends_on() -> None:
    model = seeded(lambda: sequential(False))
    x, y = minibatch()
    known = {metric_of(model, x, y).identity, metric_of(model, x + 1, y).identity}
    known |= {metric_of(model, x, y.flip(0)).identity, metric_of(model, x, y, seed=3).identity}
    known |= {metric_of(model, x, y, tolerance=0.1).identity}
    assert len(known) == 5


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 10)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.conv(x * self.calls).mean(dim=(2, 3)))


def with_head(head: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def zeroed() -> nn.Module:
    model = with_head(nn.Linear(4, 10))
    with torch.no_grad():
        model[3].weight.zero_()  # type: ignore[union-attr, operator]
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Counting, "two evaluations of the same network differ"),
        (zeroed, "is 0.0: no gradient"),
        (lambda: with_head(nn.Linear(4, 3)), "labels have to be among the classes"),
        (lambda: with_head(nn.BatchNorm1d(7)), "fails in training mode"),
    ],
)
def test_networks_that_cannot_be_scored(make: Callable[[], nn.Module], message: str) -> None:
    model = seeded(make).eval()
    sites = find_sites(seeded(lambda: with_head(nn.Linear(4, 10))), (1, 3, 16, 16))
    if isinstance(model, Counting):
        sites = find_sites(model, (1, 3, 16, 16))
    with pytest.raises(CapacityError, match=message):
        FisherPotential(model, sites, *minibatch(), FisherOptions())


def test_a_minibatch_is_needed() -> None:
    model = seeded(lambda: sequential(False))
    x, y = minibatch()
    with pytest.raises(CapacityError, match="at least two images"):
        metric_of(model, x[:1], y[:1])
    with pytest.raises(CapacityError, match="one label for each"):
        metric_of(model, x, y[:3])
    with pytest.raises(CapacityError, match="no convolution"):
        FisherPotential(model, Sites((), (), (1, 3, 16, 16)), x, y, FisherOptions())


def test_what_is_not_finite_has_no_capacity() -> None:
    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1, bias=False)
            self.head = nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            spread = self.conv(x).var(dim=1, keepdim=True).sqrt()
            return self.head((self.conv(x) / spread).mean(dim=(2, 3)))

    x, y = minibatch()
    metric = metric_of(seeded(Exploding), x, y)
    # All channels repeat the first one: their spread is zero.
    (score,) = metric.score([Genome.of({"conv": presets.bottleneck(4)})])
    assert score.value == 0.0
    assert metric.per_site(Genome.of({"conv": presets.bottleneck(4)})) == {"conv": 0.0}
