"""The end of a search: its best candidates as whole networks, side by side with the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backends.base import Backend, Failed, FailureKind
from engine.archive import Archive
from engine.config import ExperimentConfig
from engine.evaluation import Evaluation
from engine.libraries import measure_libraries
from engine.network import NetworkTimes, Variant, measure_networks
from engine.strategies.individuals import Effect, effect
from genomes.operators import Space

ORIGINAL = "original"

EndToEnd = Callable[[Mapping[str, Variant]], Mapping[str, NetworkTimes | Failed]]
"""Compiles, checks and times whole networks in turns; one answer for each name."""


def end_to_end(config: ExperimentConfig, backend: Backend) -> EndToEnd | None:
    """How the networks of `config` are measured; None where `backend` runs no networks."""
    here, elsewhere = backend.network_target(), backend.library_target()
    if here is not None:
        return lambda variants: measure_networks(config, variants, here)
    if elsewhere is not None:
        return lambda variants: measure_libraries(config, variants, elsewhere)
    return None


@dataclass(frozen=True)
class Finalist:
    """One of the best candidates.

    Attributes:
        name: `finalist-1` is the best by its kernels.
        evaluation: What the search knew of it.
        end_to_end: As a whole network; None where the backend runs no networks.
    """

    name: str
    evaluation: Evaluation
    end_to_end: NetworkTimes | Failed | None = None

    @property
    def median_s(self) -> float | None:
        """Seconds end to end, if they were measured."""
        return self.end_to_end.median_s if isinstance(self.end_to_end, NetworkTimes) else None


def choose_finalists(
    space: Space, archive: Archive, original: Evaluation, count: int
) -> list[Evaluation]:
    """The fastest legal candidates; in Pareto mode, the fastest one and some of the front.

    Only candidates that are faster than `original` by their kernels; no two with one effect.
    """
    seen: set[Effect] = {effect(space, original.genome)}
    chosen: list[Evaluation] = []
    candidates = archive.legal
    if archive.front:
        candidates = (*archive.legal[:1], *_spread(archive.front, count))
    for evaluation in candidates:
        does = effect(space, evaluation.genome)
        if does not in seen and _latency_s(evaluation) < _latency_s(original):
            seen.add(does)
            chosen.append(evaluation)
    return chosen[:count]


def faster_first(chosen: Sequence[Evaluation], original: Evaluation) -> list[Evaluation]:
    """Those of `chosen` that are faster than `original` by their kernels, the fastest first."""
    faster = [e for e in chosen if _latency_s(e) < _latency_s(original)]
    return sorted(faster, key=_latency_s)


def _latency_s(evaluation: Evaluation) -> float:
    assert evaluation.latency_s is not None
    return evaluation.latency_s


def _spread(front: Sequence[Evaluation], count: int) -> Sequence[Evaluation]:
    """About `count` members of a front at even distances, by their loss of capacity."""
    by_loss = sorted(front, key=lambda e: e.fitness[1:])
    return by_loss[:: max(1, len(by_loss) // count)]


def measure_finalists(
    chosen: Sequence[Evaluation],
    original: Evaluation,
    variant: Callable[[Evaluation], Variant],
    measure: EndToEnd | None,
) -> tuple[NetworkTimes | Failed | None, list[Finalist]]:
    """Measure the chosen candidates and the original, interleaved.

    Args:
        chosen: Best first.
        original: The untransformed network.
        variant: What has to be compiled for a candidate.
        measure: None where the backend runs no whole networks.

    Returns:
        The original's times, and the finalists in the order of `chosen`.
    """
    named = {f"finalist-{i}": evaluation for i, evaluation in enumerate(chosen, 1)}
    if measure is None:
        return None, [Finalist(name, evaluation) for name, evaluation in named.items()]
    variants = {name: variant(e) for name, e in {ORIGINAL: original, **named}.items()}
    times = measure(variants)
    return times[ORIGINAL], [Finalist(n, e, times[n]) for n, e in named.items()]


def best_finalist(
    finalists: Sequence[Finalist],
    original: NetworkTimes | Failed | None,
    is_legal: Callable[[Evaluation], bool],
) -> Finalist | None:
    """The fastest legal finalist that beats the original; None if there is none.

    Whole networks decide where they could be measured, sums of kernels elsewhere.
    """
    legal = [f for f in finalists if is_legal(f.evaluation)]
    measured = [f for f in legal if f.median_s is not None]
    if isinstance(original, NetworkTimes):
        measured = [f for f in measured if (f.median_s or 0.0) < original.median_s]
    elif not measured:
        return next((f for f in legal if not _is_wrong(f)), None)
    return min(measured, key=lambda f: f.median_s or 0.0, default=None)


def _is_wrong(finalist: Finalist) -> bool:
    answer = finalist.end_to_end
    return isinstance(answer, Failed) and answer.kind is FailureKind.WRONG_RESULT
