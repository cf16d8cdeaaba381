"""Whole networks measured in a worker: interleaved, checked, and isolated from each other."""

from __future__ import annotations

import time

import pytest
import torch

from backends.base import Failed, FailureKind
from backends.registry import create_backend
from backends.timing import Look
from backends.timing.steady import IMPATIENT
from backends.workers import Crashed, Finished, WorkerPool
from engine import network
from engine.network import (
    NetworkTimes,
    Variant,
    build_model,
    interleaved,
    laid_out,
    measure_networks,
    network_schedules,
    quiet,
)
from genomes.errors import ModelError
from genomes.gene import Gene
from genomes.genome import Genome, replay
from genomes.sites import find_sites
from tests.engine.toys import experiment

HALF = Gene.of("bottleneck", loop="co", factor=2)
SPLIT = Gene.of("split", loop="co", factor=2)


@pytest.fixture
def config(tmp_path):
    return experiment(tmp_path, backend={"name": "cpu", "threads": 1})


@pytest.fixture
def target(config):
    with create_backend("cpu", config.backend.options) as backend:
        found = backend.network_target()
    assert found is not None
    return found


def test_networks_are_compiled_checked_and_timed(config, target) -> None:
    site = find_sites(build_model(config.model), config.model.input_shape).sites[1]
    genome = Genome.of({site.name: (HALF,)})
    nest = replay(site.shape, (HALF,))
    variants = {
        "original": Variant(Genome(), {}),
        "found": Variant(genome, {nest.structure_key: (SPLIT,)}),
    }
    times = measure_networks(config, variants, target, rounds=3)
    for answer in times.values():
        assert isinstance(answer, NetworkTimes)
        assert len(answer.times_s) == 2
        assert 0 < answer.median_s < 1
        assert answer.error < 1e-4


def test_a_network_that_fails_costs_only_itself(config, target) -> None:
    model = build_model(config.model)
    sites = find_sites(model, config.model.input_shape)
    site = laid_out(model, sites, target).sites[1]
    bad = (Gene.of("split", loop="co", factor=3),)
    variants = {
        "original": Variant(Genome(), {}),
        "illegal": Variant(Genome(), {replay(site.shape, ()).structure_key: bad}),
    }
    times = measure_networks(config, variants, target, rounds=2)
    assert isinstance(times["original"], NetworkTimes)
    assert len(times["original"].times_s) == 1
    assert isinstance(times["illegal"], Failed)
    assert times["illegal"].kind is FailureKind.BUILD_ERROR
    assert "3 does not divide the extent 8" in times["illegal"].message


def test_networks_that_fail_together_only_are_timed_together_again(
    config, target, monkeypatch
) -> None:
    asked = []

    def once(self, payload):
        asked.append((list(payload["variants"]), payload["rounds"]))
        if len(asked) == 1:
            return Crashed("SIGSEGV", "run", "", {})
        times = (float(len(asked)),) * payload["rounds"]
        return Finished({n: NetworkTimes(times, 0.0) for n in payload["variants"]}, {})

    monkeypatch.setattr(WorkerPool, "run", once)
    times = measure_networks(config, {n: Variant(Genome(), {}) for n in "ab"}, target, rounds=9)
    assert asked == [(["a", "b"], 9), (["a"], 1), (["b"], 1), (["a", "b"], 9)]
    assert times == dict.fromkeys("ab", NetworkTimes((4.0,) * 9, 0.0))


def test_functions_are_timed_in_turns() -> None:
    calls: list[str] = []
    times = interleaved({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=4)
    assert [len(values) for values in times.values()] == [4, 4]
    turns = [n for n, before in zip(calls[4:], ["", *calls[4:]], strict=False) if n != before]
    assert turns == ["a", "b"] * 4


def test_a_disturbed_turn_is_repeated(monkeypatch) -> None:
    monkeypatch.delenv(IMPATIENT)
    clock = iter([0.0, 9.0, 9.0, 15.0, 15.0, 19.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    # Before the first attempt and after each: the third is between two that are calm.
    looks = iter(Look(slow, slow) for slow in [1.0, 1.4, 1.0, 1.01])
    calls: list[None] = []
    assert network._calm_s(lambda: calls.append(None), 2, lambda: next(looks)) == 2.0
    assert len(calls) == 6


def test_a_disturbed_turn_counts_where_nobody_waits(monkeypatch) -> None:
    clock = iter([0.0, 9.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls: list[None] = []
    assert network._calm_s(lambda: calls.append(None), 2, lambda: Look(1.4, 1.4)) == 4.5
    assert len(calls) == 2


def test_turns_in_which_everything_is_slow_are_left_out() -> None:
    times = {"a": [1.0, 1.5, 1.1, 1.0, 9.0], "b": [10.0, 14.0, 10.1, 10.2, 10.0]}
    assert quiet(times) == {"a": [1.0, 1.1, 1.0], "b": [10.0, 10.1, 10.2]}
    assert quiet({"a": [2.0]}) == {"a": [2.0]}
    assert quiet({}) == {}


def test_weights_come_from_the_seed_or_from_a_file(tmp_path, config) -> None:
    state = torch.random.get_rng_state()
    first, second = (build_model(config.model).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    doubled = {k: 2 * v for k, v in first.items()}
    torch.save(doubled, tmp_path / "weights.pt")
    loaded = build_model(config.model.model_copy(update={"weights": tmp_path / "weights.pt"}))
    torch.testing.assert_close(loaded.state_dict(), doubled, rtol=0, atol=0)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_bad_weights_are_one_clear_error(tmp_path, config, content) -> None:
    path = tmp_path / "weights.pt"
    if content is None:
        torch.save({"other.weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.pt do not fit the network .*torch\.save"):
        build_model(config.model.model_copy(update={"weights": path}))


def test_schedules_of_a_record() -> None:
    record = {"schedules": {"abc": [SPLIT.to_json(), HALF.to_json()]}}
    assert network_schedules(record) == {"abc": (SPLIT, HALF)}
    assert network_schedules({}) == {}
