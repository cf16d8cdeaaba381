"""The central property for GPU kernels: they compute what the module computes.

There is no GPU: blocks and threads run as serial loops on the CPU. `serial` says what that
shows and what it cannot show; above all, it says nothing of synchronisation.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backends.gpus import arch_of, gpu_features
from backends.lowering import LoweringError
from backends.lowering.gpu import (
    GPU_TRANSFORMATIONS,
    build_kernel,
    cuda_source,
    default_schedule,
    schedule_space,
)
from backends.lowering.gpu.kernel import install_compiler
from backends.tuning.mutations import neighbour
from genomes.nest import LoopNest
from genomes.transformations import REGISTRY, Kind, Phase, sample_gene
from tests.backends.lowering.gpu import serial
from tests.backends.lowering.kernels import agree, random_epilogue
from tests.strategies import random_nest, random_shape, wide_shape

GPU = gpu_features("sm_90")
SCHEDULE = frozenset(n for n in GPU_TRANSFORMATIONS if REGISTRY[n].phase is Phase.SCHEDULE)
MAPPING = frozenset(n for n in SCHEDULE if REGISTRY[n].kind is Kind.MAPPING)
FORMS = ("fresh", "default", "space", "neighbours", "random genes")


def scheduled(nest: LoopNest, form: str, rng: random.Random) -> LoopNest:
    if form == "fresh":
        return nest
    if form == "default":
        return default_schedule(nest, GPU)
    if form == "random genes":
        return randomly(nest, rng)
    nest = rng.choice(schedule_space(nest, GPU))
    for _ in range(4 if form == "neighbours" else 0):
        near = neighbour(nest, rng)
        if near is not None and _lowers(near):
            nest = near
    return nest


def _lowers(nest: LoopNest) -> bool:
    return all(g.op in GPU_TRANSFORMATIONS for s in nest.statements for g in s.schedule_genes)


def randomly(nest: LoopNest, rng: random.Random) -> LoopNest:
    """`nest` with random schedule genes, of which every other one maps loops or operands."""
    for _ in range(rng.randint(1, 12)):
        found = sample_gene(nest, rng.choice((SCHEDULE, MAPPING)), rng)
        nest = nest if found is None else found[1]
    return nest


def check(seed: int, form: str) -> None:
    rng = random.Random(seed)
    nest = random_nest(rng, rng.choice((random_shape, random_shape, wide_shape))(rng))
    # Genes that the rules let through lower: a `LoweringError` fails the test.
    serial.check(scheduled(nest, form, rng), seed, random_epilogue(rng))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_serial_form_agrees_with_the_module(form: str, seed: int) -> None:
    check(seed, form)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_serial_form_agrees_with_the_module_on_many(form: str, seed: int) -> None:
    check(seed, form)


@pytest.mark.cuda
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_kernel_on_a_gpu_agrees_with_the_module(form: str, seed: int) -> None:
    """What the serial form cannot show: that threads wait where they must."""
    import tvm

    device = tvm.cuda(0)
    gpu = gpu_features(arch_of(device))
    install_compiler(gpu.arch)
    rng = random.Random(seed)
    nest = scheduled(random_nest(rng, random_shape(rng)), form, rng)
    try:
        kernel = build_kernel(nest, gpu)
    except LoweringError as error:
        assume(not str(error).endswith(f" on {gpu.arch}"))
        raise
    agree(nest, kernel, seed, device)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_source_is_generated_unless_a_limit_is_broken(form: str, seed: int) -> None:
    rng = random.Random(seed)
    nest = scheduled(random_nest(rng, random_shape(rng)), form, rng)
    try:
        source, broken = cuda_source(nest, GPU), ""
    except LoweringError as error:
        source, broken = "", str(error)
    if broken:
        # Only what is not proposed may break a limit.
        assert form in ("neighbours", "random genes")
        assert broken.startswith(("statement ", "Used "))
        assert broken.endswith(" on sm_90")
    else:
        assert "__global__" in source
