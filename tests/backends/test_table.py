from __future__ import annotations

from collections import Counter

from backends.base import Failed, FailureKind, Measured
from backends.conformance import BackendConformance
from backends.table import TableBackend, TableOptions, modelled_latency_s
from genomes import presets
from genomes.genome import replay
from tests.backends.samples import fresh, scheduled, shape


class TestTableBackend(BackendConformance):
    def make(self):
        return TableBackend()


def test_latencies_never_change():
    expected = modelled_latency_s(scheduled(fresh(64, 16), 4))
    assert expected == 0.0050127031074600785
    (outcome,) = TableBackend().measure([scheduled(fresh(64, 16), 4)])
    assert outcome.times_s[0] == expected


def test_less_work_takes_less_time_and_better_schedules_too():
    backend = TableBackend()
    site = shape(64, 16)
    grouped = replay(site, presets.grouping(8))
    plain, default = fresh(64, 16), backend.default_schedule(fresh(64, 16))
    assert modelled_latency_s(grouped) < modelled_latency_s(plain)
    assert modelled_latency_s(default) < modelled_latency_s(plain) / 2


def test_it_says_that_its_latencies_are_modelled():
    device = TableBackend().describe()
    assert "modelled, not measured" in device.name
    assert device.facts["modelled"] is True


def test_failures_are_injected_by_share_and_always_into_the_same_nests():
    options = TableOptions(failures={"wrong_result": 0.2, "run_timeout": 0.1})
    nests = [scheduled(fresh(), number) for number in range(500)]
    first, second = (TableBackend(options).measure(nests) for _ in range(2))
    assert first == second
    kinds = Counter(o.kind if isinstance(o, Failed) else "measured" for o in first)
    assert 70 < kinds[FailureKind.WRONG_RESULT] < 130
    assert 30 < kinds[FailureKind.RUN_TIMEOUT] < 70
    assert sum(isinstance(o, Measured) for o in first) == kinds["measured"]
    fingerprints = {TableBackend(o).describe().fingerprint for o in (None, options)}
    assert len(fingerprints) == 2, "injected failures must not answer for the plain table"
