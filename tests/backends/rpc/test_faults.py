"""What can go wrong with boards: what becomes of the candidates, and how long it takes.

Every test says in `within` how long the whole batch may take, recovery included.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import threading
import time

import pytest

from backends.base import Backend, BackendError, Failed, FailureKind, Measured
from backends.rpc.backend import RpcBackend
from backends.rpc.loopback import HOST, Farm
from tests.backends.rpc import accidents
from tests.backends.rpc.accidents import AccidentBackend, nest
from tests.backends.rpc.boards import mute_device, other_tvm, serving
from tests.backends.rpc.samples import options, until

GOOD = (8, 16, 24, 32)


@pytest.fixture(scope="module")
def own():
    """Two devices for tests that do them harm."""
    with Farm(2, "harmed") as farm:
        yield farm


@pytest.fixture(scope="module")
def shared(own):
    limits = {"run_timeout_s": 2.0, "connect_timeout_s": 2.0}
    with AccidentBackend(options(own, **limits)) as backend:
        backend.describe()
        yield backend


@pytest.fixture
def backend(own, shared):
    """With two devices that work."""
    own.wait_for(2)
    yield shared
    shared.while_waiting = Backend.while_waiting


@contextlib.contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def measure(backend, *channels):
    return backend.measure([nest(count) for count in channels])


def all_measured(outcomes):
    return all(isinstance(o, Measured) for o in outcomes) or outcomes


@contextlib.contextmanager
def later(seconds, action, *arguments):
    """Do something while the body runs."""
    timer = threading.Timer(seconds, action, arguments)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def kill_server(farm, number):
    """The listener and its sessions, as when a board loses its power."""
    os.killpg(farm.listener(number), signal.SIGKILL)


def kill_busy(farm, action):
    """`action` on the device that has a session."""
    for number in range(len(farm.ports)):
        if farm.sessions(number):
            action(number)
            return
    raise AssertionError("no device is busy")


class TestCandidates:
    """Faults of candidates are told apart and charged to them; their neighbours are measured."""

    @pytest.mark.parametrize(
        ("channels", "kind", "message", "seconds"),
        [
            (accidents.ABORT, FailureKind.CRASHED, "the connection was lost: .*, 2 times", 8),
            (accidents.WRONG, FailureKind.WRONG_RESULT, "elements are NaN", 4),
            (
                accidents.UNLOADABLE,
                FailureKind.BUILD_ERROR,
                "the device says: .*file too short",
                4,
            ),
        ],
    )
    def test_one_that_misbehaves(self, backend, channels, kind, message, seconds):
        with within(seconds):
            before, bad, after = measure(backend, 8, channels, 16)
        assert all_measured([before, after]) is True
        assert isinstance(bad, Failed)
        assert bad.kind is kind
        assert re.search(message, bad.message), bad.message

    def test_one_that_runs_for_ever(self, backend):
        with within(15):
            before, bad, after = measure(backend, 8, accidents.SLEEP, 16)
        assert all_measured([before, after]) is True
        assert bad.kind is FailureKind.RUN_TIMEOUT
        # The second device may have been the first one, which had to prove itself.
        assert re.match(r"the session was ended after [24] s, 2 times", bad.message), bad.message

    def test_one_that_kills_the_server_with_it(self, own, backend):
        with within(20):
            before, bad, after = measure(backend, 8, accidents.KILL_LISTENER, 16)
            own.wait_for(2)
        assert all_measured([before, after]) is True
        assert bad.kind is FailureKind.CRASHED


class TestServers:
    """A server that dies costs time and nothing else."""

    @pytest.mark.slow
    def test_killed_before_a_run(self, own, backend):
        kill_server(own, 0)
        with within(10):
            assert all_measured(measure(backend, *GOOD)) is True
            own.wait_for(2)

    def test_killed_during_a_run(self, own, backend):
        def strike():
            kill_busy(own, lambda number: kill_server(own, number))

        with within(15), later(0.8, strike):
            assert all_measured(measure(backend, accidents.HOLD, 8)) is True
            own.wait_for(2)

    @pytest.mark.slow
    def test_killed_after_a_run(self, own, backend):
        with within(15):
            for number in (0, 1):
                outcomes = backend.measure_iter([nest(8), nest(16)])
                assert isinstance(next(outcomes), Measured)
                kill_server(own, number)
                assert all_measured([*outcomes]) is True
            own.wait_for(2)

    def test_all_killed_at_once_are_waited_for(self, own, backend):
        waited = []
        backend.while_waiting = lambda: waited.append(1)
        for number in (0, 1):
            kill_server(own, number)
        with within(15):
            assert all_measured(measure(backend, *GOOD)) is True
        assert waited

    def test_a_session_killed(self, own, backend):
        def strike():
            kill_busy(own, lambda n: os.kill(own.sessions(n)[-1], signal.SIGKILL))

        with within(8), later(0.8, strike):
            assert all_measured(measure(backend, accidents.HOLD, 8)) is True

    def test_stopped(self, own, backend):
        listener = own.listener(0)
        os.killpg(listener, signal.SIGSTOP)
        try:
            with within(15):
                assert all_measured(measure(backend, *GOOD)) is True
        finally:
            os.killpg(listener, signal.SIGCONT)
        with within(20):
            own.wait_for(2)
            assert all_measured(measure(backend, *GOOD)) is True

    @pytest.mark.slow
    def test_stopped_during_a_run(self, own, backend):
        stopped = []

        def strike():
            kill_busy(own, lambda number: stopped.append(own.listener(number)))
            os.killpg(stopped[0], signal.SIGSTOP)

        try:
            # As long as a run may take at most, and the grace after it.
            with within(30), later(0.6, strike):
                assert all_measured(measure(backend, accidents.HOLD, 8)) is True
        finally:
            os.killpg(stopped[0], signal.SIGCONT)
        with within(20):
            own.wait_for(2)

    def test_nobody_is_left_behind_for_ever(self, own, backend, caplog):
        """The search's clock is asked while it waits, and may end the batch."""
        own.stop_tracker()

        class BudgetError(Exception):
            pass

        began = time.monotonic()

        def out_of_time():
            if time.monotonic() - began > 1:
                raise BudgetError

        backend.while_waiting = out_of_time
        try:
            with within(4), pytest.raises(BudgetError):
                measure(backend, 8)
        finally:
            own.start_tracker()
            own.wait_for(2)
        backend.while_waiting = Backend.while_waiting
        assert all_measured(measure(backend, 8)) is True


class TestTracker:
    def test_killed_and_restarted(self, own, backend):
        own.stop_tracker()
        with within(20), later(1.5, own.start_tracker):
            assert all_measured(measure(backend, *GOOD)) is True
            own.wait_for(2)

    @pytest.mark.slow
    def test_killed_while_kernels_run(self, own, backend):
        def restart():
            own.stop_tracker()
            own.start_tracker()

        with within(20), later(0.8, restart):
            assert all_measured(measure(backend, accidents.HOLD, accidents.HOLD, *GOOD)) is True
            own.wait_for(2)

    @pytest.mark.parametrize("silent", [True, False])
    def test_one_that_is_none_is_an_error_in_one_line(self, own, silent):
        with socket.create_server((HOST, 0)) as server:
            if not silent:
                server.close()
            tracker = f"{HOST}:{server.getsockname()[1]}" if silent else f"{HOST}:1"
            limits = {"tracker": tracker, "start_timeout_s": 1.0}
            with RpcBackend(options(own, **limits)) as backend:
                why = "does not answer: timed out" if silent else "cannot be reached: Connection"
                message = f"No board of the key 'harmed' answers within 1 s: .*{why}.*serve.py"
                with within(15), pytest.raises(BackendError, match=message) as caught:
                    backend.describe()
        assert "\n" not in str(caught.value)


class TestDevices:
    """Devices that do not do what they should are set aside, and the others do the work."""

    def test_one_that_accepts_and_never_answers(self, own, backend):
        with mute_device(own) as port:
            own.wait_for(3)
            with within(15):
                assert all_measured(measure(backend, *GOOD, *GOOD)) is True
            assert f"{HOST}:{port}: it did not answer within 2 s" in backend.troubles

    def test_one_with_another_tvm(self, own, backend, tmp_path):
        with serving(own, other_tvm(tmp_path)) as port:
            own.wait_for(3)
            with within(10):
                assert all_measured(measure(backend, *GOOD, *GOOD)) is True
            reason = f"{HOST}:{port}: it runs TVM 0.26.0 and this machine 0.27.0.post1; install"
            assert reason in backend.troubles

    def test_one_whose_disk_is_full(self, own, backend):
        full = own.listener(0)
        unlimited = resource.prlimit(full, resource.RLIMIT_FSIZE)
        # Files end there without a word, as on a disk without space.
        resource.prlimit(full, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
        try:
            with within(10):
                assert all_measured(measure(backend, *GOOD, *GOOD)) is True
        finally:
            resource.prlimit(full, resource.RLIMIT_FSIZE, unlimited)
        assert f"{HOST}:{own.ports[0]}: it does not keep what is sent to it" in backend.troubles
        with within(20):
            own.wait_for(2)
            assert all_measured(measure(backend, *GOOD, *GOOD)) is True


def test_a_job_that_waits_too_long_is_given_up_and_not_charged(own, backend):
    with AccidentBackend(options(own, queue_timeout_s=0.3)) as hasty:
        hasty.describe()
        # Both devices are busy for more than a second, twice.
        with within(15), later(0, measure, backend, *[accidents.HOLD] * 4):
            assert until(lambda: own.sessions(0) and own.sessions(1))
            (outcome,) = measure(hasty, 8)
    assert outcome == Failed(
        FailureKind.QUEUE_TIMEOUT, "no device within 0.3 s: all are busy", outcome.stages_s
    )


@pytest.mark.slow
def test_the_server_leaves_nothing_behind(tmp_path):
    environment = {"TMPDIR": str(tmp_path)}
    with Farm(1, environment=environment) as farm, AccidentBackend(options(farm)) as backend:
        assert all_measured(measure(backend, 8)) is True
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
