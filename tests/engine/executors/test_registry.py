from __future__ import annotations

import sys

import pytest

from engine.config import ExecutorConfig, ExperimentConfig, config_hash, diff, parse_config
from engine.executors import ExecutorError, create_executor, executor_options
from engine.resolve import resolve

NO_RAY = "the executor 'ray' needs the package ray; install it with: pip install 'loopgene[ray]'"


def config(**sections: object) -> ExperimentConfig:
    model = {"spec": "resnet20_cifar", "input_shape": [1, 3, 32, 32]}
    return parse_config({"name": "x", "model": model, **sections})


def test_the_name_alone_is_enough():
    assert config(executor="ray").executor == ExecutorConfig(name="ray")
    assert config(executor={"name": "ray"}).executor == ExecutorConfig(name="ray")
    assert config().executor.name == "local"


def test_options_stand_beside_the_name():
    given = config(executor={"name": "ray", "workers": 4, "address": None})
    assert given.executor.options == {"workers": 4, "address": None}
    assert given.model_dump(mode="json")["executor"] == {
        "name": "ray",
        "workers": 4,
        "address": None,
    }


def test_a_run_goes_on_with_another_executor():
    here, there = config(), config(executor={"name": "ray", "workers": 4})
    assert config_hash(here) == config_hash(there)
    assert diff(here, there) == []


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ExecutorError, match=r"unknown executor 'dask'; known: local, ray"):
        create_executor("dask", {})
    message = "executor.name: unknown name 'rey'; did you mean 'ray'?"
    with pytest.raises(Exception, match=message.replace("?", r"\?")):
        resolve(config(executor="rey"))


def test_wrong_options():
    with pytest.raises(ExecutorError, match=r"executor 'local': unknown key workers"):
        executor_options("local", {"workers": 2})
    with pytest.raises(ExecutorError, match=r"executor 'ray': workers: must be at least 1, got 0"):
        resolve(config(executor={"name": "ray", "workers": 0}))


def test_a_missing_ray_is_one_line_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExecutorError) as caught:
        resolve(config(executor="ray"))
    assert str(caught.value) == NO_RAY
