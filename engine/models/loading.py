"""Building a network from its specification: a name, `module:factory` or `file.py:factory`."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from engine.config_errors import located
from engine.models.registry import MODELS, get_model
from genomes.errors import ModelError

FORMS = "a model name, module:factory or path/to/file.py:factory"


def load_model(spec: str, **kwargs: Any) -> nn.Module:
    """Build the network that `spec` names.

    Args:
        spec: A name of `MODELS`; or `module:factory`, importable from the installed packages
            or the current directory; or `path/to/file.py:factory`.  The factory is any
            callable that returns a network; it may be dotted (`Zoo.small`).
        **kwargs: Given to the factory; those of `MODELS` take `num_classes` and `in_channels`.

    Returns:
        A fresh network, its weights drawn from the global generator of torch.

    Raises:
        ModelError: The specification has another form, names nothing that exists, or its
            factory fails or returns something other than a `torch.nn.Module`.
    """
    if spec in MODELS:
        return _build(spec, MODELS[spec].factory, kwargs)
    source, colon, attribute = spec.rpartition(":")
    if not colon:
        if spec.endswith(".py"):
            raise ModelError(f"model {spec!r}: say which factory of the file, as {spec}:factory")
        get_model(spec)
    if not source or not attribute:
        raise ModelError(f"model {spec!r}: expected {FORMS}")
    is_file = source.endswith(".py") or "/" in source or "\\" in source
    folder = Path(source).expanduser().resolve().parent if is_file else Path.cwd()
    # Held while the factory runs too, because it may import its neighbours only then.
    with _importable_from(folder):
        module = _import_file(spec, source) if is_file else _import_module(spec, source)
        return _build(spec, _lookup(spec, module, attribute), kwargs)


@contextlib.contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _import_module(spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    # The user's code runs here: whatever it raises is reported as the fault of the model.
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"model {spec!r}: cannot import {name!r} from the current directory ({Path.cwd()}) "
            f"or the installed packages: {_one_line(error)}"
        ) from error


def _import_file(spec: str, source: str) -> ModuleType:
    given = Path(source).expanduser()
    path = given.resolve()
    if not path.is_file():
        raise ModelError(f"model {spec!r}: no such file: {located(given)}; expected {FORMS}")
    # Unique, so that a user's file named like an installed package does not replace it.
    name = f"loopgene_model_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ModelError(f"model {spec!r}: {path} is not a Python file; expected {FORMS}")
    module = importlib.util.module_from_spec(module_spec)
    # Registered as an import does: dataclasses and pickle look a class's module up by name.
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    # The user's code runs here: whatever it raises is reported as the fault of the model.
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(f"model {spec!r}: cannot import {path}: {_one_line(error)}") from error
    return module


def _lookup(spec: str, module: ModuleType, attribute: str) -> Callable[..., object]:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            where = getattr(module, "__file__", None) or module.__name__
            raise ModelError(f"model {spec!r}: {where} has no {attribute!r}{hint}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        raise ModelError(
            f"model {spec!r}: {attribute!r} is a network already; name a function that builds it"
        )
    if not callable(found):
        raise ModelError(
            f"model {spec!r}: {attribute!r} of type {type(found).__name__} cannot be called; "
            "name a function or class that builds the network"
        )
    return found


def _build(spec: str, factory: Callable[..., object], kwargs: dict[str, Any]) -> nn.Module:
    try:
        network = factory(**kwargs)
    # The user's code runs here: whatever it raises is reported as the fault of the model.
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        raise ModelError(
            f"model {spec!r}: the factory failed when called with ({given}): {_one_line(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"model {spec!r}: the factory returned an object of type "
            f"{type(network).__name__}, not a torch.nn.Module"
        )
    return network


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
