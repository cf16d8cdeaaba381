from __future__ import annotations

import json
import random
from importlib.metadata import EntryPoint

import pytest

from engine.config import SearchConfig
from engine.evaluation import Evaluation
from engine.strategies import STRATEGIES, Strategy, StrategyError, create_strategy
from engine.strategies.conformance import StrategyConformance, judged, small_space
from engine.strategies.evolution import Evolution
from engine.strategies.individuals import effect
from engine.strategies.random_search import RandomSearch
from engine.strategies.randomness import Randomness
from engine.strategies.seeding import uniform_presets
from genomes import plugins
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.operators import Space
from genomes.presets import PRESETS, depthwise, grouping
from genomes.sites import Site


def config(**fields: object) -> SearchConfig:
    return SearchConfig.model_validate({"population": 12, "seed": 3, **fields})


class TestEvolution(StrategyConformance):
    def create(self, space: Space, config: SearchConfig) -> Strategy:
        return Evolution(space, config)

    def best_after(self, strategy: Strategy, generations: int) -> list[float]:
        best = []
        for _ in range(generations):
            strategy.tell(judged(strategy.space, "constrained", strategy.ask()))
            best.append(strategy.population[0].fitness[0])
        return best

    def test_the_best_is_never_lost_and_gets_better(self):
        best = self.best_after(self.create(small_space(), config()), 15)
        assert best == sorted(best, reverse=True)
        assert best[-1] < 0.8 * best[0]

    def test_it_beats_random_search_with_the_same_budget(self):
        for seed in range(3):
            evolved = self.best_after(self.create(small_space(), config(seed=seed)), 15)
            drawn = self.best_after(RandomSearch(small_space(), config(seed=seed)), 15)
            assert evolved[-1] < drawn[-1]

    def test_offspring_may_outnumber_the_population(self):
        strategy = self.create(small_space(), config(offspring=20))
        strategy.tell(judged(strategy.space, "constrained", strategy.ask()))
        assert len(strategy.ask()) == 20
        assert len(strategy.population) == 12

    def test_no_child_does_what_a_parent_does(self):
        strategy = self.create(small_space(), config())
        for _ in range(4):
            genomes = strategy.ask()
            old = {effect(strategy.space, e.genome) for e in strategy.population}
            assert not old & {effect(strategy.space, g) for g in genomes}
            strategy.tell(judged(strategy.space, "constrained", genomes))

    def test_a_space_with_one_point_is_exhausted(self):
        space = Space(small_space().sites[:1], frozenset(), ())
        strategy = self.create(space, config())
        assert strategy.ask() == [Genome()]
        strategy.tell(judged(space, "constrained", [Genome()]))
        assert strategy.ask() == []

    @pytest.mark.parametrize("population", [2, 3, 5, 6])
    def test_small_pareto_populations(self, population):
        strategy = self.create(small_space(), config(mode="pareto", population=population))
        self.asked(strategy, 4)
        assert len(strategy.population) == population

    def test_pareto_survivors_are_not_dominated_by_the_dead(self):
        strategy = self.create(small_space(), config(mode="pareto"))
        told: list[Evaluation] = []
        for _ in range(6):
            new = judged(strategy.space, "pareto", strategy.ask())
            told += new
            strategy.tell(new)
        fastest = min(told, key=lambda e: e.fitness)
        assert fastest.fitness in {e.fitness for e in strategy.population}
        assert len({e.fitness[1] for e in strategy.population}) > 3

    @pytest.mark.parametrize(("mate", "mutate"), [(0.0, 1.0), (1.0, 0.0), (0.3, 0.3), (0.1, 0.9)])
    def test_rates(self, mate, mutate):
        strategy = self.create(small_space(), config(mate=mate, mutate=mutate))
        assert all(self.asked(strategy, 4))


class TestRandomSearch(StrategyConformance):
    def create(self, space: Space, config: SearchConfig) -> Strategy:
        return RandomSearch(space, config)


class TestSeeding:
    def test_uniform_presets_apply_one_member_wherever_it_is_legal(self):
        space = small_space()
        found = uniform_presets(space)
        assert Genome.of({s.name: depthwise() for s in space.sites}) in found
        # 16 groups fit the wide sites only.
        assert Genome.of({s: grouping(16) for s in ("c", "d")}) in found

    def test_the_first_members_of_all_families_come_first(self):
        first = uniform_presets(small_space())[: len(PRESETS)]
        assert {g.by_site["c"][0].op for g in first} == {
            "bottleneck",
            "depthwise",
            "group",
            "split_domain",
        }

    def test_presets_that_are_not_allowed_are_left_out(self):
        space = Space(small_space().sites, frozenset({"group"}), tuple(PRESETS))
        assert {gene.op for g in uniform_presets(space) for _, s in g.sites for gene in s} == {
            "group"
        }


class TestEffect:
    def test_genes_that_change_nothing_have_no_effect(self):
        space = small_space()
        split = Gene.of("bottleneck", loop="co", factor=2)
        assert effect(space, Genome()) == ()
        assert effect(space, Genome.of({"a": [split]})) != effect(space, Genome.of({"b": [split]}))

    def test_genes_in_another_order_have_the_same_effect(self):
        space = small_space()
        rows, columns = (Gene.of("bottleneck", loop=n, factor=2) for n in ("ho", "wo"))
        first, second = Genome.of({"a": [rows, columns]}), Genome.of({"a": [columns, rows]})
        assert first != second
        assert effect(space, first) == effect(space, second)


class TestRandomness:
    def test_a_restored_generator_draws_the_same(self):
        first, second = Randomness(5), Randomness(6)
        with first.lent():
            random.random()
        second.restore(json.loads(json.dumps(first.state())))
        with first.lent():
            drawn = random.random()
        with second.lent():
            assert random.random() == drawn
        assert first.own.random() == second.own.random()

    def test_an_error_gives_the_globals_back(self):
        before = random.getstate()
        with pytest.raises(ZeroDivisionError), Randomness(5).lent():
            raise ZeroDivisionError
        assert random.getstate() == before


class TestRegistry:
    def test_names(self):
        assert set(STRATEGIES.names()) >= {"evolution", "random"}

    def test_an_unknown_name_answers_with_the_nearest(self):
        with pytest.raises(StrategyError, match="did you mean 'evolution'"):
            create_strategy("evolutoin", small_space(), config())

    def test_strategies_of_other_packages(self, monkeypatch):
        point = EntryPoint("mine", f"{__name__}:Mine", STRATEGIES.group)
        monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
        assert isinstance(create_strategy("mine", small_space(), config()), Mine)
        assert "mine" in STRATEGIES.names()


class Mine(RandomSearch):
    name = "mine"


class TestRestore:
    def test_the_state_of_another_strategy_is_refused(self):
        state = RandomSearch(small_space(), config()).state()
        with pytest.raises(StrategyError, match="no saved state of the strategy 'evolution'"):
            Evolution(small_space(), config()).restore(state)

    @pytest.mark.parametrize("missing", ["population", "randomness"])
    def test_a_damaged_state_is_refused(self, missing):
        state = Evolution(small_space(), config()).state()
        del state[missing]
        with pytest.raises(StrategyError, match="damaged"):
            Evolution(small_space(), config()).restore(state)

    def test_the_state_of_the_other_mode_is_refused(self):
        strategy = Evolution(small_space(), config(mode="pareto"))
        strategy.tell(judged(strategy.space, "pareto", strategy.ask()))
        with pytest.raises(StrategyError, match="damaged"):
            Evolution(small_space(), config()).restore(strategy.state())


def test_sites_without_a_legal_preset_are_no_problem():
    shape = small_space().sites[0].shape
    space = Space((Site("only", shape),), frozenset({"untie"}), tuple(PRESETS))
    assert Evolution(space, config()).ask()[0] == Genome()
