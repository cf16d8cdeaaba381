from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import pytest

from backends.workers import (
    Crashed,
    Finished,
    Lost,
    Raised,
    TimedOut,
    WorkerError,
    WorkerPool,
    WorkerSpec,
)

LIMITS_S = {"build": 5.0, "run": 5.0}


def spec(**changes):
    return WorkerSpec(**{"function": "tests.backends.jobs:act", "limits_s": LIMITS_S} | changes)


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(spec()) as pool:
        yield pool


def status(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: state, parent..."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def parent_of(pid: int) -> int:
    return int(status(pid)[1])


def alive(pid: int) -> bool:
    try:
        return status(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, timeout_s=10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_results_come_in_the_order_of_the_jobs():
    jobs = [("sleep", 0.2), ("echo", "a"), ("fail", "b"), ("echo", "c"), ("sleep", 0.0)]
    with WorkerPool(spec(), size=3) as pool:
        results = list(pool.imap(jobs))
    kinds = [type(r) for r in results]
    assert kinds == [Finished, Finished, Raised, Finished, Finished]
    assert [r.value for r in results if isinstance(r, Finished)] == [0.2, "a", "c", 0.0]


def test_a_worker_is_reused_and_is_not_this_process(pool):
    first, second = pool.imap([("identify",), ("identify",)])
    assert first.value == second.value
    assert first.value[0] != os.getpid()
    assert first.value[1] == first.value[0], "a worker leads its own process group"


def test_the_environment_and_the_initialisation_come_before_the_jobs():
    settings = {
        "initialise": "tests.backends.jobs:initialise",
        "arguments": (7,),
        "environment": {"LOOPGENE_TEST": "set"},
    }
    with WorkerPool(spec(**settings)) as pool:
        assert pool.run(("identify",)).value[2:] == ("set", [7])


def test_an_exception_is_a_result_and_keeps_the_worker(pool):
    before, raised, after = pool.imap([("identify",), ("fail", "no such thing"), ("identify",)])
    assert (raised.error, raised.message) == ("ValueError", "no such thing")
    assert "in fail" in raised.traceback
    assert before.value == after.value


def test_exit_requests_and_results_that_cannot_be_sent_are_exceptions(pool):
    asked_to_exit, unsendable = pool.imap([("quit_politely",), ("return_a_lambda",)])
    assert (asked_to_exit.error, asked_to_exit.message) == ("SystemExit", "3")
    assert isinstance(unsendable, Raised)
    assert "lambda" in unsendable.message


def test_a_crash_costs_its_job_only(pool):
    jobs = [("echo", 1), ("segfault",), ("echo", 2), ("abort",), ("exit_at_once", 9), ("echo", 3)]
    one, segfault, two, abort, gone, three = pool.imap(jobs)
    assert [one.value, two.value, three.value] == [1, 2, 3]
    assert isinstance(segfault, Crashed)
    assert (segfault.reason, segfault.stage) == ("SIGSEGV", "run")
    assert (abort.reason, abort.stage) == ("SIGABRT", "build")
    assert (gone.reason, gone.output) == ("exit code 9", "first line\nlast words")


def test_who_is_killed_by_something_else_is_run_once_more(tmp_path):
    jobs = [("be_killed", tmp_path / f"{times}", times) for times in (1, 3)]
    with WorkerPool(spec(), size=2) as pool:
        before, once, always, after = pool.imap([("echo", 1), *jobs, ("echo", 2)])
    assert (before.value, once.value, after.value) == (1, 1, 2)
    assert isinstance(always, Crashed)
    assert (always.reason, always.stage) == ("SIGKILL", "build")
    assert (tmp_path / "3").stat().st_size == 2


def test_who_is_killed_is_not_run_again_where_that_makes_no_sense(tmp_path):
    with WorkerPool(spec(repeats_killed=False)) as pool:
        assert isinstance(pool.run(("be_killed", tmp_path / "once", 1)), Crashed)


@pytest.mark.parametrize("alone", [True, False])
def test_a_job_that_is_killed_while_it_waits_for_its_turn_disturbs_nobody(alone):
    settings = spec(exclusive=frozenset({"run"}), alone=alone)
    with WorkerPool(settings, size=2, ahead=2) as pool:
        results = pool.imap([("spans", 0.05, 0.4)] * 4)
        first = next(results)
        (waiting, *_) = [w for w in pool._crew.active if w.stage == "run" and w.waiting]
        os.kill(waiting.pid, signal.SIGKILL)
        assert wait_until(lambda: not alive(waiting.pid))
        spans = [r.value for r in (first, *results)]
    assert len(spans) == 4
    runs = sorted(run for _, run in spans)
    assert all(ended <= began for (_, ended), (began, _) in pairwise(runs))
    if alone:
        builds = [build for build, _ in spans]
        assert not any(b < run[1] and run[0] < e for b, e in builds for run in runs)


def test_each_stage_has_its_own_deadline():
    limits_s = {"build": 1.0, "run": 0.3}
    with WorkerPool(spec(limits_s=limits_s)) as pool:
        jobs = [("stages", 0.5, 0.0), ("stages", 0.0, 60.0), ("sleep", 60.0), ("echo", "alive")]
        patient, run, build, after = pool.imap(jobs)
    assert isinstance(patient, Finished)
    assert patient.stages_s["build"] == pytest.approx(0.5, abs=0.3)
    assert isinstance(run, TimedOut)
    assert (run.stage, run.limit_s) == ("run", 0.3)
    assert isinstance(build, TimedOut)
    assert build.stage == "build"
    assert build.stages_s["build"] == pytest.approx(1.0, abs=0.4)
    assert after.value == "alive"


def test_a_stage_without_a_limit_is_refused(pool):
    result = pool.run(("unknown_stage",))
    assert result.message == "unknown stage 'paint'; known: build, run"


def test_exclusive_stages_run_alone_and_others_side_by_side():
    with WorkerPool(spec(exclusive=frozenset({"run"})), size=3) as pool:
        list(pool.imap([("echo", 0)] * 3))
        began = time.monotonic()
        results = list(pool.imap([("stages", 0.4, 0.1)] * 3 + [("fail", "")]))
        total_s = time.monotonic() - began
    spans = [r.value for r in results[:3]]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert total_s < 1.5, "three builds of 0.4 s do not queue up"
    assert results[2].stages_s["wait"] >= 0.15
    assert results[2].stages_s["run"] < 0.2, "waiting is not running"


def test_jobs_are_made_ready_ahead_of_their_exclusive_stages():
    with WorkerPool(spec(exclusive=frozenset({"run"})), size=2, ahead=2) as pool:
        results = list(pool.imap([("spans", 0.05 * n, 0.02) for n in (1, 3, 1, 1, 1)]))
        assert pool.started == 4
    builds, runs = zip(*(result.value for result in results), strict=True)
    assert max(end for _, end in builds[:4]) <= runs[0][0], "four are ready before one runs"
    assert builds[4][0] >= runs[3][1], "the fifth begins when the four have run"
    assert max(sum(a <= start < b for a, b in builds) for start, _ in builds) <= 2
    assert all(end <= start for (_, end), (start, _) in pairwise(runs))


def test_exclusive_stages_may_run_beside_others_but_not_beside_each_other():
    with WorkerPool(spec(exclusive=frozenset({"run"}), alone=False), size=2, ahead=2) as pool:
        list(pool.imap([("echo", 0)] * 4))
        results = list(pool.imap([("spans", *times) for times in [(0.05, 0.3)] * 2 + [(0.3, 0)]]))
    builds, runs = zip(*(result.value for result in results), strict=True)
    runs = sorted(runs)
    assert all(end <= start for (_, end), (start, _) in pairwise(runs))
    (begun, ended), (first_begun, first_ended) = builds[2], runs[0]
    assert begun < first_ended, "the third is built while the first one runs"
    assert first_begun < ended


def test_nothing_is_exclusive_while_the_caller_works():
    with WorkerPool(spec(exclusive=frozenset({"run"})), size=2) as pool:
        results = pool.imap([("stages", 0.0, 0.05)] * 3)
        first = next(results)
        resumed = time.monotonic() + 0.2
        time.sleep(0.2)
        rest = list(results)
    assert first.value[1] < resumed
    assert all(result.value[0] >= resumed for result in rest)


def test_a_slow_caller_does_not_turn_a_finished_job_into_a_time_out():
    with WorkerPool(spec(limits_s={"build": 0.3}), size=2) as pool:
        results = pool.imap([("echo", 1), ("sleep", 0.1)])
        next(results)
        time.sleep(0.6)
        late = next(results)
    assert isinstance(late, Finished)
    assert late.stages_s["build"] < 0.3


def test_a_worker_is_replaced_after_its_share_of_jobs():
    with WorkerPool(spec(jobs_per_worker=2)) as pool:
        pids = [result.value[0] for result in pool.imap([("identify",)] * 5)]
    assert [pids[0] == pids[1], pids[1] == pids[2], pids[2] == pids[3]] == [True, False, True]
    assert pool.started == 3


def test_replacing_a_worker_takes_no_new_initialisation(pool):
    pool.run(("echo", 0))
    began = time.monotonic()
    pool.run(("exit_at_once", 1))
    pool.run(("echo", 0))
    assert time.monotonic() - began < 1.0


def test_memory_is_limited():
    with WorkerPool(spec(memory_limit_bytes=300 << 20)) as pool:
        greedy, modest = pool.imap([("allocate", 1 << 30), ("allocate", 1 << 20)])
    assert greedy.error == "MemoryError"
    assert modest.value == 1 << 20


@pytest.mark.parametrize("size_bytes", [100, 3_000_000])
def test_output_stays_out_of_the_terminal(capfd, size_bytes):
    with WorkerPool(spec()) as pool:
        assert pool.run(("chatter", size_bytes)).value == size_bytes
    assert capfd.readouterr() == ("", "")


def test_endless_output_does_not_outrun_the_deadline():
    with WorkerPool(spec(limits_s={"build": 0.5})) as pool:
        began = time.monotonic()
        assert isinstance(pool.run(("chatter_for_ever",)), TimedOut)
        assert time.monotonic() - began < 5.0


def test_a_closed_output_is_not_the_end_of_the_job(pool):
    assert pool.run(("close_output", 0.2)).value == "quiet"


@pytest.mark.parametrize(("seconds", "kind"), [(0.0, Crashed), (60.0, TimedOut)])
def test_descendants_die_with_the_worker(tmp_path, seconds, kind):
    with WorkerPool(spec(limits_s={"build": 1.5})) as pool:
        result = pool.run(("have_a_child", str(tmp_path / "pids"), seconds))
        assert isinstance(result, kind)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert wait_until(lambda: not any(alive(pid) for pid in pids))


def test_abandoning_a_batch_kills_its_jobs_and_frees_the_pool(tmp_path):
    file = tmp_path / "pids"
    with WorkerPool(spec(), size=2) as pool:
        results = pool.imap([("echo", 0), ("have_a_child", str(file), 60.0)])
        next(results)
        assert wait_until(lambda: file.exists() and len(file.read_text().split()) == 2)
        results.close()
        assert wait_until(lambda: not any(alive(int(p)) for p in file.read_text().split()))
        assert pool.run(("echo", "again")).value == "again"


def test_two_batches_at_a_time_are_refused(pool):
    results = pool.imap([("echo", 1), ("echo", 2)])
    next(results)
    with pytest.raises(WorkerError, match="busy with another batch"):
        pool.run(("echo", 3))
    assert next(results).value == 2


def test_close_leaves_no_process_and_may_be_called_twice():
    pool = WorkerPool(spec(), size=2)
    pids = [result.value[0] for result in pool.imap([("identify",)] * 2)]
    pool.close()
    pool.close()
    assert wait_until(lambda: not any(alive(pid) for pid in pids))
    assert pool.run(("echo", "reopened")).value == "reopened"
    pool.close()


def test_a_lost_nursery_is_replaced_and_no_job_is_blamed():
    with WorkerPool(spec(), size=2) as pool:
        results = pool.imap([("identify",), ("sleep", 60.0), ("echo", "next")])
        worker = next(results).value[0]
        os.kill(parent_of(worker), signal.SIGKILL)
        assert wait_until(lambda: not alive(worker))
        assert isinstance(next(results), Lost)
        assert next(results).value == "next"


def test_a_worker_that_dies_idle_is_replaced_and_no_job_is_blamed(pool):
    pid = pool.run(("identify",)).value[0]
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not alive(pid))
    assert pool.run(("echo", "fine")).value == "fine"


@pytest.mark.parametrize(
    ("initialise", "message"),
    [
        ("fail_to_initialise", "RuntimeError: no compiler on this machine"),
        ("exit_while_initialising", "end with code 4: the library cannot be loaded"),
        ("hang_while_initialising", r"do not start within 0\.5 s"),
        ("leave_a_thread", "left 2 threads"),
        ("missing", "no attribute 'missing'"),
    ],
)
def test_an_initialisation_that_fails_is_an_error_in_one_line(initialise, message):
    settings = spec(initialise=f"tests.backends.jobs:{initialise}", start_timeout_s=0.5)
    if initialise != "hang_while_initialising":
        settings = spec(initialise=f"tests.backends.jobs:{initialise}")
    with WorkerPool(settings) as pool, pytest.raises(WorkerError, match=message) as caught:
        pool.run(("echo", 1))
    assert "\n" not in str(caught.value)


SCRIPT = """
    import sys
    from backends.workers import WorkerPool, WorkerSpec
    spec = WorkerSpec("tests.backends.jobs:act", {"build": 60.0, "run": 60.0})
    with WorkerPool(spec, size=2) as pool:
        results = pool.imap([("identify",), ("have_a_child", sys.argv[1], 60.0), ("sleep", 60.0)])
        print(next(results).value[0], flush=True)
        next(results)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_survives_its_owner(tmp_path, number):
    file = tmp_path / "pids"
    script = textwrap.dedent(SCRIPT)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as owner:
        first = int(owner.stdout.readline())
        assert wait_until(lambda: file.exists() and len(file.read_text().split()) == 2)
        pids = [first, *map(int, file.read_text().split())]
        nursery = parent_of(first)
        assert nursery != owner.pid
        owner.send_signal(number)
        owner.wait(timeout=10)
        assert wait_until(lambda: not any(alive(pid) for pid in [*pids, nursery]))
