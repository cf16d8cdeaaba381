from __future__ import annotations

from dataclasses import replace

import pytest

from backends.base import Backend, Device, Failed, FailureKind, Measured, MeasureOptions
from backends.conformance import BackendConformance
from backends.store import MeasurementStore
from backends.stored import StoredBackend
from backends.table import TableBackend
from tests.backends.samples import fresh, scheduled


class CountingBackend(Backend):
    """Takes as many milliseconds as a nest has output channels; remembers what it was asked."""

    name = "counting"
    target = "counting"
    measure_options = MeasureOptions(repeats=1)

    def __init__(self, tvm="1"):
        self.asked = []
        self.closed = 0
        self.failure = None
        self.device = Device("counter", {"tvm": tvm})

    def describe(self):
        return self.device

    def transformations(self):
        return frozenset({"split"})

    def default_schedule(self, nest):
        return scheduled(nest, 1)

    def schedule_candidates(self, nest):
        return (scheduled(nest, 1), scheduled(nest, 2))

    def measure_iter(self, nests):
        for nest in nests:
            self.asked.append(nest)
            yield self.failure or Measured((nest.shape.out_channels * 1e-3,))

    def close(self):
        self.closed += 1


class TestStoredBackend(BackendConformance):
    def make(self):
        return StoredBackend(TableBackend(), MeasurementStore(":memory:"))


@pytest.fixture
def store(tmp_path):
    with MeasurementStore(tmp_path / "store.db") as store:
        yield store


def channels(outcomes):
    return [round(outcome.median_s * 1e3) for outcome in outcomes]


def test_what_is_known_is_not_measured_again(store):
    nests = [scheduled(fresh(c), 1) for c in (2, 4, 8)]
    first = StoredBackend(CountingBackend(), store)
    assert channels(first.measure(nests[:2])) == [2, 4]
    second = StoredBackend(CountingBackend(), store)
    assert channels(second.measure(nests)) == [2, 4, 8]
    assert second.inner.asked == nests[2:]
    assert (first.hits, first.misses, second.hits, second.misses) == (0, 2, 2, 1)


def test_equal_nests_of_a_batch_are_measured_once_and_order_is_kept(store):
    backend = StoredBackend(CountingBackend(), store)
    nests = [scheduled(fresh(c), 1) for c in (8, 2, 8, 4, 2)]
    assert channels(backend.measure(nests)) == [8, 2, 8, 4, 2]
    assert backend.inner.asked == [nests[0], nests[1], nests[3]]
    assert (backend.hits, backend.misses) == (2, 3)


def test_an_unscheduled_nest_is_stored_with_its_default_schedule(store):
    backend = StoredBackend(CountingBackend(), store)
    backend.measure([fresh(), backend.default_schedule(fresh())])
    (asked,) = backend.inner.asked
    assert asked == scheduled(fresh(), 1)
    assert [row.nest_key for row in store.rows()] == [asked.key]


def test_another_device_or_tvm_is_measured_anew(store):
    for tvm in ("1", "2"):
        backend = StoredBackend(CountingBackend(tvm), store)
        backend.measure([fresh()])
        assert backend.misses == 1
    assert store.count() == 2


def test_more_repeats_are_measured_anew(store):
    StoredBackend(CountingBackend(), store).measure([fresh()])
    careful = StoredBackend(CountingBackend(), store)
    careful.measure_options = replace(careful.measure_options, repeats=50)
    careful.measure([fresh()])
    assert careful.misses == 1


@pytest.mark.parametrize(
    ("kind", "hits"), [(FailureKind.WRONG_RESULT, 1), (FailureKind.DEVICE_LOST, 0)]
)
def test_only_failures_of_the_candidate_are_remembered(store, kind, hits):
    backend = StoredBackend(CountingBackend(), store)
    backend.inner.failure = Failed(kind, "why")
    assert backend.measure([fresh()]) == backend.measure([fresh()]) == [Failed(kind, "why")]
    assert backend.hits == hits


def test_outcomes_are_stored_one_by_one(store):
    backend = StoredBackend(CountingBackend(), store)
    outcomes = backend.measure_iter([fresh(2), fresh(4), fresh(8)])
    next(outcomes)
    assert (store.count(), len(backend.inner.asked)) == (1, 1)
    next(outcomes)
    assert (store.count(), len(backend.inner.asked)) == (2, 2)


def test_the_run_is_stored_and_drift_is_that_of_the_inner_backend(store):
    backend = StoredBackend(CountingBackend(), store, run_id="run-3")
    backend.inner.drift = [(0, 1e-3)]
    backend.measure([scheduled(fresh(), 5)])
    assert list(backend.drift) == [(0, 1e-3)]
    assert [row.run_id for row in store.rows()] == ["run-3"]


def test_the_rest_is_the_inner_backend_and_the_store_stays_open(store):
    with StoredBackend(CountingBackend(), store) as backend:
        assert backend.describe() == backend.inner.describe()
        assert backend.transformations() == {"split"}
        assert backend.schedule_candidates(fresh()) == backend.inner.schedule_candidates(fresh())
        assert (backend.name, backend.target) == ("counting", "counting")
        assert backend.network_target() is None
    assert backend.inner.closed == 1
    assert store.count() == 0
