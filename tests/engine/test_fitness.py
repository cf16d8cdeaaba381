from __future__ import annotations

import math
from dataclasses import replace

import pytest

from backends.base import BackendError, Losses, Measured, MeasureOptions
from backends.store import MeasurementStore
from backends.stored import StoredBackend
from backends.table import TableBackend, TableOptions
from engine.capacity.base import Score
from engine.evaluation import CAPACITY, OK, PARAMETERS
from engine.fitness import FAILURE_FACTOR, ILLEGAL, Evaluator, Objective
from engine.kernels import Kernels
from engine.latency import LatencyModel
from engine.stages import Stages
from engine.strategies.conformance import small_space
from genomes.gene import Gene
from genomes.genome import Genome, replay
from genomes.nest import ConvShape, LoopNest
from genomes.presets import grouping, seq3
from genomes.sites import Sites
from tests.engine.toys import ParameterMetric

SPACE = small_space()
SITES = Sites(SPACE.sites, (), (1, 8, 8, 8))
HALVES = Genome.of({"a": grouping(2)})
UNTIED = Genome.of({"a": seq3(2)})
TWINS = Genome.of({"a": grouping(2), "b": grouping(2)})
SCHEDULED = Genome.of({"a": [Gene.of("unroll", loop="kw")]})
WRONG = Genome.of({"a": [Gene.of("group", over="co", groups=3, layout="block")]})


class Asked(TableBackend):
    """Remembers what it was asked for, request by request."""

    def __init__(self, options=None):
        super().__init__(options)
        self.requests: list[list[LoopNest]] = []

    def measure_iter(self, nests):
        self.requests.append(list(nests))
        yield from super().measure_iter(nests)


class Setup:
    """An evaluator with its parts in reach."""

    def __init__(
        self,
        path,
        mode="constrained",
        tolerance=0.0,
        scale=1.0,
        rest_s=0.0,
        share=0.0,
        **failures,
    ):
        self.store = MeasurementStore(path / "store.sqlite")
        self.inner = Asked(TableOptions(failures=failures))
        self.stages = Stages()
        self.kernels = Kernels(StoredBackend(self.inner, self.store), 2, self.stages)
        self.metric = ParameterMetric(SITES)
        self.model = LatencyModel(scale, rest_s)
        self.original_s = self.latency_s(Genome()) if not failures else 1.0
        self.objective = Objective(
            mode,
            self.original_s,
            self.metric.original,
            tolerance,
            penalty=10.0,
            least_parameters=share * self.metric.original,
        )
        self.inner.requests.clear()
        self.evaluator = Evaluator(
            SPACE.sites,
            self.metric,
            self.kernels,
            self.store,
            self.objective,
            self.model,
            self.stages,
        )

    def latency_s(self, genome):
        """By hand: the rest, and the fastest of two schedules of every site."""
        total = 0.0
        for site in SPACE.sites:
            nest = replay(site.shape, genome.genes(site.name))
            kernels = [nest]
            if not any(s.has_schedule for s in nest.statements):
                kernels = self.inner.schedule_candidates(nest)[:2]
            total += site.calls * min(o.median_s for o in TableBackend().measure(kernels))
        return self.model.scale * total + self.model.rest_s


@pytest.fixture
def setup(tmp_path):
    return Setup(tmp_path)


def test_the_original(setup):
    (original,) = setup.evaluator.evaluate([Genome()])
    assert original.status == OK
    assert original.latency_s == pytest.approx(setup.latency_s(Genome()), rel=1e-12)
    assert original.fitness == (original.latency_s,)
    assert original.capacity == setup.metric.original
    nests = SITES.nests(Genome())
    assert original.parameters == sum(n.parameters for n in nests.values())
    assert original.macs == sum(s.calls * nests[s.name].macs for s in SPACE.sites)
    assert setup.evaluator.is_legal(original)


def test_a_legal_candidate_is_measured_with_all_calls_and_the_rest(tmp_path):
    setup = Setup(tmp_path, scale=1.1, rest_s=1e-3)
    (untied,) = setup.evaluator.evaluate([UNTIED])
    assert untied.status == OK
    assert untied.latency_s == pytest.approx(setup.latency_s(UNTIED), rel=1e-12)


class Weighed(Asked):
    """Kernels that lose time among the weights of a network."""

    measure_options = MeasureOptions(weight_bytes=4000, cached_bytes=400)

    def _outcome(self, nest):
        kernel = super()._outcome(nest)
        lost = Losses(kernel.median_s / 2, kernel.median_s / 4)
        return replace(kernel, lost=lost, weight_bytes=4 * nest.parameters)


def test_a_candidate_is_charged_by_its_own_weights(tmp_path):
    setup = Setup(tmp_path)
    backend = Weighed()
    backend.measure_options = Weighed.measure_options
    setup.kernels = setup.evaluator._kernels = Kernels(
        StoredBackend(backend, setup.store), 2, setup.stages
    )
    setup.evaluator.objective = replace(setup.objective, tolerance=1.0)
    original, halves = setup.evaluator.evaluate([Genome(), HALVES])
    for evaluation in (original, halves):
        sites = SPACE.sites
        nests = [replay(s.shape, evaluation.genome.genes(s.name)) for s in sites]
        outcomes = [setup.kernels.best(nest) for nest in nests]
        distance = backend.measure_options.distance(sum(4 * n.parameters for n in nests))
        lost = [(distance - 1) * o.median_s / 4 for o in outcomes]
        seconds = [
            s.calls * (o.median_s + x) for s, o, x in zip(sites, outcomes, lost, strict=True)
        ]
        assert evaluation.latency_s == pytest.approx(sum(seconds))
    assert 0 < distance < 1


def test_a_schedule_of_its_own_is_measured_as_it_is(setup):
    (scheduled,) = setup.evaluator.evaluate([SCHEDULED])
    assert scheduled.status == OK
    assert scheduled.latency_s == pytest.approx(setup.latency_s(SCHEDULED), rel=1e-12)
    assert scheduled.latency_s != setup.original_s


class TestCapacity:
    def test_below_the_floor_nothing_is_measured(self, setup):
        setup.evaluator.evaluate([Genome()])
        setup.inner.requests.clear()
        (halves,) = setup.evaluator.evaluate([HALVES])
        assert halves.status == CAPACITY
        assert halves.latency_s is None
        assert not any(setup.inner.requests)
        assert not setup.evaluator.is_legal(halves)
        assert "capacity" in halves.message

    def test_the_fitness_grows_with_the_loss_and_is_worse_than_the_original(self, setup):
        levels = [Genome.of({"c": grouping(g)}) for g in (2, 4, 8)]
        original, *worse = setup.evaluator.evaluate([Genome(), *levels])
        fitness = [e.fitness[0] for e in (original, *worse)]
        assert fitness == sorted(fitness)
        assert len(set(fitness)) == 4
        loss = 1 - worse[0].capacity / original.capacity
        assert fitness[1] == pytest.approx(setup.original_s * (1 + 10 * loss))

    def test_the_tolerance_makes_legal(self, tmp_path):
        (halves,) = Setup(tmp_path, tolerance=0.2).evaluator.evaluate([HALVES])
        assert halves.status == OK
        assert halves.capacity < Setup(tmp_path).metric.original

    def test_with_too_few_parameters_nothing_is_computed(self, tmp_path):
        setup = Setup(tmp_path, tolerance=0.99, share=0.9)
        levels = [Genome.of({"c": grouping(g)}) for g in (2, 4, 8)]
        original, *small = setup.evaluator.evaluate([Genome(), *levels])
        assert setup.evaluator.is_legal(original)
        assert {e.status for e in small} == {PARAMETERS}
        least = setup.evaluator.objective.least_parameters
        kept = small[0].parameters
        told = f"keeps {kept} parameters of the convolutions, fewer than {least:.0f}"
        assert small[0].message == told
        assert setup.metric.scored == []
        fitness = [e.fitness[0] for e in (original, *small)]
        assert fitness == sorted(fitness)
        kept = small[0].parameters / (0.9 * original.parameters)
        assert fitness[1] == pytest.approx(setup.original_s * (1 + 10 * (1 - kept)))
        assert str(small[0].parameters) in small[0].message
        assert not any(setup.evaluator.is_legal(e) for e in small)

    def test_a_pareto_candidate_with_too_few_parameters_is_measured_and_never_wins(self, tmp_path):
        setup = Setup(tmp_path, mode="pareto", tolerance=0.99, share=0.9)
        (small,) = setup.evaluator.evaluate([Genome.of({"c": grouping(8)})])
        assert small.status == OK
        assert not setup.evaluator.is_legal(small)

    def test_a_schedule_never_recomputes_it(self, setup):
        setup.evaluator.evaluate([UNTIED, SCHEDULED])
        both = UNTIED.with_genes("b", [Gene.of("unroll", loop="kw")])
        setup.evaluator.evaluate([both, UNTIED, Genome()])
        assert setup.metric.scored == [UNTIED]
        assert setup.evaluator.scored == 1

    def test_another_run_reads_it_from_the_store(self, tmp_path):
        first = Setup(tmp_path)
        expected = first.evaluator.evaluate([UNTIED, HALVES])
        again = Setup(tmp_path)
        assert again.evaluator.evaluate([UNTIED, HALVES]) == expected
        assert again.metric.scored == []
        assert again.evaluator.scored == 0
        assert not any(again.inner.requests)

    def test_equal_neural_parts_in_a_batch_are_scored_once(self, setup):
        with_schedule = HALVES.with_genes("b", [Gene.of("unroll", loop="kw")])
        setup.evaluator.evaluate([HALVES, with_schedule, HALVES])
        assert setup.metric.scored == [HALVES]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_illegal_and_finite(self, setup, monkeypatch, value):
        monkeypatch.setattr(setup.metric, "score", lambda genomes: [Score(value) for _ in genomes])
        (evaluation,) = setup.evaluator.evaluate([UNTIED])
        assert evaluation.status == CAPACITY
        assert evaluation.fitness == (pytest.approx(11 * setup.original_s),)
        assert math.isfinite(evaluation.capacity)

    def test_rounding_does_not_make_illegal(self, setup):
        original = setup.objective.original_capacity
        assert setup.objective.legal(original * (1 - 1e-9))
        assert not setup.objective.legal(original * (1 - 1e-5))


class TestKernels:
    def test_a_batch_is_one_request_of_distinct_kernels(self, setup):
        setup.evaluator.evaluate([UNTIED, Genome.of({"b": seq3(2)}), Genome.of({"c": seq3(4)})])
        (request,) = setup.inner.requests
        keys = [nest.key for nest in request]
        assert len(set(keys)) == len(keys)
        # Two originals, and two untied ones; two schedules each.
        assert len(keys) == 8

    def test_what_is_known_is_not_asked_again(self, setup):
        first = setup.evaluator.evaluate([UNTIED])
        setup.inner.requests.clear()
        assert setup.evaluator.evaluate([UNTIED]) == first
        assert not any(setup.inner.requests)

    def test_the_order_of_the_batch_does_not_matter(self, tmp_path):
        genomes = [Genome(), UNTIED, HALVES, TWINS, SCHEDULED, Genome.of({"d": seq3(2)})]
        (tmp_path / "other").mkdir()
        forth = Setup(tmp_path).evaluator.evaluate(genomes)
        back = Setup(tmp_path / "other").evaluator.evaluate(genomes[::-1])
        assert forth == back[::-1]

    def test_the_search_may_stop_between_two_measurements(self, setup):
        done = []

        def between():
            done.append(1)
            if len(done) == 3:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            setup.evaluator.evaluate([UNTIED], between)
        assert setup.store.count() == 2

    def test_the_schedules_of_a_variant_are_the_fastest(self, setup):
        setup.evaluator.evaluate([UNTIED])
        nest = replay(SPACE.sites[0].shape, seq3(2))
        genes = setup.kernels.schedules([nest])[nest.structure_key]
        candidates = setup.inner.schedule_candidates(nest)[:2]
        fastest = min(candidates, key=lambda n: TableBackend().measure([n])[0].median_s)
        assert replay(nest.shape, (*seq3(2), *genes)).key == fastest.key


class TestFailures:
    def test_a_candidate_without_a_latency_is_worst_and_finite(self, tmp_path):
        setup = Setup(tmp_path, wrong_result=1.0)
        (untied,) = setup.evaluator.evaluate([UNTIED])
        assert untied.status == "wrong_result"
        assert untied.message.startswith("a: injected")
        assert untied.latency_s is None
        assert untied.fitness == (FAILURE_FACTOR * setup.original_s,)
        assert not setup.evaluator.is_legal(untied)

    def test_one_schedule_that_works_is_enough(self, tmp_path):
        setup = Setup(tmp_path, crashed=0.5)
        shapes = [ConvShape(1, 8, 2 * n, (8, 8), (3, 3)) for n in range(4, 30)]
        nests = [LoopNest.fresh(shape) for shape in shapes]
        setup.kernels.measure(nests, lambda: None)
        seen = set()
        for nest in nests:
            outcomes = setup.inner.measure(setup.inner.schedule_candidates(nest)[:2])
            works = [o for o in outcomes if isinstance(o, Measured)]
            best = setup.kernels.best(nest)
            assert isinstance(best, Measured) == bool(works)
            if works:
                assert best.median_s == min(o.median_s for o in works)
            seen.add(len(works))
        assert seen == {0, 1, 2}

    def test_what_the_candidate_is_not_to_blame_for_is_tried_again(self, tmp_path):
        setup = Setup(tmp_path, queue_timeout=1.0)
        message = r"a could not be measured \(queue_timeout: injected.*--resume"
        with pytest.raises(BackendError, match=message):
            setup.evaluator.evaluate([UNTIED])
        assert setup.evaluator.measured([UNTIED]) == []
        setup.kernels.backend = StoredBackend(TableBackend(), setup.store)
        assert setup.evaluator.evaluate([UNTIED])[0].status == OK

    def test_genes_that_do_not_apply_are_named(self, setup):
        wrong, untied = setup.evaluator.evaluate([WRONG, UNTIED])
        assert (wrong.status, untied.status) == (ILLEGAL, OK)
        assert "group(groups=3" in wrong.message
        assert wrong.fitness == (FAILURE_FACTOR * setup.original_s,)


class TestPareto:
    def test_all_objectives_of_a_candidate_that_loses_capacity(self, tmp_path):
        setup = Setup(tmp_path, mode="pareto")
        original, halves = setup.evaluator.evaluate([Genome(), HALVES])
        assert halves.status == OK
        loss = 1 - halves.capacity / original.capacity
        assert halves.fitness == (halves.latency_s, pytest.approx(loss), halves.parameters)
        assert original.fitness[1] == 0.0
        assert not setup.evaluator.is_legal(halves)

    def test_failures_are_finite(self, tmp_path):
        setup = Setup(tmp_path, mode="pareto", crashed=1.0)
        crashed, wrong = setup.evaluator.evaluate([HALVES, WRONG])
        assert crashed.status == "crashed"
        assert len(crashed.fitness) == len(wrong.fitness) == 3
        assert all(map(math.isfinite, (*crashed.fitness, *wrong.fitness)))


class TestObjective:
    @pytest.mark.parametrize("latency_s", [math.inf, math.nan])
    @pytest.mark.parametrize("mode", ["constrained", "pareto"])
    def test_nothing_infinite_gets_through(self, mode, latency_s):
        with pytest.raises(AssertionError, match="finite"):
            Objective(mode, 1.0, 1.0).fitness(latency_s, 1.0, 1)

    def test_an_original_without_capacity_has_nothing_to_lose(self):
        objective = Objective("constrained", 1.0, 0.0)
        assert objective.loss(0.0) == 0.0
        assert objective.legal(0.0)
