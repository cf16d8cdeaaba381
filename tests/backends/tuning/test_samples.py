from __future__ import annotations

import json

import pytest

from backends.base import FailureKind
from backends.store import MeasurementStore
from backends.stored import StoredBackend
from backends.table import TableBackend, TableOptions
from backends.tuning import stored_samples
from backends.tuning.samples import nest_of
from engine.bench.workloads import workloads
from genomes.nest import Statement
from tests.backends.samples import fresh, scheduled


@pytest.mark.parametrize("workload", workloads(), ids=lambda w: w.name)
def test_statements_are_read_back(workload) -> None:
    for s in workload.nest.statements:
        assert Statement.from_structure(json.loads(json.dumps(s.structure()))) == s


@pytest.fixture
def store(tmp_path):
    with MeasurementStore(tmp_path / "measurements.sqlite") as store:
        yield store


def test_stored_measurements_become_samples(store) -> None:
    backend = StoredBackend(TableBackend(), store)
    nests = [n for w in workloads() if w.quick for n in backend.schedule_candidates(w.nest)[:3]]
    outcomes = backend.measure(nests)
    assert [nest_of(row) for row in sorted(store.rows(), key=lambda r: r.nest_key)] == sorted(
        nests, key=lambda n: n.key
    )
    found = {(s.workload, s.features, s.latency_s) for s in stored_samples(backend)}
    expected = {
        (n.structure_key, backend.schedule_features(n), o.median_s)
        for n, o in zip(nests, outcomes, strict=True)
    }
    assert found == expected
    assert len(stored_samples(backend, most=5)) == 5


def test_other_devices_and_failures_and_lost_genes_teach_nothing(store) -> None:
    failing = StoredBackend(
        TableBackend(TableOptions(failures={FailureKind.WRONG_RESULT: 1.0})), store
    )
    backend = StoredBackend(TableBackend(), store)
    failing.measure(failing.schedule_candidates(fresh(16, 8)))
    backend.measure([scheduled(fresh(), 4)])
    assert store.count() > 1
    assert stored_samples(backend) == stored_samples(failing) == []
