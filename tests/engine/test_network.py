"""Whole networks measured in a worker: interleaved, checked, and isolated from each other."""

from __future__ import annotations

import pytest
import torch

from backends.base import Failed, FailureKind
from backends.registry import create_backend
from backends.timing import PATIENCE
from backends.workers import Crashed, Finished, WorkerPool
from engine.network import (
    NetworkTimes,
    Variant,
    build_model,
    compile_variant,
    laid_out,
    measure_networks,
    network_input,
    network_schedules,
    relative_error,
    search_backend,
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


def test_weights_that_training_would_make_different_are_not_kept_once(config, target) -> None:
    model = build_model(config.model)
    site = find_sites(model, config.model.input_shape).sites[1]
    rows = Gene.of("split_domain", 0, loop="ho", parts=2)
    genome = Genome.of({site.name: (rows, Gene.of("untie", 0, loop="ho"))})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network, compiled = compile_variant(model, config, Variant(genome, {}), target)
    first, second = network.get_submodule(site.name).weights
    assert not torch.equal(first, second)
    assert torch.allclose(first, second, rtol=2e-3)
    x = network_input(config)
    with torch.no_grad():
        assert relative_error(compiled(x), network(torch.from_numpy(x)).numpy()) < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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


@pytest.mark.parametrize(("wall_clock_s", "patience_s"), [(None, 60.0), (80.0, 8.0), (1e4, 60.0)])
def test_who_searches_for_a_short_time_waits_less_for_the_machine(
    config, wall_clock_s, patience_s
) -> None:
    budget = config.budget.model_copy(update={"wall_clock_s": wall_clock_s})
    sites = find_sites(build_model(config.model), config.model.input_shape)
    with search_backend(config.model_copy(update={"budget": budget}), sites) as created:
        environment = created.network_target().environment
    assert environment[PATIENCE] == str(patience_s)


def test_schedules_of_a_record() -> None:
    record = {"schedules": {"abc": [SPLIT.to_json(), HALF.to_json()]}}
    assert network_schedules(record) == {"abc": (SPLIT, HALF)}
    assert network_schedules({}) == {}
