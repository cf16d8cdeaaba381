"""Building kernels of small nests and comparing them with PyTorch."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from backends.devices import CpuFeatures, cpu_features, cpu_target
from backends.lowering import CompiledKernel, build_kernel
from backends.lowering.epilogue import NO_EPILOGUE, Epilogue
from backends.lowering.layout import pack_channels, unpack_channels
from genomes.gene import Gene
from genomes.modules import SiteConv2d
from genomes.nest import ConvShape, LoopNest
from genomes.transformations import apply

TARGET = cpu_target(1, None, ())

AVX512 = CpuFeatures(lanes=16, registers=32, l1_bytes=32768, l2_bytes=1 << 20, cores=2, threads=2)
AVX2 = CpuFeatures(lanes=8, registers=16, l1_bytes=32768, l2_bytes=1 << 18, cores=2, threads=2)
NEON = CpuFeatures(lanes=4, registers=32, l1_bytes=32768, l2_bytes=1 << 19, cores=4, threads=4)

HAS_MASKS = cpu_features(TARGET, 1).lanes == 16
needs_masks = pytest.mark.skipif(not HAS_MASKS, reason="this CPU has no masks for vector lanes")

gene = Gene.of

_FOLLOWERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "silu": functional.silu,
}


def conv(
    inputs: int,
    outputs: int,
    size: int | tuple[int, int],
    kernel: int = 3,
    **changes: Any,
) -> LoopNest:
    """A fresh convolution with `same` padding unless `changes` say otherwise."""
    fields: dict[str, Any] = {"padding": (kernel // 2,) * 4, **changes}
    in_size = (size, size) if isinstance(size, int) else size
    return LoopNest.fresh(ConvShape(1, inputs, outputs, in_size, (kernel, kernel), **fields))


def after(nest: LoopNest, *genes: Gene) -> LoopNest:
    for g in genes:
        nest = apply(nest, g)
    return nest


def in_place(nest: LoopNest, loop: str = "kw") -> LoopNest:
    """The rows of the output as vectors; the padding is computed inside `loop`."""
    return after(
        nest,
        gene("interchange", order=("n", "co", "ci", "kh", "kw", "ho", "wo")),
        gene("cache_write", loop="co"),
        gene("compute_at", loop=loop),
        gene("vectorize", loop="wo"),
        gene("unroll", loop="ho"),
        gene("unroll", loop="kw"),
        gene("unroll", loop="kh"),
        gene("decompose_reduction", loop="ci"),
    )


def depthwise(size: int | tuple[int, int], **changes: Any) -> LoopNest:
    return conv(2, 2, size, groups=2, **changes)


def code(nest: LoopNest, kind: str) -> str:
    """What a nest becomes: "ll" for LLVM's text, "asm" for assembly."""
    return str(build_kernel(nest, TARGET).module.inspect_source(kind))


def random_epilogue(rng: random.Random) -> Epilogue:
    """None as often as not."""
    if rng.random() < 0.5:
        return NO_EPILOGUE
    return Epilogue(rng.random() < 0.5, rng.choice(tuple(_FOLLOWERS)))


def check(
    nest: LoopNest,
    seed: int = 0,
    target: dict[str, Any] = TARGET,
    epilogue: Epilogue = NO_EPILOGUE,
) -> None:
    """The kernel of `nest` for `target`, with random weights, agrees with the module."""
    agree(nest, build_kernel(nest, target, epilogue), seed, epilogue=epilogue)


def agree(
    nest: LoopNest,
    kernel: CompiledKernel,
    seed: int = 0,
    device: Any = None,
    placed: Callable[[np.ndarray], Any] | None = None,
    epilogue: Epilogue = NO_EPILOGUE,
) -> None:
    """`kernel`, run with random weights on `device` (the CPU), agrees with the module.

    `placed` makes the tensor that the kernel reads of its input.
    """
    import tvm

    torch.manual_seed(seed)
    module = SiteConv2d(nest)
    if module.bias is not None:
        torch.nn.init.normal_(module.bias)
    x = torch.randn(nest.shape.input_shape)
    residual = torch.randn(nest.shape.output_shape)
    with torch.no_grad():
        result = module(x) + residual if epilogue.residual else module(x)
        expected = _FOLLOWERS[epilogue.activation](result).numpy()
    assert expected.shape == nest.shape.output_shape
    weights = [w.detach().numpy() for w in module.weights]
    bias = None if module.bias is None else module.bias.detach().numpy()
    given = kernel.arguments(x.numpy(), weights, bias)
    if epilogue.residual:
        given.insert(1, pack_channels(residual.numpy(), nest.shape.output_lanes))
    arguments = [tvm.runtime.tensor(a, device) for a in given]
    if placed is not None:
        arguments[0] = placed(given[0])
    kernel.module["main"](*arguments)
    computed = unpack_channels(arguments[-1].numpy())
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-4)
