"""Building kernels of small nests and comparing them with PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from backends.devices import CpuFeatures, cpu_target
from backends.lowering import CompiledKernel, build_kernel
from backends.lowering.layout import unpack_channels
from genomes.gene import Gene
from genomes.modules import SiteConv2d
from genomes.nest import ConvShape, LoopNest
from genomes.transformations import apply

TARGET = cpu_target(1, None, ())

AVX512 = CpuFeatures(lanes=16, registers=32, l1_bytes=32768, l2_bytes=1 << 20, cores=2, threads=2)
AVX2 = CpuFeatures(lanes=8, registers=16, l1_bytes=32768, l2_bytes=1 << 18, cores=2, threads=2)
NEON = CpuFeatures(lanes=4, registers=32, l1_bytes=32768, l2_bytes=1 << 19, cores=4, threads=4)

gene = Gene.of


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


def check(nest: LoopNest, seed: int = 0, target: dict[str, Any] = TARGET) -> None:
    """The kernel of `nest` for `target`, with random weights, agrees with the module."""
    agree(nest, build_kernel(nest, target), seed)


def agree(nest: LoopNest, kernel: CompiledKernel, seed: int = 0, device: Any = None) -> None:
    """`kernel`, run with random weights on `device` (the CPU), agrees with the module."""
    import tvm

    torch.manual_seed(seed)
    module = SiteConv2d(nest)
    if module.bias is not None:
        torch.nn.init.normal_(module.bias)
    x = torch.randn(nest.shape.input_shape)
    with torch.no_grad():
        expected = module(x).numpy()
    assert expected.shape == nest.shape.output_shape
    weights = [w.detach().numpy() for w in module.weights]
    bias = None if module.bias is None else module.bias.detach().numpy()
    arguments = [tvm.runtime.tensor(a, device) for a in kernel.arguments(x.numpy(), weights, bias)]
    kernel.module["main"](*arguments)
    result = unpack_channels(arguments[-1].numpy())
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
