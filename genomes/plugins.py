"""Classes by name: the shipped ones and those of the entry points of installed packages."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from pydantic import BaseModel

from genomes.errors import LoopGeneError
from genomes.suggest import nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Plugins(Generic[T]):
    """One extension point.

    Attributes:
        group: The group of entry points.
        noun: What a class of it is called in messages.
        base: What every class of it derives from.
        error: Raised where a name is unknown or a class is not usable.
        shipped: Our own, as `module:Class`, by name; no entry point replaces them.
        options: What the class attribute `Options` derives from; None where there are none.
    """

    group: str
    noun: str
    base: type[T]
    error: type[LoopGeneError]
    shipped: Mapping[str, str]
    options: type[BaseModel] | None = None

    def names(self) -> Collection[str]:
        """All names that `load` takes."""
        return sorted({*self.shipped, *self.installed()})

    def installed(self) -> dict[str, EntryPoint]:
        """The entry points of installed packages."""
        return {point.name: point for point in entry_points(group=self.group)}

    def load(self, name: str) -> type[T]:
        """The class called `name`.

        Raises:
            LoopGeneError: There is none (the message names the nearest one), it cannot be
                imported, or it is not of its kind.
        """
        if name in self.shipped:
            module, _, attribute = self.shipped[name].partition(":")
            return cast(type[T], getattr(importlib.import_module(module), attribute))
        point = self.installed().get(name)
        if point is None:
            raise self.error(f"unknown {self.noun} {name!r}; {nearest(name, self.names())}")
        try:
            found = point.load()
        except Exception as error:  # another package's import may raise anything
            first = (str(error).splitlines() or [""])[0]
            problem = f"cannot be imported: {type(error).__name__}: {first}"
            raise self._unusable(point, problem) from error
        problem = self._problem(found)
        if problem:
            raise self._unusable(point, problem)
        return cast(type[T], found)

    def _problem(self, found: object) -> str:
        """Why `found` is no class of this extension point; "" if it is one."""
        if not (isinstance(found, type) and issubclass(found, self.base)):
            return f"is no subclass of {self.base.__module__}.{self.base.__qualname__}"
        if inspect.isabstract(found):
            missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            return f"does not implement {missing}"
        options = getattr(found, "Options", None)
        if self.options and not (isinstance(options, type) and issubclass(options, self.options)):
            wanted = f"{self.options.__module__}.{self.options.__qualname__}"
            return f"has no class attribute Options derived from {wanted}"
        return ""

    def _unusable(self, point: EntryPoint, problem: str) -> LoopGeneError:
        return self.error(
            f"{self.noun} {point.name!r} ({point.value}) {problem}; repair or remove the package "
            "that installs it"
        )
