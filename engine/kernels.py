"""What is known of the kernels of a search: each is measured once, whoever needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import cast

from backends.base import Measured, Outcome
from backends.stored import StoredBackend
from engine.stages import Stages
from genomes.gene import Gene
from genomes.nest import LoopNest

Between = Callable[[], None]
"""Called before every measurement, and again and again while a device is waited for; may raise
to end the search there."""

TRIES = 3
"""A kernel is timed so often, at the end of a batch, until something else leaves it alone."""


class Kernels:
    """The best known latency of every nest.

    A nest with a schedule is one kernel.  A nest without one is as fast as the fastest of the
    first schedules that the backend proposes for it, and of those that `adopt` has added.

    Args:
        backend: Measures, and remembers for other runs.
        schedules: Proposed schedules that are measured for a nest without one.
        stages: Counts the seconds of building, checking, measuring and waiting.
    """

    def __init__(self, backend: StoredBackend, schedules: int, stages: Stages) -> None:
        self.backend = backend
        self.stages = stages
        self._schedules = schedules
        self._outcomes: dict[str, Outcome] = {}
        self._passing: dict[str, Outcome] = {}
        self._proposed: dict[str, tuple[LoopNest, ...]] = {}
        self._best: dict[str, Outcome] = {}
        self._adopted: dict[str, tuple[LoopNest, ...]] = {}

    def proposals(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        """All schedules that the backend proposes for what `nest` computes."""
        key = nest.structure_key
        if key not in self._proposed:
            self._proposed[key] = self.backend.schedule_candidates(nest.unscheduled())
        return self._proposed[key]

    def kernels(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        """The kernels whose fastest is the latency of `nest`."""
        if any(s.has_schedule for s in nest.statements):
            return (nest,)
        adopted = self._adopted.get(nest.structure_key, ())
        return (*self.proposals(nest)[: self._schedules], *adopted)

    def measure(self, nests: Iterable[LoopNest], between: Between) -> None:
        """Make `best` known for all `nests`, in one request to the backend.

        Raises:
            BackendError: The device or the tool chain is not usable.
        """
        self._passing.clear()
        wanted: dict[str, LoopNest] = {}
        for nest in nests:
            if nest.key not in self._best:
                wanted.update((k.key, k) for k in self.kernels(nest))
        missing = [k for key, k in wanted.items() if key not in self._outcomes]
        for _ in range(TRIES):
            self._ask(missing, between)
            missing = [k for k in missing if self._is_disturbed(k)]
            if not missing:
                break

    def _is_disturbed(self, kernel: LoopNest) -> bool:
        outcome = self._outcomes.get(kernel.key)
        return outcome is not None and outcome.disturbed

    def _ask(self, missing: Sequence[LoopNest], between: Between) -> None:
        self.backend.while_waiting = between
        outcomes = cast(Generator[Outcome], self.backend.measure_iter(missing))
        with contextlib.closing(outcomes):
            for kernel in missing:
                between()
                measured_before = self.backend.misses
                outcome = next(outcomes)
                if self.backend.misses > measured_before:
                    self.stages.add(outcome.stages_s)
                known = self._outcomes if _final(outcome) else self._passing
                known[kernel.key] = _better(known.get(kernel.key), outcome)

    def best(self, nest: LoopNest) -> Outcome:
        """The fastest kernel of `nest`, or the first failure if none works.

        Kernels are compared as they are in the original's network, whatever network wants one.

        Raises:
            KeyError: The last `measure` did not have it, nor an earlier one a lasting answer.
        """
        if nest.key in self._best:
            return self._best[nest.key]
        keys = [kernel.key for kernel in self.kernels(nest)]
        outcomes = [self._outcomes.get(key) or self._passing[key] for key in keys]
        measured = [o for o in outcomes if isinstance(o, Measured)]
        found = min(measured, key=lambda o: o.median_s) if measured else outcomes[0]
        if all(key in self._outcomes for key in keys):
            self._best[nest.key] = found
        return found

    def together(self, kernels: Sequence[Measured]) -> list[float]:
        """Seconds per call of each of the kernels that make one network."""
        read = sum(kernel.weight_bytes for kernel in kernels)
        distance = self.backend.measure_options.distance(read)
        return [kernel.among(distance) for kernel in kernels]

    def known(self, nest: LoopNest) -> list[tuple[LoopNest, Outcome]]:
        """The kernels of `nest` with their lasting outcomes, as far as they were measured."""
        kernels = self.kernels(nest)
        return [(k, self._outcomes[k.key]) for k in kernels if k.key in self._outcomes]

    def adopt(self, kernel: LoopNest, outcome: Measured) -> None:
        """Let a kernel that was measured elsewhere count for the nest that it computes."""
        key = kernel.structure_key
        others = self._adopted.get(key, ())
        self._adopted[key] = tuple({k.key: k for k in (*others, kernel)}.values())
        self._outcomes[kernel.key] = outcome
        self._best.pop(kernel.unscheduled().key, None)

    def schedules(self, nests: Iterable[LoopNest]) -> dict[str, tuple[Gene, ...]]:
        """The schedule genes of the fastest known kernel of each workload among `nests`.

        Returns:
            Genes by `LoopNest.structure_key`; workloads without a working kernel are left out.
        """
        fastest: dict[str, tuple[float, tuple[Gene, ...]]] = {}
        for nest in nests:
            for kernel in self.kernels(nest):
                outcome = self._outcomes.get(kernel.key)
                known = fastest.get(kernel.structure_key)
                if isinstance(outcome, Measured) and (
                    known is None or outcome.median_s < known[0]
                ):
                    genes = tuple(g for s in kernel.statements for g in s.schedule_genes)
                    fastest[kernel.structure_key] = (outcome.median_s, genes)
        return {key: genes for key, (_, genes) in fastest.items()}


def _better(before: Outcome | None, now: Outcome) -> Outcome:
    """The outcome to believe: of disturbed times the faster ones, and no lack of time."""
    if not isinstance(before, Measured):
        return now
    if isinstance(now, Measured):
        return min(before, now, key=lambda m: m.median_s) if now.disturbed else now
    return before if now.kind.is_timeout else now


def _final(outcome: Outcome) -> bool:
    """Whether asking again would give the same answer."""
    return isinstance(outcome, Measured) or outcome.kind.charged_to_candidate
