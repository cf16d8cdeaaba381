"""The tuner: evolution over the schedule genes of one nest, guided by a learned ranking."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from backends.base import Backend, BackendError, Measured, Outcome
from backends.timing import is_impatient
from backends.tuning.mutations import neighbour
from backends.tuning.ranking import Ranking, Sample
from genomes.nest import LoopNest

BATCH = 6
"""Schedules that are measured before the ranking learns again."""

FIRST_SHARE = 3
"""One of so many measurements goes to the backend's proposals, whatever the ranking says."""

PARENTS = 6
CHILDREN = 64
MOST_CHANGES = 3
"""Changes that lead from a parent to a child, at most."""

STALE_BATCHES = 3
"""So many batches without progress end the tuning, unless the ranking still promises some."""

PROGRESS = 0.99
"""What counts as progress: this share of the latency before."""

REACHED = 0.95


@dataclass(frozen=True)
class Trial:
    """One measured schedule.

    Attributes:
        nest: Scheduled.
        outcome: Its times, or why it has none.
        elapsed_s: Seconds from the start of the tuning until it was known.
    """

    nest: LoopNest
    outcome: Outcome
    elapsed_s: float


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        nest: With the fastest schedule.
        outcome: Its times.
        proposed_s: Median of the fastest of the backend's first proposals, in seconds per call.
        history: Every measured schedule, in order.
        timed_again: Schedules that were measured twice, as something else kept the machine busy.
        seconds: How long it took.
        reason: What ended it: `measurements`, `stale` or `exhausted`.
    """

    nest: LoopNest
    outcome: Measured
    proposed_s: float
    history: tuple[Trial, ...]
    timed_again: int
    seconds: float
    reason: str

    @property
    def latency_s(self) -> float:
        """The median time, in seconds per call."""
        return self.outcome.median_s

    @property
    def measurements(self) -> int:
        """Schedules that were measured, once or twice, those that failed included."""
        return len(self.history)

    @property
    def seconds_to_95_percent(self) -> float:
        """Seconds until a schedule with 95 % of the final speed was known."""
        enough_s = self.latency_s / REACHED
        return min(t.elapsed_s for t in self.history if _latency_s(t.outcome) <= enough_s)

    def samples(self, backend: Backend) -> list[Sample]:
        """What other workloads may learn from it; `backend` is the one that measured."""
        found = []
        for trial in self.history:
            features = backend.schedule_features(trial.nest)
            if features is not None and isinstance(trial.outcome, Measured):
                workload = trial.nest.structure_key
                found.append(Sample(workload, features, trial.outcome.median_s))
        return found


def tune(
    backend: Backend,
    nest: LoopNest,
    measurements: int = 32,
    seed: int = 0,
    samples: Sequence[Sample] = (),
    between: Callable[[], None] = lambda: None,
) -> Tuned:
    """Find a fast schedule for a nest.

    The backend's first proposals are measured, then batches of what a learned ranking prefers
    among the rest of the backend's schedules and neighbours of the fastest ones so far.  Given
    the same answers of the backend and the same samples, the result is the same.

    Args:
        backend: Proposes, and measures.
        nest: Any schedule that it has is ignored.
        measurements: Schedules that are measured, at most.
        seed: Of the random changes.
        samples: What is known of this and of other workloads on this device.
        between: Called before every measurement; may raise to end the tuning there.

    Raises:
        BackendError: The device is not usable, or no schedule of the nest works.
    """
    return _Tuning(backend, nest.unscheduled(), seed, samples, between).run(measurements)


class _Tuning:
    """One run of `tune`; its arguments are explained there."""

    def __init__(
        self,
        backend: Backend,
        nest: LoopNest,
        seed: int,
        samples: Sequence[Sample],
        between: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._nest = nest
        self._samples = list(samples)
        self._between = between
        self._rng = random.Random(f"{seed}:{nest.structure_key}")
        self._features: dict[str, tuple[float, ...] | None] = {}
        self._history: list[Trial] = []
        self._timed_again = 0
        self._began = time.perf_counter()

    def run(self, measurements: int) -> Tuned:
        proposals = self._backend.schedule_candidates(self._nest)
        self._measure(proposals[: max(1, measurements // FIRST_SHARE)])
        proposed_s = self._best_s
        space = self._backend.schedule_space(self._nest)
        learns = self._known_features(proposals[0]) is not None
        stale, reason = 0, "measurements"
        while (left := measurements - len(self._history)) > 0:
            count = min(BATCH, left)
            pool = self._unmeasured((*space, *self._children()))
            if learns:
                chosen, promising = self._ranked(pool, count)
            else:
                chosen, promising = pool[:count], False
            if not chosen:
                reason = "exhausted"
                break
            if stale >= STALE_BATCHES and not promising:
                reason = "stale"
                break
            before_s = self._best_s
            self._measure(chosen)
            stale = 0 if self._best_s < PROGRESS * before_s else stale + 1
        return self._result(reason, proposed_s)

    @property
    def _best_s(self) -> float:
        return min(_latency_s(trial.outcome) for trial in self._history)

    def _measure(self, nests: Sequence[LoopNest]) -> None:
        first = len(self._history)
        self._history.extend(self._trials(nests))
        # Once more, where something else kept the machine busy, unless that is not waited for.
        new = range(first, first if is_impatient() else len(self._history))
        numbers = [n for n in new if self._history[n].outcome.disturbed]
        self._timed_again += len(numbers)
        again = self._trials([self._history[n].nest for n in numbers])
        for number, trial in zip(numbers, again, strict=True):
            if isinstance(trial.outcome, Measured):
                self._history[number] = trial
        for trial in self._history[first:]:
            features = self._known_features(trial.nest)
            if features is not None and isinstance(trial.outcome, Measured):
                key = trial.nest.structure_key
                self._samples.append(Sample(key, features, trial.outcome.median_s))

    def _trials(self, nests: Sequence[LoopNest]) -> Iterator[Trial]:
        if not nests:
            return
        self._backend.while_waiting = self._between
        outcomes = cast(Generator[Outcome], self._backend.measure_iter(nests))
        with contextlib.closing(outcomes):
            for nest in nests:
                self._between()
                outcome = next(outcomes)
                yield Trial(nest, outcome, time.perf_counter() - self._began)

    def _known_features(self, nest: LoopNest) -> tuple[float, ...] | None:
        if nest.key not in self._features:
            self._features[nest.key] = self._backend.schedule_features(nest)
        return self._features[nest.key]

    def _unmeasured(self, nests: Sequence[LoopNest]) -> list[LoopNest]:
        measured = {trial.nest.key for trial in self._history}
        return list({n.key: n for n in nests if n.key not in measured}.values())

    def _children(self) -> Iterator[LoopNest]:
        """Neighbours, near and less near, of the fastest schedules so far."""
        fastest = sorted(self._history, key=lambda trial: _latency_s(trial.outcome))
        parents = [t.nest for t in fastest[:PARENTS] if isinstance(t.outcome, Measured)]
        for _ in range(CHILDREN if parents else 0):
            child = self._rng.choice(parents)
            for _ in range(self._rng.randint(1, MOST_CHANGES)):
                child = neighbour(child, self._rng) or child
            yield child

    def _ranked(self, pool: Sequence[LoopNest], count: int) -> tuple[list[LoopNest], bool]:
        """The best of `pool`, no two alike, and whether one may be faster than all so far."""
        rows: dict[tuple[float, ...], LoopNest] = {}
        for nest in pool:
            features = self._known_features(nest)
            if features is not None:
                rows.setdefault(features, nest)
        ranking = Ranking(self._samples, self._nest.structure_key)
        slowness = ranking.slowness(list(rows))
        ranked = sorted(zip(slowness, rows.values(), strict=True), key=lambda pair: pair[0])
        promising = not ranking.learned or any(s < PROGRESS for s, _ in ranked[:count])
        return [nest for _, nest in ranked[:count]], promising

    def _result(self, reason: str, proposed_s: float) -> Tuned:
        best = min(self._history, key=lambda trial: _latency_s(trial.outcome))
        if not isinstance(best.outcome, Measured):
            raise BackendError(
                f"No schedule of {self._nest.shape} works: {best.outcome.kind.value}: "
                f"{best.outcome.message}"
            )
        seconds = time.perf_counter() - self._began
        history = tuple(self._history)
        return Tuned(
            best.nest, best.outcome, proposed_s, history, self._timed_again, seconds, reason
        )


def _latency_s(outcome: Outcome) -> float:
    return outcome.median_s if isinstance(outcome, Measured) else float("inf")
