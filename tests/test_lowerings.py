"""The central property: both lowerings of a nest compute the same function.

For random genes over random convolutions, the module keeps the output's shape, and the kernel
with the module's weights agrees with the module.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.devices import CpuFeatures, cpu_features
from backends.lowering import CPU_TRANSFORMATIONS, default_schedule, schedule_candidates
from genomes.nest import LoopNest
from genomes.transformations import REGISTRY, Phase, sample_gene
from tests.backends.lowering import kernels
from tests.strategies import random_nest, random_shape

FEATURES = cpu_features(kernels.TARGET, 1)
SCHEDULE = frozenset(n for n in CPU_TRANSFORMATIONS if REGISTRY[n].phase is Phase.SCHEDULE)
FORMS = ("fresh", "default", "candidate", "random genes")


def scheduled(
    nest: LoopNest, form: str, rng: random.Random, features: CpuFeatures = FEATURES
) -> LoopNest:
    if form == "fresh":
        return nest
    if form == "default":
        return default_schedule(nest, features)
    if form == "candidate":
        return rng.choice(schedule_candidates(nest, features))
    for _ in range(rng.randint(1, 8)):
        found = sample_gene(nest, SCHEDULE, rng)
        nest = nest if found is None else found[1]
    return nest


def check(seed: int, form: str) -> None:
    rng = random.Random(seed)
    nest = random_nest(rng, random_shape(rng))
    # Genes that the rules let through lower: a `LoweringError` fails the test.
    kernels.check(scheduled(nest, form, rng), seed)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_both_lowerings_agree(form: str, seed: int) -> None:
    check(seed, form)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=1250, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_both_lowerings_agree_on_many(form: str, seed: int) -> None:
    check(seed, form)
