from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from engine.capacity.threads import Crew
from engine.capacity.workbench import Workbench
from genomes import presets
from genomes.errors import IllegalTransformation, ModelError
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.modules import SiteConv2d
from genomes.sites import find_sites, transform


class Shared(nn.Module):
    """A convolution under two names, whose attributes the network reads, and a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = self.a
        self.c = nn.Conv2d(4, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        return self.c(self.b(self.norm(self.a(x)))) * self.c.stride[0] * self.seen


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Shared()


@pytest.fixture
def bench(model: nn.Module) -> Workbench:
    return Workbench(model, find_sites(model, (1, 4, 8, 8)))


GENOME = Genome.of({"a": presets.grouping(2)})
X = torch.linspace(-1, 1, 2 * 4 * 8 * 8).reshape(2, 4, 8, 8)


def test_sites_are_exchanged_and_put_back(model: nn.Module, bench: Workbench) -> None:
    expected = [transform(model, bench.sites, g).train()(X) for g in (Genome(), GENOME)]
    for _ in range(2):
        for genome, y in zip((Genome(), GENOME), expected, strict=True):
            with bench.transformed(bench.changes(genome)), bench.watched() as network:
                assert torch.equal(network(X), y)


def test_weights_are_not_copied(bench: Workbench) -> None:
    fork = bench.fork()
    assert fork.network is not bench.network
    for one, other in zip(bench.network.parameters(), fork.network.parameters(), strict=True):
        assert one is other
    with fork.transformed(fork.changes(GENOME)):
        assert isinstance(fork.slots["a"].current, SiteConv2d)
        assert isinstance(bench.slots["a"].current, nn.Conv2d)


def test_sites_are_put_back_after_an_error(bench: Workbench) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        bench.transformed(bench.changes(GENOME)),
        bench.watched(lambda _, out: out / (1 // 0)) as network,
    ):
        network(X)
    with bench.watched() as network:
        assert network(X).isfinite().all()
    assert all(slot.current is slot.original for slot in bench.slots.values())
    assert all(slot.watch is None for slot in bench.slots.values())


def test_every_call_of_a_site_is_watched(bench: Workbench) -> None:
    seen: list[str] = []

    def watch(site: str, out: Tensor) -> Tensor:
        seen.append(site)
        return out

    with bench.watched(watch) as network:
        network(X)
    assert seen == ["a", "a", "c"]


def test_changes_are_of_what_is_computed(bench: Workbench) -> None:
    assert set(bench.changes(GENOME)) == {"a"}
    assert bench.changes(Genome.of({"a": presets.seq3(2)})) == {}
    assert bench.changes(Genome.of({"a": (Gene.of("unroll", loop="kw"),)})) == {}
    with pytest.raises(IllegalTransformation, match="group"):
        bench.changes(Genome.of({"a": presets.grouping(8)}))
    with pytest.raises(ModelError, match="loopgene inspect"):
        bench.changes(Genome.of({"b": presets.grouping(2)}))


def test_a_crew_works_side_by_side_in_order(bench: Workbench) -> None:
    threads = torch.get_num_threads()
    crew = Crew(bench, 3)
    meeting = threading.Barrier(3, timeout=10)

    def work(own: Workbench, item: int) -> tuple[int, int, int]:
        meeting.wait()
        return item, torch.get_num_threads(), id(own)

    found = crew.map(work, range(6))
    assert [item for item, _, _ in found] == list(range(6))
    assert {count for _, count, _ in found} == {1}
    assert len({own for _, _, own in found}) == 3
    assert torch.get_num_threads() == threads


def test_a_crew_passes_errors_on(bench: Workbench) -> None:
    crew = Crew(bench, 2)
    with pytest.raises(ZeroDivisionError):
        crew.map(lambda _, item: 1 // item, [1, 0, 2])
    assert crew.map(lambda _, item: 2 * item, [1, 2, 3]) == [2, 4, 6]
