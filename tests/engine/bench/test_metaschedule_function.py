from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.kernel_job import operands_of
from engine.bench.metaschedule_function import plain_function
from engine.network import relative_error
from genomes.genome import replay
from genomes.nest import ConvShape, LoopNest
from genomes.presets import bottleneck, depthwise, seq2, spatial_bottleneck
from tests.strategies import random_nest, random_shape

SHAPE = ConvShape(1, 16, 16, (6, 6), (3, 3), padding=(1, 1, 1, 1), bias=True)


def difference(nest: LoopNest) -> float:
    """Of the function, compiled as it is, from PyTorch."""
    import tvm

    operands = operands_of(nest)
    kernel = tvm.compile(plain_function(nest), tvm.target.Target({"kind": "llvm"}))
    bias = [] if operands.bias is None else [operands.bias]
    output = np.full(nest.shape.output_shape, np.nan, np.float32)
    arguments = (operands.x, *operands.weights, *bias, output)
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments]
    kernel.mod["main"](*tensors)
    return relative_error(tensors[-1].numpy(), operands.expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_it_computes_what_the_nest_says(seed: int) -> None:
    rng = random.Random(seed)
    shape = replace(random_shape(rng), padding_mode="zeros")
    assert difference(random_nest(rng, shape)) < 1e-4


@pytest.mark.parametrize(
    "genes",
    [(), depthwise(), bottleneck(2), spatial_bottleneck(2), seq2(SHAPE, 4, 2)],
    ids=["dense", "depthwise", "bottleneck", "spatial", "seq2"],
)
def test_forms_of_the_benchmark(genes) -> None:
    assert difference(replay(SHAPE, genes)) < 1e-5


def test_one_statement_is_one_convolution_without_a_stage_behind_it() -> None:
    fresh = plain_function(LoopNest.fresh(replace(SHAPE, bias=False)))
    assert [int(i) for i in fresh.attrs["layout_free_buffers"]] == [1]
    assert [str(p.name) for p in fresh.params] == ["input", "weight_0", "conv"]
    grouped = plain_function(replay(SHAPE, seq2(SHAPE, 4, 2)))
    assert [int(i) for i in grouped.attrs["layout_free_buffers"]] == [1, 2]
    assert str(grouped.params[-1].name) == "output"


def test_other_paddings_are_refused() -> None:
    with pytest.raises(ValueError, match="padding mode 'reflect'"):
        plain_function(LoopNest.fresh(replace(SHAPE, padding_mode="reflect")))
