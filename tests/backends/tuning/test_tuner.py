from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from backends.base import BackendError, FailureKind, Measured
from backends.table import TableBackend, TableOptions
from backends.timing.probe import IMPATIENT
from backends.tuning import tune
from backends.tuning.tuner import FIRST_SHARE
from engine.bench.workloads import workloads
from tests.backends.samples import fresh

NESTS = {w.name: w.nest for w in workloads()}
DENSE, PARTS = NESTS["128->128 3x3 16x16"], NESTS["128->128 3x3 16x16: seq1 1,2,4,8"]


class PlainBackend(TableBackend):
    """A backend that knows no features and no more than its proposals."""

    def schedule_space(self, nest):
        return self.schedule_candidates(nest)

    def schedule_features(self, nest):
        return None


def trace(tuned):
    return [(t.nest.key, t.outcome) for t in tuned.history]


@pytest.mark.parametrize("nest", [DENSE, PARTS, fresh(3, 5), fresh(1, 1)], ids=str)
def test_it_finds_what_is_at_least_as_fast_as_the_proposals(nest) -> None:
    backend = TableBackend()
    tuned = tune(backend, nest, measurements=32)
    assert 1 <= tuned.measurements <= 32
    assert len({t.nest.key for t in tuned.history}) == tuned.measurements
    assert {t.nest.structure_key for t in tuned.history} == {nest.structure_key}
    first = backend.measure(backend.schedule_candidates(nest)[: 32 // FIRST_SHARE])
    assert tuned.proposed_s == min(o.median_s for o in first)
    assert tuned.latency_s <= tuned.proposed_s
    (outcome,) = backend.measure([tuned.nest])
    assert outcome.median_s == tuned.latency_s
    assert 0 < tuned.seconds_to_95_percent <= tuned.seconds
    assert all(a.elapsed_s <= b.elapsed_s for a, b in pairwise(tuned.history))


def test_evolution_goes_beyond_the_proposals() -> None:
    backend = TableBackend()
    known = {n.key for n in backend.schedule_candidates(DENSE) + backend.schedule_space(DENSE)}
    tuned = tune(backend, DENSE, measurements=40)
    assert {t.nest.key for t in tuned.history} - known


def test_a_seed_decides_everything() -> None:
    first, second, other = (tune(TableBackend(), DENSE, 24, seed) for seed in (1, 1, 2))
    assert trace(first) == trace(second)
    assert trace(first) != trace(other)


def test_samples_of_other_workloads_change_what_is_measured() -> None:
    backend = TableBackend()
    taught = tune(backend, PARTS, 24).samples(backend)
    assert len(taught) > 12
    assert trace(tune(backend, DENSE, 24)) != trace(tune(backend, DENSE, 24, samples=taught))


@pytest.mark.parametrize("measurements", [1, 2, 7])
def test_the_budget_is_kept(measurements) -> None:
    tuned = tune(TableBackend(), DENSE, measurements)
    assert (tuned.measurements, tuned.reason) == (measurements, "measurements")


def test_it_ends_when_nothing_more_is_promised() -> None:
    tuned = tune(TableBackend(), DENSE, 500)
    assert tuned.reason == "stale"
    assert tuned.measurements < 300


def test_a_backend_without_features_is_tuned_in_its_order() -> None:
    backend = PlainBackend()
    tuned = tune(backend, DENSE, 12)
    proposals = [n.key for n in backend.schedule_candidates(DENSE)]
    assert [t.nest.key for t in tuned.history][: len(proposals)] == proposals
    assert tuned.samples(backend) == []


def test_failures_are_part_of_the_history() -> None:
    options = TableOptions(failures={FailureKind.RUN_TIMEOUT: 0.5})
    tuned = tune(TableBackend(options), DENSE, 24)
    failed = [t for t in tuned.history if not isinstance(t.outcome, Measured)]
    assert 4 <= len(failed) < tuned.measurements


def test_nothing_that_works_is_one_clear_error() -> None:
    backend = TableBackend(TableOptions(failures={FailureKind.WRONG_RESULT: 1.0}))
    message = "No schedule of 1x128x16x16 -> 128, 3x3 works: wrong_result: injected"
    with pytest.raises(BackendError, match=message):
        tune(backend, DENSE, 8)


def test_it_can_be_stopped_between_measurements() -> None:
    class StopError(Exception):
        pass

    calls = []

    def between() -> None:
        calls.append(None)
        if len(calls) == 5:
            raise StopError

    with pytest.raises(StopError):
        tune(TableBackend(), DENSE, 32, between=between)
    assert len(calls) == 5


class BusyBackend(TableBackend):
    """Every schedule is timed twice too slow at first, since something else keeps it busy."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def measure_iter(self, nests):
        for nest, outcome in zip(nests, super().measure_iter(nests), strict=True):
            first = nest.key not in self.asked
            self.asked.append(nest.key)
            times_s = tuple(2 * seconds for seconds in outcome.times_s)
            yield replace(outcome, times_s=times_s, disturbed=True) if first else outcome


@pytest.mark.parametrize("impatient", [False, True])
def test_what_was_disturbed_is_timed_once_more_by_who_waits(monkeypatch, impatient) -> None:
    monkeypatch.setenv(IMPATIENT, "1" if impatient else "")
    backend = BusyBackend()
    busy, quiet = tune(backend, DENSE, 24), tune(TableBackend(), DENSE, 24)
    assert (trace(busy) == trace(quiet)) is not impatient
    assert busy.timed_again == (0 if impatient else busy.measurements)
    assert len(backend.asked) == busy.measurements + busy.timed_again
