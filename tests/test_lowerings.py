"""The central property: both lowerings of a nest compute the same function.

For random genes over random convolutions, the module keeps the output's shape, and the kernel
with the module's weights agrees with the module.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.devices import cpu_features, cpu_target
from backends.lowering import (
    CPU_TRANSFORMATIONS,
    LoweringError,
    build_kernel,
    default_schedule,
    schedule_candidates,
)
from genomes.modules import SiteConv2d
from genomes.nest import LoopNest
from genomes.transformations import REGISTRY, Phase
from tests.strategies import random_nest, random_shape

TARGET = cpu_target(1, None, ())
FEATURES = cpu_features(TARGET, 1)
SCHEDULE = frozenset(n for n in CPU_TRANSFORMATIONS if REGISTRY[n].phase is Phase.SCHEDULE)
FORMS = ("fresh", "default", "candidate", "random genes")


def scheduled(nest: LoopNest, form: str, rng: random.Random) -> LoopNest:
    if form == "fresh":
        return nest
    if form == "default":
        return default_schedule(nest, FEATURES)
    if form == "candidate":
        return rng.choice(schedule_candidates(nest, FEATURES))
    from genomes.transformations import sample_gene

    for _ in range(rng.randint(1, 8)):
        found = sample_gene(nest, SCHEDULE, rng)
        nest = nest if found is None else found[1]
    return nest


def check(seed: int, form: str) -> None:
    rng = random.Random(seed)
    nest = random_nest(rng, random_shape(rng))
    torch.manual_seed(seed)
    module = SiteConv2d(nest)
    if module.bias is not None:
        torch.nn.init.normal_(module.bias)
    x = torch.randn(nest.shape.input_shape)
    with torch.no_grad():
        expected = module(x).numpy()
    assert expected.shape == nest.shape.output_shape
    try:
        kernel = build_kernel(scheduled(nest, form, rng), TARGET)
    except LoweringError:
        # TVM may refuse what the structural rules let through, but only for genes drawn at random.
        assert form == "random genes"
        return
    np.testing.assert_allclose(run(kernel, module, x), expected, rtol=1e-4, atol=1e-4)


def run(kernel, module: SiteConv2d, x: torch.Tensor) -> np.ndarray:
    import tvm

    weights = [w.detach().numpy() for w in module.weights]
    bias = None if module.bias is None else module.bias.detach().numpy()
    output = tvm.runtime.tensor(np.full(kernel.output_shape, np.nan, np.float32))
    arguments = [tvm.runtime.tensor(a) for a in (x.numpy(), *kernel.pack(weights, bias))]
    kernel.module["main"](*arguments, output)
    return output.numpy()


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
