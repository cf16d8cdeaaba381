"""The central property: both lowerings of a nest compute the same function.

For random genes over random convolutions, the module keeps the output's shape, and the kernel
with the module's weights, and what may follow it, agrees with the module.  Schedules are those for
vectors of this machine and of others, of which AVX2 is also compiled for.
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
from tests.strategies import random_nest, random_shape, wide_shape

FEATURES = cpu_features(kernels.TARGET, 1)
AVX2 = {"kind": "llvm", "mcpu": "x86-64-v3"}
CPUS = (
    (kernels.TARGET, FEATURES),
    (kernels.TARGET, FEATURES),
    (kernels.TARGET, kernels.NEON),
    *([(AVX2, cpu_features(AVX2, 1))] if FEATURES.lanes > 4 else []),
)
"""Targets that this machine runs, and what schedules are made for."""
SCHEDULE = frozenset(n for n in CPU_TRANSFORMATIONS if REGISTRY[n].phase is Phase.SCHEDULE)
FORMS = ("fresh", "default", "candidate", "random genes")


def scheduled(nest: LoopNest, form: str, rng: random.Random, features: CpuFeatures) -> LoopNest:
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
    nest = random_nest(rng, rng.choice((random_shape, random_shape, wide_shape))(rng))
    target, features = rng.choice(CPUS)
    # Genes that the rules let through lower: a `LoweringError` fails the test.
    kernels.check(
        scheduled(nest, form, rng, features), seed, dict(target), kernels.random_epilogue(rng)
    )


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
