"""What a worker of an executor does for a search: it scores genomes, and builds kernels."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backends.builder import Builder, BuildJob, Workshop
from backends.workers import JobResult
from engine.capacity.base import Score
from engine.executors.crew import Crew
from engine.executors.scoring import Scoring
from genomes.genome import Genome

Errand = Genome | BuildJob
Done = Score | JobResult


@dataclass(frozen=True)
class Errands:
    """The work of a crew; plain data that travels.

    Attributes:
        scoring: How genomes are scored; None where none are.
        workshop: How kernels are built; None where none are.
    """

    scoring: Scoring | None
    workshop: Workshop | None

    def prepare(self) -> Callable[[Errand], Done]:
        """Get ready for both in this process.

        Kernels are built in a process of their own, which ends with this one: a compiler that
        crashes or hangs costs its kernel, and not the worker.

        Raises:
            LoopGeneError: Scores or kernels would be other ones than those of the search's
                process, or there can be none.
        """
        pool = self.workshop.open() if self.workshop else None
        score = self.scoring.prepare() if self.scoring else None

        def run(errand: Errand) -> Done:
            if isinstance(errand, BuildJob):
                assert pool is not None
                return pool.run(errand)
            assert score is not None
            return score(errand)

        return run


class CrewBuilder(Builder):
    """Kernels that are built by the workers of a crew."""

    def __init__(self, crew: Crew[Any, Any]) -> None:
        self._crew = crew
        self._indices: dict[int, int] = {}

    @property
    def size(self) -> int:
        return self._crew.count

    @property
    def sockets(self) -> list[socket.socket]:
        return [self._crew.bell]

    def begin(self, index: int, job: BuildJob) -> None:
        self._indices[self._crew.begin(job)] = index

    def take(self) -> list[tuple[int, JobResult]]:
        results = self._crew.take()
        return [(self._indices.pop(number), result) for number, result in results.items()]

    def drop(self) -> None:
        self._crew.drop()
        self._indices.clear()
