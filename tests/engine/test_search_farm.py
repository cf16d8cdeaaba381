"""Searches on several devices behind real RPC servers, with latencies from a formula."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time

import pytest

from backends.base import FailureKind
from backends.rpc.loopback import Farm
from backends.rpc.modelled import ModelledOptions, ModelledRpcBackend
from engine.checkpoint import load_checkpoint
from engine.config import config_hash
from engine.problem import open_problem
from engine.runs import RunDir
from engine.search import search_problem
from engine.tracking import NullTracker
from tests.backends.rpc import accidents
from tests.backends.rpc.boards import mute_device, other_tvm, serving
from tests.backends.rpc.samples import options, until
from tests.engine.searches import outcome, run_dir
from tests.engine.toys import ParameterMetric, experiment

KEY = "searched"


def search(home, farm, generations, limit_s=None, on_generation=None, **changes):
    """All that a search leaves behind, apart from times; goes on from a checkpoint."""
    config = experiment(
        home,
        search={"population": 8, "generations": generations, "tune": 4},
        capacity__tolerance=0.9,
        budget__wall_clock_s=limit_s,
    )
    quick = options(farm).model_dump()
    backend = ModelledRpcBackend(ModelledOptions(**{**quick, **changes}))
    run = RunDir(run_dir(home))
    saved = load_checkpoint(run.checkpoint_path, config_hash(config))
    with open_problem(config, "run", backend, ParameterMetric) as problem:
        search_problem(problem, run, NullTracker(), on_generation, saved)
    return outcome(home / "run")


def test_a_search_is_the_same_for_any_number_of_devices(tmp_path):
    with Farm(1, KEY) as farm:
        one = search(tmp_path / "one", farm, 1)
        farm.add(2)
        many = search(tmp_path / "many", farm, 1)
    assert one == many
    assert one[0]["counts"]["evaluations"] == 16
    assert one[0]["device"]["facts"]["modelled"] is True


class Misfortune(threading.Thread):
    """Everything that can go wrong, one thing after the other, while a search runs."""

    def __init__(self, farm, script):
        super().__init__()
        self.farm = farm
        self.script = script
        self.done = []
        self.outcomes = []

    def run(self):
        for fault in (
            self.kill_a_server,
            self.kill_a_session,
            self.stop_a_server,
            self.restart_the_tracker,
            self.lend_a_mute_device,
            self.lend_a_device_with_another_tvm,
            self.fill_a_disk,
            self.run_candidates_of_somebody_else,
            self.kill_all_servers,
        ):
            fault()
            self.done.append(fault.__name__)
            time.sleep(1)

    def busy(self):
        """The number of a device that has a session."""
        found = []

        def look():
            found.extend(n for n in range(len(self.farm.ports)) if self.farm.sessions(n))
            return found

        assert until(look, 30)
        return found[0]

    def kill_a_server(self):
        os.killpg(self.farm.listener(self.busy()), signal.SIGKILL)

    def kill_a_session(self):
        number = self.busy()
        for session in self.farm.sessions(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)

    def stop_a_server(self):
        listener = self.farm.listener(self.busy())
        os.killpg(listener, signal.SIGSTOP)
        time.sleep(6)
        os.killpg(listener, signal.SIGCONT)

    def restart_the_tracker(self):
        self.farm.stop_tracker()
        time.sleep(2)
        self.farm.start_tracker()
        assert until(self.farm.reachable, 30)

    def lend_a_mute_device(self):
        with mute_device(self.farm):
            time.sleep(4)

    def lend_a_device_with_another_tvm(self):
        with serving(self.farm, self.script):
            time.sleep(6)

    def fill_a_disk(self):
        listener = self.farm.listener(0)
        unlimited = resource.prlimit(listener, resource.RLIMIT_FSIZE)
        resource.prlimit(listener, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
        time.sleep(5)
        resource.prlimit(listener, resource.RLIMIT_FSIZE, unlimited)

    def run_candidates_of_somebody_else(self):
        bad = (accidents.ABORT, accidents.SLEEP, accidents.KILL_LISTENER)
        with accidents.AccidentBackend(options(self.farm, run_timeout_s=1.0)) as backend:
            self.outcomes = backend.measure([accidents.nest(count) for count in bad])

    def kill_all_servers(self):
        for number in range(len(self.farm.ports)):
            os.killpg(self.farm.listener(number), signal.SIGKILL)


@pytest.mark.slow
def test_a_search_without_devices_waits_for_its_budget_and_can_be_resumed(tmp_path, caplog):
    with Farm(2, KEY) as farm:
        quiet = search(tmp_path / "quiet", farm, 2)

        def end_the_servers(generation, original):
            while farm.servers:
                farm.end_server(0)

        limit_s = 20.0
        began = time.monotonic()
        stopped, *_ = search(tmp_path / "run", farm, 2, limit_s, end_the_servers)
        assert limit_s < time.monotonic() - began < limit_s + 10
        assert (stopped["state"], stopped["reason"]) == ("stopped", "wall_clock")
        assert stopped["counts"]["generations"] == 1
        assert any(m.startswith("Waiting for a device: ") for m in caplog.messages)
        farm.add(2)
        assert search(tmp_path / "run", farm, 2) == quiet


@pytest.mark.slow
def test_a_search_that_suffers_everything_ends_like_one_that_suffers_nothing(tmp_path):
    with Farm(3, KEY) as farm:
        quiet = search(tmp_path / "quiet", farm, 4)
        misfortune = Misfortune(farm, other_tvm(tmp_path))
        misfortune.start()
        try:
            limits = {"service_s": 2.5, "run_timeout_s": 6.0, "connect_timeout_s": 3.0}
            harmed = search(tmp_path / "harmed", farm, 4, **limits)
            in_time = not misfortune.is_alive()
        finally:
            misfortune.join()
    assert harmed == quiet
    assert len(misfortune.done) == 9
    assert in_time, f"the search was over before {misfortune.done[-1]}"
    assert [o.kind for o in misfortune.outcomes] == [
        FailureKind.CRASHED,
        FailureKind.RUN_TIMEOUT,
        FailureKind.CRASHED,
    ]
