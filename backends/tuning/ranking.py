"""A learned ranking of schedules: how much slower than the best of its workload each will be."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FEWEST_SAMPLES = 12
"""With fewer the estimate alone decides."""

OWN_WEIGHT = 8.0
"""What a sample of the workload itself counts against one of another workload."""

WIDEST = 8.0
"""Errors of the estimate by a larger factor are alike."""

TREES = 48
DEVIATIONS = 0.3
"""How much a schedule of which the trees disagree gains in rank, in standard deviations."""


@dataclass(frozen=True)
class Sample:
    """One measured schedule.

    Attributes:
        workload: `LoopNest.structure_key`.
        features: As `Backend.schedule_features` gives them.
        latency_s: Seconds per call.
    """

    workload: str
    features: tuple[float, ...]
    latency_s: float


class Ranking:
    """The estimate of every schedule, corrected by what was measured.

    Extremely randomised trees (Geurts et al. 2006) learn the logarithm of latency over estimate,
    in units of its median over the workload.  The same samples in the same order always give the
    same ranking.

    Args:
        samples: Of any workloads, on one device; the first feature is log2 of an estimate.
        workload: The one whose schedules will be ranked; its samples count more.
    """

    def __init__(self, samples: Sequence[Sample], workload: str) -> None:
        own = [s for s in samples if s.workload == workload]
        self._best = min((math.log2(s.latency_s) for s in own), default=0.0)
        errors: dict[str, list[float]] = defaultdict(list)
        for s in samples:
            errors[s.workload].append(math.log2(s.latency_s) - s.features[0])
        usual = {name: statistics.median(values) for name, values in errors.items()}
        self._usual = usual.get(workload, 0.0)
        self._trees: list[Any] = []
        if len(samples) < FEWEST_SAMPLES:
            return
        rows = np.array([s.features for s in samples])
        error = np.log2([s.latency_s for s in samples]) - rows[:, 0]
        error -= np.array([usual[s.workload] for s in samples])
        weights = [OWN_WEIGHT if s.workload == workload else 1.0 for s in samples]
        widest = math.log2(WIDEST)
        self._trees = _grown(rows, np.clip(error, -widest, widest), np.array(weights))

    @property
    def learned(self) -> bool:
        """Whether there were enough samples for a model."""
        return bool(self._trees)

    def slowness(self, features: Sequence[tuple[float, ...]]) -> list[float]:
        """How many times slower than the workload's best each schedule may be, at best.

        Without a sample of the workload the numbers have a scale of their own.
        """
        if not features:
            return []
        log = np.array([f[0] for f in features]) + self._usual - self._best
        if self._trees:
            rows = np.array(features, dtype=np.float32)
            told = np.stack([tree.predict(rows, check_input=False) for tree in self._trees])
            log += told.mean(axis=0) - DEVIATIONS * told.std(axis=0)
        return [float(x) for x in np.exp2(log)]


def _grown(rows: np.ndarray, errors: np.ndarray, weights: np.ndarray) -> list[Any]:
    """Extremely randomised trees, without the checks that scikit-learn's forest makes for each.

    All in this thread: others would still be spinning while the next kernel is timed.
    """
    from sklearn import config_context
    from sklearn.tree import ExtraTreeRegressor

    rows = rows.astype(np.float32)
    trees = [
        ExtraTreeRegressor(min_samples_leaf=2, max_features=0.5, random_state=number)
        for number in range(TREES)
    ]
    with config_context(skip_parameter_validation=True):
        for tree in trees:
            tree.fit(rows, errors, weights, check_input=False)
    return trees
