"""Whole networks on devices behind real RPC servers: compiled here, checked and timed there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.base import BackendError, Failed, FailureKind, LibraryRun, NoDeviceError
from backends.rpc.backend import RpcBackend
from backends.rpc.loopback import Farm
from engine.libraries import measure_libraries
from engine.network import NetworkTimes, Variant, build_model, laid_out
from engine.problem import open_problem
from genomes.gene import Gene
from genomes.genome import Genome, replay
from genomes.sites import find_sites
from tests.backends.rpc.samples import options
from tests.engine.toys import ParameterMetric, experiment

HALF = Gene.of("bottleneck", loop="co", factor=2)


@pytest.fixture(scope="module")
def farm():
    with Farm(1, "networks") as one:
        yield one


@pytest.fixture
def target(farm):
    with RpcBackend(options(farm)) as backend:
        yield backend.library_target()


def test_networks_are_checked_and_timed_there(tmp_path, target) -> None:
    config = experiment(tmp_path)
    model = build_model(config.model)
    site = laid_out(model, find_sites(model, config.model.input_shape), target).sites[1]
    three = (Gene.of("split", loop="co", factor=3),)
    variants = {
        "original": Variant(Genome(), {}),
        "illegal": Variant(Genome(), {replay(site.shape, ()).structure_key: three}),
        "found": Variant(Genome.of({site.name: (HALF,)}), {}),
    }
    answers = measure_libraries(config, variants, target, rounds=4)
    assert list(answers) == list(variants)
    for name in ("original", "found"):
        answer = answers[name]
        assert isinstance(answer, NetworkTimes), answer
        assert len(answer.times_s) == 2
        assert 0 < answer.median_s < 1
        assert answer.error < 1e-4
    illegal = answers["illegal"]
    assert isinstance(illegal, Failed)
    assert illegal.kind is FailureKind.BUILD_ERROR
    assert "3 does not divide the extent 8" in illegal.message


class Board:
    """Runs some libraries, and ends every session in which it meets another one."""

    def __init__(self, outputs, trouble=()) -> None:
        self.outputs = outputs
        self.trouble = list(trouble)
        self.sessions: list[tuple[str, ...]] = []

    def __call__(self, libraries, x, rounds):
        self.sessions.append(tuple(libraries))
        assert all(path.stat().st_size > 0 for path in libraries.values())
        if self.trouble:
            raise self.trouble.pop()
        for name in libraries:
            if name not in self.outputs:
                raise BackendError(f"{name} does not run")
        return {n: LibraryRun(self.outputs[n](x), (0.5,) * rounds) for n in libraries}


@pytest.fixture
def reference(tmp_path):
    """A config, and PyTorch's output of its network."""
    import torch

    config = experiment(tmp_path)
    model = build_model(config.model).eval()

    def output(x):
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    return config, output


def same(*names: str) -> dict[str, Variant]:
    return {name: Variant(Genome(), {}) for name in names}


def test_a_network_that_does_not_run_costs_only_itself(target, reference) -> None:
    config, output = reference
    board = Board({"a": output, "c": output})
    answers = measure_libraries(config, same("a", "b", "c"), replace(target, run=board), 2)
    assert [type(a) for a in answers.values()] == [NetworkTimes, Failed, NetworkTimes]
    assert answers["b"] == Failed(FailureKind.CRASHED, "b does not run")
    # Together twice, each alone, b again, and those that run once more in turns.
    together = [s for s in board.sessions if len(s) > 1]
    assert together == [("a", "b", "c")] * 2 + [("a", "c")]


def test_a_board_that_is_lost_once_costs_a_session(target, reference) -> None:
    config, output = reference
    board = Board({"a": output}, [BackendError("it was lost")])
    answers = measure_libraries(config, same("a"), replace(target, run=board), 2)
    assert isinstance(answers["a"], NetworkTimes)
    assert board.sessions == [("a",), ("a",)]


def test_networks_that_fail_together_only_are_timed_together_again(target, reference) -> None:
    config, output = reference
    board = Board({"a": output, "b": output}, [BackendError("it was lost")] * 2)
    answers = measure_libraries(config, same("a", "b"), replace(target, run=board), 2)
    assert all(isinstance(answer, NetworkTimes) for answer in answers.values())
    assert board.sessions == [("a", "b"), ("a", "b"), ("a",), ("b",), ("a", "b")]


def test_no_network_is_blamed_when_no_board_is_free(target, reference) -> None:
    config, output = reference
    board = Board({"a": output, "b": output}, [NoDeviceError("no board within 1 s")])
    answers = measure_libraries(config, same("a", "b"), replace(target, run=board), 2)
    failed = Failed(FailureKind.QUEUE_TIMEOUT, "no board within 1 s")
    assert answers == {"a": failed, "b": failed}
    assert board.sessions == [("a", "b")]


def test_a_network_that_computes_something_else_has_no_times(target, reference) -> None:
    config, output = reference
    board = Board({"a": output, "b": lambda x: output(x) + np.float32(1)})
    answers = measure_libraries(config, same("a", "b"), replace(target, run=board), 2)
    assert isinstance(answers["a"], NetworkTimes)
    assert isinstance(answers["b"], Failed)
    assert answers["b"].kind is FailureKind.WRONG_RESULT


def test_a_search_measures_kernels_in_the_layouts_of_its_networks(tmp_path, farm) -> None:
    backend = RpcBackend(options(farm))
    model = {"spec": "resnet20_cifar", "input_shape": [1, 3, 32, 32]}
    with open_problem(
        experiment(tmp_path, model=model), "run", backend, ParameterMetric
    ) as problem:
        assert problem.measure_end_to_end is not None
        lanes = [site.shape.output_lanes for site in problem.sites.sites]
    # Blocks of channels from the first convolution on.
    assert lanes[0] > 0
