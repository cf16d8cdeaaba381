"""Estimates that decide most verdicts: from fewer images, with gradients in bfloat16.

What an estimate is worth is found once for a network and a minibatch, on genomes drawn from a
fixed seed: its bias, and the margin around the threshold within which it decides nothing.  The
logarithm of the score's ratio to the original's is estimated; its error does not depend on how
far a candidate is from the original.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.capacity.precision import is_fast
from engine.capacity.workbench import Nests, Workbench
from genomes.operators import Space, random_genome
from genomes.presets import PRESETS
from genomes.transformations import REGISTRY, Phase

PROBES = 16
"""Genomes on which estimates are calibrated."""

EXACT_PROBES = 4
"""Those of them that are computed in float32 too."""

SHARES = (0.1, 0.9)
"""Least and greatest share of sites that a probe transforms."""

PART = 4
"""The cheapest estimate looks at one image in so many."""

PART_DEVIATIONS = 2.2
"""Margin of that estimate, in standard deviations of its errors: where the ratios of candidates
are spread as widely as the errors or more, fewer than 0.3 % of all verdicts are wrong."""

NARROW_MARGIN = 0.01
NARROW_ERRORS = 4.0
"""Margin of bfloat16 gradients: the least, and in units of the greatest error seen."""

LEAST_GAIN = 0.1
"""An estimate is used when it decides this share of verdicts beyond those that pay for it."""


@dataclass(frozen=True)
class Plan:
    """How a score is computed.

    Attributes:
        images: How many, from the first on.
        narrow: Whether gradients are bfloat16.
    """

    images: int
    narrow: bool = False


@dataclass(frozen=True)
class Estimate:
    """A cheaper computation and what is known of its errors.

    Attributes:
        plan: How it is computed.
        original: Its value for the untransformed network.
        bias: Added to the logarithm of its ratio.
        margin: Distance of the logarithm from the threshold from which it decides.
    """

    plan: Plan
    original: float
    bias: float = 0.0
    margin: float = math.inf

    def log_ratio(self, value: float) -> float | None:
        """The estimated logarithm of C / C0; None if there is none."""
        if value <= 0:
            return None
        return math.log(value / self.original) + self.bias


Totals = Callable[[Sequence[Nests], Plan], list[float]]


def calibrate(
    bench: Workbench, whole: Plan, seed: int, floor: float, totals: Totals
) -> tuple[Estimate, ...]:
    """The estimates that are worth their cost, cheapest first.

    Args:
        bench: Knows the sites.
        whole: How an exact score is computed.
        seed: Of the probes.
        floor: The threshold: a logarithm of C / C0.
        totals: Computes scores of candidates.
    """
    candidates: list[Nests] = [{}, *probes(bench, seed)]
    found = []
    reference = whole
    if is_fast():
        reference = replace(whole, narrow=True)
        some = candidates[: 1 + EXACT_PROBES]
        exact, narrow = (_logarithms(totals(some, plan)) for plan in (whole, reference))
        errors = [abs(e) for e in _errors(exact, narrow)]
        if errors and narrow[0] is not None:
            margin = max(NARROW_MARGIN, NARROW_ERRORS * max(errors))
            found.append(Estimate(reference, math.exp(narrow[0]), 0.0, margin))
    part = Plan(whole.images // PART, narrow=is_fast())
    if part.images >= 2:
        truth, guesses = (_logarithms(totals(candidates, plan)) for plan in (reference, part))
        estimate = _partial(part, truth, guesses, floor)
        if estimate is not None:
            found.insert(0, estimate)
    return tuple(found)


def probes(bench: Workbench, seed: int) -> list[Nests]:
    """Random candidates that change the network, by more and more sites."""
    names = frozenset(name for name, t in REGISTRY.items() if t.phase is Phase.DOMAIN)
    space = Space(bench.sites.sites, names, tuple(PRESETS))
    rng = random.Random(seed)
    least, most = SHARES
    shares = (least + (most - least) * i / (PROBES - 1) for i in range(PROBES))
    drawn = (bench.changes(random_genome(space, rng, share)) for share in shares)
    return [nests for nests in drawn if nests]


def _partial(
    plan: Plan, truth: list[float | None], guesses: list[float | None], floor: float
) -> Estimate | None:
    errors = _errors(truth, guesses)
    if guesses[0] is None or len(errors) < PROBES // 2:
        return None
    bias, margin = statistics.mean(errors), PART_DEVIATIONS * statistics.stdev(errors)
    ratios = [g - guesses[0] + bias for g in guesses[1:] if g is not None]
    decided = sum(abs(r - floor) > margin for r in ratios) / len(ratios)
    if decided < 1 / PART + LEAST_GAIN:
        return None
    return Estimate(plan, math.exp(guesses[0]), bias, margin)


def _logarithms(values: Sequence[float]) -> list[float | None]:
    return [math.log(value) if value > 0 else None for value in values]


def _errors(truth: Sequence[float | None], guesses: Sequence[float | None]) -> list[float]:
    """What the guessed ratios to the first value lack, where both are known."""
    first, guess = truth[0], guesses[0]
    if first is None or guess is None:
        return []
    return [
        (t - first) - (g - guess)
        for t, g in zip(truth[1:], guesses[1:], strict=True)
        if t is not None and g is not None
    ]
