"""Kernels that are built elsewhere than in the workers that take them to a device."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import pytest

from backends.base import Backend, BackendError, Failed, FailureKind, Measured
from backends.conformance import absurd
from backends.registry import create_backend
from backends.rpc.modelled import ModelledOptions, ModelledRpcBackend
from genomes.errors import LoopGeneError
from tests.backends.rpc import accidents
from tests.backends.rpc.builds import (
    CRASH,
    HANG,
    KILLS,
    Backwards,
    FragileBackend,
    Idle,
    KilledBackend,
)
from tests.backends.rpc.samples import options
from tests.backends.samples import fresh

NESTS = [fresh(8, size) for size in range(6, 12)]


def modelled(farm, **changes):
    return ModelledOptions(**options(farm, **changes).model_dump())


@contextlib.contextmanager
def built_by(backend, pool, losses=0):
    """The builder of a backend."""
    with contextlib.closing(Backwards(pool, losses)) as builder:
        backend.build_with(builder)
        yield builder


@pytest.fixture(scope="module")
def backend(farm):
    with ModelledRpcBackend(modelled(farm)) as backend:
        backend.describe()
        yield backend


@pytest.fixture(scope="module")
def pool(backend):
    with backend.workshop().open() as pool:
        yield pool


def plain(outcomes):
    return [o.times_s if isinstance(o, Measured) else (o.kind, o.message) for o in outcomes]


def test_outcomes_are_the_same_and_in_order(farm, pool):
    nests = [*NESTS[:3], absurd(fresh(8, 6)), *NESTS[3:]]
    with ModelledRpcBackend(modelled(farm)) as backend:
        here = backend.measure(nests)
        with built_by(backend, pool) as builder:
            elsewhere = backend.measure(nests)
    assert plain(elsewhere) == plain(here)
    assert [isinstance(o, Measured) for o in here] == [n != 3 for n in range(7)]
    assert here[3].kind is FailureKind.BUILD_ERROR
    order = [nest.shape.in_size[0] for nest in builder.built]
    assert len(order) == 7
    assert order != sorted(order)
    assert all(o.stages_s["build"] > 0.01 for o in elsewhere if isinstance(o, Measured))


def test_a_build_that_is_lost_is_begun_again(backend, pool):
    with built_by(backend, pool, losses=4) as builder:
        outcomes = backend.measure(NESTS)
    assert all(isinstance(o, Measured) for o in outcomes), outcomes
    assert len(builder.built) == len(NESTS)


def test_what_fails_while_it_is_built_is_told_apart(farm):
    channels = (8, CRASH, HANG, 16)
    with (
        FragileBackend(modelled(farm, build_timeout_s=2.0)) as backend,
        backend.workshop().open() as pool,
        built_by(backend, pool),
    ):
        outcomes = backend.measure([fresh(8, out_channels=count) for count in channels])
    before, crash, hang, after = outcomes
    assert isinstance(before, Measured)
    assert isinstance(after, Measured)
    assert (crash.kind, crash.message) == (FailureKind.CRASHED, "SIGABRT in build")
    assert (hang.kind, hang.message) == (
        FailureKind.BUILD_TIMEOUT,
        "killed after 2 s in build",
    )


def test_a_build_elsewhere_that_is_killed_is_begun_once_more(farm, tmp_path, monkeypatch):
    kills = tmp_path / "kills"
    monkeypatch.setenv(KILLS, str(kills))
    with (
        KilledBackend(modelled(farm)) as backend,
        backend.workshop().open() as pool,
        built_by(backend, pool),
    ):
        (killed,) = backend.measure([fresh(8, out_channels=CRASH)])
    assert (killed.kind, killed.message) == (FailureKind.CRASHED, "SIGKILL in build")
    assert kills.read_bytes() == b".."


def test_a_build_here_that_is_killed_is_begun_once_more(farm, tmp_path, monkeypatch):
    kills = tmp_path / "kills"
    monkeypatch.setenv(KILLS, str(kills))
    with KilledBackend(modelled(farm)) as backend:
        before, killed, after = backend.measure([fresh(8, out_channels=n) for n in (8, CRASH, 16)])
    assert isinstance(before, Measured)
    assert isinstance(after, Measured)
    assert (killed.kind, killed.message) == (FailureKind.CRASHED, "SIGKILL in build")
    assert kills.read_bytes() == b".."


def test_a_kernel_that_is_tried_again_is_not_built_again(farm, pool):
    nest = accidents.nest(accidents.ABORT)
    with accidents.AccidentBackend(options(farm)) as backend, built_by(backend, pool) as by:
        (outcome,) = backend.measure([nest])
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.CRASHED
    assert "2 times" in outcome.message
    assert len(by.built) == 1


def test_a_builder_is_waited_for_as_long_as_the_budget_lasts(backend, pool):
    class BudgetError(Exception):
        pass

    began = time.monotonic()

    def out_of_time():
        if time.monotonic() - began > 0.6:
            raise BudgetError

    idle = Idle()
    backend.build_with(idle)
    backend.while_waiting = out_of_time
    try:
        with pytest.raises(BudgetError):
            backend.measure(NESTS)
    finally:
        backend.while_waiting = Backend.while_waiting
    assert time.monotonic() - began < 3
    assert idle.dropped == 1
    with built_by(backend, pool):
        assert isinstance(backend.measure(NESTS[:1])[0], Measured)


def test_a_batch_that_is_abandoned_is_dropped(backend, pool):
    with built_by(backend, pool) as builder:
        outcomes = backend.measure_iter(NESTS)
        next(outcomes)
        outcomes.close()
        assert builder.dropped == 1
        assert len(backend.measure(NESTS[:2])) == 2


def test_nobody_to_build_ends_the_batch(backend, pool):
    backend.build_with(Idle(patience=1))
    with pytest.raises(LoopGeneError, match=r"^all machines are gone; switch them on$"):
        backend.measure(NESTS)
    with built_by(backend, pool):
        assert isinstance(backend.measure(NESTS[:1])[0], Measured)


class TestWorkshop:
    def test_another_compiler_is_refused(self, backend):
        workshop = backend.workshop()
        other = replace(workshop, toolchain={**workshop.toolchain, "apache-tvm": "0.26.0"})
        message = (
            r"^kernels are built otherwise here than where the search runs: apache-tvm is "
            r"0\.27\S+ and not 0\.26\.0; install the same versions$"
        )
        with pytest.raises(BackendError, match=message):
            other.open()

    def test_a_missing_linker_is_one_line(self, backend, tmp_path):
        workshop = backend.workshop()
        environment = {**workshop.spec.environment, "PATH": str(tmp_path)}
        poor = replace(workshop, spec=replace(workshop.spec, environment=environment))
        message = (
            r"^kernels cannot be built here: Cannot link kernels for \S+: ld is missing; install "
            r"it: apt-get install binutils$"
        )
        with pytest.raises(BackendError, match=message):
            poor.open()


def test_a_backend_that_measures_on_this_machine_builds_here():
    with create_backend("table", {}) as backend:
        assert backend.workshop() is None
        with pytest.raises(BackendError, match="'table' builds its kernels on this machine only"):
            backend.build_with(Idle())
