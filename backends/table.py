"""The table backend: latencies from a formula, at once and the same for ever.

For tests and for measuring what the search itself costs.  Its latencies are modelled, not
measured, and `describe` says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from pydantic import Field, model_validator

from backends.base import Device, Failed, FailureKind, Measured, Outcome
from backends.devices import CpuFeatures
from backends.schedules import LoweredSchedules
from backends.settings import BackendSettings
from genomes.nest import LoopNest, Statement

_FEATURES = CpuFeatures(
    lanes=8, registers=16, l1_bytes=32 << 10, l2_bytes=1 << 20, cores=4, threads=4
)
_MACS_PER_S = 2e9
"""Of one lane on one thread."""
_BYTES_PER_S = 20e9
_STATEMENT_S = 1e-6
_JITTER = 0.2


class TableOptions(BackendSettings):
    """Options of the table backend.

    Attributes:
        failures: Share of the nests that fails in each way, chosen by their keys.
    """

    failures: dict[FailureKind, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _shares(self) -> TableOptions:
        if any(share < 0 for share in self.failures.values()) or sum(self.failures.values()) > 1:
            raise ValueError("the shares of failures must be positive and sum up to at most 1")
        return self


class TableBackend(LoweredSchedules):
    """Modelled latencies: arithmetic over peak, traffic over bandwidth, a hash for the rest."""

    name = "table"
    Options = TableOptions
    features = _FEATURES

    def __init__(self, options: TableOptions | None = None) -> None:
        self._options = options or TableOptions()
        self.measure_options = self._options.measure_options

    @property
    def target(self) -> str:
        return "table"

    def describe(self) -> Device:
        shares = {kind.value: share for kind, share in sorted(self._options.failures.items())}
        facts = {"kind": "table", "modelled": True, "format": 1, "failures": shares}
        return Device("latency table (modelled, not measured)", facts)

    def measure_iter(self, nests: Sequence[LoopNest]) -> Iterator[Outcome]:
        for nest in nests:
            ready = all(s.has_schedule for s in nest.statements)
            yield self._outcome(nest if ready else self.default_schedule(nest))

    def _outcome(self, nest: LoopNest) -> Outcome:
        draw = _uniform(nest.key, "failure")
        for kind, share in sorted(self._options.failures.items()):
            if draw < share:
                return Failed(kind, "injected by the options of the table backend")
            draw -= share
        seconds = modelled_latency_s(nest)
        steps = range(self.measure_options.repeats)
        return Measured(tuple(seconds * (1 + 1e-3 * step) for step in steps))


def modelled_latency_s(nest: LoopNest) -> float:
    """Seconds that the formula gives for a kernel."""
    total = sum(_statement_s(nest, s) for s in nest.statements)
    return total * (1 + _JITTER * (_uniform(nest.key, "latency") - 0.5))


def _statement_s(nest: LoopNest, s: Statement) -> float:
    batch = nest.shape.batch
    loops = s.scheduled(batch).loops
    marked = {loop.mark: loop.extent for loop in loops if loop.mark}
    lanes = min(_FEATURES.lanes, marked.get("vectorize", 1))
    threads = min(_FEATURES.threads, marked.get("parallel", 1))
    kept, channels, taps_h, taps_w = s.weight_shape
    weights = kept * channels * taps_h * taps_w
    computed = batch * s.rows * s.columns
    read = batch * channels * s.groups * nest.shape.in_size[0] * nest.shape.in_size[1]
    written = batch * s.co.extent * s.ho.extent * s.wo.extent
    compute_s = computed * weights / (_MACS_PER_S * lanes * threads)
    traffic_s = 4 * (weights + read + written) / _BYTES_PER_S
    return _STATEMENT_S + max(compute_s, traffic_s)


def _uniform(key: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the text only."""
    digest = hashlib.sha256(f"{purpose}:{key}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
