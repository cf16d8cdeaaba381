from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import BackendError, Failed, FailureKind, Measured
from backends.conformance import BackendConformance
from backends.cpu import CpuBackend, CpuOptions
from backends.measuring import outcome_of
from backends.timing import SHARED, most_waited_s
from backends.timing.probe import IMPATIENT
from backends.tuning.mutations import rewritten
from backends.workers import Crashed, Finished, Lost, Raised, TimedOut
from genomes.gene import Gene
from genomes.nest import LoopNest
from tests.backends import kernel_jobs
from tests.backends.samples import fresh, shape

QUICK = {"threads": 1, "builders": 2, "repeats": 3, "min_repeat_ms": 1.0}


class TestCpuBackend(BackendConformance):
    def make(self):
        return CpuBackend(CpuOptions(**QUICK))


class AccidentalBackend(CpuBackend):
    def _worker_spec(self):
        return replace(super()._worker_spec(), function="tests.backends.kernel_jobs:run")


class BrokenBackend(CpuBackend):
    def _worker_spec(self):
        function = "tests.backends.kernel_jobs:fail"
        return replace(super()._worker_spec(), function=function, initialise=None)


@pytest.fixture(scope="module")
def backend():
    limits = {"build_timeout_s": 4.0, "run_timeout_s": 3.0}
    with AccidentalBackend(CpuOptions(**QUICK, **limits, drift_every=4)) as backend:
        yield backend


def site(out_channels: int) -> LoopNest:
    return LoopNest.fresh(shape(8, 6, out_channels=out_channels))


@pytest.mark.parametrize(
    ("channels", "kind", "message"),
    [
        (
            kernel_jobs.CRASH_IN_BUILD,
            FailureKind.CRASHED,
            "SIGABRT in build: LLVM ERROR: out of registers",
        ),
        (
            kernel_jobs.CRASH_IN_CHECK,
            FailureKind.CRASHED,
            "SIGABRT in check: LLVM ERROR: out of registers",
        ),
        (kernel_jobs.HANG_IN_BUILD, FailureKind.BUILD_TIMEOUT, "killed after 4 s in build"),
        (kernel_jobs.HANG_IN_CHECK, FailureKind.RUN_TIMEOUT, "killed after 3 s in check"),
        (
            kernel_jobs.RAISE_IN_BUILD,
            FailureKind.BUILD_ERROR,
            "RuntimeError: line one line two",
        ),
        (kernel_jobs.RAISE_IN_CHECK, FailureKind.CRASHED, "RuntimeError: line one line two"),
    ],
)
def test_an_accident_is_the_outcome_of_its_candidate_only(backend, channels, kind, message):
    before, accident, after = backend.measure([site(8), site(channels), site(8)])
    assert isinstance(before, Measured)
    assert isinstance(after, Measured)
    assert (accident.kind, accident.message) == (kind, message)
    assert accident.stages_s


def test_stages_are_timed(backend):
    (outcome,) = backend.measure([site(16)])
    assert set(outcome.stages_s) == {"build", "check", "wait", "measure"}
    assert outcome.stages_s["build"] > outcome.stages_s["wait"] >= 0


def test_a_kernel_without_hope_is_timed_once():
    nest = fresh(64, 16)
    rolled = rewritten(nest, 0, [Gene.of("unroll", loop="kw")])
    with CpuBackend(CpuOptions(**QUICK)) as backend:
        (good,) = backend.measure([nest])
        (bad,) = backend.measure([rolled])
    assert (len(good.times_s), len(bad.times_s)) == (3, 1)
    assert bad.median_s > 2 * good.median_s


def test_kernels_run_on_the_threads_that_were_asked_for(backend):
    (told,) = backend.measure([site(kernel_jobs.TELL_THREADS)])
    assert told.message == "1 1"


def test_the_reference_kernel_is_timed_every_so_often(backend):
    before = len(backend.drift)
    backend.measure([site(8)] * 8)
    counts = [count for count, _ in backend.drift]
    assert len(counts) == before + 2
    assert all(count % 4 == 0 for count in counts)
    assert counts == sorted(set(counts))
    assert all(0 < seconds < 1 for _, seconds in backend.drift)


def test_a_tool_chain_that_fails_the_reference_is_an_error():
    with BrokenBackend(CpuOptions(**QUICK)) as backend:
        message = "The reference kernel cannot be measured: the compiler is broken"
        with pytest.raises(BackendError, match=message):
            backend.measure([site(8)])


def test_networks_are_run_with_the_same_target_and_threads(backend):
    network = backend.network_target()
    assert network.target["num-cores"] == 1
    assert network.environment["TVM_NUM_THREADS"] == "1"
    assert network.features == backend.features


def test_schedules_fit_the_target_and_not_the_host():
    with CpuBackend(CpuOptions(**QUICK, mattr=("-avx2", "-avx512f", "-avx"))) as backend:
        assert backend.features.lanes == 4
        assert "-avx512f" in backend.target


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (
            Finished(Measured((1.0, 2.0)), {"build": 0.1234567}),
            Measured((1.0, 2.0), {"build": 0.123457}),
        ),
        (
            Finished(Failed(FailureKind.WRONG_RESULT, "off by one"), {}),
            Failed(FailureKind.WRONG_RESULT, "off by one"),
        ),
        (
            Crashed("SIGSEGV", "measure", "", {}),
            Failed(FailureKind.CRASHED, "SIGSEGV in measure"),
        ),
        (
            TimedOut("measure", 10.0, {}),
            Failed(FailureKind.RUN_TIMEOUT, "killed after 10 s in measure"),
        ),
        (Lost("gone", {}), Failed(FailureKind.DEVICE_LOST, "gone")),
        (
            Raised("E", "x" * 1000, "", "build", {}),
            Failed(FailureKind.BUILD_ERROR, "E: " + "x" * 294 + "..."),
        ),
    ],
)
def test_results_of_workers_become_outcomes(result, outcome):
    assert outcome_of(result) == outcome


def test_processes_that_time_kernels_and_networks_share_what_they_know_of_the_machine() -> None:
    with CpuBackend(CpuOptions(**QUICK)) as backend:
        names = {
            environment[SHARED]
            for environment in (
                backend._worker_spec().environment,
                backend.network_target().environment,
            )
        }
        (name,) = names
        backend.measure([site(8)])
        assert any(Path(name).read_bytes())
    assert not Path(name).exists()


def test_waiting_for_the_machine_does_not_count_as_timing(monkeypatch) -> None:
    with CpuBackend(CpuOptions(threads=1, run_timeout_s=3.0)) as backend:
        assert backend._worker_spec().limits_s["measure"] == 3.0
        monkeypatch.delenv(IMPATIENT)
        limits_s = backend._worker_spec().limits_s
        assert limits_s["check"] == 3.0
        assert limits_s["measure"] == 3.0 + most_waited_s(3.0) > 10.0
