from __future__ import annotations

import pytest

from backends.base import Measured
from backends.store import MeasurementStore
from backends.stored import StoredBackend
from backends.table import TableBackend
from engine.kernels import Kernels
from engine.report import render_result
from engine.runs import RunDir
from engine.search import run_experiment
from engine.stages import Stages
from engine.tuning import Tuning, tune_kernels
from genomes.genome import Genome
from tests.backends.samples import fresh
from tests.engine.samples import result
from tests.engine.searches import run_dir
from tests.engine.toys import experiment

SMALL, LARGE = fresh(8, 6), fresh(32, 16)


@pytest.fixture
def store(tmp_path):
    with MeasurementStore(tmp_path / "measurements.sqlite") as store:
        yield store


def kernels_of(store: MeasurementStore) -> Kernels:
    kernels = Kernels(StoredBackend(TableBackend(), store), 2, Stages())
    kernels.measure([SMALL, LARGE], lambda: None)
    return kernels


def tuned(kernels: Kernels, *nests, between=lambda: None) -> Tuning:
    tuning = Tuning()
    tune_kernels(kernels, nests, 12, 0, between, tuning)
    return tuning


def latency_s(kernels: Kernels, nest) -> float:
    outcome = kernels.best(nest)
    assert isinstance(outcome, Measured)
    return outcome.median_s


def test_tuned_schedules_count_for_their_nests(store) -> None:
    kernels = kernels_of(store)
    before = {nest: latency_s(kernels, nest) for nest in (SMALL, LARGE)}
    tuning = tuned(kernels, SMALL, LARGE, LARGE, SMALL)
    assert (tuning.workloads, tuning.measurements) == (2, 24)
    after = {nest: latency_s(kernels, nest) for nest in (SMALL, LARGE)}
    improved = [nest for nest in before if after[nest] < before[nest]]
    assert tuning.improved == len(improved) >= 1
    assert all(after[nest] <= before[nest] for nest in before)
    ratio = before[SMALL] / after[SMALL] * before[LARGE] / after[LARGE]
    assert tuning.to_json()["speedup"] == pytest.approx(ratio**0.5)
    for nest in improved:
        (genes,) = kernels.schedules([nest]).values()
        (outcome,) = TableBackend().measure([_replayed(nest, genes)])
        assert outcome.median_s == after[nest]


def _replayed(nest, genes):
    from genomes.transformations import apply

    for gene in genes:
        nest = apply(nest, gene)
    return nest


def test_a_nest_with_a_schedule_of_its_own_is_left_alone(store) -> None:
    kernels = kernels_of(store)
    scheduled = kernels.backend.default_schedule(SMALL)
    kernels.measure([scheduled], lambda: None)
    assert tuned(kernels, scheduled).to_json()["workloads"] == 0
    assert kernels.kernels(scheduled) == (scheduled,)


def test_what_others_have_stored_changes_nothing(tmp_path) -> None:
    found = []
    for number in range(2):
        with MeasurementStore(tmp_path / f"{number}.sqlite") as store:
            if number:
                backend = StoredBackend(TableBackend(), store)
                backend.measure(backend.schedule_space(fresh(16, 8)))
                backend.measure(backend.schedule_space(LARGE)[:30])
            kernels = kernels_of(store)
            tuned(kernels, SMALL, LARGE)
            found.append(kernels.schedules([SMALL, LARGE]))
    assert found[0] == found[1]


def test_what_was_tuned_before_an_interruption_is_kept(store) -> None:
    kernels, tuning, calls = kernels_of(store), Tuning(), []

    def between() -> None:
        calls.append(None)
        if len(calls) == 15:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tune_kernels(kernels, [SMALL, LARGE], 12, 0, between, tuning)
    assert (tuning.workloads, tuning.measurements) == (1, 12)
    # The slower one came first.
    assert kernels.kernels(SMALL) == kernels.proposals(SMALL)[:2]


@pytest.mark.usefixtures("cheap_metric")
class TestSearch:
    def test_finalists_and_the_original_are_tuned(self, tmp_path):
        records = {}
        for tune in (0, 12):
            home = tmp_path / str(tune)
            config = experiment(home, capacity__tolerance=0.5, search__tune=tune)
            run_experiment(config, run_dir(home))
            records[tune] = RunDir(home / "run").result()
        untuned, record = records[0], records[12]
        assert untuned["tuning"]["measurements"] == 0
        assert record["tuning"]["workloads"] > 1
        assert 1 < record["tuning"]["measurements"] <= 12 * record["tuning"]["workloads"]
        assert record["original"]["latency_s"] <= untuned["original"]["latency_s"]
        assert record["tuning"]["speedup"] > 1
        latencies = [f["latency_s"] for f in record["finalists"]]
        assert latencies == sorted(latencies)
        assert all(latency < record["original"]["latency_s"] for latency in latencies)
        for name in ("before_us", "after_us"):
            total = sum(site[name] for site in record["sites"]) / 1e6
            network = record["original" if name == "before_us" else "found"]
            assert total == pytest.approx(network["latency_s"])
        assert len(Genome.from_json(record["found"]["genome"]))

    def test_no_time_left_is_no_tuning(self, tmp_path):
        config = experiment(
            tmp_path, capacity__tolerance=0.5, search__tune=12, budget={"wall_clock_s": 1e-3}
        )
        record = run_experiment(config, run_dir(tmp_path)).record
        assert (record["state"], record["reason"]) == ("stopped", "wall_clock")
        assert record["tuning"]["measurements"] == 0


def test_the_report_says_what_tuning_gave(tmp_path) -> None:
    config = experiment(tmp_path)
    tuning = Tuning(workloads=4, measurements=60, improved=3, log_ratio=0.4)
    seconds = {"elapsed": 20.0, "tune": 6.0}
    text = render_result(result(config, tuning=tuning.to_json(), seconds=seconds))
    assert "60 of them in 6" in text
    assert "of 4 kernels of the original and the finalists: 3 became faster, 1.11x" in text
    assert "of them" not in render_result(result(config))
    assert "of them" not in render_result(result(config, tuning=Tuning().to_json()))
