"""The contract of executors: the capacity checks of a search, computed here or elsewhere.

Scores come back in the order in which they were asked for, whatever the order in which they are
computed, and they are those of the search's own process to the bit: a search is the same for any
executor and any number of its workers.  Kernels are measured by the backend, never by an executor.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from engine.capacity.base import CapacityMetric
from genomes.errors import LoopGeneError

if TYPE_CHECKING:
    from engine.executors.scoring import Scoring


class ExecutorError(LoopGeneError):
    """An executor is unknown, cannot be started, or has lost its workers."""


class ExecutorOptions(BaseModel):
    """Options of an executor; one that has some subclasses this."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Executor(abc.ABC):
    """Computes capacities.  Implementations are context managers and own their processes.

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
    def spread(self, metric: CapacityMetric, scoring: Scoring) -> CapacityMetric:
        """A metric with the scores of `metric`, for as long as the executor is open.

        Args:
            metric: Built in this process.
            scoring: How another process builds the same one.

        Raises:
            ExecutorError: No worker can be started, or it builds another metric.
        """

    def close(self) -> None:  # noqa: B027 - not every executor has something to end
        """End the processes that the executor owns."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
