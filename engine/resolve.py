"""The names in a config that other registries own, checked before anything is started."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from engine.config import DataConfig, ExperimentConfig
from engine.config_errors import ConfigError, located
from genomes.suggest import nearest

DATA_VARIABLE = "LOOPGENE_DATA"


def resolve(config: ExperimentConfig) -> ExperimentConfig:
    """`config` with the path of its data filled in, all names in it known.

    Nothing is built, read or started.

    Raises:
        ConfigError: A name is in no registry (the message has the nearest one), a path is
            missing; one line for each problem.
        LoopGeneError: A package that provides something named cannot be used or is missing, or an
            option of the backend, the executor or the metric is wrong.
    """
    problems = _unknown_names(config)
    if problems:
        raise ConfigError("\n  ".join(["unknown names", *problems] if problems[1:] else problems))
    _check_plugins(config)
    if config.model.weights is not None:
        _check_path("model.weights", config.model.weights)
    return config.model_copy(update={"data": _located(config.data)})


def _unknown_names(config: ExperimentConfig) -> list[str]:
    from backends.registry import BACKENDS
    from engine.capacity import METRICS
    from engine.data import data_kinds
    from engine.executors import EXECUTORS
    from engine.models import MODELS
    from engine.strategies import STRATEGIES
    from genomes.presets import PRESETS
    from genomes.transformations import REGISTRY

    search, spec = config.search, config.model.spec
    named: list[tuple[str, str, Collection[str]]] = [
        *((("model.spec", spec, MODELS),) if ":" not in spec else ()),
        ("data.kind", config.data.kind, data_kinds()),
        ("backend.name", config.backend.name, BACKENDS.names()),
        ("executor.name", config.executor.name, EXECUTORS.names()),
        ("search.strategy", search.strategy, STRATEGIES.names()),
        *(("search.transformations", name, REGISTRY) for name in search.transformations or ()),
        *(("search.presets", name, PRESETS) for name in search.presets or ()),
        ("capacity.metric", config.capacity.metric, METRICS.names()),
    ]
    return [
        f"{path}: unknown name {name!r}; {nearest(name, known)}{_hint(path)}"
        for path, name, known in named
        if name not in known
    ]


def _hint(path: str) -> str:
    if path != "model.spec":
        return ""
    return " (a network of your own is given as module:factory or path/to/file.py:factory)"


def _check_plugins(config: ExperimentConfig) -> None:
    from backends.registry import backend_options
    from engine.capacity import metric_options
    from engine.executors import executor_options
    from engine.strategies import STRATEGIES

    backend_options(config.backend.name, config.backend.options)
    executor_options(config.executor.name, config.executor.options)
    STRATEGIES.load(config.search.strategy)
    metric_options(config.capacity.metric, config.capacity.options)


def _located(data: DataConfig) -> DataConfig:
    """`data` with its path: the given one, or that of the environment if it needs one."""
    from engine.data.registry import AUTO, EMBEDDED

    path = data.path
    if path is None and data.kind not in EMBEDDED:
        given = os.environ.get(DATA_VARIABLE)
        if given:
            path = Path(given).expanduser()
        elif data.kind != AUTO:
            raise ConfigError(
                f"data.path: the kind {data.kind!r} needs a path; give data.path, or set the "
                f"environment variable {DATA_VARIABLE}"
            )
    if path is not None:
        _check_path("data.path", path)
    return data.model_copy(update={"path": path})


def _check_path(field: str, path: Path) -> None:
    if not path.exists():
        raise ConfigError(f"{field}: no such file or folder: {located(path)}")
