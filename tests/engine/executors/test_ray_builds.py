"""Searches on devices behind real RPC servers, whose kernels Ray workers build."""

from __future__ import annotations

import psutil
import pytest

from backends.rpc.loopback import Farm
from backends.rpc.modelled import ModelledOptions
from engine.executors import ExecutorError
from engine.problem import open_problem
from engine.runs import RunDir
from engine.search import search_problem
from engine.tracking import NullTracker
from tests.backends.rpc.samples import options, until
from tests.engine.executors.builds import LETHAL, LOG, WatchedBackend
from tests.engine.searches import outcome, run_dir
from tests.engine.toys import experiment

pytest.importorskip("ray", reason="ray is not installed: pip install 'loopgene[ray]'")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def farm():
    with Farm(2, "ray") as farm:
        yield farm


def config_of(home, executor):
    return experiment(
        home,
        executor=executor,
        search={"population": 6, "generations": 1, "tune": 2, "seed": 3},
        capacity={"batch": 8, "tolerance": 0.3},
    )


def search(home, farm, executor, **environment):
    """All that a search leaves behind, apart from times, and the log of builds elsewhere."""
    log = home / "builds"
    home.mkdir(exist_ok=True)
    log.touch()
    quick = ModelledOptions(**options(farm).model_dump())
    backend = WatchedBackend(quick, {LOG: str(log), **environment})
    config = config_of(home, executor)
    with open_problem(config, "run", backend) as problem:
        search_problem(problem, RunDir(run_dir(home)), NullTracker())
    builds = [line.split() for line in log.read_text().splitlines()]
    return outcome(home / "run"), builds


def gone(builds):
    """Whether neither workers nor what they have started is left."""
    pids = {int(pid) for _, *pids, _ in builds for pid in pids}
    return until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 10)


def candidates(builds):
    """The builds that are not the trials of workers which get ready."""
    return [(key, worker) for key, _, _, worker, title in builds if title != "ray::Worker.prepare"]


@pytest.fixture(scope="module")
def local(farm, tmp_path_factory):
    import torch

    before = torch.get_num_threads()
    # As in the tests, for which a fixture does it later than this one is made.
    torch.set_num_threads(1)
    found, builds = search(tmp_path_factory.mktemp("local"), farm, "local")
    torch.set_num_threads(before)
    assert builds == []
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_workers_build_the_kernels(tmp_path, farm, local, workers):
    found, builds = search(tmp_path, farm, {"name": "ray", "workers": workers})
    assert found == local
    assert {title.partition(".")[0] for *_, title in builds} == {"ray::Worker"}
    keys = [key for key, _ in candidates(builds)]
    assert len(keys) > 10
    assert len(keys) == len({*keys})
    assert len({worker for _, worker in candidates(builds)}) == workers
    assert gone(builds)


def test_a_worker_that_is_killed_during_a_build_loses_nothing(tmp_path, farm, local):
    mark = tmp_path / "killed"
    found, builds = search(tmp_path, farm, {"name": "ray", "workers": 2}, **{LETHAL: str(mark)})
    assert mark.exists()
    assert found == local
    keys = [key for key, _ in candidates(builds)]
    # The kernel that it was at was built once more, by another one.
    assert len(keys) == len({*keys}) + 1
    (key,) = {key for key in keys if keys.count(key) == 2}
    assert len({worker for name, worker in candidates(builds) if name == key}) == 2
    assert gone(builds)


def test_a_worker_without_the_linker_is_refused(tmp_path, farm):
    executor = {"name": "ray", "workers": 1}
    message = (
        r"^a Ray worker cannot work on \S+: kernels cannot be built here: Cannot link kernels for "
        r"\S+: ld is missing; install it: apt-get install binutils$"
    )
    with pytest.raises(ExecutorError, match=message):
        search(tmp_path, farm, executor, PATH=str(tmp_path))
