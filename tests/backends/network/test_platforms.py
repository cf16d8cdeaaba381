"""Networks for a GPU: on one where there is one, and with blocks and threads as loops."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from backends.gpus import arch_of, gpu_features, gpu_target
from backends.lowering import LoweringError
from backends.lowering.gpu import compile_source
from backends.network import build, compile_network, platform_of
from backends.network.platforms import GpuPlatform
from backends.network.rest import schedule_rest
from engine.models import load_model
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.nest import LoopNest
from genomes.sites import find_sites, transform
from genomes.transformations import apply
from tests.backends.lowering.gpu.serial import serial_function
from tests.backends.network.networks import GENES, SHAPE, TARGET, Block
from tests.needs import needs_nvcc

NETWORKS = pytest.mark.parametrize("genes", [{}, GENES], ids=["original", "transformed"])


class SerialPlatform(GpuPlatform):
    """The kernels of a GPU, with their blocks and threads as loops on the CPU."""

    pass_options: ClassVar = {}

    def __init__(self) -> None:
        super().__init__(gpu_target("sm_90"))

    @property
    def device(self):
        import tvm

        return tvm.cpu()

    def lower(self, nest, epilogue):
        return serial_function(super().lower(nest, epilogue))

    def schedule_rest(self, mod):
        return schedule_rest(mod, 4)


def network(genes: dict[str, tuple[Gene, ...]]) -> nn.Module:
    torch.manual_seed(0)
    model = Block().eval()
    return transform(model, find_sites(model, SHAPE), Genome.of(genes)).eval()


def agree(compiled: build.CompiledNetwork, model: nn.Module) -> None:
    x = torch.randn(compiled.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(compiled(x.numpy()), expected, rtol=1e-4, atol=1e-4)


def cuda_source_of(compiled: build.CompiledNetwork) -> str:
    found = []

    def visit(module) -> None:
        if module.kind == "cuda":
            found.append(str(module.inspect_source()))
        for part in module.imports:
            visit(part)

    visit(compiled.executable.mod)
    (source,) = found
    return source


@NETWORKS
def test_kernels_with_epilogues_agree_with_torch_as_loops(monkeypatch, genes) -> None:
    monkeypatch.setattr(build, "platform_of", lambda *_, **__: SerialPlatform())
    model = network(genes)
    agree(compile_network(model, SHAPE, TARGET), model)


@needs_nvcc
@NETWORKS
def test_a_network_is_one_source_that_nvcc_compiles(genes) -> None:
    compiled = compile_network(network(genes), SHAPE, gpu_target("sm_87"))
    assert compile_source(cuda_source_of(compiled), "sm_87").startswith(b"\x7fELF")


def test_activations_and_residuals_are_no_kernels_of_their_own() -> None:
    source = cuda_source_of(compile_network(network({}), SHAPE, gpu_target("sm_90")))
    kernels = set(re.findall(r"(\w+)_kernel\(", source))
    sites = {name for name in kernels if name.startswith("site_")}
    assert len(sites) == 6
    assert not any("relu" in name or "clip" in name or "silu" in name for name in kernels)


def test_a_kernel_that_breaks_a_limit_is_refused_by_name() -> None:
    def wide(nest: LoopNest) -> LoopNest:
        nest = apply(nest, Gene.of("bind", loop="co", axis="vthread.x"))
        return apply(nest, Gene.of("bind", loop="ho", axis="vthread.y"))

    with pytest.raises(LoweringError, match=r"64 virtual threads in a thread, at most 8 on sm_90"):
        compile_network(network({}), SHAPE, gpu_target("sm_90"), wide)


def test_activations_stay_in_nchw() -> None:
    platform = platform_of(gpu_target("sm_87"), gpu_features("sm_87"))
    assert platform.lanes == gpu_features("sm_87").lanes == 0


def test_the_cores_of_this_machine_are_watched_where_they_are_timed() -> None:
    with platform_of(gpu_target("sm_87")).undisturbed() as look:
        assert look is None
    with platform_of(TARGET).undisturbed() as look:
        assert look is not None
        assert all(1.0 <= slow < float("inf") for slow in look())


@pytest.mark.cuda
@NETWORKS
def test_a_network_on_a_gpu_agrees_with_torch(arch, genes) -> None:
    model = network(genes)
    agree(compile_network(model, SHAPE, gpu_target(arch)), model)


@pytest.mark.cuda
@pytest.mark.parametrize("spec", ["resnet18_cifar", "resnext29_2x64d_cifar", "mobilenet_v2"])
def test_a_known_network_on_a_gpu_agrees_with_torch(arch, spec) -> None:
    shape = (1, 3, 64, 64)
    model = load_model(spec).eval()
    agree(compile_network(model, shape, gpu_target(arch)), model)


@pytest.fixture
def arch() -> str:
    import tvm

    return arch_of(tvm.cuda(0))
