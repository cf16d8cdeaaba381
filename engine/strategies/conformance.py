"""What every strategy must do, as tests to inherit.

    from engine.strategies.conformance import StrategyConformance

    class TestMine(StrategyConformance):
        def create(self, space, config):
            return MyStrategy(space, config)

Run by pytest.  Candidates are judged by their multiply-accumulates, so that no network, no
device and no file is needed.
"""

from __future__ import annotations

import abc
import json
import random
from collections.abc import Callable, Sequence

import numpy as np

from engine.config import SearchConfig
from engine.evaluation import CAPACITY, OK, Evaluation
from engine.strategies.base import Strategy
from engine.strategies.individuals import effect
from genomes.genome import Genome, replay
from genomes.nest import ConvShape
from genomes.operators import Space
from genomes.presets import PRESETS
from genomes.sites import Site
from genomes.transformations import REGISTRY, Phase

MACS_PER_S = 1e9
GENERATIONS = 5


def small_space() -> Space:
    """Four sites of two shapes, all transformations of domains, all presets."""
    early = ConvShape(1, 8, 8, (8, 8), (3, 3), padding=(1, 1, 1, 1))
    late = ConvShape(1, 16, 16, (4, 4), (3, 3), padding=(1, 1, 1, 1))
    sites = (Site("a", early), Site("b", early), Site("c", late), Site("d", late, calls=2))
    names = frozenset(name for name, t in REGISTRY.items() if t.phase is Phase.DOMAIN)
    return Space(sites, names, tuple(PRESETS))


def judged(space: Space, mode: str, genomes: Sequence[Genome]) -> list[Evaluation]:
    """Evaluations by arithmetic: latency from MACs, capacity from parameters.

    One candidate in seven has no latency, as if its kernel had failed.
    """
    original = _figures(space, Genome())
    evaluations = []
    for genome in genomes:
        macs, parameters = _figures(space, genome)
        latency_s = macs / MACS_PER_S
        loss = max(0.0, 1.0 - parameters / original[1])
        status = CAPACITY if mode == "constrained" and loss > 0.5 else OK
        if len(genome) and int(genome.key, 16) % 7 == 0:
            status, latency_s = "crashed", 10 * original[0] / MACS_PER_S
        elif status == CAPACITY:
            latency_s = original[0] / MACS_PER_S * (1 + 10 * loss)
        fitness = (latency_s, loss, float(parameters)) if mode == "pareto" else (latency_s,)
        known = latency_s if status == OK else None
        evaluations.append(
            Evaluation(genome, status, fitness, known, float(parameters), macs, parameters)
        )
    return evaluations


def _figures(space: Space, genome: Genome) -> tuple[int, int]:
    nests = [(s.calls, replay(s.shape, genome.genes(s.name))) for s in space.sites]
    return sum(calls * n.macs for calls, n in nests), sum(n.parameters for _, n in nests)


class StrategyConformance(abc.ABC):
    """Inherit and implement `create`.

    Attributes:
        modes: The modes that the strategy supports.
    """

    modes: tuple[str, ...] = ("constrained", "pareto")

    @abc.abstractmethod
    def create(self, space: Space, config: SearchConfig) -> Strategy:
        """A fresh strategy."""

    def config(self, mode: str, seed: int = 1) -> SearchConfig:
        """A small search."""
        return SearchConfig.model_validate({"mode": mode, "population": 12, "seed": seed})

    def asked(
        self,
        strategy: Strategy,
        generations: int = GENERATIONS,
        between: Callable[[], object] = lambda: None,
    ) -> list[list[Genome]]:
        """What a strategy proposes when it is told the truth."""
        proposals = []
        for _ in range(generations):
            genomes = strategy.ask()
            proposals.append(genomes)
            between()
            strategy.tell(judged(strategy.space, strategy.config.mode, genomes))
            between()
        return proposals

    def test_proposals_are_legal_canonical_and_distinct(self) -> None:
        space = small_space()
        for mode in self.modes:
            for genomes in self.asked(self.create(space, self.config(mode))):
                assert genomes
                assert len({effect(space, g) for g in genomes}) == len(genomes)
                for genome in genomes:
                    for site in space.sites:
                        genes = genome.genes(site.name)
                        replay(site.shape, genes)
                        assert space.repaired(site, genes) == genes

    def test_the_first_generation_has_the_untransformed_network(self) -> None:
        for mode in self.modes:
            assert Genome() in self.create(small_space(), self.config(mode)).ask()

    def test_the_population_is_what_was_told(self) -> None:
        for mode in self.modes:
            strategy = self.create(small_space(), self.config(mode))
            before = strategy.population
            assert before == ()
            told: set[str] = set()
            for _ in range(GENERATIONS):
                new = judged(strategy.space, mode, strategy.ask())
                told |= {e.genome.key for e in new}
                strategy.tell(new)
                keys = [e.genome.key for e in strategy.population]
                assert 0 < len(keys) <= strategy.config.population
                assert len(set(keys)) == len(keys)
                assert set(keys) <= told

    def test_the_seed_decides_everything(self) -> None:
        for mode in self.modes:
            first, again, other = (
                self.asked(self.create(small_space(), self.config(mode, seed)))
                for seed in (1, 1, 2)
            )
            assert first == again
            assert first != other

    def test_global_generators_are_neither_read_nor_advanced(self) -> None:
        for mode in self.modes:
            undisturbed = self.asked(self.create(small_space(), self.config(mode)))
            random.seed(99)
            np.random.seed(99)
            before = _global_states()
            strategy = self.create(small_space(), self.config(mode))
            assert self.asked(strategy) == undisturbed
            assert _global_states() == before
            disturbed = self.create(small_space(), self.config(mode))
            assert self.asked(disturbed, between=_disturb) == undisturbed

    def test_a_restored_strategy_goes_on_as_if_nothing_had_been(self) -> None:
        for mode in self.modes:
            config = self.config(mode)
            whole = self.asked(self.create(small_space(), config))
            strategy = self.create(small_space(), config)
            for done in range(GENERATIONS):
                data = json.loads(json.dumps(strategy.state(), allow_nan=False))
                resumed = self.create(small_space(), config)
                resumed.restore(data)
                assert resumed.population == strategy.population
                assert self.asked(resumed, GENERATIONS - done) == whole[done:]
                strategy = self.create(small_space(), config)
                strategy.restore(data)
                self.asked(strategy, 1)

    def test_the_state_is_bounded(self) -> None:
        for mode in self.modes:
            strategy = self.create(small_space(), self.config(mode))
            self.asked(strategy, 5)
            early = len(json.dumps(strategy.state()))
            self.asked(strategy, 25)
            assert len(json.dumps(strategy.state())) < 2 * early

    def test_a_generation_cut_short_by_a_budget_is_taken(self) -> None:
        for mode in self.modes:
            strategy = self.create(small_space(), self.config(mode))
            genomes = strategy.ask()
            strategy.tell(judged(strategy.space, mode, genomes[:3]))
            assert len(strategy.population) <= 3
            assert strategy.ask()


def _disturb() -> None:
    random.random()
    np.random.random()


def _global_states() -> tuple[object, ...]:
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["key"].tolist(), numpy["pos"]
