"""Executors by name: the shipped ones and those of installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from engine.executors.base import Executor, ExecutorError, ExecutorOptions
from genomes.explain import explain
from genomes.plugins import Plugins

EXECUTORS = Plugins[Executor](
    group="loopgene.executors",
    noun="executor",
    base=Executor,  # type: ignore[type-abstract]
    error=ExecutorError,
    shipped={
        "local": "engine.executors.local:LocalExecutor",
        "ray": "engine.executors.ray:RayExecutor",
    },
    options=ExecutorOptions,
)


def executor_options(name: str, options: Mapping[str, Any]) -> ExecutorOptions:
    """The checked options of the executor called `name`, which can be used here.

    Raises:
        ExecutorError: There is no such executor or option, an option's value is invalid, or a
            package is missing.
    """
    kind = EXECUTORS.load(name)
    try:
        checked = kind.Options.model_validate(dict(options))
    except ValidationError as error:
        raise ExecutorError(explain(error, kind.Options, f"executor {name!r}")) from error
    kind.require()
    return checked


def create_executor(name: str, options: Mapping[str, Any]) -> Executor:
    """The executor called `name`; nothing is started yet.

    Raises:
        ExecutorError: As `executor_options`.
    """
    checked = executor_options(name, options)
    return EXECUTORS.load(name)(checked)
