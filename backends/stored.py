"""A backend that remembers: measures only what the measurement store does not know."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator, Sequence
from typing import cast

from backends.base import Backend, Device, LibraryTarget, NetworkTarget, Outcome
from backends.store import MeasurementStore
from backends.store_rows import Place
from genomes.nest import LoopNest


class StoredBackend(Backend):
    """`inner` with a memory.

    Each outcome is stored before it is handed out, so that a kill loses the job in flight and
    nothing else.  Schedules that a nest lacks are filled in first: what is stored names them.

    Args:
        inner: Measures what is not known; closed with this backend.
        store: The memory; stays open.
        run_id: Stored with what is measured.

    Attributes:
        hits: Outcomes that the store, or an equal nest earlier in the batch, answered.
        misses: Outcomes that were measured.
    """

    def __init__(self, inner: Backend, store: MeasurementStore, run_id: str = "") -> None:
        self.inner = inner
        self.store = store
        self.name = inner.name
        self.measure_options = inner.measure_options
        self.hits = 0
        self.misses = 0
        self._run_id = run_id

    @property
    def target(self) -> str:
        return self.inner.target

    @property
    def drift(self) -> Sequence[tuple[int, float]]:  # type: ignore[override]
        return self.inner.drift

    @functools.cached_property
    def place(self) -> Place:
        """The part of the store's key that is the same for all nests."""
        device = self.describe()
        # Two backends may describe one device alike, and do not measure alike.
        where = f"{self.name}:{device.fingerprint}"
        return Place(self.target, where, str(device.facts.get("tvm", "")))

    def describe(self) -> Device:
        return self.inner.describe()

    def transformations(self) -> frozenset[str]:
        return self.inner.transformations()

    def default_schedule(self, nest: LoopNest) -> LoopNest:
        return self.inner.default_schedule(nest)

    def schedule_candidates(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        return self.inner.schedule_candidates(nest)

    def schedule_space(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        return self.inner.schedule_space(nest)

    def schedule_features(self, nest: LoopNest) -> tuple[float, ...] | None:
        return self.inner.schedule_features(nest)

    def measure_iter(self, nests: Sequence[LoopNest]) -> Iterator[Outcome]:
        scheduled = [
            nest if all(s.has_schedule for s in nest.statements) else self.default_schedule(nest)
            for nest in nests
        ]
        known = self.store.get_many(scheduled, self.place, self.measure_options)
        missing = list({nest.key: nest for nest in scheduled if nest.key not in known}.values())
        self.inner.while_waiting = self.while_waiting
        # In the order of first appearance, like the loop below.
        fresh = cast(Generator[Outcome], self.inner.measure_iter(missing))
        with contextlib.closing(fresh):
            for nest in scheduled:
                if nest.key in known:
                    self.hits += 1
                else:
                    outcome = next(fresh)
                    self.store.put(nest, outcome, self.place, self.measure_options, self._run_id)
                    known[nest.key] = outcome
                    self.misses += 1
                yield known[nest.key]

    def network_target(self) -> NetworkTarget | None:
        return self.inner.network_target()

    def library_target(self) -> LibraryTarget | None:
        return self.inner.library_target()

    def close(self) -> None:
        self.inner.close()
