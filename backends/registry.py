"""Backends by name: the built-in ones and those of the entry points `loopgene.backends`.

An entry point names a subclass of `Backend` with two more things: `Options`, a pydantic model
of its options, and a constructor that takes one instance of it:

    [project.entry-points."loopgene.backends"]
    npu = "my_package.npu:NpuBackend"

`backends.conformance.BackendConformance` shows whether it keeps the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from pydantic import BaseModel, ValidationError

from backends.base import Backend, BackendError
from genomes.explain import explain
from genomes.plugins import Plugins

BACKENDS = Plugins[Backend](
    group="loopgene.backends",
    noun="backend",
    base=Backend,  # type: ignore[type-abstract]
    error=BackendError,
    shipped={
        "cpu": "backends.cpu:CpuBackend",
        "rpc": "backends.rpc.backend:RpcBackend",
        "cuda": "backends.cuda:CudaBackend",
        "table": "backends.table:TableBackend",
    },
    options=BaseModel,
)


class BackendType(Protocol):
    """A class of backends that can be made by name."""

    Options: type[BaseModel]

    def __call__(self, options: Any) -> Backend: ...


def backend_type(name: str) -> BackendType:
    """The class registered under `name`; its `Options` describe what can be set.

    Raises:
        BackendError: There is none, or the package that provides it cannot be imported.
    """
    return cast(BackendType, BACKENDS.load(name))


def backend_options(name: str, options: Mapping[str, Any]) -> BaseModel:
    """The checked options of the backend called `name`.

    Raises:
        BackendError: There is no such backend or option, or an option's value is invalid.
    """
    model = backend_type(name).Options
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise BackendError(explain(error, model, f"backend {name!r}")) from error


def create_backend(name: str, options: Mapping[str, Any] | None = None) -> Backend:
    """A backend from its name and options.

    Raises:
        BackendError: Unknown name or option, an option with a wrong value, or a device or tool
            chain that is missing.
    """
    return backend_type(name)(backend_options(name, options or {}))
