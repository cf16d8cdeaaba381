"""The contract of executors: the capacities of a search and the builds of its kernels for boards.

Scores come back in the order in which they were asked for, whatever the order in which they are
computed, and they are those of the search's own process to the bit: a search is the same for any
executor and any number of its workers.  Kernels are measured by the backend, never by an executor;
where they are measured on the search's machine, they are built there as well.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from genomes.errors import LoopGeneError

if TYPE_CHECKING:
    from backends.builder import Builder, Workshop
    from engine.capacity.base import Score
    from engine.executors.scoring import Scoring
    from genomes.genome import Genome


class ExecutorError(LoopGeneError):
    """An executor is unknown, cannot be started, or has lost its workers."""


class ExecutorOptions(BaseModel):
    """Options of an executor; one that has some subclasses this."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Spread:
    """What an executor does in place of the search's process, which does what is None.

    Attributes:
        scores: Gives the scores of genomes, in order.
        builder: Builds the kernels of the backend.
    """

    scores: Callable[[Sequence[Genome]], list[Score]] | None = None
    builder: Builder | None = None


class Executor(abc.ABC):
    """Computes capacities and builds kernels.

    Implementations are context managers and own their processes.

    Args:
        options: An instance of `Options`.

    Attributes:
        name: Its name in experiments.
        Options: The class of its options.
    """

    name: ClassVar[str]
    Options: ClassVar[type[ExecutorOptions]] = ExecutorOptions

    def __init__(self, options: ExecutorOptions) -> None:
        self.options = options

    @classmethod  # noqa: B027 - not every executor needs a package
    def require(cls) -> None:
        """Do nothing where the executor can be used.

        Raises:
            ExecutorError: A package that it needs is missing; the message says how to install it.
        """

    @abc.abstractmethod
    def spread(self, scoring: Scoring | None, workshop: Workshop | None) -> Spread:
        """Get the workers ready; what is returned works as long as the executor is open.

        Args:
            scoring: How another process computes capacities; None where none has to.
            workshop: How another process builds kernels; None where none may.

        Raises:
            ExecutorError: No worker can be started, or one would score or build otherwise.
        """

    def close(self) -> None:  # noqa: B027 - not every executor has something to end
        """End the processes that the executor owns."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
