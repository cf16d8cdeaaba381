"""The contract of backends as tests, for the built-in ones and for those of third parties.

Usage, in a test file:

    from backends.conformance import BackendConformance

    class TestNpuBackend(BackendConformance):
        def make(self):
            return NpuBackend(NpuOptions(repeats=3))
"""

from __future__ import annotations

import abc
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from backends.base import Backend, Failed, Measured, Outcome
from genomes import presets
from genomes.gene import Gene
from genomes.genome import replay
from genomes.nest import ConvShape, LoopNest
from genomes.transformations import get_transformation

SMALL = ConvShape(1, 8, 8, (8, 8), (3, 3), padding=(1, 1, 1, 1))
LARGE = ConvShape(1, 64, 64, (32, 32), (3, 3), padding=(1, 1, 1, 1))

SHAPES = {
    "pointwise": replace(SMALL, kernel=(1, 1), padding=(0, 0, 0, 0)),
    "strided": replace(SMALL, stride=(2, 2), in_size=(9, 7)),
    "dilated": replace(SMALL, dilation=(2, 2), padding=(2, 2, 2, 2)),
    "asymmetric": replace(SMALL, padding=(0, 1, 2, 0), kernel=(2, 3)),
    "with bias": replace(SMALL, bias=True),
    "grouped": replace(SMALL, groups=4),
    "depthwise": replace(SMALL, groups=8),
    "batch of 2": replace(SMALL, batch=2),
    "one channel": replace(SMALL, in_channels=1, out_channels=1),
    "odd channels": replace(SMALL, in_channels=3, out_channels=5),
    "reflect": replace(SMALL, padding_mode="reflect"),
    "replicate": replace(SMALL, padding_mode="replicate"),
    "circular": replace(SMALL, padding_mode="circular"),
}
FORMS = {
    "grouping": presets.grouping(2),
    "shuffled grouping": presets.grouping(4, "interleaved"),
    "depthwise": presets.depthwise(),
    "bottleneck": presets.bottleneck(2),
    "input bottleneck": presets.input_bottleneck(2),
    "spatial bottleneck": presets.spatial_bottleneck(2),
    "1x3 kernel": (Gene.of("bottleneck", loop="kh", factor=1),),
    "grouped rows": (Gene.of("group", over="ho", groups=2, layout="block"),),
    "sequence 1": presets.seq1((1, 2)),
    "sequence 2": presets.seq2(SMALL, peel=2, groups=2),
    "sequence 3": presets.seq3(2),
}
ABSURD = Gene.of("no_such_transformation", factor=3)


def absurd(nest: LoopNest) -> LoopNest:
    """`nest` with a schedule that no backend can make a kernel of."""
    statements = (
        s.with_schedule(replace(s.scheduled(nest.shape.batch), genes=(ABSURD,)))
        for s in nest.statements
    )
    return LoopNest(nest.shape, tuple(statements))


class BackendConformance(abc.ABC):
    """Subclass this and say how the backend is made."""

    @abc.abstractmethod
    def make(self) -> Backend:
        """A new backend with the options to test it with."""

    @pytest.fixture(scope="class")
    def backend(self) -> Iterator[Backend]:
        """One backend for all tests of the class."""
        with self.make() as backend:
            yield backend

    def test_it_describes_its_device(self, backend: Backend) -> None:
        """The description is plain data and its fingerprint does not change."""
        device = backend.describe()
        assert device.name
        assert json.loads(json.dumps(dict(device.facts))) == dict(device.facts)
        assert backend.describe().fingerprint == device.fingerprint
        assert backend.target
        with self.make() as other:
            assert other.describe().fingerprint == device.fingerprint
            assert other.target == backend.target

    def test_it_names_transformations_that_exist(self, backend: Backend) -> None:
        """Every name is declared in the registry."""
        assert backend.transformations()
        for name in backend.transformations():
            assert get_transformation(name).name == name

    def test_no_nests_give_no_outcomes(self, backend: Backend) -> None:
        """An empty batch is a batch."""
        assert backend.measure([]) == []

    def test_times_are_seconds(self, backend: Backend) -> None:
        """Positive times, no more than asked for, and stages that took no negative time."""
        (outcome,) = backend.measure([LoopNest.fresh(SMALL)])
        assert isinstance(outcome, Measured), outcome
        assert 1 <= len(outcome.times_s) <= backend.measure_options.repeats
        assert all(type(t) is float and math.isfinite(t) and t > 0 for t in outcome.times_s)
        assert all(seconds >= 0 for seconds in outcome.stages_s.values())

    def test_outcomes_come_in_the_order_of_the_nests(self, backend: Backend) -> None:
        """A kernel of 300 times the work stands where it was put."""
        small, large = LoopNest.fresh(SMALL), LoopNest.fresh(LARGE)
        outcomes = backend.measure([small, large, small, large])
        medians = [o.median_s for o in outcomes if isinstance(o, Measured)]
        assert len(medians) == 4, outcomes
        assert max(medians[0], medians[2]) < min(medians[1], medians[3])

    def test_a_failure_costs_its_candidate_only(self, backend: Backend) -> None:
        """A schedule that makes no sense is an outcome, and its neighbours have times."""
        good, bad = LoopNest.fresh(SMALL), absurd(LoopNest.fresh(SMALL))
        outcomes = backend.measure([good, bad, bad, good])
        assert all(isinstance(outcomes[i], Measured) for i in (0, 3)), outcomes
        for outcome in outcomes[1:3]:
            assert isinstance(outcome, Measured | Failed)
            if isinstance(outcome, Failed):
                assert outcome.kind.charged_to_candidate
                assert outcome.message
                assert "\n" not in outcome.message

    def test_the_default_schedule_is_made_of_genes(self, backend: Backend) -> None:
        """Replaying its genes through the registry gives the same schedule again."""
        for genes in ((), *FORMS.values()):
            nest = replay(SMALL, genes)
            default = backend.default_schedule(nest)
            assert default.structure_key == nest.structure_key
            replayed = nest.unscheduled()
            for s in default.statements:
                assert s.has_schedule
                for gene in s.schedule_genes:
                    assert gene.op in backend.transformations()
                    replayed = get_transformation(gene.op).apply(replayed, gene)
            assert [s.scheduled(1) for s in replayed.statements] == [
                s.scheduled(1) for s in default.statements
            ]
            assert backend.default_schedule(default) == default

    def test_schedule_candidates_begin_with_the_default(self, backend: Backend) -> None:
        """They are different schedules of the same computation."""
        nest = LoopNest.fresh(LARGE)
        candidates = backend.schedule_candidates(nest)
        assert candidates[0] == backend.default_schedule(nest)
        assert {c.structure_key for c in candidates} == {nest.structure_key}
        assert len({c.key for c in candidates}) == len(candidates)

    def test_the_schedule_space_holds_more_of_the_same(self, backend: Backend) -> None:
        """Different schedules of one computation, with as many features each, or none."""
        nest = LoopNest.fresh(LARGE)
        space = backend.schedule_space(nest)
        assert {s.structure_key for s in space} == {nest.structure_key}
        assert len({s.key for s in space}) == len(space) >= 1
        features = [backend.schedule_features(s) for s in space]
        assert len({len(f) for f in features if f is not None}) <= 1
        assert all(math.isfinite(x) for f in features for x in f or ())
        assert features == [backend.schedule_features(s) for s in space]

    def test_shapes_are_measured(self, backend: Backend) -> None:
        """Strides, dilation, padding modes, bias, groups, odd sizes."""
        nests = [LoopNest.fresh(shape) for shape in SHAPES.values()]
        require_times(dict(zip(SHAPES, backend.measure(nests), strict=True)))

    def test_neural_forms_are_measured(self, backend: Backend) -> None:
        """Every form whose genes the backend says it can lower."""
        lowered = {
            name: replay(SMALL, genes)
            for name, genes in FORMS.items()
            if {gene.op for gene in genes} <= backend.transformations()
        }
        require_times(dict(zip(lowered, backend.measure([*lowered.values()]), strict=True)))

    def test_an_abandoned_batch_leaves_the_backend_usable(self, backend: Backend) -> None:
        """A search may be interrupted between two outcomes."""
        nest = LoopNest.fresh(SMALL)
        outcomes = backend.measure_iter([nest, nest, nest])
        next(outcomes)
        del outcomes
        assert isinstance(backend.measure([nest])[0], Measured)

    def test_close_leaves_no_process_and_may_be_repeated(self) -> None:
        """Closed twice, also after nothing was measured, and by its context."""
        me = psutil.Process()
        before = {child.pid for child in me.children(recursive=True)}
        self.make().close()
        with self.make() as backend:
            backend.measure([LoopNest.fresh(SMALL)])
            started = [c for c in me.children(recursive=True) if c.pid not in before]
            backend.close()
        backend.close()
        _, alive = psutil.wait_procs(started, timeout=5)
        assert not alive
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            left = {child.pid for child in me.children(recursive=True)} - before
            if not left:
                break
            time.sleep(0.05)
        assert not left


def require_times(outcomes: dict[str, Outcome]) -> None:
    """Fail with the names and reasons of those that have no times."""
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Failed)}
    assert not failed, {n: f"{o.kind}: {o.message}" for n, o in failed.items()}
