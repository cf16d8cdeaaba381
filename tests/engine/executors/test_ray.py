from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from engine.executors import ExecutorError, create_executor
from engine.executors.crew import LOSSES, Crew
from engine.problem import open_problem
from engine.search import run_experiment
from genomes.errors import IllegalTransformation
from tests.backends.rpc.samples import until
from tests.engine import toys
from tests.engine.executors import works
from tests.engine.searches import outcome, run_dir
from tests.engine.toys import experiment

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'loopgene[ray]'")
pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[3]
RAY_PROCESSES = ("raylet", "gcs_server", "ray::")


def searched(home, executor, spec="small_cnn", **changes):
    """All that a search leaves behind, apart from times."""
    config = experiment(
        home,
        executor=executor,
        model__spec=f"{toys.__file__}:{spec}",
        search={"population": 8, "generations": 3, "seed": 3},
        capacity={"batch": 8, "tolerance": 0.3},
        **changes,
    )
    run_experiment(config, run_dir(home))
    return outcome(home / "run")


def running(parent=None):
    """The processes of Ray below a process."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(name in " ".join(process.cmdline()) for name in RAY_PROCESSES):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    before = torch.get_num_threads()
    # As in the tests, for which a fixture does it later than this one is made.
    torch.set_num_threads(1)
    yield searched(tmp_path_factory.mktemp("local"), "local")
    torch.set_num_threads(before)


def ray_folders() -> set[Path]:
    """Of all local Rays; a search that is killed leaves its own."""
    return set(Path("/tmp").glob("loopgene-ray-*"))


@pytest.mark.parametrize("workers", [1, 4])
def test_a_search_is_the_same_for_any_number_of_workers(tmp_path, local, workers):
    handler, folders = signal.getsignal(signal.SIGTERM), ray_folders()
    assert searched(tmp_path, {"name": "ray", "workers": workers}) == local
    assert local[0]["counts"]["rejected"]["capacity"] > 0
    assert ray_folders() <= folders
    assert signal.getsignal(signal.SIGTERM) == handler


def test_no_process_is_left_behind(tmp_path):
    config = experiment(tmp_path, executor={"name": "ray", "workers": 1})
    with open_problem(config):
        theirs = running()
        assert len(theirs) >= 3
    _, alive = psutil.wait_procs(theirs, timeout=10)
    assert alive == []


class Killer(threading.Thread):
    """Kills workers in the middle of a task, so many of them."""

    def __init__(self, count):
        super().__init__()
        self.count = count
        self.killed = set()
        self.over = threading.Event()

    def run(self):
        while len(self.killed) < self.count and not self.over.wait(0.005):
            for process in running():
                with contextlib.suppress(psutil.Error):
                    if "Worker.call" in " ".join(process.cmdline()):
                        process.kill()
                        self.killed.add(process.pid)
                        break


def test_workers_that_are_killed_in_mid_task_lose_nothing(tmp_path):
    quiet = searched(tmp_path / "quiet", "local", "slow_cnn")
    # One more, and they could all have had the same task.
    killer = Killer(LOSSES - 1)
    killer.start()
    try:
        harmed = searched(tmp_path / "harmed", {"name": "ray", "workers": 2}, "slow_cnn")
    finally:
        killer.over.set()
        killer.join()
    assert len(killer.killed) == LOSSES - 1
    assert harmed == quiet


def test_a_search_goes_on_with_another_executor(tmp_path, local):
    config = experiment(
        tmp_path,
        model__spec=f"{toys.__file__}:small_cnn",
        search={"population": 8, "generations": 3, "seed": 3},
        capacity={"batch": 8, "tolerance": 0.3},
    )

    def stop(generation, original):
        if generation.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, run_dir(tmp_path), on_generation=stop)
    searched_on = config.model_copy(
        update={"executor": config.executor.model_copy(update={"name": "ray"})}
    )
    run_experiment(searched_on, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == local


def test_workers_that_would_score_otherwise_are_refused(tmp_path):
    config = experiment(tmp_path, executor="ray", model__spec=f"{toys.__file__}:unrepeatable_cnn")
    message = r"^a Ray worker cannot work on \S+: capacity is computed otherwise here"
    with pytest.raises(ExecutorError, match=message), open_problem(config):
        pass


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    config = experiment(tmp_path, executor={"name": "ray", "address": "127.0.0.1:9"})
    with pytest.raises(ExecutorError) as caught, open_problem(config):
        pass
    assert str(caught.value).startswith("Ray cannot be used at 127.0.0.1:9: ")
    assert "\n" not in str(caught.value)


def start_ray():
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )


def test_a_ray_that_runs_already_is_used_and_left_alone(tmp_path, local):
    start_ray()
    try:
        assert searched(tmp_path, {"name": "ray", "workers": 2}) == local
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@contextlib.contextmanager
def cluster(environment):
    """A cluster of one machine that others have started; its address."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-", dir="/tmp"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = {
        "port": address.partition(":")[2],
        "num-cpus": 2,
        "include-dashboard": "false",
        "temp-dir": folder,
        "object-store-memory": 128 << 20,
    }
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command = [*start, *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        assert until(lambda: "Ray runtime started" in (folder / "log").read_text(), 60)
        yield address
    finally:
        theirs = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(30)
        for each in psutil.wait_procs(theirs, timeout=20)[1]:
            each.kill()
        shutil.rmtree(folder)


def test_a_cluster_is_joined_and_left_running(tmp_path, local):
    code = (
        "import sys, pathlib, torch\n"
        "from tests.engine.executors.test_ray import searched\n"
        "torch.set_num_threads(1)\n"
        "searched(pathlib.Path(sys.argv[1]), {'name': 'ray', 'address': sys.argv[2]})\n"
    )
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, **token}
    with cluster(environment) as address:
        for name in ("first", "second"):
            command = [sys.executable, "-c", code, str(tmp_path / name), address]
            subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=100)
            assert outcome(tmp_path / name / "run") == local


def test_the_command_line_says_no_more_than_without(tmp_path):
    config = experiment(tmp_path, executor={"name": "ray", "workers": 2}, search__generations=1)
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-c", "from engine.cli import main; main()", "run", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "ray" not in done.stdout.lower().replace(str(tmp_path).lower(), "")
    (result,) = tmp_path.glob("toy-*/result.json")
    assert json.loads(result.read_text())["counts"]["evaluations"] == 16


def test_a_search_that_is_killed_leaves_no_process(tmp_path):
    config = experiment(tmp_path, executor={"name": "ray", "workers": 1}).model_dump_json()
    code = (
        "import sys, time\n"
        "from engine.config import ExperimentConfig\n"
        "from engine.problem import open_problem\n"
        f"with open_problem(ExperimentConfig.model_validate_json({config!r})):\n"
        "    print('open', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "open\n"
        theirs = running(process.pid)
        assert len(theirs) >= 3
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    # The agents of Ray try for a minute to tell somebody first.
    _, alive = psutil.wait_procs(theirs, timeout=100)
    assert alive == []


class TestCrew:
    @pytest.fixture(scope="class", autouse=True)
    def connected(self):
        start_ray()
        yield
        ray.shutdown()

    @pytest.fixture
    def crew(self):
        made = []

        def make(work, count=2, start_timeout_s=60.0):
            made.append(Crew(work, count, start_timeout_s))
            return made[-1]

        yield make
        for each in made:
            each.close()

    def test_results_come_in_the_order_of_the_items(self, crew):
        workers = crew(works.Echo(0.2))
        workers.start()
        for _ in range(2):
            results = workers.map(range(8))
            assert [item for item, _ in results] == list(range(8))
            assert len({pid for _, pid in results}) == 2
        assert workers.map([]) == []

    def test_results_can_be_fetched_when_the_bell_rings(self, crew):
        workers = crew(works.Echo(0.2))
        workers.start()
        workers.take()
        numbers = [workers.begin(item) for item in range(4)]
        found = {}
        while len(found) < 4:
            assert select.select([workers.bell], [], [], 20)[0]
            found.update(workers.take())
        assert [found[number][0] for number in numbers] == list(range(4))
        assert workers.take() == {}

    def test_what_is_dropped_is_given_to_nobody(self, crew):
        workers = crew(works.Echo(0.2))
        workers.start()
        for item in range(6):
            workers.begin(item)
        workers.drop()
        assert [item for item, _ in workers.map([7, 8, 9])] == [7, 8, 9]
        assert workers.take() == {}

    def test_a_dropped_task_that_ends_its_worker_is_not_repeated(self, crew):
        workers = crew(works.Deadly(None), 1)
        workers.start()
        workers.begin(1)
        workers.drop()
        assert workers.map([0, 2]) == [0, 2]

    def test_a_lost_task_is_given_to_another_worker(self, crew, tmp_path, caplog):
        workers = crew(works.Deadly(tmp_path))
        workers.start()
        assert workers.map(range(6)) == list(range(6))
        assert len(list(tmp_path.iterdir())) == 3
        said = "a Ray worker was lost, its task is done again: "
        assert [r.message.startswith(said) for r in caplog.records if "Ray" in r.message] == 3 * [
            True
        ]

    def test_a_task_that_kills_every_worker_is_an_error(self, crew):
        workers = crew(works.Deadly(None))
        workers.start()
        message = rf"^{LOSSES} workers were lost with the same task, the last one by: .*--resume$"
        with pytest.raises(ExecutorError, match=message):
            workers.map([0, 1])

    def test_workers_that_die_while_they_start_are_an_error(self, crew):
        message = rf"^{LOSSES} workers were lost while they started, the last one by: "
        with pytest.raises(ExecutorError, match=message):
            crew(works.Stillborn()).start()

    def test_what_makes_the_work_impossible_is_said(self, crew):
        message = r"^a Ray worker cannot work on \S+: the moon is missing; wait for the night$"
        with pytest.raises(ExecutorError, match=message):
            crew(works.Impossible()).start()

    def test_what_the_function_raises_is_raised_here(self, crew):
        workers = crew(works.Illegal(), 1)
        workers.start()
        with pytest.raises(IllegalTransformation, match=r"^3 does not divide 7$"):
            workers.map([3])

    def test_those_that_find_no_cpu_are_not_waited_for(self, crew):
        workers = crew(works.Echo(), count=3, start_timeout_s=15.0)
        start = time.monotonic()
        workers.start()
        assert time.monotonic() - start < 30
        assert [item for item, _ in workers.map(range(4))] == list(range(4))

    def test_no_worker_in_time_is_an_error(self, crew):
        held = crew(works.Echo())
        held.start()
        with pytest.raises(ExecutorError, match=r"^no Ray worker was ready within 1 s; see with"):
            crew(works.Echo(), start_timeout_s=1.0).start()


def test_the_executor_can_be_closed_before_it_has_started():
    with create_executor("ray", {"workers": 1}):
        pass
    assert not ray.is_initialized()
